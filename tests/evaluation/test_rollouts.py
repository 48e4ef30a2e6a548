"""Methods side by side by single rollouts, against scipy, every permutation by hand, a paper's rollouts and our own."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lattok import compare_rollouts
from lattok.cli import main
from lattok.evaluation import student
from lattok.evaluation.comparison_of_rollouts import to_text
from lattok.evaluation.rollout_scores import Attempt
from lattok.evaluation.rollout_tests import LEVEL, Difference, compare
from studies.statistics import smallest_seen
from tests.errors import refused

ROOT = Path(__file__).parents[2]
P2T = ROOT / "examples/rollouts/p2t.csv"


def rollouts(method: str, scores: dict[str, Any], **more: Any) -> dict[str, list[Attempt]]:
    return {
        task: [Attempt(method, task, float(value), str(i), **more) for i, value in enumerate(values)]
        for task, values in scores.items()
    }


def test_the_rollouts_of_a_paper_say_what_others_found_in_them():
    """P2T, Tables 13 to 22: averages as printed, p values as the permutation test of another program found them."""
    found = compare_rollouts(P2T, by="scene").figures
    assert found["LA-Direct/score"] == pytest.approx((0.83 + 0.88 + 0.79 + 0.98) / 4, abs=0.005)
    assert found["Baseline/score (OOD)"] == pytest.approx(0.17, abs=0.005)
    for pair, difference, p in (
        ("Baseline - LA-Direct", -0.178, 0.0),
        ("Baseline - LA-Align", -0.071, 0.028),
        ("Baseline - LA-Cond", -0.084, 0.016),
        ("Baseline - LA-Direct (OOD)", -0.5, 0.0),
        ("Baseline - LA-Align (OOD)", -0.4, 0.005),
        ("Baseline - LA-Tok (OOD)", -0.333, 0.003),
        ("Baseline - LA-Direct (ID)", -0.067, 0.78),
        ("LA-Direct - LA-Tok", 0.042, 0.12),
        ("LA-Direct - LA-Tok (OOD)", 0.167, 0.24),
    ):
        assert found[f"{pair}/difference"] == pytest.approx(difference, abs=6e-4)
        assert found[f"{pair}/p"] == pytest.approx(p, abs=0.01 if p > 0.01 else 1.5e-3)


def test_an_unpaired_p_value_is_that_of_all_permutations():
    a, b = {"x": [1, 1, 0.5], "y": [1, 0]}, {"x": [0, 0.5, 0], "y": [1, 0, 0]}
    found = compare(rollouts("a", a), rollouts("b", b), False, np.random.default_rng(0))
    every = []
    for task in a:
        pool = np.array([*a[task], *b[task]])
        chosen = [list(each) for each in itertools.combinations(range(len(pool)), len(a[task]))]
        every.append([pool[each].mean() - np.delete(pool, each).mean() for each in chosen])
    drawn = np.add.outer(*every).ravel() / 2
    assert found.difference == pytest.approx(np.mean([np.mean(a[task]) - np.mean(b[task]) for task in a]))
    assert found.p == pytest.approx((np.abs(drawn) >= abs(found.difference) - 1e-9).mean(), abs=0.01)
    assert (found.unit, found.units) == ("episodes", 2.75)


def test_a_paired_p_value_is_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.random(9), rng.random(9) - 0.3
    found = compare(rollouts("a", {"x": a}), rollouts("b", {"x": b[::-1]}), True, np.random.default_rng(0))
    other = {"x": [Attempt("b", "x", float(value), str(i)) for i, value in reversed([*enumerate(b)])]}
    matched = compare(rollouts("a", {"x": a}), other, True, np.random.default_rng(0))  # by number, not by place
    assert found.p != matched.p

    def mean(d: np.ndarray, axis: int) -> np.ndarray:
        return d.mean(axis)

    exact = stats.permutation_test((a - b,), mean, permutation_type="samples", n_resamples=10_000, vectorized=True)
    assert matched.p == pytest.approx(exact.pvalue, abs=0.01)
    assert matched.unit == "starts"


@pytest.mark.parametrize("paired", [True, False])
def test_an_interval_ends_where_the_test_begins_to_reject(paired: bool):
    rng = np.random.default_rng(2)
    a, b = {"x": rng.random(12) + 0.2, "y": rng.random(8)}, {"x": rng.random(12), "y": rng.random(8)}

    def at(shift: float) -> Difference:
        moved = rollouts("a", {task: values - shift for task, values in a.items()})
        return compare(moved, rollouts("b", b), paired, np.random.default_rng(3))

    found = at(0.0)
    assert found.interval is not None
    low, high = found.interval
    assert low < found.difference < high
    for end in (low, high):
        assert at(end).p == pytest.approx(LEVEL, abs=0.01)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, covered, trials = np.random.default_rng(4), 0, 100
    for _ in range(trials):
        scores = {name: {task: rng.random(10) < share for task, share in tasks.items()} for name, tasks in TRUE.items()}
        found = compare(rollouts("a", scores["a"]), rollouts("b", scores["b"]), False, rng)
        assert found.interval is not None
        covered += found.interval[0] - 1e-9 <= 0.2 <= found.interval[1] + 1e-9
    assert covered >= 90


TRUE = {"a": {"x": 0.9, "y": 0.5}, "b": {"x": 0.7, "y": 0.3}}


def test_from_three_seeds_on_they_are_the_unit():
    rng = np.random.default_rng(5)
    scores = {name: rng.random((4, 2, 6)) + shift for name, shift in {"a": 0.4, "b": 0.0}.items()}

    def trained(name: str, seeds: range) -> dict[str, list[Attempt]]:
        found: dict[str, list[Attempt]] = {"0": [], "1": []}
        for s, t, e in itertools.product(seeds, range(2), range(6)):
            found[str(t)].append(Attempt(name, str(t), float(scores[name][s, t, e]), str(e), str(s)))
        return found

    found = compare(trained("a", range(4)), trained("b", range(4)), False, rng)
    means = [scores[name].mean((1, 2)) for name in "ab"]
    expected: Any = stats.ttest_rel(*means)
    assert (found.unit, found.units) == ("seeds", 4)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    half = float(expected.confidence_interval().high) - found.difference
    assert found.detectable(1) == pytest.approx(smallest_seen(half, 4), rel=0.15)  # the noncentral t, with four seeds
    assert compare(trained("a", range(2)), trained("b", range(4)), False, rng).unit == "episodes"


@pytest.mark.parametrize("unit", ["episodes", "seeds"])
def test_further_units_are_as_many_as_find_it_four_times_out_of_five(unit: str):
    test = Difference(unit, 5, 0.0, None, 1.0, 0.3)
    for difference in (0.2, 0.4, 2.0):
        more = test.more(difference, tests=3)
        assert more is not None
        assert test.detectable(3, 5 + more) <= difference
        assert more == 0 or test.detectable(3, 5 + more - 1) > difference
    assert Difference(unit, 5, 0.0, None, 1.0, 0.0).more(0.1, 1) is None
    if unit == "episodes":  # simulated: normal scores of two methods, each of variance .15
        count = 5 + (test.more(0.3, 1) or 0)
        rng = np.random.default_rng(6)
        scores = rng.normal(0, np.sqrt(0.15), (2000, 2, count)) + np.array([0.3, 0.0])[:, None]
        found: Any = stats.ttest_ind(scores[:, 0], scores[:, 1], axis=1)
        assert (found.pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.06)


def test_students_t_is_scipys():
    for freedom in (1, 2, 3, 4, 9, 30, 61):
        for t in (0.0, 0.3, 2.1, 8.0):
            assert student.beyond(-t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), abs=1e-12)
        for share in (0.6, 0.8, 0.975, 0.9992):
            assert student.quantile(share, freedom) == pytest.approx(
                stats.t.ppf(share, freedom), rel=1e-6
            )  # as exact as scipy 1.14 is


def test_our_own_cells_have_the_difference_that_the_study_prints():
    """`idm` minus the baseline of 2 of 19 demonstrations, paired by seed: .33 ± .07 on the page of the study."""
    table: dict[str, list[Any]] = {"policy": [], "task": [], "success": [], "start": [], "seed": []}
    for path in sorted((ROOT / "studies/results/few_actions").glob("action-free.*.json")):
        _, row, seed, _ = path.name.split(".")
        if row not in ("baseline", "idm"):
            continue
        cell = json.loads(path.read_text())
        for task, starts in cell["outcomes"]["own"].items():
            for start, end, _ in starts:
                for name, value in zip(table, (row, task, end == "success", start, seed), strict=True):
                    table[name].append(value)
    found = compare_rollouts(table, baseline="baseline", columns={"method": "policy", "episode": "start"}).figures
    (page,) = re.findall(r"Inferring from video gains (\.\d+) ± (\.\d+)", (ROOT / "README.md").read_text())
    assert found["idm - baseline/difference"] == pytest.approx(float(page[0]), abs=0.005)
    half = (found["idm - baseline/high"] - found["idm - baseline/low"]) / 2
    assert half == pytest.approx(float(page[1]), abs=0.01)


def test_holm_counts_every_comparison_that_is_printed(tmp_path: Path):
    report = compare_rollouts(P2T, baseline="Baseline", by="scene", difference=0.15, out=tmp_path / "r")
    p = sorted((value, key) for key, value in report.figures.items() if key.endswith("/p"))
    assert len(p) == 12
    least = p[0][1].removesuffix("/p")
    assert report.figures[f"{least}/holm"] == pytest.approx(12 * p[0][0])
    assert report.answer is not None
    assert "LA-Direct − Baseline +0.178" in report.answer.text
    assert (tmp_path / "r/report.html").read_text().count("<circle") == 12
    compare_rollouts(P2T, baseline="LA-Tok", out=tmp_path / "r")  # of the same file: it replaces the report
    other = tmp_path / "other.csv"
    other.write_text("method,task,score\na,t,1\nb,t,0\n")
    refused("`out`", compare_rollouts, other, out=tmp_path / "r")


def test_the_page_shows_what_the_command_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/howto/simulation.md").read_text(encoding="utf-8").partition("## Compare policies")[2]
    (typed,) = re.findall(r"^lattok (.*) --out which-one$", page, re.MULTILINE)
    assert main(typed.split()) == 0
    printed = capsys.readouterr().out.splitlines()
    assert {*page.partition("```text\n")[2].partition("```")[0].splitlines()} <= {*printed}


def test_folders_of_rollouts_meet_in_equal_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(7)
    for name, share in {"one": 0.8, "two": 0.3}.items():
        (tmp_path / name).mkdir()
        played = [{"task": "w/t", "seed": 10 + i, "success": bool(rng.random() < share)} for i in range(30)]
        (tmp_path / name / "rollouts.json").write_text(json.dumps({"episodes": played}))
    words = ["compare-rollouts", f"{tmp_path}/one", f"ours={tmp_path}/two", "--difference", "0.3"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "− ours (equal starts)" in said
    assert "60 rollouts of 2 methods" in said


GOOD = "method,task,score,episode\na,t,1,0\na,t,0,1\nb,t,0,0\nb,t,0,1\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("score", "points"), r"`score`: expected a column 'score' .*columns score=NAME"),
        (lambda text: text.replace("b,t", "a,u"), "`results`: expected rollouts of two methods"),
        (lambda text: text.replace("b,t", "b,u"), "rollouts of the same task"),
        (lambda text: text.replace("t,1,0", "t,often,0"), r"row 1 of .*: expected a score: .*'often'"),
        (lambda text: text.replace("t,1,0", "t,nan,0"), "expected a score"),
        (lambda text: text.replace("a,t,0,1", "a,t,0,0"), r"episode 0 in rows 1 and 2"),
        (lambda text: text.replace("b,t,0,1", "b,t,0"), "expected 4 cells in row 4"),
        (lambda text: text.replace("task", "method"), "a name of its own for each column"),
        (lambda text: "", "a row for each rollout"),
    ],
)
def test_what_cannot_be_compared_is_one_line(change: Callable[[str], str], said: str, tmp_path: Path):
    (tmp_path / "r.csv").write_text(change(GOOD))
    refused(said, compare_rollouts, tmp_path / "r.csv")


def test_other_spellings_are_read(tmp_path: Path):
    (tmp_path / "r.csv").write_text(GOOD)
    expected = compare_rollouts(tmp_path / "r.csv").figures
    for text in ("\ufeff" + GOOD, GOOD.replace(",", ";"), GOOD.replace(",", "\t"), GOOD.replace(",1,", ",TRUE,")):
        (tmp_path / "r.csv").write_text(text, encoding="utf-8")
        assert compare_rollouts(tmp_path / "r.csv").figures == expected
    shutil.copy(tmp_path / "r.csv", tmp_path / "again.csv")
    refused("`results`: expected each rollout once", compare_rollouts, [tmp_path / "r.csv", tmp_path / "again.csv"])
    (tmp_path / "odd.csv").write_text(GOOD + "A,t,80,0\nA,t,20,1\n")
    said = to_text(compare_rollouts(tmp_path / "odd.csv"))
    assert "a and A differ in capitals alone" in said
    assert "scores of A reach 80, those of a lie between 0 and 1" in said
    refused("`results`", compare_rollouts, tmp_path / "none.csv")
    refused("`baseline`", compare_rollouts, tmp_path / "r.csv", baseline="c")
    refused("`columns`", compare_rollouts, tmp_path / "r.csv", columns={"points": "score"})
    assert main(["compare-rollouts", str(tmp_path / "r.csv"), "--columns", "score"]) == 2
