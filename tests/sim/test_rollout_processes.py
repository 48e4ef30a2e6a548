"""Rollouts in processes of their own: the same episodes, no hang when one dies, none that is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("metaworld") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

from lattok.sim import rollout
from lattok.sim.agents import FunctionAgent
from tests.errors import refused
from tests.sim.conftest import marked
from tests.vla.fakes import policy

DRAWERS = ["metaworld-pairs/drawer-open", "metaworld-pairs/drawer-close"]
STATE = "observation.state"


class Blind(FunctionAgent):
    """Needs no images, and so no OpenGL; moves by the state of the hand."""

    keys = (STATE,)


def wave(seen: Mapping[str, Any], text: str) -> np.ndarray:
    return np.sin(20 * seen[STATE] + np.arange(10)[:, None] + len(text))


@pytest.mark.ci
def test_results_do_not_depend_on_processes() -> None:
    options: dict[str, Any] = {"repeat": 20}
    here = rollout(Blind(wave), DRAWERS, 2, batch=3, **options)
    there = rollout(Blind(wave), DRAWERS, 2, batch=3, workers=2, **options)
    assert there.episodes == here.episodes
    assert {played.beyond for played in here.episodes} == {0}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are looked for in /proc")
def test_a_process_that_dies_is_one_line_with_task_and_seed() -> None:
    def murderous(seen: Mapping[str, Any], text: str) -> np.ndarray:
        children = {child for file in Path("/proc/self/task").glob("*/children") for child in file.read_text().split()}
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        return wave(seen, text)

    refused(rf"^{DRAWERS[0]}, seed 7: its process", lambda: rollout(Blind(murderous), DRAWERS[0], 1, seed=7, workers=1))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked for in /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_the_command_leaves_no_process(number: signal.Signals, code: int, tmp_path) -> None:
    names = tuple("xyzg")
    cameras = {"cameras": ("observation.images.corner2",), "camera_sizes": ((32, 32),)}
    model = policy(**cameras, proprio_dim=4, proprio_names=names, action_dim=4, action_names=names)
    model.save_pretrained(tmp_path / "policy")
    mark = f"LATTOK_MARK={os.getpid()}-{number}"
    words = ["rollout", str(tmp_path / "policy"), "--env", "metaworld-pairs", "--episodes", "1000", "--workers", "2"]
    parent = subprocess.Popen([sys.executable, "-m", "lattok", *words], env=os.environ | dict([mark.split("=")]))
    with parent:
        deadline = time.monotonic() + 120
        while len(marked(mark)) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(10)  # in the middle of episodes
        assert len(marked(mark)) == 3
        parent.send_signal(number)
        assert parent.wait(timeout=30) == code
    deadline = time.monotonic() + 60  # a busy machine lets them notice late
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(mark)
