"""Rollouts: equal start states for all, plans carried out without images, intervals, films, errors in one line."""

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("gymnasium") is None or find_spec("mujoco") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

from lattok.data.video import probe
from lattok.sim import rollout
from lattok.sim.scores import wilson
from tests.errors import refused
from tests.sim.toy import Toy

STATE = "observation.state"


def obedient(seen: Mapping[str, Any], text: str) -> np.ndarray:
    """Go where the instruction says, in a chunk of 4."""
    return np.tile([1.0 if "right" in text else -1.0, 0.0], (4, 1))


def deaf(seen: Mapping[str, Any], text: str) -> np.ndarray:
    """Go to the right whatever is asked."""
    return np.tile([1.0, 0.0], (4, 1))


@pytest.fixture(autouse=True)
def made() -> Iterator[list[Toy]]:
    """Environments that a test makes; all of them have to be closed."""
    Toy.made.clear()
    yield Toy.made
    assert all(env.cameras.closed for env in Toy.made)


def test_the_interval_is_wilsons() -> None:
    """Its ends are the shares from which the observed one is z standard errors away."""
    for won, episodes in ((0, 5), (3, 10), (10, 10), (80, 160)):
        for end in wilson(won, episodes):
            if 1e-9 < end < 1 - 1e-9:
                error = (end * (1 - end) / episodes) ** 0.5
                assert abs(won / episodes - end) / error == pytest.approx(1.959964)
    assert wilson(0, 5)[0] == pytest.approx(0)
    assert wilson(5, 5)[1] == pytest.approx(1)


def test_scores_are_counted_per_task_and_in_all() -> None:
    found = rollout(deaf, "toy", 5, seed=3)
    right, left, all_of_them = found.score("toy/right"), found.score("toy/left"), found.score()
    assert (right.success, right.failure, right.episodes) == (1, 0, 5)
    assert (left.success, left.failure, left.decisions) == (0, 1, None)
    assert (all_of_them.success, all_of_them.failure, all_of_them.episodes) == (0.5, 0.5, 10)
    assert all_of_them.interval == wilson(5, 10)
    starts = [np.random.default_rng([seed, 0]).uniform(-0.3, 0.3) for seed in range(3, 8)]
    needed = [int(np.ceil(round((1 - start) / 0.1, 9))) for start in starts]
    assert [played.decisions for played in found.episodes if played.task == "toy/right"] == needed
    assert right.decisions == np.mean(needed)
    refused("`task`: expected one of toy/left, toy/right, got 'toy/lft'. Did you mean", found.score, "toy/lft")
    assert [(played.task, played.seed) for played in found.episodes] == [
        (task, seed) for task in ("toy/left", "toy/right") for seed in range(3, 8)
    ]


