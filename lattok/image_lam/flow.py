"""Motion between two frames by block matching on grey thumbnails: a target that needs no labels and no trained network.

cost(cell, shift) = mean over the cell of (later(x + shift) - now(x))^2
flow(cell)        = sum over shifts of softmax(-cost / T) * shift
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

SIDE, CELLS, REACH = 32, 8, 4  # pixels of a thumbnail, cells per side, farthest shift in pixels
TEMPERATURE = 0.01 / 3  # of squared differences of grey values in 0..1
STILLNESS = 1e-4 / 3  # added per squared pixel of shift: where nothing can be told, nothing moves


@torch.no_grad()
def block_flow(frames: Tensor) -> Tensor:
    """Frame pairs uint8 [B, 2, V, H, W, 3] to motion [B, V * 2 * CELLS^2], in pixels of the thumbnail, x before y."""
    with torch.autocast(frames.device.type, enabled=False):  # costs are small differences of large numbers
        return _block_flow(frames)


def _block_flow(frames: Tensor) -> Tensor:
    batch, _, views = frames.shape[:3]
    grey = rearrange(frames.float().mean(-1) / 255, "b t v h w -> (t b v) 1 h w")
    now, later = F.adaptive_avg_pool2d(grey, SIDE).chunk(2)
    side = SIDE // CELLS
    padded = F.pad(later, [REACH] * 4, mode="replicate")
    cells = now.unfold(2, side, side).unfold(3, side, side).reshape(-1, 1, side, side)  # (bv y x) 1 4 4
    reach = side + 2 * REACH
    windows = padded.unfold(2, reach, side).unfold(3, reach, side).reshape(1, -1, reach, reach)
    # (a - b)^2 = a^2 + b^2 - 2ab, the product for all shifts of a cell as one channel of a grouped convolution
    product = F.conv2d(windows, cells, groups=len(cells))[0] / side**2  # (bv y x) 9 9
    cost = F.avg_pool2d(windows.square(), side, 1)[0] + cells.square().mean((1, 2, 3))[:, None, None] - 2 * product
    offset = torch.arange(-REACH, REACH + 1.0, device=frames.device)
    cost = cost + STILLNESS * (offset.square()[:, None] + offset.square())
    weight = torch.softmax(-cost.flatten(1) / TEMPERATURE, 1).unflatten(1, cost.shape[1:])  # (bv y x) dy dx
    flow = torch.stack([(weight.sum(1) * offset).sum(1), (weight.sum(2) * offset).sum(1)])
    return rearrange(flow, "k (b v y x) -> b (v k y x)", b=batch, v=views, y=CELLS)
