"""Published latent action models with architectures of their own, one file per system: for labels and evaluation."""

from lattok.image_lam.published.adaworld import AdaWorldConfig as AdaWorldConfig
from lattok.image_lam.published.adaworld import AdaWorldLAM as AdaWorldLAM
from lattok.image_lam.published.lapa import LapaConfig as LapaConfig
from lattok.image_lam.published.lapa import LapaLAQ as LapaLAQ
from lattok.image_lam.published.lary import LaryConfig as LaryConfig
from lattok.image_lam.published.lary import LaryLAQ as LaryLAQ
from lattok.image_lam.published.lawam import LawamConfig as LawamConfig
from lattok.image_lam.published.lawam import LawamLAM as LawamLAM
from lattok.image_lam.published.villax import VillaXConfig as VillaXConfig
from lattok.image_lam.published.villax import VillaXLAM as VillaXLAM
