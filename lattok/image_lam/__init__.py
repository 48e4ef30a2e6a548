"""Latent actions from video."""

from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.learner import PairLearner
from lattok.image_lam.base.trained import TrainedPairModel
from lattok.image_lam.moto.config import MotoLAMConfig
from lattok.image_lam.moto.model import MotoLAM
from lattok.image_lam.p2t.config import ImageLAMConfig
from lattok.image_lam.p2t.model import ImageLAM

__all__ = [
    "FrozenFeatures",
    "ImageLAM",
    "ImageLAMConfig",
    "MotoLAM",
    "MotoLAMConfig",
    "PairLearner",
    "TrainedPairModel",
]
