"""Packed layers compute what the plain ones do, for few rows and many, and are copied, pickled and saved as these."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lattok.inference import FEW_ROWS, PackedLinear, packed


@pytest.mark.parametrize("shape", [(0, 6), (3, 6), (FEW_ROWS + 1, 6), (20, 10, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_one(shape, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5, bias=bias), torch.randn(shape)
    (fast,) = packed(nn.Sequential(copy.deepcopy(layer)))
    assert isinstance(fast, PackedLinear)
    exact = F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double()).float()
    for one in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(one(x), exact, atol=1e-5, rtol=1e-5)
    assert fast.state_dict().keys() == layer.state_dict().keys()
    turned = torch.randn(6, FEW_ROWS + 1).T
    torch.testing.assert_close(fast(turned), layer(turned), atol=1e-5, rtol=1e-5)


def test_a_machine_without_these_kernels_keeps_its_layers(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layers = nn.Sequential(nn.Linear(3, 4), nn.Conv1d(4, 4, 3, padding=1))
    assert [type(layer) for layer in packed(layers)] == [nn.Linear, nn.Conv1d]
