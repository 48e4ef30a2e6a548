"""BEAST's tokenizer the straightforward way, as a baseline of benchmarks/speed/action_tokenizer.py.

Our re-implementation from a description of the published operations: basis functions of SciPy, least squares solved for
each dimension of each call, as the description has it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor, nn

RIDGE = 1e-5


def basis(count: int, degree: int, steps: int) -> Tensor:
    """Basis functions [steps, count] with clamped uniform knots, at equally spaced times from 0 to 1."""
    knots = np.concatenate([np.zeros(degree), np.linspace(0, 1, count + 1 - degree), np.ones(degree)])
    values = BSpline(knots, np.eye(count), degree)(np.linspace(0, 1, steps))
    return torch.from_numpy(values).float()


class StraightforwardBEAST(nn.Module):
    """`encode` and `decode` of actions, for the bounds of coefficients [m n] that a file has."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.dims, self.count, self.bins = config["num_dof"], config["num_basis"], config.get("vocab_size", 256)
        grippers = config.get("gripper_dof", 1) if config.get("gripper_zero_order") else 0
        curves = basis(self.count, config.get("degree_p", 4), config["seq_len"])
        boxes = basis(self.count, 0, config["seq_len"])
        self.bases = [curves] * (self.dims - grippers) + [boxes] * grippers
        for name, end in (("w_min", -2.0), ("w_max", 2.0)):
            self.register_buffer(name, torch.full((self.dims * self.count,), end))
        self.w_min: Tensor
        self.w_max: Tensor

    def encode(self, actions: Tensor) -> Tensor:
        """Actions [B, H, m] to codes [B, n m], basis function by basis function."""
        found = []
        for dim, matrix in enumerate(self.bases):
            normal = matrix.T @ matrix + RIDGE * torch.eye(self.count)
            found.append(torch.linalg.solve(normal, matrix.T @ actions[:, :, dim].T).T)
        weights = torch.cat(found, 1).clamp(self.w_min, self.w_max)
        codes = ((weights - self.w_min) / (self.w_max - self.w_min) * (self.bins - 1)).round().long()
        return codes.unflatten(1, (self.dims, self.count)).transpose(1, 2).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, n m] to actions [B, H, m]."""
        codes = codes.unflatten(1, (self.count, self.dims)).transpose(1, 2).flatten(1)
        weights = codes / (self.bins - 1) * (self.w_max - self.w_min) + self.w_min
        each = weights.unflatten(1, (self.dims, self.count)).unbind(1)
        return torch.stack([own @ matrix.T for own, matrix in zip(each, self.bases, strict=True)], 2)
