"""A tokenizer that cannot say the actions of a dataset is noted by name, and one that can is not."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import lattok
from lattok.action_vq import BEAST, FAST, UniformBins
from lattok.action_vq.base import families
from lattok.annotation import annotate
from lattok.cli import main
from lattok.data import Feature, LeRobotWriter, open_dataset, split_by_task
from lattok.evaluation import evaluate
from lattok.samples import ActionWindows
from lattok.samples.reach import reach_of
from lattok.types import ActionBatch
from lattok.utils import checks
from tests.action_vq.families import learning
from tests.action_vq.walks import saturating
from tests.recipes.policies import TINY

FAMILIES = {"beast": BEAST, "fast": FAST, "uniform-bins": UniformBins}
NAMES = ("x", "y", "gripper")


@pytest.fixture(autouse=True)
def notes_of_this_test():
    checks.note.cache_clear()


def write(root: Path, *scale: float) -> Path:
    """Ten smooth episodes; numbers of a dimension times its `scale`."""
    rng = np.random.default_rng(0)
    features = {"action": Feature("float32", (3,), NAMES), "observation.state": Feature("float32", (2,), None)}
    features["observation.images.front"] = Feature("image", (32, 32, 3), None)
    with LeRobotWriter.create(root, 10.0, features) as writer:
        for _ in range(10):
            actions = np.cumsum(rng.standard_normal((20, 3)), 0) * np.array([0.1, 0.1, 0.1]) * scale
            columns = {"action": actions, "observation.state": rng.standard_normal((20, 2))}
            writer.add_episode(columns, {"observation.images.front": np.zeros((20, 32, 32, 3), np.uint8)}, "lift")
    return root


@pytest.mark.parametrize("normalize", ["mean_std", "quantile"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_held_out_actions_are_within_reach_and_those_of_other_units_are_not(kind, normalize, sample):
    train, held_out = split_by_task(sample)
    windows, judged = ActionWindows(sample, 8, "action", train), ActionWindows(sample, 8, "action", held_out)
    rows, names = torch.linspace(0, len(windows) - 1, 1000).long(), tuple(judged.action_names)
    tokenizer = FAMILIES[kind].fit(*windows.batch(rows), action_names=names, normalize=normalize)
    batch = judged.batch(torch.arange(0, len(judged), 4))
    assert reach_of(tokenizer, batch, names).text("it", "these") is None
    scaled = reach_of(tokenizer, batch._replace(chunks=batch.chunks * 1000), names)
    assert set(scaled.beyond) == set(names)
    ranges = (batch.chunks[batch.valid].double() * 1000 - tokenizer.normalizer.shift) / tokenizer.normalizer.scale
    far = torch.quantile(ranges.abs(), 0.95, 0) / (3 if normalize == "mean_std" else 1)
    np.testing.assert_allclose([scaled.outside[name] for name in names], far)
    assert reach_of(tokenizer, batch._replace(chunks=batch.chunks * 10), names).beyond
    small = reach_of(tokenizer, batch._replace(chunks=batch.chunks / 1000), names)
    assert "of the range that it was fitted to" in str(small.text("it", "these"))


def test_actions_of_other_units_are_noted_by_the_name_of_the_dimension(tmp_path, capsys):
    made = UniformBins.fit(*ActionWindows(open_dataset(write(tmp_path / "data", 1, 1, 1)), 4).all(), action_names=NAMES)
    made.trained_on = {"dataset": "data", "fps": 10.0}
    bins, other = str(made.save_pretrained(tmp_path / "bins")), write(tmp_path / "other", 1, 1000, 1)
    policy = ["--tokenizer", bins, "--out", str(tmp_path / "policy"), *TINY]
    for use in (
        lambda: annotate(other, bins, tmp_path / "labelled"),
        lambda: evaluate(bins, other),
        lambda: main(["train", "vla", str(other), "--head", "tokens", *policy]),
    ):
        checks.note.cache_clear()
        use()
        (told,) = [line for line in capsys.readouterr().err.splitlines() if "beyond the range" in line]
        assert told.startswith("note: `action` of other: values lie beyond the range that bins was fitted to (y ")
        assert told.count(" times") == 1
    annotate(tmp_path / "data", lattok.load(bins), tmp_path / "own")
    assert "beyond the range" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", families())
def test_every_family_is_noted_where_actions_are_of_another_unit_and_only_there(kind):
    """Learned ones after a few steps: what they say is nearer than the mean, and no more is asked of them here."""
    family, chunks = families()[kind], saturating()
    options = learning(family)
    few = {"steps": min(options["steps"], 40)} if "steps" in options else {}
    tokenizer = family.fit(chunks, action_names=NAMES, **options | few)
    held = saturating(seed=1)

    def told(scale: float | torch.Tensor) -> str | None:
        valid = torch.ones(held.shape[:2], dtype=torch.bool)
        return reach_of(tokenizer, ActionBatch(held * scale, valid), NAMES).text("it", "these")

    assert told(1.0) is None
    assert re.search(r"beyond the range .* \(x \S+ times, y \S+ times, gripper \S+ times\)", str(told(1000.0)))
    assert re.search(r"beyond the range .* \(y \S+ times\)", str(told(torch.tensor([1.0, 1000.0, 1.0]))))
    assert "of the range that it was fitted to" in str(told(0.001))
