"""Latent actions from action chunks: the paper's tokenizer and those it is compared with, behind one interface.

A family that is named here is one of `lattok` as well.
"""

from lattok.action_vq.bins import BEAST, BEASTConfig, UniformBins, UniformBinsConfig
from lattok.action_vq.chunks import join_chunks
from lattok.action_vq.fast import FAST, TOAST, FASTConfig, TOASTConfig
from lattok.action_vq.fsq import FSQ, FSQConfig
from lattok.action_vq.model import ActionVQConfig, P2TActionVQ
from lattok.action_vq.oat import OAT, OATConfig
from lattok.action_vq.quest import QueST, QueSTConfig
from lattok.action_vq.residual import ResidualVQ, ResidualVQConfig
from lattok.action_vq.vqbet import VQBeT, VQBeTConfig

__all__ = ["BEAST", "FAST", "FSQ", "OAT", "TOAST", "P2TActionVQ", "QueST", "ResidualVQ", "UniformBins", "VQBeT"]
__all__ += ["ActionVQConfig", "BEASTConfig", "FASTConfig", "FSQConfig", "OATConfig", "QueSTConfig", "ResidualVQConfig"]
__all__ += ["TOASTConfig", "UniformBinsConfig", "VQBeTConfig", "join_chunks"]
