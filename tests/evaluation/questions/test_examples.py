"""Pictures of pairs and codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lattok.evaluation import evaluate
from tests.evaluation.worlds import HELD_OUT, Oracle, World, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")


@pytest.fixture(scope="module")
def world() -> World:
    return World(episodes=16, length=24, black=True, tasks=2)


def test_the_gallery_shows_typical_clips_of_a_code_from_different_episodes(world: World, tmp_path: Path):
    evaluate(tiny_lam(Oracle, world), world, episodes=HELD_OUT, out=tmp_path)
    page = (tmp_path / "report.html").read_text()
    gallery = page[page.index("What do single codes look like?") :]
    first = gallery[gallery.index("code <b>") :][: gallery[gallery.index("code <b>") + 9 :].index("code <b>")]
    shown = re.findall(r'title="episode (\d+), frame \d+"', first)
    assert len(shown) == len(set(shown)) == 3
    assert first.count("<img") == 6  # before and after
    assert "mean action" in first
    assert len(page) < 3_000_000
