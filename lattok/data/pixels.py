"""Frames as every model takes them: pixels of one size, also out of batches of the `lerobot` package."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lattok.data.resampling import resample
from lattok.utils import checks

MOST_PIXELS = 2048  # of a side, that a configuration may ask for
MOST_SCALING = 1000  # of means and deviations of pixels between 0 and 1, or their inverse
MOST_CAMERAS = 64
Interpolation = Literal["bicubic", "bilinear", "bicubic_aliased"]
INTERPOLATIONS = get_args(Interpolation)
OVERSHOOT = 0.5  # resizing may leave [0, 1] a little, pixels 0 to 255 and normalised images leave it by far


def resize_pixels(frames: Tensor, size: int | tuple[int, int], interpolation: str = "bicubic") -> Tensor:
    """uint8 [..., H, W, 3] to uint8 [..., h, w, 3]; frames of that size are returned as they are.

    `size` is that of both sides, or (h, w); `interpolation` is "bicubic" or "bilinear", both antialiased, or
    "bicubic_aliased", like OpenCV's INTER_CUBIC and torch's `interpolate`. Pixels are the same on every machine and
    device.
    """
    check_pixels(frames)
    checks.one_of("interpolation", interpolation, INTERPOLATIONS)
    height, width = (size, size) if isinstance(size, int) else size
    if tuple(frames.shape[-3:-1]) == (height, width):
        return frames
    small = resample(frames.reshape(-1, *frames.shape[-3:]), height, width, interpolation)
    return small.reshape(*frames.shape[:-3], height, width, 3)


def middle(frames: Tensor, height: int, width: int) -> Tensor:
    """Cut height x width pixels out of the middle of uint8 [..., H, W, 3]; of an odd rest more is cut at the end."""
    top, left = (frames.shape[-3] - height) // 2, (frames.shape[-2] - width) // 2
    return frames[..., top : top + height, left : left + width, :]


def check_scaling(mean: Sequence[float], std: Sequence[float]) -> None:
    """Require what is taken away from colours and what they are divided by, in configurations from anywhere."""
    for name, values in (("mean", mean), ("std", std)):
        checks.size(name, "numbers, one per colour", len(values), 3)
        if not all(abs(value) <= MOST_SCALING for value in values):  # NaN is not, either
            checks.fail(name, f"numbers between -{MOST_SCALING} and {MOST_SCALING}", values)
    if min(std) < 1 / MOST_SCALING:
        checks.fail("std", f"numbers from {1 / MOST_SCALING} on", std)


def check_pixels(frames: Tensor) -> None:
    """`frames` must be a uint8 tensor [..., H, W, 3]; the error says how others become one."""
    checks.tensor("frames", frames)
    if frames.dtype != torch.uint8:
        hint = "For LeRobot's float batches use lattok.data.frames_from_lerobot(batch, cameras)."
        checks.fail("frames", "uint8 pixels 0..255", f"dtype {frames.dtype}", hint)
    if frames.ndim < 3 or frames.shape[-1] != 3 or min(frames.shape[-3:-1]) == 0:
        hints = {
            1: "Grey frames: frames.expand(*frames.shape[:-1], 3).",
            4: "RGBA frames: frames[..., :3] drops the transparency.",
        }
        hint = hints.get(frames.shape[-1], "") if frames.ndim >= 3 else ""
        checks.fail("frames", "shape [..., H, W, 3] (RGB, channels last)", f"shape {list(frames.shape)}", hint)


def frames_from_lerobot(batch: Mapping[str, Tensor], cameras: Sequence[str]) -> Tensor:
    """Images float [..., 3, H, W] in [0, 1] under the full keys `cameras` to frames uint8 [..., V, H, W, 3].

    With `delta_timestamps` of two times per camera a batch [B, 2, 3, H, W] becomes the pairs [B, 2, V, H, W, 3].
    """
    checks.known_keys("cameras", cameras, list(batch))
    views = [_from_floats(batch[key], key) for key in cameras]
    if len({view.shape for view in views}) > 1:
        checks.fail("cameras", "images of one size", ", ".join(str(list(view.shape)) for view in views))
    return torch.stack(views, dim=-4)


def frames_at(images: Tensor, key: str, size: int, interpolation: str) -> Tensor:
    """Turn images of a camera, float [..., 3, H, W] in [0, 1] or uint8 [..., H, W, 3], into frames of `size`."""
    frames = _from_floats(images, key) if images.is_floating_point() else images
    return resize_pixels(frames, size, interpolation)


def check_floats(images: Tensor, key: str) -> None:
    """The pixels of float images must be numbers from 0 to 1, but for what resizing adds."""
    low, high = torch.stack(images.aminmax()).tolist() if images.numel() else (0.0, 1.0)  # one wait for a device
    if not -OVERSHOOT <= low <= high <= 1 + OVERSHOOT:
        hint = "Pixels 0 to 255 are frames as uint8 with channels last; normalised images must be scaled back."
        checks.fail(key, "values from 0 to 1", f"{low:.3g} to {high:.3g}", hint)


def _from_floats(images: Tensor, key: str) -> Tensor:
    """Turn images float [..., 3, H, W] in [0, 1] into frames uint8 [..., H, W, 3]."""
    if not images.is_floating_point() or images.ndim < 3 or images.shape[-3] != 3:
        checks.fail(key, "float images [..., 3, H, W]", f"{images.dtype} {list(images.shape)}")
    check_floats(images, key)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1)  # ... h w 3
