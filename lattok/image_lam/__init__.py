"""Models that read video: latent action models of frame pairs (p2t, moto, published) and of clips, inverse dynamics."""

from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.trained import PairLearner, TrainedPairModel
from lattok.image_lam.moto.model import MotoLAM, MotoLAMConfig
from lattok.image_lam.p2t.model import ImageLAM, ImageLAMConfig

__all__ = ["FrozenFeatures", "ImageLAM", "ImageLAMConfig", "MotoLAM", "MotoLAMConfig", "PairLearner"]
__all__ += ["TrainedPairModel"]
