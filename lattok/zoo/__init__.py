"""Published latent action models with architectures of their own, one file per system: for labels and evaluation."""

from lattok.zoo.lapa import LapaConfig, LapaLAQ
from lattok.zoo.lawam import LawamConfig, LawamLAM
from lattok.zoo.villax import VillaXConfig, VillaXLAM

__all__ = ["LapaConfig", "LapaLAQ", "LawamConfig", "LawamLAM", "VillaXConfig", "VillaXLAM"]
