"""Published latent action models with architectures of their own, one file per system: for labels and evaluation."""

from lattok.zoo.adaworld import AdaWorldConfig, AdaWorldLAM
from lattok.zoo.lapa import LapaConfig, LapaLAQ
from lattok.zoo.lary import LaryConfig, LaryLAQ
from lattok.zoo.lawam import LawamConfig, LawamLAM
from lattok.zoo.villax import VillaXConfig, VillaXLAM

__all__ = [
    "AdaWorldConfig",
    "AdaWorldLAM",
    "LapaConfig",
    "LapaLAQ",
    "LaryConfig",
    "LaryLAQ",
    "LawamConfig",
    "LawamLAM",
    "VillaXConfig",
    "VillaXLAM",
]
