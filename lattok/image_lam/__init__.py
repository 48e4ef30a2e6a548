"""Latent actions from video."""

from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.p2t.config import ImageLAMConfig
from lattok.image_lam.p2t.model import ImageLAM

__all__ = ["FrozenFeatures", "ImageLAM", "ImageLAMConfig"]
