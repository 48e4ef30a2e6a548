"""Tables of the study of changed scenes: every planned comparison against scipy, nothing before its time."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from studies import out_of_domain
from studies.out_of_domain import CONDITIONS, PLANNED, SEEDS

TASKS = [f"metaworld-pairs/task-{number}" for number in range(8)]


def fill(folder: Path) -> dict[str, np.ndarray]:
    """Write results of all cells; return successes by condition [rows, seeds, tasks], of 40 or 10 rollouts each."""
    rng = np.random.default_rng(0)
    played = {name: 40 if name in ("own", "scene") else 10 for name in CONDITIONS}
    shape = len(PLANNED), len(SEEDS), len(TASKS)
    won = {name: rng.integers(0, count, shape, endpoint=True) for name, count in played.items()}
    folder.mkdir()
    for r, row in enumerate(PLANNED):
        for seed in SEEDS:
            counts = {
                name: {task: [int(won[name][r, seed, t]), 0, count] for t, task in enumerate(TASKS)}
                for name, count in played.items()
            }
            own = counts.pop("own")
            cell = {"regime": "plentiful", "row": row, "seed": seed}
            result = {"cell": cell, "environment": {"commit": "abcdef1"}, "own": own, "shift": counts}
            (folder / f"plentiful.{row}.{seed}.json").write_text(json.dumps(result))
    return {name: counts.mean(2) / played[name] for name, counts in won.items()}


def test_planned_comparisons_are_those_of_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = fill(tmp_path / "out_of_domain")
    monkeypatch.setattr("sys.argv", ["out_of_domain", "--results", str(tmp_path)])
    out_of_domain.main()
    found = json.loads((tmp_path / "out_of_domain.json").read_text())
    for name in CONDITIONS:
        for r, row in enumerate(PLANNED):
            assert found["success"][name][row][0] == pytest.approx(share[name][r].mean())
    scene, own = share["scene"], share["own"]
    expected = {
        "in changed scenes": [scene[r] - scene[0] for r in range(1, 5)],
        "what the change costs": [(scene[r] - own[r]) - (scene[0] - own[0]) for r in range(1, 5)],
        "images against actions": [scene[1:4].mean(0) - scene[4]],
    }
    for family, differences in expected.items():
        tests = [stats.ttest_1samp(each, 0) for each in differences]
        order = np.argsort([test.pvalue for test in tests])
        corrected = np.empty(len(tests))
        corrected[order] = np.maximum.accumulate(
            [min(1, tests[at].pvalue * (len(tests) - rank)) for rank, at in enumerate(order)]
        )
        for each, test, p, mean in zip(found[family].values(), tests, corrected, differences, strict=True):
            assert each["difference"][0] == pytest.approx(mean.mean())
            low, high = test.confidence_interval()
            assert each["difference"][1] == pytest.approx((high - low) / 2)
            assert each["holm"] == pytest.approx(p)


def test_nothing_is_shown_before_every_row_has_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out_of_domain")
    path = tmp_path / "out_of_domain" / "plentiful.la_cond.3.json"
    result = json.loads(path.read_text())
    del result["shift"]
    path.write_text(json.dumps(result))
    monkeypatch.setattr("sys.argv", ["out_of_domain", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match="seeds 0 to 4 of every row"):
        out_of_domain.main()
    assert not (tmp_path / "out_of_domain.md").exists()


def test_runs_of_two_commits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out_of_domain")
    path = tmp_path / "out_of_domain" / "plentiful.baseline.0.json"
    path.write_text(path.read_text().replace("abcdef1", "abcdef2"))
    monkeypatch.setattr("sys.argv", ["out_of_domain", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match="one commit"):
        out_of_domain.main()
