"""Published checkpoints as lattok models: `lattok.convert.p2t_action_vq(path)`. The maps stand with each model."""

from lattok.action_vq.convert import p2t_action_vq
from lattok.image_lam.moto.convert import moto_lam
from lattok.image_lam.p2t.convert import p2t_image_lam, univla_lam
from lattok.image_lam.published.adaworld import adaworld_lam
from lattok.image_lam.published.lapa import lapa_laq
from lattok.image_lam.published.lary import lary_laq
from lattok.image_lam.published.lawam import lawam_lam
from lattok.image_lam.published.villax import villax_lam

__all__ = [
    "adaworld_lam",
    "lapa_laq",
    "lary_laq",
    "lawam_lam",
    "moto_lam",
    "p2t_action_vq",
    "p2t_image_lam",
    "univla_lam",
    "villax_lam",
]
