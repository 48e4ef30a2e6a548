"""Where the tests of this folder run: on a CUDA device, marked `gpu`; without one on the stand-in, as slow tests."""

import json
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from lattok.training import RUN, loop
from tests.accelerator import AVAILABLE, NAME, standin

GPU = torch.cuda.is_available()
ON = "cuda" if GPU else NAME
WARM = 8  # steps in which kernels are chosen and codebooks start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marks = [pytest.mark.gpu] if GPU else [pytest.mark.slow, pytest.mark.skipif(not AVAILABLE, reason="old torch")]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for mark in marks:
                item.add_marker(mark)


@pytest.fixture(autouse=True, scope="module")
def _there() -> Iterator[None]:
    with nullcontext() if GPU else standin():
        yield


def alarm(mode: str) -> None:
    """What torch does when the host waits; the stand-in counts instead, in tests/standin."""
    if GPU:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it is a prototype
            torch.cuda.set_sync_debug_mode(mode)


@pytest.fixture(autouse=True)
def exact_products():
    """float32 products in float32: TF32 rounds to 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def waiting_raises(monkeypatch: pytest.MonkeyPatch):
    """After some steps whatever waits for the GPU raises, except where something is logged or saved."""
    step, check, number = loop.Trainer.step, loop.FiniteLoss.check, iter(range(10**6))

    def watched(*arguments):
        alarm("error" if next(number) >= WARM else "default")
        return step(*arguments)

    def reads(finite: loop.FiniteLoss):
        alarm("default")
        check(finite)

    monkeypatch.setattr(loop.Trainer, "step", watched)
    monkeypatch.setattr(loop.FiniteLoss, "check", reads)
    yield
    alarm("default")


def losses(folder: Path) -> np.ndarray:
    """The loss that was logged, step by step."""
    lines = (folder / RUN / "metrics.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])
