"""What the dimensions of an action mean, and conversion from one meaning to another."""
