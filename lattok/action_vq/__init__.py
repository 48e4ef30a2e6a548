"""Action tokenizers, which turn chunks of actions into codes: each family is one file, found by its name.

`base.py` is the interface of all of them. `learned.py` trains by gradients. `coarse_to_fine.py`, `level_tokenizer.py`
and `dct.py` are what several families share. `lattok` exports the families named here, too.
"""

from lattok.action_vq.beast import BEAST, BEASTConfig
from lattok.action_vq.bins import UniformBins, UniformBinsConfig
from lattok.action_vq.chunks import join_chunks
from lattok.action_vq.fast import FAST, FASTConfig
from lattok.action_vq.fsq import FSQ, FSQConfig
from lattok.action_vq.oat import OAT, OATConfig
from lattok.action_vq.p2t import ActionVQConfig, P2TActionVQ
from lattok.action_vq.quest import QueST, QueSTConfig
from lattok.action_vq.residual import ResidualVQ, ResidualVQConfig
from lattok.action_vq.toast import TOAST, TOASTConfig
from lattok.action_vq.vqbet import VQBeT, VQBeTConfig

__all__ = ["BEAST", "FAST", "FSQ", "OAT", "TOAST", "P2TActionVQ", "QueST", "ResidualVQ", "UniformBins", "VQBeT"]
__all__ += ["ActionVQConfig", "BEASTConfig", "FASTConfig", "FSQConfig", "OATConfig", "QueSTConfig", "ResidualVQConfig"]
__all__ += ["TOASTConfig", "UniformBinsConfig", "VQBeTConfig", "join_chunks"]
