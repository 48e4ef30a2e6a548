"""Probes on tasks that they never saw."""

from __future__ import annotations

import pytest

from lattok.evaluation import evaluate
from lattok.evaluation.page import render
from tests.evaluation.worlds import HELD_OUT, Oracle, World, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")


@pytest.fixture(scope="module")
def world() -> World:
    return World(episodes=16, length=24, black=True, tasks=2)


def test_tasks_left_out_are_judged_and_one_task_says_so(world: World):
    found = evaluate(tiny_lam(Oracle, world), world).figures
    assert found["task_r2_from_latents/latents"] > 0.99
    assert found["task_mlp_r2_from_latents/latents"] > 0.99
    one = evaluate(tiny_lam(Oracle, lone := World(episodes=10)), lone, episodes=HELD_OUT)
    assert not any(key.startswith("task_") for key in one.figures)
    assert "not applicable: the dataset has one task" in render(one)


def test_a_code_whose_meaning_depends_on_the_task_fails_on_new_tasks():
    world = World(episodes=16, tasks=2)

    class PerTask(Oracle):
        def encode_features(self, features, text=None, text_mask=None):
            pixels = features.reshape(len(features), 2, 16, 16, 3) * self.features.std + self.features.mean
            sign = 1 - 2 * (self._number(pixels[:, 0]) // 40 % 2)  # tasks take turns
            found = super().encode_features(features)
            return self._stream(found.latents * sign[:, None, None])

    found = evaluate(tiny_lam(PerTask, world), world).figures
    assert found["task_r2_from_latents/latents"] < -0.5
