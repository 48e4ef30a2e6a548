"""Latent actions from action chunks."""

from lattok.action_vq.config import ActionVQConfig
from lattok.action_vq.model import P2TActionVQ

__all__ = ["ActionVQConfig", "P2TActionVQ"]
