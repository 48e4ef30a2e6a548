"""meta/stats.json: lattok writes quantiles of rows, and names what LeRobot 0.6.1 has wrong. Its figures are those that
LeRobot wrote for the same rows."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lattok.annotation import annotate
from lattok.data import Feature, LeRobotWriter, export, inspect_dataset, open_dataset
from lattok.data.summaries import QUANTILES, RowSample
from tests.annotation.fakes import FakeTokenizer
from tests.conftest import CAMERAS, write_dataset

LEROBOT = {"q01": 6.67, "q10": 8.1, "q50": 14.0, "q90": 20.4, "q99": 22.33}  # of rows 0..9 and 10..29


def counting(root: Path, dtype: str = "float32", start: float = 0.0) -> Path:
    """Two episodes, whose actions are 0 to 9 and 10 to 29 after `start`; and a gripper that closes once in each."""
    features = {"action": Feature(dtype, (3,), ("x", "gripper", "y"))}
    with LeRobotWriter.create(root, 10, features) as writer:
        for low, high in ((0, 10), (10, 30)):
            values = start + np.arange(low, high)
            gripper = np.where(np.arange(len(values)) < len(values) * 0.9, 1.0, -1.0)
            writer.add_episode({"action": np.stack([values, gripper, -values], 1)}, {}, "count")
    return root


def stored(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta" / "stats.json").read_text())


def store(root: Path, key: str, dimension: int, **values: float) -> None:
    statistics = stored(root)
    for name, value in values.items():
        statistics[key][name][dimension] = value
    (root / "meta" / "stats.json").write_text(json.dumps(statistics))


def found(root: Path) -> list[str]:
    return [finding.what for finding in inspect_dataset(root).findings if "stats.json" in finding.what]


def test_quantiles_are_those_of_all_rows(tmp_path: Path):
    action = stored(counting(tmp_path / "d"))["action"]
    rows = np.concatenate([np.arange(10.0), np.arange(10.0, 30.0)])
    for name, q in QUANTILES.items():
        assert action[name][0] == pytest.approx(np.quantile(rows, q))
    assert action["q99"][0] == pytest.approx(28.71)
    assert found(tmp_path / "d") == []


def test_averages_of_episodes_are_named_and_not_copied(tmp_path: Path, capsys):
    root = counting(tmp_path / "d")
    store(root, "action", 0, **LEROBOT)
    (said,) = found(root)
    assert (
        "averages of the quantiles of episodes, not quantiles of the rows (action; `action`, x: q99 22.33, of" in said
    )
    right = {name: pytest.approx(np.quantile(np.arange(30.0), q)) for name, q in QUANTILES.items()}
    for made in (
        export(root, tmp_path / "out").path,
        annotate(open_dataset(root), {"tok": FakeTokenizer()}, tmp_path / "a"),
    ):
        assert {name: stored(made)["action"][name][0] for name in QUANTILES} == right
        assert found(made) == []
    said = capsys.readouterr().err
    assert "quantiles of `action` were averages of those of episodes: the output has right ones" in said
    assert "other rows" not in said


def test_a_quantile_beside_a_jump_is_no_finding(tmp_path: Path):
    """LeRobot's histograms tell a rank to a hundredth: where 10 % of the rows are closed, q10 may be either."""
    root = counting(tmp_path / "d")
    for value in (-1.0, 0.3, 1.0):
        store(root, "action", 1, q10=value)
        assert found(root) == []
    store(root, "action", 1, q50=0.0)
    assert "gripper: q50 0, of the rows 1" in found(root)[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_spread_of_a_clock(dtype: str, tmp_path: Path):
    """LeRobot takes the mean of squares, whose digits do not reach: 13.50 where 8.66 is true."""
    root = counting(tmp_path / "d", dtype, 1e9 if dtype == "float64" else 0.0)
    assert stored(root)["action"]["std"][0] == pytest.approx(np.arange(30.0).std(), rel=1e-3)
    assert found(root) == []
    store(root, "action", 0, std=13.50)
    (said,) = found(root)
    assert "does not fit the rows (`action`, x: std 13.5, of the rows 8.6" in said
    out = export(root, tmp_path / "out").path
    assert stored(out)["action"]["std"][0] == pytest.approx(np.arange(30.0).std(), rel=1e-3)


def test_nothing_reads_statistics_of_index_columns(tmp_path: Path):
    """LeRobot's editing tools leave those of before; an export has its own."""
    root = counting(tmp_path / "d")
    for key in ("episode_index", "index"):
        store(root, key, 0, max=700)
    assert found(root) == []
    made = stored(export(root, tmp_path / "out").path)
    assert (made["episode_index"]["max"], made["index"]["max"]) == ([1], [29])


def test_a_camera_whose_pixels_were_counted(tmp_path: Path):
    root = write_dataset(tmp_path / "d", [10, 13])
    statistics = stored(root)
    statistics[CAMERAS[0]]["count"] = [141312]  # by streaming encoding
    (root / "meta" / "stats.json").write_text(json.dumps(statistics))
    (said,) = found(root)
    assert said == f"meta/stats.json counts 141,312 values of {CAMERAS[0]} in 23 frames: LeRobot counted pixels."
    assert found(export(root, tmp_path / "out", video_codec="h264").path) == []


def test_means_of_pictures_are_compared_with_some(sample, tmp_path: Path):
    shutil.copytree(sample.root, tmp_path / "copy")
    assert not [each for each in inspect_dataset(tmp_path / "copy").findings if each.kind == "other-statistics"]
    file = tmp_path / "copy" / "meta" / "stats.json"
    stats = json.loads(file.read_text())
    stats[sample.cameras[0]]["mean"] = [[[0.0]], [[0.0]], [[0.0]]]
    file.write_text(json.dumps(stats))
    (said,) = (each for each in inspect_dataset(tmp_path / "copy").findings if each.kind == "other-statistics")
    assert said.what.startswith(f"meta/stats.json does not fit the pictures (`{sample.cameras[0]}`, red: mean 0, of")


def test_what_is_no_statistic_is_not_compared(tmp_path: Path):
    root = counting(tmp_path / "d")
    for odd in ("text", [1.0], None, [[1.0, 2.0]], [float("nan"), float("inf")], {}):
        statistics = stored(root)
        statistics["action"] |= dict.fromkeys((*QUANTILES, "count"), odd)
        statistics["other"] = odd
        (root / "meta" / "stats.json").write_text(json.dumps(statistics))
        assert found(root) == []


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_quantiles_of_more_rows_than_are_kept(pieces: int, monkeypatch, rng):
    """However they come, the same evenly spread ones."""
    monkeypatch.setattr("lattok.data.summaries.SAMPLED", 2000)
    rows = np.stack([np.arange(100_000.0), rng.standard_normal(100_000)], 1)
    sample = RowSample()
    for part in np.array_split(rows, pieces):
        sample.add(part)
    for name, value in sample.quantiles().items():
        exact = np.quantile(rows, QUANTILES[name], axis=0)
        assert abs(value[0] - exact[0]) < 300
        assert abs((rows[:, 1] < value[1]).mean() - QUANTILES[name]) < 0.05
    kept = np.concatenate(sample._parts)[:, 0]
    assert 500 <= len(kept) <= 1000
    assert len(set(np.diff(kept))) == 1


@pytest.mark.parametrize(("dtype", "rows"), [("float32", 20), ("float32", 600), ("float32", 3000), ("float64", 600)])
def test_a_constant_whose_sum_drifted_is_no_finding(dtype, rows, tmp_path: Path, capsys):
    """LeRobot takes the root of mean(x ** 2) - mean(x) ** 2, of sums in the column's own type: 0.7 gets a spread."""
    features = {"action": Feature(dtype, (3,), tuple("xyz"))}
    values = np.tile(np.array([0.7, -0.182, 0.0194], dtype=dtype), (rows, 1))
    with LeRobotWriter.create(tmp_path / "d", 10, features) as writer:
        writer.add_episode({"action": values}, {}, "hold")
    mean, squares = np.mean(values, axis=0), np.mean(values**2, axis=0)
    spread = np.sqrt(np.maximum(0, squares - mean**2))
    assert spread.max() > 0
    for dimension in range(3):
        store(tmp_path / "d", "action", dimension, mean=float(mean[dimension]), std=float(spread[dimension]))
    assert found(tmp_path / "d") == []
    annotate(open_dataset(tmp_path / "d"), {"tok": FakeTokenizer()}, tmp_path / "a")
    assert "stats.json" not in capsys.readouterr().err
