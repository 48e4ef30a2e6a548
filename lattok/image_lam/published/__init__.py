"""Published latent action models with architectures of their own, one file per system: for labels and evaluation."""

from lattok.image_lam.published.adaworld import AdaWorldConfig, AdaWorldLAM
from lattok.image_lam.published.lapa import LapaConfig, LapaLAQ
from lattok.image_lam.published.lary import LaryConfig, LaryLAQ
from lattok.image_lam.published.lawam import LawamConfig, LawamLAM
from lattok.image_lam.published.villax import VillaXConfig, VillaXLAM

__all__ = ["AdaWorldConfig", "AdaWorldLAM", "LapaConfig", "LapaLAQ", "LaryConfig", "LaryLAQ", "LawamConfig", "LawamLAM"]
__all__ += ["VillaXConfig", "VillaXLAM"]