def test_plans_are_carried_out_without_images(made: list[Toy]) -> None:
    asked = []

    def agent(seen: Mapping[str, Any], text: str) -> np.ndarray:
        asked.append(seen)
        return obedient(seen, text)

    found = rollout(agent, "toy/right", 1)
    decisions = found.episodes[0].decisions
    assert len(asked) == -(-decisions // 4)
    assert len(made[0].cameras.rendered) == 2 * len(asked)
    assert set(asked[0]) == {f"observation.images.{name}" for name in ("front", "wrist")} | {
        STATE,
        "observation.environment_state",
    }
    asked.clear()
    rollout(agent, "toy/right", 1, execute=2)
    assert len(asked) == -(-decisions // 2)


@pytest.mark.parametrize(("instruction", "success", "failure"), [("own", 1, 0), ("swapped", 0, 1), ("blank", 0.5, 0.5)])
def test_the_instruction_can_be_swapped_or_left_out(instruction: str, success: float, failure: float) -> None:
    said = set()

    def agent(seen: Mapping[str, Any], text: str) -> np.ndarray:
        said.add(text)
        return obedient(seen, text)

    score = rollout(agent, "toy", 2, instruction=instruction).score()
    assert (score.success, score.failure) == (success, failure)
    assert said == ({""} if instruction == "blank" else {"go left", "go right"})


def test_ensembling_plans_at_every_decision_and_weighs_old_plans_more(made: list[Toy]) -> None:
    """As ACT: weights exp(-m i) over all chunks that have an action for this decision, i = 0 the oldest."""
    chunks = []

    def agent(seen: Mapping[str, Any], text: str) -> np.ndarray:
        rng = np.random.default_rng(len(chunks))
        chunks.append(rng.uniform(0, 0.1, (3, 2)))
        return chunks[-1]

    rollout(agent, "toy/right", 1, ensemble=0.5)
    assert len(chunks) == len(made[0].actions) == made[0].max_steps
    for t, action in enumerate(made[0].actions):
        planned = [chunks[begin][t - begin] for begin in range(max(0, t - 2), t + 1)]
        weights = np.exp(-0.5 * np.arange(len(planned)))
        np.testing.assert_allclose(action, np.average(planned, axis=0, weights=weights))


@pytest.mark.parametrize("ensemble", [None, 0.1])
def test_results_do_not_depend_on_what_stands_side_by_side(ensemble: float | None) -> None:
    def agent(seen: Mapping[str, Any], text: str) -> np.ndarray:
        speed = np.sin(np.arange(5) + 40 * seen[STATE][0])
        return np.stack([speed + (0.4 if "right" in text else -0.4), speed], 1)

    alone = rollout(agent, "toy", 4, batch=1, ensemble=ensemble)
    assert len({played.decisions for played in alone.episodes}) > 2
    for batch in (3, 8, 100):
        assert rollout(agent, "toy", 4, batch=batch, ensemble=ensemble).episodes == alone.episodes


def test_numbers_beyond_the_limits_are_counted() -> None:
    def agent(seen: Mapping[str, Any], text: str) -> np.ndarray:
        return np.array([[-2.0, 0.5], [0.0, np.float32(1.0)]])

    found = rollout(agent, "toy/left", 1)
    decisions = found.episodes[0].decisions
    assert found.episodes[0].beyond == pytest.approx(-(-decisions // 2) / (2 * decisions))
    assert found.score().beyond == found.episodes[0].beyond
    head, *_, first, second, third = found.to_text().splitlines()
    for column in ("opposite first", "decisions", "beyond limits"):
        assert column in head
        assert f"{column.capitalize()}: " in first + second + third


def test_a_folder_has_results_and_films(tmp_path) -> None:
    options: dict[str, Any] = {"out": tmp_path / "out", "videos": 1, "repeat": 8}
    found = rollout(obedient, ["toy/left", "toy/right"], 2, **options)
    written = json.loads((tmp_path / "out" / "rollouts.json").read_text())
    assert written["overall"]["success"] == 1
    assert written["tasks"]["toy/left"]["interval"] == list(found.score("toy/left").interval)
    assert written["options"] | {"variation": {}} == {
        "tasks": ["toy/left", "toy/right"],
        "episodes": 2,
        "seed": 1_000_000,
        "repeat": 8,
        "execute": None,
        "ensemble": None,
        "instruction": "own",
        "variation": {},
        "batch": 8,
    }
    assert written["agent"] == {"type": "function", "model": f"{__name__}.obedient"}
    assert {"lattok", "mujoco", "torch", "gymnasium"} <= written["versions"].keys()
    assert [list(each.values())[:2] for each in written["episodes"]] == [
        [task, seed] for task in ("toy/left", "toy/right") for seed in (1_000_000, 1_000_001)
    ]
    films = sorted(path.name for path in (tmp_path / "out").glob("*.mp4"))
    assert films == ["toy-left-1000000.mp4", "toy-right-1000000.mp4"]
    facts = probe(tmp_path / "out" / films[0])
    assert (facts.frames, facts.fps) == (found.episodes[0].decisions + 1, 5)
    assert (facts.width, facts.height) == (256, 128)  # both cameras
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 0
    before = (tmp_path / "out" / "rollouts.json").read_bytes()
    rollout(obedient, ["toy/left", "toy/right"], 2, **options)  # the same again
    assert (tmp_path / "out" / "rollouts.json").read_bytes() == before
    assert json.loads((tmp_path / "out" / "speed.json").read_text())["decisions_per_second"] > 0
    refused("`out`: .* holds the rollout of another model", rollout, deaf, ["toy/left", "toy/right"], 2, **options)
    refused("`out`: expected a new or", rollout, obedient, ["toy/left", "toy/right"], 2, **{**options, "out": tmp_path})
    (tmp_path / "speed.json").write_text('{"subject": "another", "models": {}}')  # as reports have one
    refused("`out`: .*speed.json is", rollout, obedient, ["toy/left", "toy/right"], 2, **{**options, "out": tmp_path})


def test_a_rollout_that_ended_while_it_wrote_films_is_repeated(tmp_path, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    options: dict[str, Any] = {"out": tmp_path, "videos": 1}
    with monkeypatch.context() as patch:
        patch.setattr("lattok.sim.scores.contact_sheet", full)
        with pytest.raises(OSError, match="No space"):
            rollout(obedient, "toy", 1, **options)
    assert len([*tmp_path.glob("*.mp4")]) == 2
    rollout(obedient, "toy", 1, **options)
    assert (tmp_path / "rollouts.json").is_file()


def broken(value: Any) -> Any:
    calls = []

    def agent(seen: Mapping[str, Any], text: str) -> Any:
        calls.append(text)
        return value if len(calls) > 1 else [[0.1, 0.0]]

    return agent


@pytest.mark.parametrize(
    ("agent", "options", "text"),
    [
        (broken([[0.0, np.nan]]), {}, "toy/left, seed 7, decision 1: expected finite numbers, got nan for y in"),
        (broken([[0.0]]), {}, r"toy/left, seed 7, decision 1: expected a chunk \[H, 2\] \(x, y\), got shape \[1, 1\]."),
        (broken(None), {}, r"toy/left, seed 7, decision 1: expected a chunk \[H, 2\] \(x, y\), got no numbers: None."),
        (broken([[0.1, 1j]]), {}, r"toy/left, seed 7, decision 1: expected .*, got no numbers: \[\[0.1, 1j\]\]."),
        (broken([[0.1], [0.1, 0.2]]), {}, "toy/left, seed 7, .*, got no numbers: setting an array element"),
        (broken(torch.zeros(1, 2, requires_grad=True)), {}, "toy/left, seed 7, .*, got no numbers: Can't call numpy"),
        (obedient, {"execute": 5}, "`execute`: expected at most the 4 actions of a chunk, got 5."),
        (obedient, {"execute": 2, "ensemble": 0.1}, "`execute`: expected 1 with `ensemble`"),
        (obedient, {"ensemble": -1}, "`ensemble`: expected a number of at least 0, got -1."),
        (obedient, {"seed": 2**63 - 1}, "`seed`: expected at most 9,223,372,036,854,775,806, got 9223372036854775807."),
        (obedient, {"batch": 10**25}, "`batch`: expected at most 1,000,000,000"),
        (obedient, {"instruction": "Swapped"}, "`instruction`: expected one of own, swapped, blank"),
        ("my-policy", {}, "`agent`: expected a policy of lattok or LeRobot, a lattok.types.Policy or a function of"),
    ],
)
def test_errors_are_one_line(agent: Any, options: dict[str, Any], text: str) -> None:
    refused(f"^{text}", rollout, agent, "toy/left", 1, **{"seed": 7, **options})


def test_the_largest_seed_is_played_again(tmp_path) -> None:
    """All seeds that follow fit into the file too."""
    for _ in range(2):
        found = rollout(obedient, "toy/left", 3, seed=2**63 - 4, out=tmp_path)
    assert [result.seed for result in found.episodes] == [2**63 - 4, 2**63 - 3, 2**63 - 2]


def test_only_scenes_of_two_tasks_have_an_opposite(monkeypatch) -> None:
    monkeypatch.setattr(Toy, "opposite", property(lambda self: None, lambda self, value: None))
    refused("`instruction`: expected own or blank where no", rollout, obedient, "toy/left", 1, instruction="swapped")
