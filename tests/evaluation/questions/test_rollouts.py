"""Rollouts on the report page."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import lattok
from lattok.evaluation.evidence.policy_evidence import BATCH, policy_errors
from lattok.evaluation.questions.policies import rollouts_outcome
from lattok.evaluation.report import Outcome
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.sim.scores import EpisodeResult
from tests.errors import refused
from tests.evaluation.worlds import World
from tests.vla.fakes import policy

SCORE = {"episodes": 10, "success": 0.8, "interval": [0.49, 0.94], "failure": 0.1, "decisions": 20.5, "beyond": 0.04}
LOST = SCORE | {"success": 0.0, "interval": [0.0, 0.28], "decisions": None}


def shown(found: dict[str, Any]) -> Outcome:
    outcome = rollouts_outcome(SimpleNamespace(case=SimpleNamespace(rollouts=found)))  # type: ignore[arg-type]
    assert outcome is not None
    return outcome


def found(**options: Any) -> dict[str, Any]:
    plain = {"seed": 1000, "episodes": 10, "execute": 4, "repeat": None, "ensemble": None, "instruction": "own"}
    plain |= {"variation": {"light": False, "distractors": 0}}
    tasks = {"toy/left": SCORE, "toy/right": LOST}
    return {"overall": SCORE | {"episodes": 20}, "tasks": tasks, "options": plain | options, "notes": ["mind the gap"]}


def test_every_task_has_a_row_with_its_interval() -> None:
    (section,), figures, verdicts, *_ = shown(found())
    table = section.tables[0]
    assert [row.key for row in table.rows] == ["all", "toy/left", "toy/right"]
    assert table.interval(table.rows[1], 0) == "0.49 … 0.94"
    assert [table.shown(value, i) for i, value in enumerate(table.rows[2].values)] == ["0.00", "0.10", "–", "4.0%"]
    assert figures == {"success": 0.8, "failure": 0.1, "success/toy/left": 0.8, "success/toy/right": 0.0}
    assert not verdicts
    reading = "It succeeds in 80 % of 20 episodes (49 % to 94 %), least often at toy/right (0 %); "
    assert section.reading == f"{reading}in 10 % the opposite came first."
    assert table.note == "execute=4. mind the gap"


def test_films_of_failures_come_first() -> None:
    frames = np.zeros((5, 16, 32, 3), dtype=np.uint8)
    films = {EpisodeResult("toy/left", seed, seed != 2, False, 5, 0.0): frames for seed in (1, 2)}
    (section,) = shown(found() | {"films": films, "fps": {"toy/left": 10.0}}).sections
    assert [re.search(r"seed (\d)", panel)[1] for panel in section.pictures[1].panels] == ["2", "1"]
    assert ["success, seed" in panel for panel in section.pictures[1].panels] == [False, True]


def test_options_that_change_the_question_are_named() -> None:
    changed = found(instruction="swapped", variation={"light": True, "distractors": 3})
    assert shown(changed).sections[0].tables[0].note == (
        "execute=4, instruction=swapped, light=True, distractors=3. mind the gap"
    )


def test_they_answer_for_a_policy_and_for_nothing_else(make_dataset, tmp_path) -> None:
    data = make_dataset([6, 6, 6, 6])
    sizes: dict[str, Any] = {"camera_sizes": ((32, 32),) * 2, "proprio_dim": 2, "proprio_names": ()}
    model = policy(**sizes)
    report = lattok.evaluate(model, data, rollouts=found(), out=tmp_path / "report")
    assert [section.title for section in report.sections] == [
        "Does it do what it is told?",
        "Are its actions like those of held-out episodes?",
        "Where is it right, and where wrong?",
    ]
    assert report.answer is not None
    assert report.answer.text == report.sections[0].reading
    assert report.provenance["rollouts"] == found()["options"]
    assert "Does this policy do what it is told?" in (tmp_path / "report/report.html").read_text()
    assert lattok.evaluate(model, data).answer.holds is False  # its actions mean nothing
    refused("`action`", lambda: lattok.evaluate(policy(**sizes, action_dim=4), data))
    refused("`dataset`", lambda: lattok.evaluate(policy(**sizes | {"camera_sizes": ((24, 32), (16, 16))}), data))


def test_a_policy_that_predicts_no_numbers_is_not_called_exact():
    """NaN was left out of the mean, as steps beyond the end of an episode are."""
    world = World(episodes=3, length=100)
    train, judged = (
        PolicyWindows(world, WindowOptions(4, cameras=(), size=1, action_key="action", episodes=each))
        for each in ([0, 1], [2])
    )
    wanted = iter(judged.targets("action").split(BATCH))
    exact = policy_errors(lambda batch: next(wanted), train, judged, "action")
    assert (exact.error, exact.gain) == (0.0, 1.0)
    wanted = iter((judged.targets("action") / torch.tensor([1.0, 1.0, 0.0])).split(BATCH))
    refused("the policy's", lambda: policy_errors(lambda batch: next(wanted), train, judged, "action"))
