"""Tables of the study of few actions: every planned comparison, corrected in its family, nothing before its time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.closed_loop import few_actions
from benchmarks.closed_loop.comparisons import read
from benchmarks.closed_loop.few_actions import FAMILIES, PLANNED, figures_of, page
from benchmarks.closed_loop.plan import FOUR, ROWS
from scripts import recount

TASKS = [f"metaworld-pairs/{name}" for name in (*FOUR, "drawer-open", "faucet-open", "window-open", "door-unlock")]


def wins(regime: str, row: str, seed: int) -> list[int]:
    number = [list(PLANNED).index(regime), list(ROWS).index(row), seed]
    return np.random.default_rng(number).integers(5, 36, len(TASKS)).tolist()


def write(folder: Path, regime: str, row: str, seed: int) -> None:
    ends = {
        task: [[start, "success" if start < count else "none", 50] for start in range(40)]
        for task, count in zip(TASKS, wins(regime, row, seed), strict=True)
    }
    result = {
        "outcomes": {"own": ends},
        "cell": {"regime": regime, "row": row, "seed": seed},
        "environment": {"commit": "abcdef1"},
        "own": {task: [count, 0, 40] for task, count in zip(TASKS, wins(regime, row, seed), strict=True)},
        "cpu_s": {"training": 60.0, "rollouts": 60.0},
    }
    (folder / f"{regime}.{row}.{seed}.json").write_text(json.dumps(result))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path = tmp_path / "few_actions"
    tmp_path.mkdir()
    for regime, rows in PLANNED.items():
        for row, seeds in rows.items():
            for seed in range(seeds):
                write(tmp_path, regime, row, seed)
    return tmp_path


def shares(regime: str, row: str, seeds: int) -> np.ndarray:
    return np.array([np.mean(wins(regime, row, seed)) / 40 for seed in range(seeds)])


def test_every_planned_comparison_is_a_paired_t_test_corrected_in_its_family(folder):
    results = read(folder)
    for family in FAMILIES:
        found, p = figures_of(family.regime, results[family.regime]), {}
        for row, other in family.pairs:
            seeds = min(PLANNED[family.regime][each] for each in (row, other))
            one, two = (shares(family.regime, each, seeds) for each in (row, other))
            test = stats.ttest_rel(one, two)
            each = found[row]["over"][other]
            assert each["difference"] == pytest.approx(
                (np.mean(one - two), test.confidence_interval()[1] - np.mean(one - two), test.pvalue, seeds)
            )
            p[row, other] = test.pvalue
        for pair, value in p.items():  # Holm: the largest of all those that are at least as small, each with its factor
            smaller = sorted(v for v in p.values() if v <= value)
            wanted = min(1.0, max((len(p) - rank) * v for rank, v in enumerate(smaller)))
            assert found[pair[0]]["over"][pair[1]]["holm"] == pytest.approx(wanted)


def test_the_rows_are_those_of_the_page():
    text = (Path(few_actions.__file__).parents[2] / "docs/few_actions.md").read_text()
    for row in {row for rows in PLANNED.values() for row in rows}:
        assert f"`{row}`" in text, row
    assert all({*pair} <= PLANNED[family.regime].keys() for family in FAMILIES for pair in family.pairs)


def test_the_other_tasks_are_told_apart(folder):
    found = figures_of("four-tasks", read(folder)["four-tasks"])["idm"]
    counts = np.array([wins("four-tasks", "idm", seed) for seed in range(5)]) / 40
    assert found["known"].mean == pytest.approx(counts[:, :4].mean())
    assert found["other"].mean == pytest.approx(counts[:, 4:].mean())


def test_nothing_is_said_of_a_row_before_it_has_all_its_seeds(folder):
    (folder / "action-free.idm-past.4.json").unlink()
    write(folder, "action-free", "idm", 8)  # one more than planned counts for nothing
    text, figures = page(read(folder))
    assert "idm-past" not in figures["action-free"]
    assert "Seeds still to run: `idm-past` 4 of 5." in text
    assert figures["action-free"]["idm"]["success"].mean == pytest.approx(shares("action-free", "idm", 8).mean())
    told = {each["family"] for figure in figures["action-free"].values() for each in figure["over"].values()}
    assert told == {family.title for family in FAMILIES if family.regime == "action-free"} - {"What labels must be"}


def test_a_script_of_its_own_counts_the_same(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["few_actions", "--results", str(folder)])
    few_actions.main()
    monkeypatch.setattr("sys.argv", ["recount", "--results", str(folder)])
    with pytest.raises(SystemExit) as ended:
        recount.main()
    assert ended.value.code == 0, capsys.readouterr().out
    written = folder.with_suffix(".json")
    text = json.loads(written.read_text())
    text["action-free"]["idm"]["over"]["baseline"]["difference"][0] += 1e-3
    written.write_text(json.dumps(text))
    with pytest.raises(SystemExit) as ended:
        recount.main()
    assert ended.value.code == 1
    assert "action-free idm - baseline mean: written" in capsys.readouterr().out
