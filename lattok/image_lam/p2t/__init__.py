"""The image model of "From Pixels to Tokens": latent actions of patch features of two frames."""
