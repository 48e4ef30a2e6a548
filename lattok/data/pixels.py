"""Pixels of one size: how every model that owns its preprocessing resizes frames."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from lattok import checks

INTERPOLATIONS = ("bicubic", "bilinear")


def resize_pixels(frames: Tensor, size: int, interpolation: str = "bicubic") -> Tensor:
    """uint8 [..., H, W, 3] to uint8 [..., size, size, 3], antialiased; frames of that size are returned as they are.

    `interpolation` is "bicubic" or "bilinear".
    """
    check_pixels(frames)
    checks.one_of("interpolation", interpolation, INTERPOLATIONS)
    if tuple(frames.shape[-3:-1]) == (size, size):
        return frames
    from torchvision.transforms.v2 import InterpolationMode  # takes seconds to import
    from torchvision.transforms.v2.functional import resize

    flat = rearrange(frames.reshape(-1, *frames.shape[-3:]), "n h w c -> n c h w")
    small = resize(flat, [size] * 2, interpolation=InterpolationMode(interpolation), antialias=True)
    return rearrange(small, "n c h w -> n h w c").reshape(*frames.shape[:-3], size, size, 3)


def check_pixels(frames: Tensor) -> None:
    """`frames` must be a uint8 tensor [..., H, W, 3]; the error says how others become one."""
    checks.tensor("frames", frames)
    if frames.dtype != torch.uint8:
        hint = "For LeRobot's float batches use lattok.data.frames_from_lerobot(batch, cameras)."
        checks.fail("frames", "uint8 pixels 0..255", f"dtype {frames.dtype}", hint)
    if frames.ndim >= 3 and frames.shape[-1] == 3:
        return
    hints = {
        1: "Grey frames: frames.expand(*frames.shape[:-1], 3).",
        4: "RGBA frames: frames[..., :3] drops the transparency.",
    }
    hint = hints.get(frames.shape[-1], "") if frames.ndim >= 3 else ""
    checks.fail("frames", "shape [..., H, W, 3] (RGB, channels last)", f"shape {list(frames.shape)}", hint)
