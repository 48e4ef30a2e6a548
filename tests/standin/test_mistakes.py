"""Mistakes planted on purpose: each is one that a GPU would refuse or wait for, and the stand-in finds it."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.action_vq.p2t import QUICK_MODEL
from lattok.types import ActionBatch
from tests.accelerator import NAME, Device

X, VALID = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(1)), torch.ones(4, 8, dtype=torch.bool)
MISTAKES: dict[str, Callable[..., Any]] = {  # of a model, its loss, and a batch on the device
    "mask of the host": lambda m, loss, x, v: x.masked_fill(torch.arange(8)[:, None] > 4, 0.0).sum(),
    "number in a loss": lambda m, loss, x, v: loss * loss.item(),
    "list as an index": lambda m, loss, x, v: x[:, [0, 2]].mean(),
    "generator of the host": lambda m, loss, x, v: torch.randn(3, device=x.device, generator=torch.Generator()).sum(),
    "table that is no buffer": lambda m, loss, x, v: (x * torch.ones(3)).mean(),
    "condition on values": lambda m, loss, x, v: loss if (x > 3).any() else None,
    "mask that chooses": lambda m, loss, x, v: x[v].mean(),
    "numbers made on the host": lambda m, loss, x, v: (x * torch.tensor([1.0, 2.0, 3.0], device=x.device)).mean(),
    "array of a tensor": lambda m, loss, x, v: loss * float(np.asarray(x).mean()),
    "logged every step": lambda m, loss, x, v: float(loss.detach()) and None,
    "copy that waits": lambda m, loss, x, v: (x * torch.ones(4, 8, 3).to(x.device)).mean(),
    "how many there are": lambda m, loss, x, v: x.mean() * len(v.nonzero()),
    "count that is read": lambda m, loss, x, v: next(int(b) for name, b in m.named_buffers() if "steps" in name),
}


def learn(device: Device, mistake: Callable[..., Any]) -> None:
    """Two steps on the device, the second without waiting; the first reads how many steps there were."""
    torch.manual_seed(0)
    model = P2TActionVQ(ActionVQConfig(action_dim=3, **{**QUICK_MODEL, "codebook_size": 8, "dim": 8, "hidden": 8}))
    model.train()(ActionBatch(X, VALID))  # its codebook starts
    model = copy.deepcopy(model).to(NAME)
    given = ActionBatch(X.to(NAME, non_blocking=True), VALID.to(NAME, non_blocking=True))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for _ in range(2):
        device.waits.clear()
        terms = model(given)
        loss = terms["reconstruction"] + terms["commitment"]
        extra = mistake(model, terms["reconstruction"], *given[:2])
        (loss if extra is None else loss + extra).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not device.waits, device.waits


def test_without_a_mistake_nothing_is_found(device: Device):
    learn(device, lambda *_: None)


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found(mistake: Callable[..., Any], device: Device):
    with pytest.raises((AssertionError, RuntimeError, TypeError), match=r" at tests/standin|device"):
        learn(device, mistake)
