"""Training samples: action chunks, frame pairs and policy windows, the order in which they are drawn, mixtures."""

from lattok.samples.augment import Augmentation
from lattok.samples.frame_pairs import FramePairs, PairLabels
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.samples.windows import ActionWindows

__all__ = ["ActionWindows", "Augmentation", "FramePairs", "PairLabels", "PolicyWindows", "WindowOptions"]
