"""Which figure predicts, on sources whose answer is known."""

import json

import numpy as np
import pytest
from scipy import stats

from studies import predicts
from studies.inferred import from_scene
from studies.plan import LABELS, ROWS
from studies.predicts import (
    INFERRED,
    QUESTIONS,
    TOKENS,
    Point,
    analysis,
    group_sizes,
    over_sources,
    page,
    parts_of,
    rank,
    within,
)


def sources():
    """Eight sources in two regimes: the gain follows `systematic` downwards, `absolute` knows only the regime."""
    found = []
    for regime, worth in (("action-free", 0.2), ("one-known", 0.5)):
        for number, row in enumerate(("idm", "idm-video", "idm-proprio", "executed")):
            gains = {seed: worth - 0.03 * number + 0.001 * seed for seed in range(5)}
            own = {"systematic": 0.1 * number - 2 * worth, "absolute": -worth, "r2_xyz": float((number * 7) % 4)}
            found.append(Point(regime, row, gains, dict.fromkeys(range(5), own)))
    return found


def test_ranks_against_counts_of_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(9), rng.standard_normal(9)
    places = [np.array([(v > values).sum() for v in values]) for values in (x, y)]
    squares = ((places[0] - places[1]) ** 2).sum()
    assert rank(x, y) == pytest.approx(1 - 6 * squares / (9 * (81 - 1)))
    tied = rng.integers(4, size=(2, 9))
    assert rank(*tied) == pytest.approx(stats.spearmanr(*tied).statistic)
    assert np.isnan([rank([1, 1, 1, 1], [1, 2, 3, 4]), rank([1, np.nan, 2], [1, 2, 3])]).all()


def test_what_predicts_is_found_and_a_figure_of_the_regime_alone_is_not_taken_for_it():
    found = sources()
    result = analysis(found, INFERRED, draws=200)
    assert result["systematic"]["sources"][0] == pytest.approx(1) == result["systematic"]["within"][0]
    assert result["systematic"]["within"][1] > 0.99
    assert result["absolute"]["sources"][0] > 0.8  # between regimes
    assert np.isnan(result["absolute"]["within"][0])  # and nothing within one
    assert abs(result["r2_xyz"]["within"][0]) < 0.9
    assert np.isnan(result["confidence"]["sources"][0])
    seeds = [list(point.gains) for point in found]
    assert over_sources(found, seeds, "systematic") == pytest.approx(-1) == within(found, seeds, "systematic")
    text = page(found, INFERRED, {"All": {"sources": 8, "correlations": result, "sizes": group_sizes(found)}})
    assert text.count("| 19 demonstrations a task, actions of 2 |") == 4
    assert "| systematic error by task and phase | +1.00 (+1.00" in text
    assert "| rank correlation of confidence and error | – | – |" in text


def test_everything_is_also_said_without_extremes(monkeypatch):
    """Two ceilings far above the rest make a correlation that the others do not have."""
    monkeypatch.setattr(predicts, "DRAWS", 50)
    gains = {"idm": 0.1, "idm-video": 0.2, "idm-past": 0.15, "idm-proprio": 0.12, "executed": 0.9}
    r2 = {"idm": 0.5, "idm-video": 0.3, "idm-past": 0.4, "idm-proprio": 0.45, "executed": 0.99}
    found = [
        Point(regime, row, dict.fromkeys(range(3), gain + shift), {seed: {"r2_xyz": r2[row]} for seed in range(3)})
        for regime, shift in (("action-free", 0.0), ("one-known", 0.01))
        for row, gain in gains.items()
    ]
    found[-2] = found[-2]._replace(gains=dict.fromkeys(range(2), 0.13))  # a seed less
    parts = parts_of(found, QUESTIONS["few_actions"])
    every, without = parts["All sources"], parts[predicts.WITHOUT]
    assert (every["sources"], without["sources"]) == (10, 8)
    assert every["sizes"] == {"action-free": [5, 5, 5], "one-known": [5, 5, 4]}
    assert without["sizes"] == {"action-free": [4, 4, 4], "one-known": [4, 4, 3]}
    assert without["correlations"]["r2_xyz"]["within"][0] == pytest.approx(-1)
    assert every["correlations"]["r2_xyz"]["within"][0] > -0.2
    text = page(found, INFERRED, parts)
    assert "All sources (10):" in text
    assert f"{predicts.WITHOUT} (8):" in text
    assert "19 demonstrations a task, actions of 1: 3 or 4." in text
    assert len(parts_of(found, QUESTIONS["acting_by_tokens"])) == 1  # which has no extremes


def test_sources_of_a_regime_share_the_seeds_that_are_drawn():
    """Their gains share a Baseline: its luck with a seed is no difference between sources."""
    luck = [0.8, 0.92, 0.84, 0.95, 0.78]
    figures = [{seed: {"systematic": 0.1 * i} for seed in range(5)} for i in range(12)]
    gains = [{seed: 0.8 - 0.01 * i - base for seed, base in enumerate(luck)} for i in range(12)]
    found = [Point("plentiful", f"row-{i}", *pair) for i, pair in enumerate(zip(gains, figures, strict=True))]
    result = analysis(found, INFERRED, draws=100)["systematic"]
    assert result["sources"] == pytest.approx([1, 1, 1]) == result["within"]


def test_a_source_without_the_seeds_that_are_drawn_is_left_out():
    found = sources()
    found[0] = found[0]._replace(gains={0: 0.2})
    result = analysis(found, INFERRED, draws=100)["systematic"]
    assert result["sources"] == pytest.approx([1, 1, 1], abs=0.05)


