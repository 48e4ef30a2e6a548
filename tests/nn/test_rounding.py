"""Copies of weights in a lower precision hand their gradients on."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from benchmarks.speed.counts import Counts, counting
from lattok.nn.rounding import Rounding, rounded


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


class Net(nn.Module):
    """Blocks, one that is used twice and one that is frozen; a convolution, and a layer that nothing uses."""

    def __init__(self):
        super().__init__()
        self.first, self.unused = nn.Conv1d(4, 8, 1), nn.Linear(8, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(3))
        self.blocks[1].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).transpose(1, 2)
        with torch.no_grad():
            shift = self.blocks[0](x)  # before it learns from the same weights
        torch.clear_autocast_cache()  # torch 2.6 goes on with copies that hand no gradients on
        for block in (*self.blocks, self.blocks[0]):
            x = x + block(x)
        with torch.autocast("cpu", enabled=False):
            return self.blocks[2](x.float() + shift)


def test_layers_rounded_together_are_those_of_autocast():
    torch.manual_seed(0)
    ours, theirs, x = Net(), Net(), torch.randn(3, 4, 5)
    theirs.load_state_dict(ours.state_dict())
    rounding, counts = Rounding(ours), list[Counts]()
    for number in range(2):  # the second pass knows what the first asked for
        for net in (ours, theirs):
            way = rounding.of_pass() if net is ours else nullcontext()
            with counting() as found, torch.autocast("cpu", torch.bfloat16), way:
                net(x).square().sum().backward()
            counts += [found]
        for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert (mine.grad is None) == (other.grad is None), name
            assert mine.grad is None or other.grad is None or torch.equal(mine.grad, other.grad), (name, number)
    assert counts[2].casts < counts[3].casts - 12
    assert not any("forward" in vars(part) for part in ours.modules())
    assert not any(group.copies for group in rounding._groups)
