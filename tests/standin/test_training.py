"""Every recipe on the stand-in: the weights of the CPU, bit for bit, and no step that makes the host wait."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

import lattok
from lattok.training import loop
from lattok.training.runlog import read_metrics
from lattok.utils.checks import LattokError
from lattok.utils.devices import device_called, devices
from tests.accelerator import NAME, Device
from tests.errors import refused
from tests.image_lam.backbones import local_timm
from tests.standin.conftest import ON_CPU, SIZES, assert_same, make, on_host

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14)
pytestmark = pytest.mark.skipif(
    OLD, reason="torch 2.10 rounds otherwise on the stand-in than on the CPU; 2.14 does not"
)
STARTED = 3  # steps after which codebooks have started
LEARN = [kind for kind in SIZES if kind not in ON_CPU]
EACH = list({SIZES[kind][0]: kind for kind in reversed(LEARN)}.values())  # the first of each recipe


@pytest.fixture
def waits(device: Device, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What makes the host wait in steps, and between those after which nothing is logged or saved, once codebooks have
    started."""
    step, see, found = loop.Trainer.step, loop.FiniteLoss.see, list[str]()

    def watched(trainer: Any, number: int, feed: Any) -> Any:
        told = number % trainer.options.log_every == 0 or number % trainer.options.save_every == 0
        found.extend(wait for wait in device.waits if (number > STARTED and not told) or wait.endswith("ahead"))
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


@pytest.mark.parametrize("kind", ["action-vq", "image-lam, robust"])
def test_the_log_and_checkpoints_wait_for_what_they_write(
    kind: str, folder: Path, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
):
    """A line of the log: once for all its figures, once for a loss that is not finite, and for each codebook. A
    checkpoint: for each tensor."""
    waited: dict[str, list[int]] = {"step": [], "log": [], "checkpoint": []}
    see, write, save = loop.FiniteLoss.see, loop.RunLog.write, loop.checkpoints.save

    def counted(name: str, function: Any) -> Any:
        def called(*arguments: Any) -> None:
            function(*arguments)
            waited[name].append(len(device.waits))
            device.waits.clear()

        return called

    monkeypatch.setattr(loop.FiniteLoss, "see", counted("step", see))
    monkeypatch.setattr(loop.RunLog, "write", counted("log", write))
    monkeypatch.setattr(loop.checkpoints, "save", counted("checkpoint", save))
    lattok.train(make(kind, folder, tmp_path / "run", NAME, log_every=1, save_every=2, ema=0.9))
    saved = torch.load(tmp_path / "run" / "run" / loop.CHECKPOINT)
    assert max(waited["log"]) <= 3
    assert (len(waited["log"]), len(waited["checkpoint"])) == (5, 3)
    assert max(waited["checkpoint"]) <= sum(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(saved))


def test_foreach_optimisers_do_the_same(folder: Path, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch):
    """Where torch has no optimiser of one call, it takes lists of parameters."""
    monkeypatch.setattr(loop, "FUSED", ())
    expected = lattok.train(make("idm", folder, tmp_path / "cpu", "cpu"))
    assert_same(on_host(lattok.train(make("idm", folder, tmp_path / "device", NAME))), on_host(expected))


def test_features_are_kept_as_on_the_cpu(
    folder: Path, tmp_path: Path, waits: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LATTOK_DATA", str(tmp_path / "vit"))
    vit = local_timm(tmp_path / "vit", "vit_tiny_patch16_224", embed_dim=16, depth=1, num_heads=2)
    own, found = {"features": vit, "image_size": 32, "feature_cache_dtype": "float16"}, []
    for on in ("cpu", NAME):
        own["feature_cache"] = str(tmp_path / f"cache-{on}")
        found.append(on_host(lattok.train(make("image-lam", folder, tmp_path / on, on, **own))))
    assert_same(found[1], found[0])
    assert waits == []


def test_a_mixture_is_learned_as_on_the_cpu(folder: Path, tmp_path: Path, waits: list[str]):
    shutil.copytree(folder / "data", tmp_path / "other")
    mix = {"mix": (f"{folder / 'data'}:1", f"{tmp_path / 'other'}:2")}
    for kind in ("action-vq", "image-lam, shared"):
        found = [lattok.train(make(kind, folder, tmp_path / f"{kind}-{on}", on, **mix)) for on in ("cpu", NAME)]
        assert_same(on_host(found[1]), on_host(found[0]))
    assert waits == []


def interrupted(kind: str, folder: Path, out: Path, way: tuple[str, str], at: int, **options: Any) -> Any:
    """Train on one device until step `at` (from 0), then on the other."""
    step = loop.Trainer.step

    def stopped(trainer: Any, number: int, feed: Any) -> Any:
        if number == at:
            raise LattokError("lost")
        return step(trainer, number, feed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "step", stopped)
        refused("lost", lambda: lattok.train(make(kind, folder, out, way[0], save_every=at, **options)))
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
        refused(r"a device of this machine", lattok.train, make("action-vq", folder, tmp_path / "no", name))
