"""The tables of the closed-loop study: rows are paired by seed, families are counted, and the stored ones are these."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from studies import tables
from studies.comparisons import CONTRASTS, read, summary
from studies.plan import CORE, REGIMES

RESULTS = Path(__file__).parents[1] / "results/closed_loop"
TASKS = ("world/open", "world/close", "world/turn")
STARTS = 40
ROWS = (*CORE, "flow", "lara", "lara-1", "placeholder")


def cell(row: str, seed: int, wins: list[int], regime: str = "action-free") -> dict[str, Any]:
    return {
        "cell": {"regime": regime, "row": row, "seed": seed},
        "environment": {"commit": "abcdef1" if seed < 3 else "abcdef2"},
        "own": {task: [count, 2, STARTS] for task, count in zip(TASKS, wins, strict=True)},
        "cpu_s": {"training": 60.0, "rollouts": 60.0},
    }


def drawn(row: str, seed: int) -> list[int]:
    return np.random.default_rng([seed, ROWS.index(row)]).integers(5, 36, 3).tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six seeds of every row; of the flow head all but one of the Baseline's, and one that the Baseline has not."""
    for row in ROWS:
        for seed in range(1, 7) if row == "flow" else range(6):
            path = tmp_path / f"action-free.{row}.{seed}.json"
            path.write_text(json.dumps(cell(row, seed, drawn(row, seed))))
    return tmp_path


def shares(row: str, seeds: range) -> np.ndarray:
    return np.array([drawn(row, seed) for seed in seeds]) / STARTS


def test_runs_of_one_seed_are_compared(folder):
    figures = summary(read(folder)["action-free"])
    for row, seeds in (("la_align", range(6)), ("flow", range(1, 6))):
        d = shares(row, seeds) - shares("baseline", seeds)
        expected = stats.ttest_rel(shares(row, seeds).mean(1), shares("baseline", seeds).mean(1))
        low, high = expected.confidence_interval()
        found = figures[row]
        assert found["difference"] == pytest.approx((d.mean(), (high - low) / 2, expected.pvalue, len(d)))
        assert list(found["by_task"].values()) == pytest.approx(d.mean(0))
        assert found["these"].mean == pytest.approx(d.mean())
        own = {"flow": range(1, 7)}.get(row, seeds)
        assert list(found["tasks"].values()) == pytest.approx(shares(row, own).mean(0))
    assert figures["la_align"]["over"]["la_direct"]["difference"].mean == pytest.approx(
        (shares("la_align", range(6)) - shares("la_direct", range(6))).mean()
    )
    assert figures["flow"]["success"].seeds == 6
    assert "blocks" not in figures["flow"]  # it lacks a seed of the Baseline, so that it has no place in whole blocks


def test_tests_are_counted_by_family(folder):
    """Five rows of the core table, four others, two of LARA and its head, two other contrasts: power follows."""
    figures = summary(read(folder)["action-free"])
    others = ("flow", "lara", "lara-1", "placeholder")
    expected = {**dict.fromkeys(CORE[1:], 5), **dict.fromkeys(others, 4)}
    assert {row: figures[row]["tests"] for row in ROWS if row != "baseline"} == expected
    over = {(row, other): found for row, f in figures.items() for other, found in f.get("over", {}).items()}
    joint = [("lara", "flow"), ("lara-1", "flow")]
    contrasts = [("la_align", "la_direct"), ("placeholder", "la_align")]
    assert over.keys() == {*joint, *contrasts} < set(CONTRASTS)
    assert {found["tests"] for found in over.values()} == {2}
    families = [[figures[row] for row in rows] for rows in (CORE[1:], others)]
    families += [[over[pair] for pair in pairs] for pairs in (joint, contrasts)]
    for family in families:
        first, *_, last = sorted(family, key=lambda found: found["difference"].p)
        assert first["holm"] == pytest.approx(min(1, len(family) * first["difference"].p))
        assert last["holm"] >= last["difference"].p
        for found in family:
            alone, corrected = (seen / found["difference"].half for seen in found["seen"])
            freedom = found["difference"].seeds - 1
            for seen, tests in ((alone, 1), (corrected, len(family))):
                scale = stats.t.isf(0.025, freedom)
                assert stats.nct.sf(stats.t.isf(0.025 / tests, freedom), freedom, seen * scale) == pytest.approx(0.8)


