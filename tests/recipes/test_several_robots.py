"""One inverse model of several robots: three real forms, other numbers, rates and cameras, one encoder."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import lattok
from lattok.annotation import verify
from lattok.cli import main
from lattok.data import Feature, LeRobotWriter, export, open_dataset
from lattok.data.alike import check_actions
from lattok.labels import with_labels
from lattok.samples import ActionWindows
from lattok.utils import checks
from tests.conftest import moving_square
from tests.data.formats.test_hdf5 import write_libero
from tests.errors import refused
from tests.recipes.test_resume import interrupted

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
DIMS = {"arm": 7, "bridge": 7, "two_arms": 14}
TINY = ["--preset", "tiny", "--image-size", "16", "--channels", "8", "--latent-dim", "8", "--hidden", "8", "--members"]
TINY += ["2", "--steps", "6", "--save-every", "2", "--batch-size", "12", "--device", "cpu"]


def lerobot(root: Path, fps: float, cameras: tuple[str, ...], scale: float = 1.0) -> Path:
    """Four episodes of 7 numbers; nobody knows the actions of the third one."""
    rng = np.random.default_rng(len(cameras))
    keys = [f"observation.images.{camera}" for camera in cameras]
    features = {"action": Feature("float32", (7,), NAMES), **{key: Feature("image", (32, 32, 3), None) for key in keys}}
    with LeRobotWriter.create(root, fps, features) as writer:
        for episode, length in enumerate((9, 8, 7, 8)):
            actions = scale * rng.standard_normal((length, 7)) if episode != 2 else np.full((length, 7), np.nan)
            writer.add_episode({"action": actions}, {key: moving_square(rng, length) for key in keys}, "lift")
    return root


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("robots")
    arm = lerobot(folder / "arm", 10, ("front", "wrist"))
    export(lerobot(folder / "images" / "bridge", 5, ("image",), 20.0), folder / "bridge", format="rlds")
    write_libero(folder / "two_arms.hdf5", "fold", (8, 9, 7, 8))
    with h5py.File(folder / "two_arms.hdf5", "a") as file:
        for number in range(4):
            one = file[f"data/demo_{number}/actions"][:]
            del file[f"data/demo_{number}/actions"]
            file[f"data/demo_{number}/actions"] = np.concatenate([one, one + 5], 1) * (np.nan if number == 2 else 1)
    return {"arm": str(arm), "bridge": str(folder / "bridge" / "1.0.0"), "two_arms": str(folder / "two_arms.hdf5")}


@pytest.fixture(scope="module")
def trained(roots, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "m"
    assert main(["train", "idm", *roots.values(), "--out", str(out), *TINY]) == 0
    return out


@pytest.mark.parametrize("name", DIMS)
def test_each_gets_actions_of_its_own_in_its_own_units(name, trained, roots, tmp_path):
    model, source, out = lattok.load(trained), open_dataset(roots[name]), tmp_path / "filled"
    assert model.datasets == tuple(DIMS)
    assert main(["annotate", roots[name], "--model", str(trained), "--as", "actions", "--out", str(out)]) == 0
    labelled = open_dataset(out) if name == "arm" else with_labels(source, out)
    known = np.concatenate([source.columns(index, ["action"])["action"] for index in (0, 1)])
    filled = labelled.columns(2, ["action"])["action"]
    assert filled.shape == (7, DIMS[name])
    assert ((known.min(0) - 1e-5 <= filled) & (filled <= known.max(0) + 1e-5)).all()
    assert verify(labelled, {"inferred": trained}).holds
    own = model.for_dataset(name)
    assert len(own.cameras) == len(source.cameras)
    frames = np.stack([own.resize(source.frames(2, [camera])[:, 0]) for camera in own.cameras], 1)
    np.testing.assert_allclose(own.infer_actions(frames, fps=source.fps).actions, filled, rtol=1e-5, atol=1e-6)
    alone = lattok.load(own.save_pretrained(tmp_path / "alone"))
    np.testing.assert_allclose(alone.infer_actions(frames, fps=source.fps).actions, filled, rtol=1e-5, atol=1e-6)
    assert (alone.datasets, alone.trained_on["dataset"]) == ((), name)
    assert [entry["dataset"] for entry in alone.trained_on["earlier"]] == [each for each in DIMS if each != name]


def test_one_is_judged_by_its_own_known_episodes(trained, roots, tmp_path, capsys):
    words = ["evaluate", str(trained), roots["arm"], "--device", "cpu", "--out", str(tmp_path / "report")]
    assert main(words) == 0, capsys.readouterr().err


def test_what_is_not_chosen_is_not_guessed(trained):
    model = lattok.load(trained)
    assert "arm (7), bridge (7), two_arms (14)" in model.summary()
    refused("`model`: expected one of its datasets", model.infer_actions, np.zeros((3, 2, 16, 16, 3), np.uint8), 1)
    refused("`dataset`: expected one that this model knows", model.for_dataset, "other")


def test_named_in_another_order_killed_and_continued_it_has_the_same_weights(trained, roots, tmp_path):
    out = tmp_path / "m"
    words = ["train", "idm", *reversed(roots.values()), "--out", str(out), *TINY]
    with interrupted(3, killed=True):
        assert main(words) == 2
    assert main(["train", "idm", "--out", str(out), "--resume", "--device", "cpu"]) == 0
    once, again = (lattok.load(each).saved_tensors() for each in (trained, out))
    assert once.keys() == again.keys()
    assert all(torch.equal(once[name], again[name]) for name in once)


@pytest.mark.parametrize("kind", ["fast", "action-vq"])
def test_a_tokenizer_codes_each_in_its_own_numbers(kind, roots, tmp_path, capsys):
    out = tmp_path / "t"
    small = ["--horizon", "4"] + ["--preset", "quick", "--steps", "2", "--dim", "8"] * (kind == "action-vq")
    checks.note.cache_clear()
    assert main(["train", kind, *roots.values(), "--out", str(out), *small]) == 0
    said = "mix: actions differ, and each dataset keeps its own: 7 numbers in arm, 7 numbers in bridge, 14 numbers in"
    assert said in capsys.readouterr().err
    tokenizer = lattok.load(out)
    for name, dims in DIMS.items():
        own = tokenizer.for_dataset(name)
        check_actions(own, open_dataset(roots[name]), "action")
        known = ActionWindows(open_dataset(roots[name]), 4, episodes="train")
        assert own.decode(own.encode(*known.all()), repair=True).shape[1:] == (4, dims)
    assert not capsys.readouterr().err  # a note that a model does not name its numbers
    assert main(["train", kind, *reversed(roots.values()), "--out", str(tmp_path / "turned"), *small]) == 0
    assert lattok.load(tmp_path / "turned").describe() == tokenizer.describe() | {"model": "turned"}


def test_chunks_that_count_many_times_are_told(roots, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lattok.recipes.tokenizers.MANY_TIMES", 1.5)
    checks.note.cache_clear()
    fit = ["train", "fast", "--horizon", "4", "--mix"]
    assert main([*fit, f"{roots['arm']}:0.1", f"{roots['bridge']}:1.0", "--out", str(tmp_path / "often")]) == 0
    said, _, proposed = " ".join(capsys.readouterr().err.split()).partition("each counts once by --mix ")
    assert "each chunk of bridge counts 2 times" in said
    assert main([*fit, *proposed.split()[:2], "--out", str(tmp_path / "once")]) == 0
    assert "counts" not in capsys.readouterr().err


def test_what_does_not_fit_together_is_said_in_a_line(roots, tmp_path, capsys):
    train = ["train", "idm", "--out", str(tmp_path / "m"), *TINY]
    other = lerobot(tmp_path / "other" / "arm", 10, ("front",))
    for words, said in (
        ([roots["arm"], str(other)], "`mix`: expected datasets with different names, got several called 'arm'. Write"),
        ([roots["arm"], roots["arm"]], "several called 'arm'. Name it once"),
        ([roots["arm"], roots["bridge"], "--from", "both"], "`from_`: expected video for several datasets"),
        ([roots["arm"], roots["bridge"], "--batch-size", "3"], "1 in a part of the dataset with the smallest share"),
    ):
        assert main([*train[:2], *words[:2], *train[2:], *words[2:]]) == 2
        shown = capsys.readouterr().err.strip().splitlines()
        assert said in shown[-1]
        assert not (tmp_path / "m" / "config.json").exists()
    assert main(["train", "lara", roots["arm"], roots["bridge"], "--out", str(tmp_path / "m")]) == 2