def test_what_the_scene_says_is_the_mean_of_near_scenes_in_other_episodes():
    rng = np.random.default_rng(1)
    episode, task = np.repeat(np.arange(12), 10), np.repeat([0, 1], 60)
    scene, values = rng.standard_normal((120, 3)), rng.standard_normal((120, 2))
    guess = from_scene(scene, values, task, episode)
    for row in (0, 37, 90):
        same = [i for i in range(120) if task[i] == task[row] and episode[i] != episode[row]]
        spread = scene[task == task[row]].std(0)
        near = sorted(same, key=lambda i: (((scene[i] - scene[row]) / spread) ** 2).sum())[:8]
        np.testing.assert_allclose(guess[row], values[near].mean(0))


def answer(tmp_path, monkeypatch):
    """Rank tokenizers by results in a folder."""
    monkeypatch.setattr("sys.argv", ["predicts", "acting_by_tokens", "--results", str(tmp_path)])
    monkeypatch.setattr(predicts, "DRAWS", 20)
    predicts.main()
    return json.loads((tmp_path / "acting_by_tokens_predicts.json").read_text())


@pytest.fixture
def played(tmp_path):
    """A study whose rows win the less, the more the small policy errs; returns figures, and how to write a cell."""
    runs: dict[str, dict] = {}
    (tmp_path / "acting_by_tokens").mkdir()

    def write(row, seed, wins, **changes):
        cell = {"cell": {"regime": "plentiful", "row": row, "seed": seed}, "own": {"task": [wins, 0, 40]}}
        cell |= {"environment": {"commit": "abcdef1"}, "label_model": {"weights_sha256": f"{row}.{seed}"}, **changes}
        (tmp_path / f"acting_by_tokens/plentiful.{row}.{seed}.json").write_text(json.dumps(cell))

    for seed in range(5):
        write("baseline", seed, 30)
        for number, row in enumerate(QUESTIONS["acting_by_tokens"].rows):
            write(row, seed, 29 - number)
            figures = {**dict.fromkeys(TOKENS, 0.2 + 0.1 * seed), "policy_error": 0.1 + 0.02 * number}
            made = {"commit": "1234567", "model": f"{row}.{seed}", "all": figures}
            runs[f"plentiful.{ROWS[row].labels}.{seed}"] = made
    (tmp_path / "tokenizer_figures.json").write_text(json.dumps({"runs": runs}))
    return runs, write


def test_tokenizers_are_ranked_by_what_is_said_of_them(played, tmp_path, monkeypatch, capsys):
    """The small policy's error ranks twelve tokenizers as the closed loop does."""
    found = answer(tmp_path, monkeypatch)
    assert len(found["points"]) == 12 == found["sources"]
    assert found["without_extremes"] == {}
    assert found["correlations"]["policy_error"]["sources"][0] == 1
    assert np.isnan(found["correlations"]["normalised_mse"]["sources"][0])  # the same for all
    title = LABELS[str(ROWS[QUESTIONS["acting_by_tokens"].rows[0]].labels)].title
    assert f"| 19 demonstrations a task | {title} | 5 | -0.025 | 0.1 |" in capsys.readouterr().out


def test_nothing_is_ranked_before_all_rows_have_their_runs_and_their_own_figures(played, tmp_path, monkeypatch):
    """Three rows of other commits, with figures of other models, had a rank correlation of 1 (1 to 1)."""
    runs, write = played
    row = QUESTIONS["acting_by_tokens"].rows[3]
    name = f"plentiful.{ROWS[row].labels}.4"

    def refused(said):
        with pytest.raises(SystemExit, match=said):
            answer(tmp_path, monkeypatch)
        write(row, 4, 26)
        (tmp_path / "tokenizer_figures.json").write_text(json.dumps({"runs": runs}))

    (tmp_path / f"acting_by_tokens/plentiful.{row}.4.json").unlink()
    refused(f"not all seeds are there of {row}")
    write(row, 4, 26, environment={"commit": "abcdef2"})
    refused("the plan asks for runs of one commit, and these are of abcdef1, abcdef2")
    write(row, 4, 26, environment={"commit": "abcdef1+"})
    refused("the plan asks for runs of one commit")
    write(row, 4, 26, label_model={"weights_sha256": "another"})
    refused(f"there are no figures of the tokenizer that {row} acts by in seed 4")
    figures = runs[name]["all"]
    for changed, said in (
        ({key: each for key, each in runs.items() if key != name}, "there are no figures of the tokenizer"),
        (runs | {name: runs[name] | {"commit": "1"}}, "figures must be of one commit"),
        (runs | {name: runs[name] | {"all": figures | {"policy_error": float("nan")}}}, "there is no policy_error"),
        (runs | {name: runs[name] | {"all": {"policy_error": 0.2}}}, "there is no policy_error/draws"),
    ):
        (tmp_path / "tokenizer_figures.json").write_text(json.dumps({"runs": changed}))
        refused(said)
    longer = {key: each | {"commit": "123456789"} if key == name else each for key, each in runs.items()}
    (tmp_path / "tokenizer_figures.json").write_text(json.dumps({"runs": longer}))
    write("baseline", 0, 30, environment={"commit": "abcdef10"})  # which git has said in more digits
    assert answer(tmp_path, monkeypatch)["sources"] == 12


def test_a_seed_that_is_drawn_twice_counts_twice():
    found = sources()[:4]
    found[1] = found[1]._replace(gains={**found[1].gains, 0: -1.0})  # which turns the order of seed 0
    once, twice = (within(found, 4 * [seeds], "systematic") for seeds in ([0, 1], [0, 1, 1]))
    first, second = (within(found, 4 * [[seed]], "systematic") for seed in (0, 1))
    assert first != second
    assert once == pytest.approx((first + second) / 2)
    assert twice == pytest.approx((first + 2 * second) / 3)
