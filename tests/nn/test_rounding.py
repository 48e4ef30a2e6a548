"""Copies of weights in a lower precision hand their gradients on."""

import torch

from lattok.nn.rounding import rounded


def test_copies_of_several_lie_together():
    torch.manual_seed(0)
    masters = [torch.randn(2, 5, requires_grad=True) for _ in range(3)] + [torch.randn(4, requires_grad=True)]
    pair, alone, vector = rounded(masters, torch.bfloat16, (2, 1))
    assert torch.equal(pair, torch.cat(masters[:2]).bfloat16())
    assert torch.equal(vector, masters[3].bfloat16())
    (pair[1:].float().sum() + 2 * vector.float().sum()).backward()
    first, _, third, last = (master.grad for master in masters)
    assert first is not None
    assert first.tolist() == [[0.0] * 5, [1.0] * 5]
    assert last is not None
    assert last.tolist() == [2.0] * 4
    assert third is None
    assert alone.shape == (2, 5)
    assert rounded([], torch.bfloat16) == []
