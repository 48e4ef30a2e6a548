"""Pages of the documentation, and the hooks that fill them in."""
