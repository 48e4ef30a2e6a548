"""Every recipe on the stand-in: the weights of the CPU, bit for bit, and no step that makes the host wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lattok
from lattok.training import loop
from lattok.training.runlog import read_metrics
from lattok.utils.checks import LattokError
from lattok.utils.devices import device_called, devices
from tests.accelerator import NAME, Device
from tests.standin.conftest import ON_CPU, SIZES, assert_same, make, on_host

STARTED = 3  # steps after which codebooks have started
LEARN = [kind for kind in SIZES if kind not in ON_CPU]
EACH = list({SIZES[kind][0]: kind for kind in reversed(LEARN)}.values())  # the first of each recipe


@pytest.fixture
def waits(device: Device, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What makes the host wait in or between steps, once codebooks have started."""
    step, see, found = loop.Trainer.step, loop.FiniteLoss.see, list[str]()

    def watched(trainer: Any, number: int, feed: Any) -> Any:
        found.extend(wait for wait in device.waits if wait.endswith("ahead"))
        device.waits.clear()
        return step(trainer, number, feed)

    def seen(finite: Any, values: Any, done: int) -> None:
        see(finite, values, done)
        found.extend(wait for wait in device.waits if done > STARTED or wait.endswith("ahead"))
        device.waits.clear()

    monkeypatch.setattr(loop.Trainer, "step", watched)
    monkeypatch.setattr(loop.FiniteLoss, "see", seen)
    return found


@pytest.mark.parametrize("kind", LEARN)
def test_training_is_that_of_the_cpu_and_no_step_waits(kind: str, folder: Path, tmp_path: Path, waits: list[str]):
    expected = lattok.train(make(kind, folder, tmp_path / "cpu", "cpu"))
    found = lattok.train(make(kind, folder, tmp_path / "device", NAME))
    assert_same(on_host(found), on_host(expected))
    assert waits == []


def test_foreach_optimisers_do_the_same(folder: Path, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch):
    """Where torch has no optimiser of one call, it takes lists of parameters."""
    monkeypatch.setattr(loop, "FUSED", ())
    expected = lattok.train(make("idm", folder, tmp_path / "cpu", "cpu"))
    assert_same(on_host(lattok.train(make("idm", folder, tmp_path / "device", NAME))), on_host(expected))


def interrupted(kind: str, folder: Path, out: Path, way: tuple[str, str], at: int, **options: Any) -> Any:
    """Train on one device until step `at` (from 0), then on the other."""
    step = loop.Trainer.step

    def stopped(trainer: Any, number: int, feed: Any) -> Any:
        if number == at:
            raise LattokError("lost")
        return step(trainer, number, feed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "step", stopped)
        with pytest.raises(LattokError, match="lost"):
            lattok.train(make(kind, folder, out, way[0], save_every=at, **options))
    return lattok.train(make(kind, folder, out, way[1], save_every=at, **options), resume=True)


@pytest.mark.parametrize("kind", EACH)
def test_mixed_precision_parts_averages_and_a_checkpoint_of_another_device(
    kind: str, folder: Path, tmp_path: Path, waits: list[str]
):
    options = {"precision": "bf16", "accumulate": 2, "ema": 0.9, "batch_size": 6}
    expected = lattok.train(make(kind, folder, tmp_path / "cpu", "cpu", **options))
    found = interrupted(kind, folder, tmp_path / "run", (NAME, "cpu"), 4, **options)
    assert_same(on_host(found), on_host(expected))
    assert waits == []


@pytest.mark.parametrize(("kind", "way"), [("action-vq", ("cpu", NAME)), ("idm", (NAME, NAME))])
def test_a_run_goes_on_on_another_device(kind: str, way: tuple[str, str], folder: Path, tmp_path: Path, device: Device):
    expected = lattok.train(make(kind, folder, tmp_path / "whole", "cpu", ema=0.9))
    assert_same(on_host(interrupted(kind, folder, tmp_path / "run", way, 3, ema=0.9)), on_host(expected))


def test_batches_come_on_a_stream_of_their_own_from_pinned_memory(folder: Path, tmp_path: Path, device: Device):
    lattok.train(make("image-lam", folder, tmp_path / "run", NAME))
    assert not [wait for wait in device.waits if wait.endswith("ahead")]
    logged = read_metrics(tmp_path / "run" / "run" / "metrics.jsonl")
    assert logged[-1]["memory_gb"] == pytest.approx(device.peak / 1e9, rel=0.5)


def test_a_device_is_named_once(folder: Path, tmp_path: Path, device: Device, capsys):
    assert device_called("auto") == device_called(NAME) == torch.device(NAME, 0)
    assert devices() == [torch.device(NAME, 0), torch.device("cpu")]
    lattok.train(make("action-vq", folder, tmp_path / "auto", "auto"))
    assert f"steps on {NAME}:0" in capsys.readouterr().err
    for name in (f"{NAME}:1", "cuda", "xpu", "hpu"):
        with pytest.raises(LattokError, match=rf"a device of this machine \({NAME}:0, cpu\), got '{name}'"):
            lattok.train(make("action-vq", folder, tmp_path / "no", name))
