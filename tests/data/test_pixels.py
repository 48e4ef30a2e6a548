"""Frames that are resized: against kernels written out here, and what OpenCV gives."""

import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lattok.data.pixels import INTERPOLATIONS, middle, resize_pixels
from lattok.data.resampling import in_whole_numbers

# cv2.resize(..., INTER_CUBIC) of opencv-python-headless 4.11 on `pattern`, to 4 x 5 and, of its first 2 x 3, to 3 x 4
SHRUNK = [
    [103, 157, 194, 174, 248, 49, 91, 128, 182, 230, 30, 80, 62, 97, 154],
    [162, 199, 254, 245, 51, 90, 133, 180, 51, 33, 85, 120, 102, 158, 172],
    [204, 215, 27, 58, 95, 124, 159, 62, 120, 90, 130, 183, 159, 177, 214],
    [245, 32, 69, 100, 107, 101, 73, 125, 171, 141, 166, 150, 181, 218, 165],
]
GROWN = [
    [0, 27, 64, 57, 122, 159, 162, 106, 143, 228, 0, 28],
    [1, 38, 75, 68, 133, 170, 172, 117, 154, 239, 2, 39],
    [12, 49, 86, 78, 143, 180, 183, 127, 164, 249, 12, 49],
]


def pattern() -> torch.Tensor:
    return (torch.arange(9 * 14 * 3).reshape(9, 14, 3) * 37 % 256).to(torch.uint8)


def test_aliased_bicubic_is_what_opencv_gives():
    for frames, size, wanted in ((pattern(), (4, 5), SHRUNK), (pattern()[:2, :3], (3, 4), GROWN)):
        got = resize_pixels(frames, size, "bicubic_aliased").int()
        assert (got - torch.tensor(wanted).reshape(got.shape)).abs().max() <= 1


def cubic(length: int, size: int) -> np.ndarray:
    """Weights [size, length] of Keys' kernel, a = -0.75, at half-pixel centres; beyond an edge it counts again."""
    places, weights, a = (np.arange(size) + 0.5) * length / size - 0.5, np.zeros((size, length)), -0.75
    for row, place in enumerate(places):
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            d = abs(place - tap)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            weights[row, min(max(tap, 0), length - 1)] += near if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4)
    return weights


def opencv_cubic(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [n, H, W, 3] as OpenCV's INTER_CUBIC resizes it: no antialiasing, rounded, kept in 0 to 255."""
    rows, columns = cubic(frames.shape[1], height), cubic(frames.shape[2], width)
    small = np.einsum("yh,nhwc,xw->nyxc", rows, frames.astype(float), columns, optimize=True)
    return np.rint(small).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(120, 160), (30, 41), (224, 96), (56, 61)])
def test_aliased_bicubic_is_a_kernel_of_four_by_four_pixels(shape):
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 1, *shape, 3), dtype=torch.uint8, generator=draw)
    got = resize_pixels(frames, (56, 64), "bicubic_aliased")
    assert (got.dtype, got.shape) == (torch.uint8, (2, 1, 56, 64, 3))
    difference = np.abs(got[:, 0].numpy().astype(int) - opencv_cubic(frames[:, 0].numpy(), 56, 64).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 2e-3  # sums in another order, where a value lies between two


def test_antialiasing_is_what_tells_the_two_apart():
    frames = torch.randint(0, 256, (1, 120, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    both = [resize_pixels(frames, 40, name).float().std() for name in ("bicubic_aliased", "bicubic")]
    assert both[0] > 2 * both[1]  # noise, of which antialiasing takes the mean
    assert resize_pixels(frames, (120, 160), "bicubic_aliased") is frames


def checksums() -> list[int]:
    frames = torch.from_numpy((np.arange(2 * 45 * 61 * 3, dtype=np.int64) ** 2 % 1009 % 256).astype(np.uint8))
    sizes = ((16, 16), (90, 70), (45, 20))
    both = [[resize_pixels(frames.reshape(2, 45, 61, 3), size, name) for size in sizes] for name in INTERPOLATIONS]
    return [zlib.crc32(b"".join(each.numpy().tobytes() for each in same)) for same in both]


def test_pixels_are_the_same_with_every_version_of_torch():
    assert checksums() == [2436247664, 3497197749, 1983267888]


@pytest.mark.ci
def test_pixels_are_the_same_on_another_processor():
    code = "from tests.data.test_pixels import checksums; print(*checksums())"
    plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}  # torch without instructions for vectors
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert [int(word) for word in done.stdout.split()] == checksums()


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_what_a_gpu_gives_is_what_torch_gives_for_bytes(name):
    draw = np.random.default_rng(0)
    for _ in range(30):
        *shape, height, width = (int(side) for side in draw.integers(1, 130, 4))
        frames = torch.from_numpy(draw.integers(0, 256, (2, *shape, 3), dtype=np.uint8))
        wanted = F.interpolate(frames.movedim(-1, 1), (height, width), mode=name, antialias=True).movedim(1, -1)
        assert torch.equal(in_whole_numbers(frames, height, width, name), wanted)


def test_the_middle_of_a_frame():
    frames = torch.arange(5 * 8 * 3).reshape(1, 5, 8, 3).to(torch.uint8)
    assert torch.equal(middle(frames, 5, 5), frames[:, :, 1:6])
    assert torch.equal(middle(frames, 2, 8), frames[:, 1:3])
