"""Latent actions from action chunks: the paper's tokenizer and those it is compared with, behind one interface."""

from lattok.action_vq.bins import UniformBins, UniformBinsConfig
from lattok.action_vq.chunks import join_chunks
from lattok.action_vq.fast import FAST, FASTConfig
from lattok.action_vq.fsq import FSQ, FSQConfig
from lattok.action_vq.model import ActionVQConfig, P2TActionVQ
from lattok.action_vq.residual import ResidualVQ, ResidualVQConfig
from lattok.action_vq.toast import TOAST, TOASTConfig

__all__ = [
    "FAST",
    "FSQ",
    "TOAST",
    "ActionVQConfig",
    "FASTConfig",
    "FSQConfig",
    "P2TActionVQ",
    "ResidualVQ",
    "ResidualVQConfig",
    "TOASTConfig",
    "UniformBins",
    "UniformBinsConfig",
    "join_chunks",
]
