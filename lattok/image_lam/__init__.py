"""Latent actions from video."""

from lattok.image_lam.config import ImageLAMConfig
from lattok.image_lam.features import FrozenFeatures
from lattok.image_lam.model import ImageLAM

__all__ = ["FrozenFeatures", "ImageLAM", "ImageLAMConfig"]
