"""Mistakes planted on purpose: each is one that a GPU would refuse or wait for, and the stand-in finds it.

Every plant is a change of a model of lattok as somebody could make it; what catches it is what all recipes are held to.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.nn.quantize import VectorQuantizer
from lattok.types import ActionBatch
from tests.accelerator import NAME, Device


@pytest.fixture
def model() -> P2TActionVQ:
    """A tokenizer whose codebook has started."""
    torch.manual_seed(0)
    made = P2TActionVQ(ActionVQConfig(action_dim=3, dropout=0.0, codebook_size=8, dim=8, hidden=8))
    made.train()(batch())
    return made


def batch() -> ActionBatch:
    generator = torch.Generator().manual_seed(1)
    return ActionBatch(torch.randn(4, 8, 3, generator=generator), torch.ones(4, 8, dtype=torch.bool))


Change = Callable[[P2TActionVQ, dict[str, Tensor], ActionBatch], Any]


def learn(device: Device, model: P2TActionVQ, change: Change) -> None:
    """Two steps on the device, the second without waiting; the first reads how many steps there were."""
    model, given = copy.deepcopy(model).to(NAME), batch()
    given = ActionBatch(*(part.to(NAME, non_blocking=True) for part in given))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for _ in range(2):
        device.waits.clear()
        terms = model(given)
        loss, extra = terms["reconstruction"] + terms["commitment"], change(model, terms, given)
        (loss if extra is None else loss + extra).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not device.waits, device.waits


def mask_of_the_host(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor:
    return given.chunks.masked_fill(torch.arange(8)[:, None] > 4, 0.0).sum()


def number_in_a_loss(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor:
    return terms["reconstruction"] * terms["reconstruction"].item()


def list_as_an_index(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor:
    return given.chunks[:, [0, 2]].mean()


def generator_of_the_host(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor:
    return torch.randn(3, device=given.chunks.device, generator=torch.Generator().manual_seed(0)).sum()


def table_left_behind(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor:
    return (given.chunks * vars(model).setdefault("scale", torch.ones(3))).mean()  # no buffer: `to` does not see it


def condition_on_values(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor | None:
    return terms["reconstruction"] if (given.chunks > 3).any() else None


def mask_that_chooses(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor:
    return given.chunks[given.valid].mean()


def numbers_made_on_the_host(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor:
    return (given.chunks * torch.tensor([1.0, 2.0, 3.0], device=given.chunks.device)).mean()


def array_of_a_tensor(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor:
    return terms["reconstruction"] * float(np.asarray(given.chunks).mean())


def logged_every_step(model: P2TActionVQ, terms: Any, given: ActionBatch) -> None:
    {name: float(term.detach()) for name, term in terms.items()}


def copy_that_waits(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor:
    return (given.chunks * torch.ones(4, 8, 3).to(given.chunks.device)).mean()


def how_many_there_are(model: P2TActionVQ, terms: Any, given: ActionBatch) -> Tensor:
    return given.chunks.mean() * len(given.valid.nonzero())


MISTAKES = [mask_of_the_host, number_in_a_loss, list_as_an_index, generator_of_the_host, table_left_behind]
MISTAKES += [condition_on_values, mask_that_chooses, numbers_made_on_the_host, array_of_a_tensor, logged_every_step]
MISTAKES += [copy_that_waits, how_many_there_are]


def test_without_a_mistake_nothing_is_found(model: P2TActionVQ, device: Device):
    learn(device, model, lambda *_: None)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(model: P2TActionVQ, mistake: Change, device: Device):
    with pytest.raises((AssertionError, RuntimeError, TypeError), match=r" at tests/standin|device"):
        learn(device, model, mistake)


def test_a_count_that_is_read_is_found(model: P2TActionVQ, device: Device, monkeypatch: pytest.MonkeyPatch):
    """The quantizer counts its steps on the host, so that no step reads them."""
    monkeypatch.setattr(VectorQuantizer, "count", property(lambda quantizer: int(quantizer.steps)))
    with pytest.raises(AssertionError, match="a number that is read at tests/standin"):
        learn(device, model, lambda *_: None)