def test_a_single_test_of_a_family_needs_no_correction():
    rows = {row: {seed: cell(row, seed, drawn(row, seed)) for seed in range(4)} for row in ("baseline", "flow")}
    figure = summary(rows)["flow"]
    assert figure["holm"] == figure["difference"].p
    assert len(figure["seen"]) == 1
    assert tables.seen(figure) == f"{figure['seen'][0]:.2f}"
    assert "blocks" not in figure  # two rows are the paired test again


def test_other_error_terms_are_those_of_all_whole_rows(folder):
    figures = summary(read(folder)["action-free"])
    whole = [row for row in ROWS if row != "flow"]
    x = np.array([shares(row, range(6)).mean(1) for row in whole])
    left = x - x.mean(0) - x.mean(1)[:, None] + x.mean()
    freedom = (len(whole) - 1) * 5
    error = math.sqrt((left**2).sum() / freedom * 2 / 6)
    ratios = []
    for i, row in enumerate(whole):
        for other in whole[:i]:
            d = shares(row, range(6)) - shares(other, range(6))
            rest = d - d.mean(0) - d.mean(1)[:, None] + d.mean()
            ratios.append(3 * d.mean(1).var(ddof=1) / ((rest**2).sum() / 10))
    found = figures["la_align"]
    assert found["blocks"].half == pytest.approx(error * stats.t.isf(0.025, freedom))
    assert found["ratio"] == pytest.approx(np.mean(ratios))
    half = found["these"].half * math.sqrt(max(1, np.mean(ratios)))
    assert found["widened"].half == pytest.approx(half)
    freedom = len(TASKS) * 5
    expected = 2 * stats.t.sf(abs(found["these"].mean) / half * stats.t.isf(0.025, freedom), freedom)
    assert found["widened"].p == pytest.approx(expected)


def outcomes(wins: list[int], won_by: str) -> dict[str, Any]:
    ends = lambda count: ["success" if won_by[i % 4] == "1" and i < count else "failure" for i in range(STARTS)]  # noqa: E731
    own = {
        task: [[100 + i, end, 30] for i, end in enumerate(ends(count))] for task, count in zip(TASKS, wins, strict=True)
    }
    return {"own": own, "blank": {}}


def test_start_states_are_compared_where_both_cells_say_how_each_ended():
    rows = {row: {seed: cell(row, seed, [20, 20, 20]) for seed in range(3)} for row in ("baseline", "la_align")}
    assert "starts" not in summary(rows)["la_align"]
    for seed in (0, 2):
        rows["la_align"][seed]["outcomes"] = outcomes([40, 40, 0], "1100")
    for seed in (0, 1):
        rows["baseline"][seed]["outcomes"] = outcomes([40, 0, 0], "1010")
    figures = summary(rows)
    # seed 0 alone: of every four starts of the first task one is won by each alone; of the second two by the one
    expected = {"seeds": 1, "of": 120, "alone": 10 + 20, "other": 10}
    found = figures["la_align"]["starts"]
    assert {name: found[name] for name in expected} == expected
    assert found["p"] == pytest.approx(stats.binomtest(10, 40).pvalue)
    assert "| LA-Align | Baseline | 1 | 120 | 30 | 10 | p 0.002 |" in tables.finer_tables(figures)


