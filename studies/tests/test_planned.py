"""Tables of planned studies: every planned comparison, corrected in its family, nothing before its time."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lattok.sim import find_tasks
from studies import planned, recount
from studies.comparisons import read
from studies.plan import FOUR, OTHER_WORLD, REGIMES, ROWS
from studies.planned import STUDIES, figures_of, page

TASKS = [f"metaworld-pairs/{name}" for name in (*FOUR, "drawer-open", "faucet-open", "window-open", "door-unlock")]


def wins(regime: str, row: str, seed: int) -> list[int]:
    number = [list(REGIMES).index(regime), list(ROWS).index(row), seed]
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


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest) -> str:
    return request.param


def fill(folder: Path, study: str) -> Path:
    (folder / study).mkdir()
    for regime in STUDIES[study].seeds:
        for row, seeds in STUDIES[study].planned(regime).items():
            for seed in seeds:
                write(folder / study, regime, row, seed)
    return folder / study


def test_a_study_of_one_commit_is_not_reported_from_two(tmp_path: Path, capsys, monkeypatch):
    folder = fill(tmp_path, "acting_by_tokens")
    monkeypatch.setattr("sys.argv", ["planned", "acting_by_tokens", "--results", str(tmp_path)])
    planned.main()
    for added, commit in {"first": "fedcba9", "median": "fedcba8"}.items():  # later, each group of one commit
        for file in folder.glob(f"plentiful.acts-*-{added}.*.json"):
            file.write_text(file.read_text().replace("abcdef1", commit))
    planned.main()
    file = folder / "plentiful.flow.0.json"
    file.write_text(file.read_text().replace("abcdef1", "1234567"))
    with pytest.raises(SystemExit, match="runs of one commit, and these are of 1234567, abcdef1"):
        planned.main()


def test_latency_and_codes_of_a_decision_stand_beside_success(tmp_path, monkeypatch, capsys):
    """Where all runs of a row have them; results without them are reported as before."""
    pytest.importorskip("matplotlib.pyplot")
    folder = fill(tmp_path, "acting_by_tokens")
    monkeypatch.setattr("sys.argv", ["planned", "acting_by_tokens", "--results", str(tmp_path)])
    planned.main()
    assert "decision" not in capsys.readouterr().out
    assert not folder.with_suffix(".png").exists()
    for row, codes in {"acts-fast": 20.0, "flow": None}.items():
        for seed in range(5):
            file = folder / f"plentiful.{row}.{seed}.json"
            kept = {"cpu_ms": 30.0 + seed, "codes": None if codes is None else codes + seed / 2}
            file.write_text(json.dumps(json.loads(file.read_text()) | {"decision": kept}))
    planned.main()
    lines = {line.split(" | ")[0]: line for line in reversed(capsys.readouterr().out.splitlines())}
    assert lines["| row"].endswith("| CPU min | CPU ms of a decision | codes of a decision |")
    assert lines["| FAST"].endswith(" | 2.0 | 32.0 | 21.0 |")
    assert lines["| Baseline, flow head"].endswith(" | 2.0 | 32.0 |  |")
    assert lines["| TOAST"].endswith(" | 2.0 |  |  |")
    assert folder.with_suffix(".png").stat().st_size > 10_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path, "few_actions")


def shares(regime: str, row: str, seeds: int, first: int = 0) -> np.ndarray:
    return np.array([np.mean(wins(regime, row, seed)) / 40 for seed in range(first, first + seeds)])


def test_every_planned_comparison_is_a_paired_t_test_corrected_in_its_family(study, tmp_path):
    results, plan = read(fill(tmp_path, study)), STUDIES[study]
    for family in plan.families:
        found, p = figures_of(plan, family.regime, results[family.regime]), {}
        for row, other in family.pairs:
            seeds = min(plan.seeds[family.regime][each] for each in (row, other))
            one, two = (shares(family.regime, each, seeds, plan.first) for each in (row, other))
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


def test_the_rows_are_those_of_the_page(study):
    pages = Path(planned.__file__).parent / "pages"
    text = "".join(page.read_text() for page in pages.glob(f"{study.removesuffix('_again')}*.md"))
    plan = STUDIES[study]
    for row in {row for rows in plan.seeds.values() for row in rows}:
        assert f"`{row}`" in text, row
    assert all({*pair} <= plan.seeds[family.regime].keys() for family in plan.families for pair in family.pairs)


def test_the_other_tasks_are_told_apart(folder):
    found = figures_of(STUDIES["few_actions"], "four-tasks", read(folder)["four-tasks"])
    idm, video = (np.array([wins("four-tasks", row, s) for s in range(5)]) / 40 for row in ("idm", "idm-video"))
    for name, half in {"known tasks": slice(4), "other tasks": slice(4, 8)}.items():
        assert found["idm"][name].mean == pytest.approx(idm[:, half].mean())
        told = found["idm-video"]["over"]["idm"]["parts"][name]
        assert told.mean == pytest.approx((video - idm)[:, half].mean())
        own = (video - idm)[:, half].mean(1)
        assert told.half == pytest.approx(own.std(ddof=1) / np.sqrt(5) * 2.7764, rel=1e-4)  # t of 4 degrees


def test_the_seed_that_chose_settings_is_also_left_out(folder):
    found = figures_of(STUDIES["few_actions"], "action-free", read(folder)["action-free"])["idm"]["over"]["baseline"]
    gains = shares("action-free", "idm", 8) - shares("action-free", "baseline", 8)
    assert found["parts"]["without seed 0"].mean == pytest.approx(gains[1:].mean())
    text, _ = page(STUDIES["few_actions"], read(folder))
    title, base = (ROWS[row].title for row in ("idm", "baseline"))
    assert f"- {title} against {base}, without seed 0: {gains[1:].mean():+.3f} ± " in text


def test_what_was_lost_in_the_second_world_is_counted_from_its_own_runs(folder):
    text, _ = page(STUDIES["few_actions"], read(folder))
    mine = text.partition(f"### {REGIMES['other-world-few'].title}\n")[2]
    known, few, inferred = (
        shares(*row, 5).mean()
        for row in (("other-world", "baseline"), ("other-world-few", "baseline"), ("other-world-few", "idm"))
    )
    (line,) = (line for line in mine.splitlines() if line.startswith("| Inverse model | 5 |"))
    assert f"| {(inferred - few) / (known - few):.0%} |" in line
    for seed in range(5):
        (folder / f"other-world.baseline.{seed}.json").unlink()
    mine = page(STUDIES["few_actions"], read(folder))[0].partition(f"### {REGIMES['other-world-few'].title}\n")[2]
    assert "of what was lost" not in mine


def test_nothing_is_said_of_a_row_before_it_has_all_its_seeds(folder):
    (folder / "action-free.idm-past.4.json").unlink()
    write(folder, "action-free", "idm", 8)  # one more than planned counts for nothing
    text, figures = page(STUDIES["few_actions"], read(folder))
    assert "idm-past" not in figures["action-free"]
    assert "Seeds still to run: `idm-past` 4 of 5." in text
    assert figures["action-free"]["idm"]["success"].mean == pytest.approx(shares("action-free", "idm", 8).mean())
    told = {each["family"] for figure in figures["action-free"].values() for each in figure["over"].values()}
    families = {family.title for family in STUDIES["few_actions"].families if family.regime == "action-free"}
    assert told == families - {"What labels must be"}


def test_a_script_of_its_own_counts_the_same(study, tmp_path, monkeypatch, capsys):
    folder = fill(tmp_path, study)
    monkeypatch.setattr("sys.argv", ["planned", study, "--results", str(tmp_path)])
    planned.main()
    monkeypatch.setattr("sys.argv", ["recount", "--results", str(folder)])
    with pytest.raises(SystemExit) as ended:
        recount.main()
    assert ended.value.code == 0, capsys.readouterr().out
    written = folder.with_suffix(".json")
    text = json.loads(written.read_text())
    family = STUDIES[study].families[0]
    (row, other) = family.pairs[0]
    text[family.regime][row]["over"][other]["difference"][0] += 1e-3
    written.write_text(json.dumps(text))
    with pytest.raises(SystemExit) as ended:
        recount.main()
    assert ended.value.code == 1
    assert f"{family.regime} {row} - {other} mean: written" in capsys.readouterr().out


@pytest.mark.ci
def test_stored_figures_and_intervals_on_pages_are_those_of_the_rollouts(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["recount"])
    with pytest.raises(SystemExit) as ended:
        recount.main()
    assert ended.value.code == 0, capsys.readouterr().out


def test_an_interval_that_nobody_counted_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recount, "PAGES", ("page.md",))
    rows = {"a": {0: 0.4, 1: 0.5, 2: 0.9}, "b": {0: 0.1, 1: 0.2, 2: 0.2}}
    half = stats.sem([0.4, 0.5, 0.9]) * stats.t.ppf(0.975, 2)
    known = set(recount.written_intervals(rows))
    for text, wrong in (
        (f"It is .600\n± {half:.3f} (p < .001)".replace(" 0.", " ."), 0),
        ("It is .600 ± .002", 1),
        (f"It is .601 ± {half:.3f}".replace(" 0.", " ."), 1),
    ):
        (tmp_path / "page.md").write_text(text, encoding="utf-8")
        assert recount.pages(tmp_path, known) == wrong, capsys.readouterr().out


@pytest.mark.skipif(find_spec("ogbench") is None, reason="ogbench is not installed")
def test_worlds_have_demonstrations_and_names_of_their_own():
    """Models and labels of two regimes share a folder only where they see the same."""
    seen = {}
    for regime in REGIMES.values():
        key = regime.part, regime.dataset(Path()).name
        same = regime._replace(title="", apart=None)
        assert seen.setdefault(key, same) == same
    opposites = {"open": "close", "left": "right"}
    for first, second in zip(OTHER_WORLD[::2], OTHER_WORLD[1::2], strict=True):
        part, _, way = first.partition("-")
        assert second == f"{part}-{opposites[way]}"
        assert {first, second} <= set(find_tasks(["ogbench"]))
