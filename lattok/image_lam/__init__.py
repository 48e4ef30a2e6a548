"""Latent actions from video."""

from lattok.image_lam.base.features import FrozenFeatures as FrozenFeatures
from lattok.image_lam.base.trained import PairLearner as PairLearner
from lattok.image_lam.base.trained import TrainedPairModel as TrainedPairModel
from lattok.image_lam.moto.model import MotoLAM as MotoLAM
from lattok.image_lam.moto.model import MotoLAMConfig as MotoLAMConfig
from lattok.image_lam.p2t.model import ImageLAM as ImageLAM
from lattok.image_lam.p2t.model import ImageLAMConfig as ImageLAMConfig
