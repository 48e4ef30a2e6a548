"""How the brightness of the quarters of a frame changes until a later one, and whether it rises: nothing learned."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from lattok.hub import HubModel
from lattok.types import LatentActions, VideoLabeller


@dataclass(frozen=True)
class QuarterFlowConfig:
    cameras: tuple[str, ...]
    stride: int = 2


class QuarterFlow(HubModel, VideoLabeller):
    """Changes of brightness as latent actions."""

    type, config_class, label_source, codebook_size = "quarter-flow", QuarterFlowConfig, "video", 2

    def __init__(self, config):
        super().__init__()
        self.config, self.cameras = config, config.cameras

    def stride_frames(self, fps):
        return self.config.stride

    def resize(self, frames):
        return frames

    def label_video(self, frames, stride=None, *, fps=None):
        pieces = [frames] if isinstance(frames, np.ndarray) else list(frames)
        video = torch.from_numpy(np.concatenate(pieces)).float().mean(-1)  # [T, V, H, W]
        quarters = adaptive_avg_pool2d(video, 2).flatten(1)
        later = torch.arange(len(video)) + (stride or self.config.stride)
        change = (quarters[later.clamp(max=len(video) - 1)] - quarters)[..., None]  # [T, P, 1]
        codes = (change[..., 0] > 0).long()
        return LatentActions(codes, change, codes[..., None].float())
