"""Frames in another size, in whole numbers: the same pixels on every machine and with every version of torch.

    out[y, x] = sum_h r[y, h] * sum_w c[x, w] * in[h, w]        r, c: whole numbers over a power of two

Codes are stored for ever, and sums of floats depend on the processor: values between two pixels fall to either side.
torchvision adds floats on some processors and whole numbers on others, and each of its versions chooses for itself.
"""

from functools import lru_cache
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lattok.nn.blocks import onto

ALIASED = "bicubic_aliased"
ALIASED_BITS = 21  # of weights without antialiasing: a sum over both axes stays below 2**53


def resample(frames: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """uint8 [n, H, W, 3] to uint8 [n, height, width, 3]; `interpolation` as `resize_pixels` has it."""
    if frames.device.type == "mps":  # has no float64
        return resample(frames.cpu(), height, width, interpolation).to(frames.device)
    if frames.device.type == "cpu" and interpolation != ALIASED:  # what torch does with bytes is the same, and fast
        small = F.interpolate(frames.movedim(-1, 1), (height, width), mode=interpolation, antialias=True)
        return small.movedim(1, -1)
    return in_whole_numbers(frames, height, width, interpolation)


def in_whole_numbers(frames: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """Do what `resample` does in float64, which holds all sums exactly."""
    at_a_time = 1 if frames.device.type == "cpu" else 64  # where sums stay in the cache, and where launches take long
    return torch.cat([_block(part, height, width, interpolation) for part in frames.split(at_a_time)])


def _block(frames: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    aliased = interpolation == ALIASED
    axes = [(2, width), (1, height)]  # the order counts where bytes are stored in between, as Pillow and torch do
    values, bits = frames, 0
    for axis, size in reversed(axes) if aliased else axes:
        places, weights, more = _taps_on(frames.device, frames.shape[axis], size, interpolation)
        total = torch.zeros((), dtype=torch.float64, device=frames.device)
        for place, weight in zip(places, weights, strict=True):
            chosen, weight = values.index_select(axis, place).double(), weight.view(-1, *[1] * (3 - axis))
            total = total.addcmul_(chosen, weight) if total.ndim else chosen.mul_(weight)
        values, bits = (total, bits + more) if aliased else (_rounded(total, more), 0)
    return _rounded(values, bits).to(torch.uint8)


def _rounded(values: Tensor, bits: int) -> Tensor:
    return (values / 2**bits + 0.5).floor().clamp(0, 255)


@lru_cache(maxsize=64)
def _taps_on(device: torch.device, length: int, size: int, interpolation: str) -> tuple[Tensor, Tensor, int]:
    places, weights, bits = _taps(length, size, interpolation)
    return onto(torch.from_numpy(places), device), onto(torch.from_numpy(weights), device), bits


def _taps(length: int, size: int, interpolation: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Which of `length` pixels make each of `size`, [K, size], whole weights of them, [K, size], and their bits."""
    if interpolation == ALIASED:
        return _aliased_taps(length, size)
    scale = length / size
    stretch = max(scale, 1.0)  # antialiasing widens the kernel as the picture shrinks
    reach = stretch * (1 if interpolation == "bilinear" else 2)
    centres = (np.arange(size) + 0.5) * scale
    places = np.floor(centres - reach + 0.5).astype(np.int64) + np.arange(ceil(2 * reach) + 1)[:, None]
    distances = np.abs(places + 0.5 - centres) / stretch
    weights = np.maximum(1 - distances, 0) if interpolation == "bilinear" else _cubic(distances, -0.5)
    weights *= (places >= 0) & (places < length)
    weights /= weights.sum(0)
    bits = next(bits for bits in range(23) if bits == 22 or int(0.5 + weights.max() * 2 ** (bits + 1)) >= 2**15)
    return places.clip(0, length - 1), _whole(weights, bits), bits


def _aliased_taps(length: int, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Four taps around each place, beyond an edge its pixel again; places are rounded to float32, as those of torch."""
    scale = float(np.float32(length) / np.float32(size))
    centres = ((np.arange(size) + 0.5) * scale - 0.5).astype(np.float32).astype(np.float64)
    places = np.floor(centres).astype(np.int64) + np.arange(-1, 3)[:, None]
    return places.clip(0, length - 1), _whole(_cubic(np.abs(places - centres), -0.75), ALIASED_BITS), ALIASED_BITS


def _cubic(distances: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel; a is -0.5 in Pillow and -0.75 in OpenCV."""
    near = ((a + 2) * distances - (a + 3)) * distances**2 + 1
    far = a * (((distances - 5) * distances + 8) * distances - 4)
    return np.where(distances <= 1, near, np.where(distances < 2, far, 0.0))


def _whole(weights: np.ndarray, bits: int) -> np.ndarray:
    return np.trunc(weights * 2**bits + np.copysign(0.5, weights))