def test_tables_say_what_was_found(folder):
    figures = summary(read(folder)["action-free"])
    found = {"action-free": figures}
    pages = tables.pages(found)
    difference, seen = figures["la_align"]["difference"], figures["la_align"]["seen"]
    line = next(line for line in pages[""].splitlines() if line.startswith("| LA-Align | 6 |"))
    assert difference.text(signed=True) in line
    assert f"| {seen[0]:.2f} ({seen[1]:.2f}) |" in line
    assert "`abcdef1`: Baseline (0, 1, 2); LA-Align (0, 1, 2);" in pages[""]
    signed = [f["difference"].text(signed=True) for f in figures.values() if "difference" in f]
    assert {text[0] for text in signed} == {"+", "-"}
    assert all(f"| {text} |" in pages[""] for text in signed)
    gains = figures["la_align"]["by_task"].values()
    cells = " | ".join(f"{gain:+.3f}" for gain in gains)
    assert f"| LA-Align | Baseline | {cells} | {tables.p_text(figures['la_align']['tasks_p'])} |" in pages["_tasks"]
    assert "| row | against | open | close | turn | tasks differ |" in pages["_tasks"]
    models = [figures["la_align"][name] for name in tables.MODELS]
    cells = " | ".join(f"± {model.half:.3f}, {tables.p_text(model.p)}" for model in models)
    assert f"| LA-Align | Baseline | {difference.mean:+.3f} | {cells} |" in pages["_tasks"]


def test_success_where_the_scene_is_changed_has_a_table():
    rows = {row: {seed: cell(row, seed, [20, 20, 20]) for seed in range(3)} for row in ("baseline", "flow")}
    figures = summary(rows)
    assert tables.shift_table(figures) == ""
    figures["flow"]["shift"] = {"light": 0.25, "camera": 0.125}
    title, _, head, rule, line = tables.shift_table(figures).splitlines()
    assert title == "Success where the scene is changed:"
    assert (head, rule) == ("| row | unchanged | light | camera |", "|---|---|---|---|")
    assert line == f"| {figures['flow']['title']} | 0.50 | 0.25 | 0.12 |"


def test_the_picture_has_a_panel_for_each_regime_and_a_point_for_each_row(folder, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    figures = summary(read(folder)["action-free"])
    few = {row: figures[row] for row in ("baseline", "la_align", "flow")}
    found = {"plentiful": few, "action-free": figures, "scarce": few}
    tables.plot(found, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as stored:
        assert stored.width > 1000
    picture = plt.gcf()
    assert [axis.get_title() for axis in picture.axes] == [REGIMES[regime].title for regime in found]
    assert picture.get_size_inches() == pytest.approx((10.8, 2 + 0.32 * (len(figures) + len(few))))
    for axis, rows in zip(picture.axes, found.values(), strict=True):
        (bars,) = axis.containers
        drawn = np.array(list(bars[2][0].get_segments()))  # row end xy
        assert drawn[:, :, 1].tolist() == [[place, place] for place in range(len(rows))]
        expected = [
            (row["success"].mean - row["success"].half, row["success"].mean + row["success"].half)
            for row in rows.values()
        ]
        np.testing.assert_allclose(drawn[:, :, 0], expected)
        assert axis.get_ylim() == (len(rows) - 0.5, -0.5)
        assert axis.get_xlim() == (0, 1)
    plt.close(picture)


@pytest.mark.parametrize(
    ("mean", "half", "holm", "said"),
    [
        (0.1, 0.05, 0.012, "better, p 0.012"),
        (-0.1, 0.05, 0.0004, "worse, p < .001"),
        (0.1, 0.09, 0.0712, "alone it would count; corrected p 0.071"),
        (-0.1, 0.09, 0.0712, "alone it would count; corrected p 0.071"),
        (0.1, 0.11, 0.2, "no difference detected"),
    ],
)
def test_verdicts(mean, half, holm, said):
    assert tables.verdict({"difference": tables.Interval(mean, half, 0.01, 5), "holm": holm}) == said


def test_the_stored_tables_are_those_of_the_stored_cells():
    results = read(RESULTS)
    pages = tables.pages({regime: summary(results[regime]) for regime in REGIMES if regime in results})
    number = re.compile(r"[+-]?\d*\.\d+")
    for name, text in pages.items():
        stored = (RESULTS.parent / f"closed_loop{name}.md").read_text(encoding="utf-8")
        assert number.sub("#", text) == number.sub("#", stored), name
        ours, theirs = (np.array([float(n) for n in number.findall(page)]) for page in (text, stored))
        assert np.abs(ours - theirs).max() < 0.0101  # a rounding of the last digit, which another processor may make
