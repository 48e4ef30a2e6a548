"""Datasets of every format that lattok reads go through the verbs, and what comes out has the values that went in."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lattok import open_dataset
from lattok.cli import main
from tests.data.formats import test_agibot as agibot_world
from tests.data.formats import test_array_layouts as arrays
from tests.data.formats import test_mcap as ros
from tests.data.formats import test_picture_folder as films

TINY = ("--steps", "2", "--batch-size", "4", "--device", "cpu", "--seed", "0")
SMALL = ("--preset", "tiny+robust", "--features", "pixels", "--image-size", "32", "--width", "16", "--stride", "1")


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0, words


def aloha(folder: Path) -> str:
    arrays.aloha(folder)
    return '{"dataset": "pour the tea", "fps": 10}'


def maniskill(folder: Path) -> str:
    (folder / "skill").mkdir()
    arrays.maniskill(folder / "skill")
    return '{"dataset": "skill", "fps": 10}'


def zarr(folder: Path) -> str:
    arrays.diffusion_policy(folder)
    return '{"dataset": "pusht.zarr", "fps": 10}'


def mcap(folder: Path) -> str:
    for name in ("a", "b"):
        ros.record(folder / "runs" / "pour" / f"{name}.mcap")
    topics = '{"observation.images.front": "/front/image/compressed", "observation.state": "/joint_states"'
    return f'{{"dataset": "runs", "topics": {topics}, "action": "/command"}}}}'


def pictures(folder: Path) -> str:
    for episode in range(2):
        films.write(folder / "films" / str(episode), 8, episode, size=(32, 32))
    return '{"dataset": "films", "fps": 10}'


def agibot(folder: Path) -> str:
    agibot_world.write(folder / "agibot")
    joined = '"action": ["action.joint.position", "action.effector.position"]'
    joined += ', "observation.state": ["observation.joint.position"]'
    return f'{{"dataset": "agibot", "columns": {{{joined}}}}}'


@pytest.mark.ci
@pytest.mark.parametrize("write", [aloha, maniskill, zarr, mcap, pictures, agibot], ids=lambda write: write.__name__)
def test_a_format_goes_through_every_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable):
    pytest.importorskip({"zarr": "zarr", "mcap": "mcap_ros2", "pictures": "numpy"}.get(write.__name__, "h5py"))
    monkeypatch.chdir(tmp_path)
    Path("source.json").write_text(write(tmp_path))
    dataset = open_dataset("source.json")
    acts = "action" in dataset.features
    run("inspect", "source.json")
    if acts:
        run("train", "uniform-bins", "source.json", "--out", "bins", "--horizon", "2")
        run("train", "idm", "source.json", "--out", "idm", "--preset", "tiny", "--image-size", "32", *TINY)
    alone = () if acts else ("--labelled-fraction", "0")
    run("train", "image-lam", "source.json", "--out", "lam", *SMALL, *alone, *TINY)
    run("annotate", "source.json", "--model", "lam", "--out", "labels")
    run("verify", "source.json", "--labels", "labels", "--model", "lam")
    run("export", "source.json", "--labels", "labels", "--out", "joined", "--images", "image")
    joined = open_dataset("joined")
    keys = [key for key in ("action", "observation.state") if key in dataset.features]
    for episode, copy in zip(dataset.episodes, joined.episodes, strict=True):
        one, other = dataset.columns(episode.index, keys), joined.columns(copy.index, keys)
        for key in keys:
            np.testing.assert_allclose(one[key], other[key], rtol=1e-6)
        np.testing.assert_array_equal(dataset.frames(episode.index), joined.frames(copy.index))
    if acts:
        policy = ("--backbone", "scratch", "--strategy", "la_direct", "--horizon", "2")
        run("train", "vla", "joined", "--out", "policy", *policy, *TINY)
