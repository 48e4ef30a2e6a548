"""Inverse models side by side: the figures of each alone, and an answer that follows from their differences."""

from typing import Any

import numpy as np
import pytest
import torch

from lattok.evaluation import Report, compare, evaluate
from lattok.image_lam.inverse import ProprioMap, ProprioMapConfig
from tests.errors import refused
from tests.evaluation.test_inferred import HELD_OUT, LENGTH, Knowing, small
from tests.evaluation.worlds import World


@pytest.fixture(scope="module")
def world() -> World:
    return World(episodes=11, length=LENGTH, tasks=2)


def knowing(world: World, error: float, **options: Any) -> Knowing:
    """Infers true actions but for chance errors of this size."""
    rng, model = np.random.default_rng(int(100 * error)), small(Knowing, **options)
    true = world.actions.reshape(-1, 3)
    model.said = (true + error * rng.standard_normal(true.shape)).astype(np.float32)
    return model


def answer_of(report: Report) -> tuple[bool | None, str]:
    assert report.answer is not None
    return report.answer.holds, report.answer.text


def test_figures_are_those_of_each_alone(world):
    models = {"near": knowing(world, 0.3), "far": knowing(world, 0.8)}
    report = compare(world, models, episodes=HELD_OUT)
    for name, model in models.items():
        alone = evaluate(model, world, episodes=HELD_OUT).figures
        own = {key.partition("/")[2]: value for key, value in report.figures.items() if key.startswith(name)}
        assert own == {key: alone[key] for key in own}
        assert {"r2_actions/model", "r2_actions_low/model", "r2_xyz_actions/model"} <= own.keys()
    holds, text = answer_of(report)
    assert holds
    assert text.startswith("near, whose actions explain ")
    assert "; far follows (R² " in text
    table = report.sections[0].tables[1]
    gap = report.figures["far/r2_actions/model"] - report.figures["near/r2_actions/model"]
    assert [row.values[1] for row in table.rows] == [None, pytest.approx(gap)]
    span = table.rows[1].intervals[1]
    assert span is not None
    assert span[0] < gap < span[1] < 0


def test_by_fifth_is_what_numpy_says(world):
    model = knowing(world, 0.5)
    (_, _, table) = compare(world, {"one": model, "two": knowing(world, 0.6)}, episodes=HELD_OUT).sections[0].tables
    said = model.said.reshape(world.actions.shape)[HELD_OUT].astype(float)
    true, known = world.actions[HELD_OUT].astype(float), world.actions[:6].reshape(-1, 3).astype(float)
    parts = np.arange(LENGTH) * 5 // LENGTH
    for i in range(5):
        wrong = np.square(said - true)[:, parts == i].sum((0, 1))
        spread = np.square(true - known.mean(0))[:, parts == i].sum((0, 1))
        assert table.rows[0].values[i] == pytest.approx(float((1 - wrong / spread).mean()))


def test_all_are_judged_by_what_is_added_where_one_adds_to_the_state(world):
    """A model that says commands is judged by what these add, as numpy computes it."""
    adding = knowing(world, 0.5, state_dim=2, anchors=(0, 1, -1))
    plain = knowing(world, 0.4)
    report = compare(world, {"adds": adding, "plain": plain}, episodes=HELD_OUT)
    state = np.concatenate([world.states, np.zeros_like(world.states[..., :1])], -1).astype(float)
    added = world.actions - state
    said = plain.said.reshape(world.actions.shape) - state
    wrong = np.square(said[HELD_OUT] - added[HELD_OUT]).sum((0, 1))
    spread = np.square(added[HELD_OUT] - added[:6].mean((0, 1))).sum((0, 1))
    assert report.figures["plain/r2_actions/model"] == pytest.approx(float((1 - wrong / spread).mean()), abs=1e-5)
    assert "Judged is what actions add to the state" in report.sections[0].text


def test_of_equals_the_one_without_pictures_is_taken():
    """Actions are a map of state changes, and a network says as much."""
    world = World(episodes=11, length=LENGTH, names=("x", "y"))
    moved = np.diff(world.states, axis=1, append=world.states[:, -1:])
    world.actions = moved.astype(np.float32)
    config = ProprioMapConfig(2, ("x", "y"), 2, (), (), (-1, 0, 1))
    actions, states = (list(torch.from_numpy(each[:6])) for each in (world.actions, world.states))
    found = ProprioMap.fit(config, actions, states).model
    network = small(Knowing, action_dim=2, action_names=("x", "y"))
    network.said = world.actions.reshape(-1, 2)
    holds, text = answer_of(compare(world, {"network": network, "map": found}, episodes=HELD_OUT))
    assert holds
    assert text.startswith("map: it is about as right as network and looks at no picture")
    worse = small(Knowing, action_dim=2, action_names=("x", "y"))
    worse.said = network.said + np.random.default_rng(0).standard_normal(network.said.shape).astype(np.float32)
    holds, text = answer_of(compare(world, {"worse": worse}, episodes=HELD_OUT))
    assert holds is False
    assert text.startswith("None of them: a map of its state changes explains 100 %")
    assert "lattok train idm DATASET --from proprio --out map" in text


def test_too_few_episodes_and_other_columns(world):
    models = {"near": knowing(world, 0.3), "far": knowing(world, 0.8)}
    holds, text = answer_of(compare(world, models, episodes=HELD_OUT[:2]))
    assert holds is None
    assert text.startswith("Unclear: ")
    other = knowing(world, 0.3, action_key="other")
    refused("other: `action_key`", compare, world, {**models, "other": other}, episodes=HELD_OUT)


def test_policies_are_compared_by_what_they_do(world):
    refused("lattok compare-rollouts one=one/rollouts other=other/rollouts", compare, world, ["sample/policy"])
