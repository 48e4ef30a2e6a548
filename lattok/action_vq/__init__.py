"""Latent actions from action chunks: the paper's tokenizer and those it is compared with, behind one interface."""

from lattok.action_vq.bins import UniformBins, UniformBinsConfig
from lattok.action_vq.config import ActionVQConfig
from lattok.action_vq.model import P2TActionVQ

__all__ = ["ActionVQConfig", "P2TActionVQ", "UniformBins", "UniformBinsConfig"]
