"""Training samples: action chunks, frame pairs and policy windows, the order in which they are drawn, mixtures."""

from lattok.samples.augment import Augmentation
from lattok.samples.policy import PolicyWindows
from lattok.samples.windows import ActionWindows, FramePairs

__all__ = ["ActionWindows", "Augmentation", "FramePairs", "PolicyWindows"]
