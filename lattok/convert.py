"""Published checkpoints as lattok models: `lattok.convert.p2t_action_vq(path)`. The maps stand with each model."""

from lattok.action_vq.convert import p2t_action_vq
from lattok.image_lam.convert import p2t_image_lam, univla_lam
from lattok.image_lam.moto import moto_lam
from lattok.vla.published.convert import p2t_vla
from lattok.zoo.adaworld import adaworld_lam
from lattok.zoo.lapa import lapa_laq
from lattok.zoo.lary import lary_laq
from lattok.zoo.lawam import lawam_lam
from lattok.zoo.villax import villax_lam

__all__ = [
    "adaworld_lam",
    "lapa_laq",
    "lary_laq",
    "lawam_lam",
    "moto_lam",
    "p2t_action_vq",
    "p2t_image_lam",
    "p2t_vla",
    "univla_lam",
    "villax_lam",
]
