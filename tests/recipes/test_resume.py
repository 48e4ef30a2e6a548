"""Every recipe that there is, interrupted twice and resumed, ends as one that was not: bit for bit."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import lattok
from lattok.recipes import FitRecipe, Recipe, kinds, recipe_of
from lattok.training import CHECKPOINT, RUN
from lattok.training.loop import Trainer
from lattok.utils.signals import Interrupted
from tests.action_vq.families import small
from tests.conftest import write_dataset
from tests.image_lam.clips.fakes import SIZES as CLIPS
from tests.recipes.policies import SIZES as POLICY
from tests.recipes.policies import image_lam
from tests.recipes.test_run_folder import TINY
from tests.recipes.test_variants import HELD
from tests.recipes.test_variants import SMALL as LAM

STEPS = {"steps": 7, "save_every": 2, "log_every": 3}
INVERSE = {"image_size": 16, "channels": (8,), "latent_dim": 4, "hidden": 8, "members": 2}
OPTIONS: dict[str, dict[str, Any]] = {  # of what is no family of tokenizers; a new one is tried as large as it is
    "action-vq": {"preset": "quick", **TINY},
    "image-lam": {"preset": "tiny+robust", **LAM},
    "moto-lam": {"preset": "tiny", **LAM, **HELD},
    "clip-lam": {"preset": "tiny", "batch_size": 4, **CLIPS},
    "idm": {"preset": "tiny", "batch_size": 8, **INVERSE},
    "vla": {"backbone": "scratch", "batch_size": 4, **POLICY},
    "lara": {"backbone": "scratch", "batch_size": 4, **POLICY, "lam": "LAM"},
    "latbot": {"backbone": "scratch", "batch_size": 4, **POLICY, "teacher": "TEACHER"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A dataset, and the models that some recipes begin with."""
    place = tmp_path_factory.mktemp("resume")
    data = write_dataset(place / "data", [14, 12, 13, 12])
    image_lam(interpolation="bilinear").save_pretrained(place / "LAM")
    options = {**OPTIONS["clip-lam"], "steps": 1, "device": "cpu"}
    lattok.train(lattok.ClipLAMRecipe.from_preset(data, place / "TEACHER", **options))
    return place


def recipe(kind: str, folder: Path, out: Path) -> Recipe[Any]:
    """A small one, of few steps where it takes steps."""
    made: Any = recipe_of(kind)
    options = {**small(made.family), "horizon": 4} if issubclass(made, FitRecipe) else dict(OPTIONS.get(kind, {}))
    options |= {name: str(folder / value) for name, value in options.items() if value in ("LAM", "TEACHER")}
    known = made.option_types()
    options |= {name: value for name, value in {**STEPS, "device": "cpu"}.items() if name in known}
    return made.from_preset(folder / "data", out, options.pop("preset", None), **options)


@contextmanager
def interrupted(at: int, killed: bool) -> Iterator[list[int]]:
    """Ask the process to stop in step `at`, or end the run there as a kill does: without a word. Yields steps begun."""
    begun, plain = list[int](), Trainer.step

    def step(self: Trainer, number: int, feed: Any) -> Any:
        begun.append(number)
        if number == at and killed:
            raise MemoryError("killed")
        if number == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, number, feed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        yield begun


def state(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the artefacts of a run, and of its checkpoint where it has one."""
    found = {}
    for path in sorted(out.rglob("config.json")):
        tensors = lattok.load(path.parent).saved_tensors()
        found |= {f"{path.parent.relative_to(out)} {name}": tensor for name, tensor in tensors.items()}
    if (out / RUN / CHECKPOINT).is_file():
        saved = torch.load(out / RUN / CHECKPOINT, weights_only=True)
        found |= {f"state of {name}": tensor for name, tensor in saved["model"].items()}
    return found


@pytest.mark.parametrize("kind", kinds())
def test_interrupted_and_resumed_equals_undisturbed(kind, folder, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with interrupted(-1, killed=False) as begun:
        lattok.train(recipe(kind, folder, tmp_path / "whole"))
    cut = recipe(kind, folder, tmp_path / "cut")
    trains = len(begun) > 0
    assert trains == ("save_every" in cut.options()), "what takes steps keeps checkpoints, what does not has none"
    if trains:
        with interrupted(2, killed=False), pytest.raises(Interrupted, match="Saved at step 3 of 7 .* with: go on"):
            lattok.train(cut, resume_command="go on")
        with interrupted(5, killed=True) as begun, pytest.raises(Exception, match="killed|memory"):
            lattok.train(cut, resume=True)
        assert begun == [3, 4, 5]
    else:
        with monkeypatch.context() as patch:
            stop = lambda *_: signal.default_int_handler(signal.SIGINT, None)  # noqa: E731
            patch.setattr("lattok.recipes.tokenizers.finish", stop)
            with pytest.raises(Interrupted, match="^interrupted. Continue with: go on"):
                lattok.train(cut, resume_command="go on")
    assert not (tmp_path / "cut" / "config.json").exists()
    with interrupted(-1, killed=False) as begun:
        lattok.train(cut, resume=True)
    assert begun == ([4, 5, 6] if trains else [])  # from the checkpoint, not from the start
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert whole.keys() == parts.keys() != set()
    assert not [name for name in whole if not torch.equal(whole[name], parts[name])]
    trained = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "cut")]
    assert trained[0] == trained[1]
    assert not [*scratch.iterdir()]
    shutil.rmtree(tmp_path / "whole")
