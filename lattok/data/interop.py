"""Frames from batches of the `lerobot` package, which holds images as floats with channels first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lattok import checks

OVERSHOOT = 0.5  # resizing may leave [0, 1] a little, pixels 0 to 255 and normalised images leave it by far


def frames_from_lerobot(batch: Mapping[str, Tensor], cameras: Sequence[str]) -> Tensor:
    """Images float [..., 3, H, W] in [0, 1] under the full keys `cameras` to frames uint8 [..., V, H, W, 3].

    With `delta_timestamps` of two times per camera a batch [B, 2, 3, H, W] becomes the pairs [B, 2, V, H, W, 3].
    """
    checks.known_keys("cameras", cameras, list(batch))
    views = []
    for key in cameras:
        images = batch[key]
        if not images.is_floating_point() or images.ndim < 3 or images.shape[-3] != 3:
            checks.fail(key, "float images [..., 3, H, W]", f"{images.dtype} {list(images.shape)}")
        low, high = (float(end) for end in images.aminmax()) if images.numel() else (0.0, 1.0)
        if not -OVERSHOOT <= low <= high <= 1 + OVERSHOOT:
            hint = "Pixels 0 to 255 are frames as uint8 with channels last; normalised images must be scaled back."
            checks.fail(key, "values from 0 to 1", f"{low:.3g} to {high:.3g}", hint)
        views.append((images.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1))  # ... h w 3
    if len({view.shape for view in views}) > 1:
        checks.fail("cameras", "images of one size", ", ".join(str(list(view.shape)) for view in views))
    return torch.stack(views, dim=-4)
