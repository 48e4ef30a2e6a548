"""Probes on tasks that they never saw, and pictures of what was read."""

import re
from pathlib import Path

import pytest

from lattok.evaluation import evaluate
from lattok.evaluation.page import render
from tests.evaluation.worlds import HELD_OUT, Oracle, World, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")


def test_tasks_left_out_are_judged_and_one_task_says_so(black_world: World):
    found = evaluate(tiny_lam(Oracle, black_world), black_world).figures
    assert found["task_r2_from_latents/latents"] > 0.99
    one = evaluate(tiny_lam(Oracle, lone := World()), lone, episodes=HELD_OUT)
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


def test_the_gallery_shows_typical_clips_of_a_code_from_different_episodes(black_world: World, tmp_path: Path):
    evaluate(tiny_lam(Oracle, black_world), black_world, episodes=HELD_OUT, out=tmp_path)
    page = (tmp_path / "report.html").read_text()
    gallery = page[page.index("What do single codes look like?") :]
    first = gallery[gallery.index("code <b>") :][: gallery[gallery.index("code <b>") + 9 :].index("code <b>")]
    shown = re.findall(r'title="episode (\d+), frame \d+"', first)
    assert len(shown) == len(set(shown)) == 3
    assert first.count("<img") == 6  # before and after
    assert "mean action" in first
    assert len(page) < 3_000_000
