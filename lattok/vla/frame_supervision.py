"""Losses for policies of other libraries, in which a latent action model reads the frames of a batch."""

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattok.data import frames_from_lerobot
from lattok.types import LossTerms
from lattok.utils import checks
from lattok.vla.supervision import LatentSupervision
from lattok.vla.tap import Preprocessor, WrappedPreprocessor

FRAMES, VALID = "pairs.frames", "pairs.valid"


class Frames(NamedTuple):
    """Frames in a batch of another library's policy."""

    frames: Tensor  # [B, 1 + F, V, H, W, 3] uint8: now, and later
    valid: Tensor  # [B, F] bool: which later ones lie inside the episode; or [B, 1]: which clips teach
    texts: Sequence[str] = ()  # B instructions, where they are read


class FrameSupervision(LatentSupervision, ABC):
    """Supervision of another library's policy by a latent action model that reads the frames of its batches."""

    def forward(self, states: Tensor, target: Any, reduction: str = "mean") -> LossTerms:
        """Return the terms of states [B, n, dim] and of the `Frames` that `target_of` has read."""
        self._check_states(states, len(target.valid))
        checks.counts(1, **{"states of a sample": states.shape[1]})
        return self._terms(states, target, reduction)


def paired_frames(batch: Mapping[str, Any], cameras: Sequence[str]) -> Tensor:
    """Read the frame of each sample of a batch and later ones, uint8 [B, 1 + F, V, H, W, 3]."""
    frames = _required(batch, FRAMES)
    checks.rank(FRAMES, frames, "B 1+F V H W 3")
    checks.size(FRAMES, f"cameras ({', '.join(cameras)})", frames.shape[2], len(cameras))
    return frames


def paired_mask(batch: Mapping[str, Any], frames: Tensor) -> Tensor:
    """Read which of the later ones among these frames lie inside their episode, bool [B, F]."""
    valid, count, later = _required(batch, VALID), len(frames), frames.shape[1] - 1
    if valid.dtype != torch.bool or valid.shape != (count, later) or not later:
        expected = f"bool [{count}, F] for F later frames, of {FRAMES} {list(frames.shape[:2])}"
        checks.fail(VALID, expected, f"{str(valid.dtype).removeprefix('torch.')} {list(valid.shape)}")
    return valid


def _required(batch: Mapping[str, Any], key: str) -> Tensor:
    found = batch.get(key)
    if not isinstance(found, Tensor):
        hint = "keep_pairs(preprocessor, cameras) makes them out of LeRobot's batches."
        checks.fail("batch", f"`{key}`", "none", hint)
    return found


class KeepPairs(WrappedPreprocessor):
    """A preprocessor of LeRobot for `LARALoss`: the policy sees the first of several frames, and the loss all of them.
    The dataset's `delta_timestamps` name the `cameras` with the times 0 and those of later frames. Frames are kept as
    the dataset has them, whatever the preprocessor makes of images."""

    def __init__(self, preprocessor: Preprocessor, cameras: Sequence[str]):
        super().__init__(preprocessor)
        self.cameras = tuple(cameras)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        frames = frames_from_lerobot(batch, self.cameras)
        checks.rank(self.cameras[0], batch[self.cameras[0]], "B 1+F 3 H W")
        inside = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        present = {**batch} | {camera: batch[camera][:, 0] for camera in self.cameras}
        for camera in self.cameras:
            pad = present.pop(f"{camera}_is_pad", None)
            inside = inside if pad is None else inside & ~pad.to(frames.device)
        return {**self.preprocessor(present), FRAMES: frames, VALID: inside[:, 1:]}


keep_pairs = KeepPairs  # it is used as a function is
