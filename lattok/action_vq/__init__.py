"""Latent actions from action chunks: the paper's tokenizer and those it is compared with, behind one interface.

A family that is named here is one of `lattok` as well.
"""

from lattok.action_vq.bins import BEAST as BEAST
from lattok.action_vq.bins import BEASTConfig as BEASTConfig
from lattok.action_vq.bins import UniformBins as UniformBins
from lattok.action_vq.bins import UniformBinsConfig as UniformBinsConfig
from lattok.action_vq.chunks import join_chunks as join_chunks
from lattok.action_vq.fast import FAST as FAST
from lattok.action_vq.fast import TOAST as TOAST
from lattok.action_vq.fast import FASTConfig as FASTConfig
from lattok.action_vq.fast import TOASTConfig as TOASTConfig
from lattok.action_vq.fsq import FSQ as FSQ
from lattok.action_vq.fsq import FSQConfig as FSQConfig
from lattok.action_vq.model import ActionVQConfig as ActionVQConfig
from lattok.action_vq.model import P2TActionVQ as P2TActionVQ
from lattok.action_vq.oat import OAT as OAT
from lattok.action_vq.oat import OATConfig as OATConfig
from lattok.action_vq.quest import QueST as QueST
from lattok.action_vq.quest import QueSTConfig as QueSTConfig
from lattok.action_vq.residual import ResidualVQ as ResidualVQ
from lattok.action_vq.residual import ResidualVQConfig as ResidualVQConfig
from lattok.action_vq.vqbet import VQBeT as VQBeT
from lattok.action_vq.vqbet import VQBeTConfig as VQBeTConfig
