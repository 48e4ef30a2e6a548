"""Motion between two frames by block matching on thumbnails: a target that needs no labels and no trained network.

cost(cell, shift) = mean over the cell of |later(x + shift) - now(x)|^2
flow(cell)        = sum over shifts of softmax(-cost / T) * shift
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

SIDE, CELLS, REACH = 32, 8, 4  # pixels of a thumbnail, cells per side, farthest shift in pixels
TEMPERATURE = 0.01  # of costs of pixels in 0..1, summed over colours
STILLNESS = 1e-4  # added per squared pixel of shift: where nothing can be told, nothing moves


@torch.no_grad()
def block_flow(frames: Tensor) -> Tensor:
    """Frame pairs uint8 [B, 2, V, H, W, 3] to motion [B, V * 2 * CELLS^2], in pixels of the thumbnail, x before y."""
    batch, _, views = frames.shape[:3]
    pixels = rearrange(frames, "b t v h w c -> (t b v) c h w").float() / 255
    now, later = F.adaptive_avg_pool2d(pixels, SIDE).chunk(2)
    padded = F.pad(later, [REACH] * 4, mode="replicate")
    steps = range(2 * REACH + 1)
    shifted = (padded[..., y : y + SIDE, x : x + SIDE] for y in steps for x in steps)
    errors = torch.cat([F.avg_pool2d((x - now).square().sum(1, keepdim=True), SIDE // CELLS) for x in shifted], 1)
    offset = torch.arange(-REACH, REACH + 1, device=frames.device)
    shifts = torch.stack([offset.repeat(len(steps)), offset.repeat_interleave(len(steps))], 1).float()  # s 2
    cost = errors + STILLNESS * shifts.square().sum(1)[:, None, None]  # bv s y x
    flow = torch.einsum("n s y x, s k -> n k y x", torch.softmax(-cost / TEMPERATURE, 1), shifts)
    return rearrange(flow, "(b v) k y x -> b (v k y x)", b=batch, v=views)
