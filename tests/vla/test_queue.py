from __future__ import annotations

import pytest
import torch

from lattok.checks import LattokError
from lattok.vla.queue import ActionQueues
from tests.vla.fakes import observation, policy


class Planner:
    """Chunks whose action h of the n-th plan of sample "x" is [x, n, h]; remembers how many were asked for."""

    def __init__(self):
        self.sizes: list[int] = []

    def __call__(self, seen) -> torch.Tensor:
        self.sizes.append(len(seen["task"]))
        assert len(seen["state"]) == len(seen["task"])
        rows = [[[float(text), len(self.sizes), h] for h in range(5)] for text in seen["task"]]
        return torch.tensor(rows)


def seen(*envs: int):
    return {"task": [str(env) for env in envs], "state": torch.tensor(envs)}


def test_each_environment_has_its_own_queue():
    planner, queues = Planner(), ActionQueues(3)

    def act(*envs: int):
        return queues.select(seen(*envs), list(envs), planner).tolist()

    assert act(0, 1, 2) == [[0, 1, 0], [1, 1, 0], [2, 1, 0]]
    queues.reset([1])  # it starts anew in the middle of the chunk of the others
    assert act(0, 1, 2) == [[0, 1, 1], [1, 2, 0], [2, 1, 1]]
    assert act(2, 0) == [[2, 1, 2], [0, 1, 2]]  # environments may be left out, in any order
    assert act(0, 1, 2) == [[0, 3, 0], [1, 2, 1], [2, 3, 0]]
    assert planner.sizes == [3, 1, 2]


def test_reset_forgets_all():
    planner, queues = Planner(), ActionQueues(3)
    queues.select(seen(4, 5), None, planner)
    queues.reset()
    queues.select(seen(4, 5), None, planner)
    assert planner.sizes == [2, 2]


@pytest.mark.parametrize("envs", [[0], [0, 0], [0, 1, 2]])
def test_environments_must_be_named_one_for_each_sample(envs: list[int]):
    with pytest.raises(LattokError, match="`env_ids`: expected 2 different environments, one for each sample"):
        ActionQueues(3).select(seen(0, 1), envs, Planner())


def test_environments_may_come_as_a_tensor():
    planner, queues = Planner(), ActionQueues(3)
    for _ in range(3):
        queues.select(seen(0, 1), torch.arange(2), planner)
    assert planner.sizes == [2]


def test_what_is_not_one_for_each_sample_is_left_alone():
    planner, queues = Planner(), ActionQueues(3)
    extra = {"timestamp": torch.zeros(1)}
    queues.select(seen(0, 1) | extra, None, planner)
    queues.reset([1])
    queues.select(seen(0, 1) | extra, None, planner)
    assert planner.sizes == [2, 1]


@pytest.mark.parametrize("steps", [0, 4, 1.5])
def test_at_most_a_chunk_is_carried_out(steps):
    with pytest.raises(LattokError, match="`n_action_steps`: expected"):
        ActionQueues(3).n_action_steps = steps
    with pytest.raises(LattokError, match="`env_ids`: expected a list of numbers"):
        ActionQueues(3).reset(1)


def test_a_policy_carries_out_its_chunk():
    model = policy()
    first = observation(model.config)
    chunk = model.predict_chunk(first)
    for step in range(4):
        torch.testing.assert_close(
            model.select_action(first if step == 0 else observation(model.config, seed=step)), chunk[:, step]
        )
    model.reset()
    model.queues.n_action_steps = 1
    model.select_action(first)
    other = observation(model.config, seed=9)
    torch.testing.assert_close(model.select_action(other), model.predict_chunk(other)[:, 0])
