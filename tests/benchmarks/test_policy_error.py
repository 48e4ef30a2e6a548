"""The benchmark of policies that act by tokenizers: what they learn from, and how its table reads."""

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.quality.policy_error import OAT, ROWS, blind_tasks, measure, place_of, summary, table
from benchmarks.quality.tokenizers import HORIZON, ROOT
from lattok.action_vq import UniformBins
from lattok.action_vq.base import families
from lattok.evaluation.questions import learnability
from lattok.samples import ActionWindows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return blind_tasks(tmp_path_factory.mktemp("policy_error") / "blind")


def test_every_family_is_measured_at_about_equal_bits():
    assert {row.family for row in ROWS} == {family.__name__ for family in families().values()}
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_blind_tasks_are_those_that_were_recorded(dataset):
    with np.load(ROOT / "data" / "blind_tasks.npz") as file:
        stored = dict(file)
    assert [episode.length for episode in dataset.episodes] == stored["lengths"].tolist()
    assert len({episode.tasks for episode in dataset.episodes}) == 8
    columns = [dataset.columns(i, ("action", "observation.state")) for i in range(len(dataset.episodes))]
    for key, name in (("action", "actions"), ("observation.state", "states")):
        assert np.array_equal(np.concatenate([each[key] for each in columns]), stored[name])
    inside = np.setdiff1d(np.arange(len(stored["actions"]) - 1), stored["lengths"].cumsum() - 1)
    moved = stored["states"][inside + 1] - stored["states"][inside]  # an action moves the hand
    for axis in range(3):
        assert np.corrcoef(moved[:, axis], stored["actions"][inside, axis])[0, 1] > 0.5


@pytest.mark.ci
def test_a_policy_is_measured_with_a_tokenizer_and_without(dataset, monkeypatch):
    monkeypatch.setattr(learnability, "STEPS", 2)
    monkeypatch.setattr(learnability, "MOST_JUDGED", 64)
    bins = UniformBins.fit(*ActionWindows(dataset, HORIZON).all(), bins=4)
    place = place_of(dataset, bins)
    runs: dict[str, Any] = {}
    for name, tokenizer in (("bins", bins), ("regression", None)):
        runs[name] = {part: {"0": {"commit": "c", **measure(tokenizer, place, 0)}} for part in ("sample", "blind")}
    found = runs["bins"]["blind"]["0"]
    assert found["bits"] == 2 * found["codes"] == 64
    assert 0 < found["reconstruction"] < 0.5 < found["mean_of_draws"] < found["error"]
    assert set(runs["regression"]["blind"]["0"]) == {"commit", "error"}
    results = summary(runs, {"sample": place, "blind": place})
    assert results["mean_action"]["blind"] == pytest.approx(1, abs=0.3)
    assert results["rows"]["bins"]["blind"]["error"]["mean"] == found["error"]


def test_the_table_begins_with_the_least_error_and_compares_with_oat():
    def row(error: float, **more: float) -> dict[str, Any]:
        figures = {"error": error, **more}
        return {part: {key: dict.fromkeys(("mean", "min", "max"), v) for key, v in figures.items()} for part in PARTS}

    rows = {OAT: row(0.5, bits=64.0, reconstruction=0.01), "regression": row(0.3)}
    rows["ours"] = row(0.4, bits=64.0, mean_of_draws=0.3, reconstruction=0.02)
    runs = {
        name: {part: {"0": {"error": each[part]["error"]["mean"]}} for part in PARTS} for name, each in rows.items()
    }
    for part in PARTS:
        runs[OAT][part]["1"] = {"error": 0.9}  # of a seed that no other row has: it compares with none
    lines = table({"rows": rows, "runs": runs}).strip().splitlines()[4:]
    assert [line.split("|")[1].strip() for line in lines] == ["*control:* regression", "ours", OAT]
    assert lines[1].split("|")[2:9] == [
        " 64 ",
        " 0.400 (0.400 to 0.400) ",
        " 0.80 ",
        " 0.400 (0.400 to 0.400) ",
        " 0.80 ",
        " 0.300 / 0.300 ",
        " 0.0200 / 0.0200 ",
    ]


def test_the_page_of_the_study_says_what_was_measured():
    rows = json.loads((ROOT / "results/policy_error.json").read_text())["rows"].values()
    measured = {
        tuple(
            f"{row[part][key]['mean']:.3f}".removeprefix("0") if key in row[part] else "–"
            for key in ("error", "mean_of_draws", "reconstruction")
            for part in PARTS
        )
        for row in rows
    }
    page = (ROOT.parent / "studies/pages/small_policy.md").read_text()
    shown = page.split("| reconstruction: sample | blind |")[1].split("\n\n")[0].splitlines()[2:]
    assert {tuple(line.strip("| ").split(" | ")[1:]) for line in shown} == measured
    assert len(shown) == len(rows)


PARTS = ("sample", "blind")
