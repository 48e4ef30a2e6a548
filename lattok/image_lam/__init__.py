"""Latent actions from video."""

from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.trained import PairLearner, TrainedPairModel
from lattok.image_lam.moto.model import MotoLAM, MotoLAMConfig
from lattok.image_lam.p2t.model import ImageLAM, ImageLAMConfig

__all__ = ["FrozenFeatures", "ImageLAM", "ImageLAMConfig", "MotoLAM", "MotoLAMConfig", "PairLearner"]
__all__ += ["TrainedPairModel"]
