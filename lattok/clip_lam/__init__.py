"""Latent actions of clips with an instruction, as LatBot learns them: of scene and motion."""

from lattok.clip_lam.config import ClipLAMConfig
from lattok.clip_lam.model import ClipLAM

__all__ = ["ClipLAM", "ClipLAMConfig"]
