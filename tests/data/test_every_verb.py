"""Datasets of every format that lattok reads go through the verbs, each typed as the one before prints it, and what
comes out has the values that went in."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lattok import open_dataset
from lattok.cli import main
from lattok.data.schema import FORMATS
from lattok.utils.registry import is_ours
from tests.conftest import write_dataset
from tests.data.formats import test_agibot as agibot_world
from tests.data.formats import test_array_layouts as arrays
from tests.data.formats import test_droid as droid_raw
from tests.data.formats import test_mcap as ros
from tests.data.formats import test_picture_folder as films
from tests.data.specimens import WRITERS

TINY = ("--steps", "2", "--batch-size", "4", "--device", "cpu", "--seed", "0")
SMALL = ("--image-size", "32", "--width", "16", "--stride", "1")
MORE = {"image-lam": (*SMALL, *TINY), "vla": ("--horizon", "2", *TINY), "export": ("--images", "image")}
PRINTED = re.compile(r"lattok ((?:train|evaluate|annotate|verify|view|export) .+)")
Typed = list[list[str]]


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0, words


def follow(capsys: pytest.CaptureFixture[str], *words: str) -> Typed:
    """Type a command, and then all that it and these print to type next; of `evaluate` only the dataset is opened."""
    done, waiting = Typed(), [[*words]]
    while waiting:
        line = waiting.pop(0)
        if line[0] == "evaluate":
            open_dataset(line[2])
            continue
        if "DATASET" in line:  # a robot's, beside films
            arm = write_dataset(Path("arm"), [8, 9, 8])
            line = [*(str(arm) if word == "DATASET" else word for word in line), "--cameras", "front"]
        run(*line, *MORE.get(line[1] if line[0] == "train" else line[0], ()))
        done.append(line)
        waiting += [shlex.split(each) for each in PRINTED.findall(capsys.readouterr().out.replace("\\\n", " "))]
    return done


def described(text: str) -> tuple[str, ...]:
    Path("source.json").write_text(text)
    return ("source.json",)


def aloha() -> tuple[str, ...]:
    arrays.aloha(Path.cwd())
    return described('{"dataset": "pour the tea", "fps": 10}')


def maniskill() -> tuple[str, ...]:
    Path("skill").mkdir()
    arrays.maniskill(Path("skill"))
    return described('{"dataset": "skill", "fps": 10}')


def calvin() -> tuple[str, ...]:
    arrays.calvin(Path("calvin"))
    return described('{"dataset": "calvin", "fps": 10}')


def unitree() -> tuple[str, ...]:
    arrays.unitree(Path("tasks"))
    return ("tasks",)


def zarr() -> tuple[str, ...]:
    arrays.diffusion_policy(Path.cwd())
    return described('{"dataset": "pusht.zarr", "format": "zarr", "fps": 10}')


def npz() -> tuple[str, ...]:
    arrays.npz(Path.cwd())
    return described('{"dataset": "wipe", "format": "npz", "fps": 10}')


def parquet() -> tuple[str, ...]:
    Path("steps").mkdir()
    arrays.parquet(Path("steps"))
    return described('{"dataset": "steps", "fps": 10}')


def mcap() -> tuple[str, ...]:
    for name in ("a", "b"):
        ros.record(Path("runs") / "pour" / f"{name}.mcap")
    topics = '{"observation.images.front": "/front/image/compressed", "observation.state": "/joint_states"'
    return described(f'{{"dataset": "runs", "topics": {topics}, "action": "/command"}}}}')


def pictures() -> tuple[str, ...]:
    for episode in range(2):
        films.write(Path("films") / str(episode), 8, episode, size=(32, 32))
    return described('{"dataset": "films", "fps": 10}')


def agibot() -> tuple[str, ...]:
    agibot_world.write(Path("agibot"))
    joined = '"action": ["action.joint.position", "action.effector.position"]'
    joined += ', "observation.state": ["observation.joint.position"]'
    return described(f'{{"dataset": "agibot", "columns": {{{joined}}}}}')


def droid() -> tuple[str, ...]:
    droid_raw.write(Path("droid_raw"))
    joined = '"action": ["action.joint_velocity", "action.gripper_position"]'
    joined += ', "observation.state": ["observation.state.joint_positions", "observation.state.gripper_position"]'
    return described(f'{{"dataset": "droid_raw", "columns": {{{joined}}}}}')


def named(kind: str, specimen: str) -> Callable[[], tuple[str, ...]]:
    """A dataset that needs no description; its format is named."""

    def write() -> tuple[str, ...]:
        WRITERS[specimen](Path("a folder"))
        return ("a folder", "--format", kind)

    write.__name__ = kind
    return write


NAMED = {"lerobot": "lerobot", "lerobot-v2": "lerobot_v21", "rlds": "rlds", "hdf5": "hdf5", "video": "video"}
WAYS = (
    aloha,
    maniskill,
    calvin,
    unitree,
    zarr,
    npz,
    parquet,
    mcap,
    pictures,
    agibot,
    droid,
    *(named(*each) for each in NAMED.items()),
)


ELSEWHERE = {"lerobot-lance"}  # tests/data/formats/test_lerobot_lance.py


def test_no_format_is_forgotten():
    page = (Path(__file__).parents[2] / "docs/howto/own_dataset.md").read_text(encoding="utf-8")
    ours = {kind for kind in FORMATS if is_ours(FORMATS[kind])}
    assert {write.__name__ for write in WAYS} | ELSEWHERE >= ours
    assert all(f"`{kind}`" in page for kind in ours)


@pytest.mark.ci
@pytest.mark.parametrize("write", WAYS, ids=lambda write: write.__name__)
def test_a_format_goes_through_every_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], write: Callable
):
    needs = {
        "zarr": "zarr",
        "mcap": "mcap_ros2",
        "hdf5": "h5py",
        "aloha": "h5py",
        "maniskill": "h5py",
        "agibot": "h5py",
        "droid": "h5py",
    }
    pytest.importorskip(needs.get(write.__name__, "numpy"))
    monkeypatch.chdir(tmp_path)
    place = write()
    dataset = open_dataset(place[0], format=place[2] if place[1:] else None)
    acts = "action" in dataset.features
    done = follow(capsys, "inspect", *place)
    trained = next(words for words in done if words[0] == "train")
    model = trained[trained.index("--out") + 1]
    if not any(words[0] == "annotate" for words in done):
        done += follow(capsys, "annotate", *place, "--model", model, "--out", "labels")
    assert {"verify", "view"} <= {words[0] for words in done}
    labels = next(words[words.index("--out") + 1] for words in done if words[0] == "annotate")
    run("inspect", labels)
    if not Path("joined").exists():  # labels are columns of a copy
        run("export", "labels", "--out", "joined", *MORE["export"])
    joined = open_dataset("joined")
    keys = [key for key in ("action", "observation.state") if key in dataset.features]
    for episode, copy in zip(dataset.episodes, joined.episodes, strict=True):
        one, other = dataset.columns(episode.index, keys), joined.columns(copy.index, keys)
        for key in keys:
            np.testing.assert_allclose(one[key], other[key], rtol=1e-6)
        for camera in dataset.cameras:
            shown, stored = dataset.frames(episode.index, [camera]), joined.frames(copy.index, [camera])
            np.testing.assert_array_equal(shown, stored)
    if acts:
        run("train", "uniform-bins", *place, "--out", "bins", "--horizon", "2")
        run("train", "idm", *place, "--out", "idm", "--preset", "tiny", "--image-size", "32", *TINY)
        policy = ["--backbone", "scratch", "--strategy", "la_direct", "--horizon", "2", "--cameras", dataset.cameras[0]]
        policy += [] if "observation.state" in dataset.features else ["--no-proprio"]
        run("train", "vla", labels, "--out", "policy", *policy, *TINY)
        run("hide", *place, "--keep", str(dataset.episodes[0].index), "--out", "few")
        run("annotate", "few", "--model", "idm", "--as", "actions", "--out", "filled")
        run("train", "vla", "filled", "--out", "of-few", *policy[:2], *policy[4:], *TINY)
    else:  # films, beside a robot
        robot, seen = write_dataset(Path("robot"), [8, 9, 8]), ("--cameras", "front", "--any-rate")
        run("annotate", robot, "--model", model, "--out", "robot-labels", *seen)
        mixed = ("--mix", f"{labels}:1.0", "robot-labels:1.0", "--backbone", "scratch", "--strategy", "la_direct")
        run("train", "vla", *mixed, "--out", "policy", "--horizon", "2", *TINY)
