"""A new robot: a head in closed form on an encoder that others trained."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.data import Feature, LeRobotWriter
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig, RobotConfig
from lattok.nn.ridge import RIDGES
from lattok.recipes.new_robot import _left_out
from tests.conftest import moving_square

LENGTHS = (12, 10, 14)
SIZES = {"features": "pixels", "image_size": 16, "channels": (8,), "latent_dim": 4, "hidden": 8, "members": 1}
ROBOTS = (RobotConfig("a", ("front", "wrist"), (0, 1), 3), RobotConfig("b", ("eye",), (0,), 2))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = InverseDynamicsConfig(("front", "wrist"), 3, robots=ROBOTS, mean=(0.5,) * 3, std=(1.0,) * 3, **SIZES)
    return InverseDynamics(config).eval().save_pretrained(tmp_path_factory.mktemp("encoder") / "m")


def written(root: Path, encoder: Path, noise: float, every: int = 1) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    """A robot with one camera, whose actions are linear in what the encoder says of a clip, or only noise; those of
    `every` few frames are known."""
    rng, known = np.random.default_rng(3), lattok.load(encoder).for_dataset("b")
    videos, actions = [moving_square(rng, length, 16) for length in LENGTHS], []
    weight = rng.standard_normal((4, 3)) * [1, 10, 100]
    for video in videos:
        z = known.label_video(video[:, None], fps=10).quantized
        linear = z.mean(1) @ weight + [0, 1, 2]
        actions.append(rng.standard_normal(linear.shape) if noise else linear)
    features = {"action": Feature("float32", (3,), None), "observation.images.top": Feature("image", (16, 16, 3), None)}
    with LeRobotWriter.create(root, 10, features) as writer:
        for video, action in zip(videos, actions, strict=True):
            known = np.where(np.arange(len(action))[:, None] % every, np.nan, action)
            writer.add_episode({"action": known}, {"observation.images.top": video}, "lift")
    return root, videos, actions


def words(dataset: Path, out: Path, encoder: Path, *more: str) -> list[str]:
    own = [
        "train",
        "idm",
        str(dataset),
        "--out",
        str(out),
        "--init",
        str(encoder),
        "--device",
        "cpu",
        "--preset",
        "tiny",
    ]
    return [*own, "--episodes", "0:", *more]


def test_a_head_that_is_linear_in_the_latents_is_found_and_the_encoder_stays(encoder, tmp_path, capsys):
    data, videos, actions = written(tmp_path / "data", encoder, 0)
    out = tmp_path / "n"
    assert main(words(data, out, encoder, "--freeze", "encoder", "--action-episodes", "0,1")) == 0
    assert (
        "head: reads `action` with R² 1.00 from 22 known actions (2 parts, each left out once)\n"
        in capsys.readouterr().err
    )
    model, before = lattok.load(out), lattok.load(encoder)
    low, high = np.concatenate(actions[:2]).min(0), np.concatenate(actions[:2]).max(0)
    for video, action in zip(videos, actions, strict=True):
        found = model.infer_actions(video[:, None], fps=10).actions
        np.testing.assert_allclose(found, action.clip(low, high), atol=2e-2 * (high - low).max(), rtol=1e-2)
    ours, theirs = model.state_dict(), before.state_dict()
    same = [name for name in ours if "encoder" in name or "project" in name]
    assert len(same) == 6
    assert all(torch.equal(ours[name], theirs[name]) for name in same)
    assert (model.config.views, model.config.places, model.config.hidden) == (2, (0,), 0)
    assert model.trained_on["init"]["weights_sha256"] == before.describe()["weights_sha256"]


def test_scattered_frames_with_known_actions_are_enough(encoder, tmp_path, capsys):
    data, videos, actions = written(tmp_path / "data", encoder, 0, every=3)
    assert main(words(data, tmp_path / "n", encoder, "--freeze", "encoder")) == 0
    assert "R² 1.00 from 13 known actions" in capsys.readouterr().err
    known = np.concatenate([each[::3] for each in actions])
    low, high = known.min(0), known.max(0)
    found = lattok.load(tmp_path / "n").infer_actions(videos[0][:, None], fps=10).actions
    np.testing.assert_allclose(found, actions[0].clip(low, high), atol=2e-2 * (high - low).max(), rtol=1e-2)
    beside = lattok.annotate(data, tmp_path / "n", tmp_path / "beside")
    said = lattok.open_dataset(beside).columns(0, ["latent.action"])["latent.action"]
    np.testing.assert_allclose(said, found, rtol=1e-5, atol=1e-5)
    assert main(["annotate", str(data), "--model", str(tmp_path / "n"), "--as", "actions", "--out", "filled"]) == 2
    assert "into columns of their own" in capsys.readouterr().err


def test_a_model_of_its_own_learns_from_scattered_frames_but_not_from_half_an_action(encoder, tmp_path, capsys):
    data, *_ = written(tmp_path / "data", encoder, 0, every=3)
    sizes = ["--members", "1", "--image-size", "16", "--channels", "8", "--batch-size", "8", "--episodes", "0:"]
    own = ["train", "idm", str(data), "--preset", "tiny", "--device", "cpu", "--steps", "2", *sizes]
    assert main([*own, "--out", str(tmp_path / "m")]) == 0
    assert all(bool(each.isfinite().all()) for each in lattok.load(tmp_path / "m").state_dict().values())
    for file in (data / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        rows = table["action"].to_pylist()
        rows[1] = [np.nan, 1.0, 1.0]
        column = pa.array(rows, table.schema.field("action").type)
        pq.write_table(table.set_column(table.column_names.index("action"), "action", column), file)
    assert main([*own, "--out", str(tmp_path / "half")]) == 2
    assert "`action`: expected finite numbers, got nan in episode 0, frame 1" in capsys.readouterr().err


def test_fewer_known_actions_are_judged_as_numpy_does():
    """Of every second known action, by ridge regression whose strength is the best one of those left out."""
    rng, count = np.random.default_rng(0), 20
    x, weight = rng.standard_normal((2 * count, 1, 3)), rng.standard_normal((3, 1))
    y = x[:, 0] @ weight + 0.3 * rng.standard_normal((2 * count, 1))
    folds = [torch.arange(2 * count) < count, torch.arange(2 * count) >= count]
    found = _left_out(torch.from_numpy(x), torch.from_numpy(y), folds, 10)
    errors = []
    for ridge in RIDGES:
        gaps = np.empty_like(y)
        for out in (fold.numpy() for fold in folds):
            rows = np.flatnonzero(~out)[np.linspace(0, count - 1, 10).round().astype(int)]
            a, b, c = x[rows, 0], y[rows], x[out, 0]
            mean, scale = a.mean(0), a.std(0, ddof=0)
            inputs, spread = (a - mean) / scale, b.std(0, ddof=0)
            solved = np.linalg.solve(inputs.T @ inputs + ridge * 10 * np.eye(3), inputs.T @ ((b - b.mean(0)) / spread))
            gaps[out] = (c - mean) / scale @ solved * spread + b.mean(0) - y[out]
        errors.append(np.square(gaps))
    best = int(np.argmin([each.sum() for each in errors]))
    np.testing.assert_allclose(found.errors, errors[best], rtol=1e-5, atol=1e-9)


def test_what_cannot_be_read_is_refused_in_a_line_and_nothing_is_left(encoder, tmp_path, capsys):
    data, *_ = written(tmp_path / "data", encoder, 1)
    for more, said in (
        (["--freeze", "encoder"], "which is no better than their mean. Give more known actions"),
        (["--freeze", "encoder", "--latent-dim", "8"], "`latent_dim`: expected 4 with this init, got 8"),
        (["--freeze", "encoder", "--hidden", "8"], "`hidden`: expected 0 with this init"),
        (["--mix", "a:1", "b:1"], "`init`: expected none with a mixture"),
        (["--from", "proprio"], "`from_`: expected video with init"),
    ):
        assert main(words(data, tmp_path / "n", encoder, *more)) == 2
        shown = capsys.readouterr().err.strip().splitlines()
        assert said in shown[-1]
        assert not (tmp_path / "n").exists()


def test_without_freeze_it_is_trained_further(encoder, tmp_path):
    data, *_ = written(tmp_path / "data", encoder, 0)
    out = tmp_path / "n"
    assert main(words(data, out, encoder, "--steps", "1", "--lr", "1e-12", "--batch-size", "4")) == 0
    ours, theirs = lattok.load(out).state_dict(), lattok.load(encoder).state_dict()
    for name in (name for name in ours if "encoder" in name or "project" in name):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-6)
