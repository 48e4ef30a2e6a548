"""Models whose labels a test can compute itself, and the contents of folders."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from lattok.types import ActionTokenizer, LatentActions, VideoLabeller


class FakeTokenizer(ActionTokenizer):
    """Codes are the rounded first and last action of the chunk; latents are its mean, P = 2 and d = 3."""

    horizon = 4
    action_dim = 3

    def latent_actions(self, chunks, valid=None):
        ends = chunks[:, [0, -1], 0]
        means = chunks.mean(1)[:, None].repeat(1, 2, 1)
        return LatentActions((ends * 10).round().long(), means, means + 1)

    def describe(self):
        return {"type": "fake", "weights_sha256": "0"}


class FakeLAM(VideoLabeller):
    """One code per pair, latents of width 2; an environment stream with three codes."""

    cameras = ("front", "wrist")

    def stride_frames(self, fps):
        return round(0.3 * fps)

    def resize(self, frames):
        return frames[:, ::4, ::4]

    def label_video(self, frames, stride):
        frames = np.concatenate(list(frames))
        assert frames.shape[1:] == (2, 8, 8, 3)
        brightness = torch.from_numpy(frames.astype(np.float32)).mean((2, 3, 4))
        later = brightness[(torch.arange(len(frames)) + stride).clamp_max(len(frames) - 1)]
        latents = (later - brightness)[:, None]
        codes = latents[:, :, 0].round().long()
        env = LatentActions(codes.repeat(1, 3), latents.repeat(1, 3, 1), latents.repeat(1, 3, 1))
        return LatentActions(codes, latents, latents, env)

    def describe(self):
        return {"type": "fake-lam", "weights_sha256": "1"}


class Stop(Exception):
    """A kill, or another interruption that annotation cannot foresee."""


def stop(*_: object, **__: object) -> None:
    raise Stop


MODELS = {"latent": FakeLAM(), "tok": FakeTokenizer()}


def tree(root: Path) -> dict[str, str]:
    """Content of every file below a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
