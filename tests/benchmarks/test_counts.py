"""A norm, which a CPU puts together of many operations, is counted as on a GPU and computes the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.counts import counting


@pytest.mark.parametrize("learns", [False, True])
def test_a_norm_is_one_operation_each_way(learns: bool):
    torch.manual_seed(0)
    given, scale, way = torch.randn(2, 5, 8), torch.rand(8), torch.randn(2, 5, 8)

    def gradients() -> list[Tensor]:
        x, weight = given.clone().requires_grad_(), scale.clone().requires_grad_(learns)
        F.rms_norm(x, weight.shape, weight, 1e-6).backward(way)
        return [part.grad for part in (x, weight) if part.grad is not None]

    plain = gradients()
    with counting() as counts:
        found = gradients()
    assert len(found) == 1 + learns
    torch.testing.assert_close(found, plain)
    norms = {name: count for name, count in counts.names.items() if "norm" in name}
    assert norms == {"lattok_benchmarks.rms_norm": 1, "lattok_benchmarks.rms_norm_backward": 1}
