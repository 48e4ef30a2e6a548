"""Latent actions of clips with an instruction, as LatBot learns them: of scene and motion."""

from lattok.image_lam.clips.config import ClipLAMConfig as ClipLAMConfig
from lattok.image_lam.clips.model import ClipLAM as ClipLAM
