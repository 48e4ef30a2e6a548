"""Actions from the brightness of two quarters of the frame: an inverse dynamics model without weights."""

from types import SimpleNamespace

import numpy as np
import torch
from quarter_flow import QuarterFlow


class QuarterIDM(QuarterFlow):
    """Reads the change until the next frame; what it cannot know is how large an action is."""

    type = "quarter-idm"

    def unit_frames(self, fps):
        return 1

    def infer_actions(self, frames, unit, task="", states=None):
        change = self.label_video(frames, unit).latents[:, [0, 3], 0] / 10
        return SimpleNamespace(actions=np.asarray(change), spread=torch.zeros(len(change)))
