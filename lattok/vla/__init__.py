"""Policies supervised by latent actions: the baseline and the strategies of "From Pixels to Tokens", and their losses
for policies of others. Needs no package beyond the base installation, but for backbones of Hugging Face.
`lattok.vla.lara` has what learns together with a latent action model of video.
"""

from lattok.vla.config import VLAConfig as VLAConfig
from lattok.vla.model import LatentVLA as LatentVLA
from lattok.vla.strategies import STRATEGIES as STRATEGIES
from lattok.vla.strategies import LatentLoss as LatentLoss
from lattok.vla.strategies import Span as Span
from lattok.vla.strategies import Strategy as Strategy
from lattok.vla.strategies import build_supervision as build_supervision
from lattok.vla.strategies import register_strategy as register_strategy
from lattok.vla.strategies import strategy_of as strategy_of
from lattok.vla.supervision import AlignLoss as AlignLoss
from lattok.vla.supervision import CodeCrossEntropy as CodeCrossEntropy
from lattok.vla.supervision import LatentSupervision as LatentSupervision
from lattok.vla.supervision import RegressionLoss as RegressionLoss
from lattok.vla.tap import Supervised as Supervised
from lattok.vla.tap import Tap as Tap
from lattok.vla.tap import keep_labels as keep_labels
