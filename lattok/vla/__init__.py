"""Policies supervised by latent actions: the baseline and the strategies of "From Pixels to Tokens", and their losses
for policies of others. Needs no package beyond the base installation, but for backbones of Hugging Face.
`lara.py` and `latbot.py` have the losses that need a latent action model of video.
"""

from lattok.vla.config import VLAConfig
from lattok.vla.model import LatentVLA
from lattok.vla.strategies import STRATEGIES, LatentLoss, Span, Strategy, register_strategy, strategy_of
from lattok.vla.supervision import AlignLoss, CodeCrossEntropy, LatentSupervision, RegressionLoss
from lattok.vla.tap import Supervised, Tap, keep_labels

__all__ = ["STRATEGIES", "AlignLoss", "CodeCrossEntropy", "LatentLoss", "LatentSupervision", "LatentVLA"]
__all__ += ["RegressionLoss", "Span", "Strategy", "Supervised", "Tap", "VLAConfig", "keep_labels", "register_strategy"]
__all__ += ["strategy_of"]
