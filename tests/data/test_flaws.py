"""What inspection finds inside episodes: planted flaws are named, and clean data raise no alarm."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lattok.data import Feature, LeRobotWriter, flaws, inspect_dataset, open_dataset
from lattok.data.problems import Rows

FPS, LENGTH, EPISODES = 10.0, 60, 4
NAMES = ("x", "y", "z", "roll", "qx", "qy", "qz", "qw")


def clean() -> tuple[np.ndarray, np.ndarray]:
    """Smooth motion with a unit quaternion, [E, T, 8], and frames of a moving block, uint8 [E, T, 32, 32, 3]."""
    t = np.arange(LENGTH)[None] + 7.0 * np.arange(EPISODES)[:, None]
    angle = 0.5 * np.sin(0.1 * t)
    parts = [np.sin(0.2 * t + k) for k in range(3)] + [angle, np.sin(angle / 2), 0 * t, 0 * t, np.cos(angle / 2)]
    frames = np.full((EPISODES, LENGTH, 32, 32, 3), 50, np.uint8)
    for e in range(EPISODES):
        for i in range(LENGTH):
            x = int(12 + 11 * np.sin(0.2 * t[e, i]))
            frames[e, i, 8:16, x : x + 8] = (220, 40, 40)
    return np.stack(parts, axis=-1).astype(np.float32), frames


def rows_of(values: np.ndarray, times: np.ndarray | None = None) -> Rows:
    episodes = np.repeat(np.arange(EPISODES), LENGTH)
    frames = np.tile(np.arange(LENGTH), EPISODES)
    times = frames / FPS if times is None else times.reshape(-1)
    return Rows(episodes, frames, {"action": values.reshape(-1, len(NAMES)), "timestamp": times})


def found(rows: Rows) -> list[str]:
    each = [*flaws.check_times(rows, FPS), *flaws.check_still(rows, ["action"], FPS)]
    each += flaws.check_angles(rows, {"action": NAMES})
    return [f"{finding.severity}: {finding.what}" for finding in each]


def test_clean_data_raise_no_alarm():
    assert found(rows_of(clean()[0])) == []


def test_actions_that_nobody_knows_are_no_flaw():
    assert found(rows_of(np.full_like(clean()[0], np.nan))) == []


def back(values, times):
    times[2, 30:] -= 3.0


def jump(values, times):
    times[1, 20:] += 0.5


def slow(values, times):
    times *= 2


def jitter(values, times):
    times[:, 1:] += np.random.default_rng(0).normal(0, 0.015, (EPISODES, LENGTH - 1))


def still(values, times):
    values[3, 20:50] = values[3, 20]


def wrap(values, times):
    values[..., 3] = (values[..., 3] + 2 * np.pi) % (2 * np.pi)


def flip(values, times):
    values[1, 10:, 4:] *= -1


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (back, "error: Times of 1 episode go back (first: episode 2 at frame 30)"),
        (jump, "warning: Times jump 1 time by more than a frame (first: by 0.6 s to episode 1, frame 20)"),
        (slow, "error: Timestamps of 4 episodes (first: 0) do not fit fps = 10; the timestamps say 5 fps"),
        (jitter, "note: Times of 4 episodes stray from 10 fps by up to"),
        (still, "note: In 12% of the frames nothing moves for a second or more (most in episode 3: 48%)"),
        (wrap, "warning: `action` (roll) jumps by a whole turn"),
        (flip, "warning: `action` (qx to qw) is a quaternion that changes its sign 1 time, first in episode 1"),
    ],
)
def test_a_planted_flaw_is_named_alone(plant: Callable[[np.ndarray, np.ndarray], None], said: str):
    values = clean()[0]
    times = np.tile(np.arange(LENGTH) / FPS, (EPISODES, 1))
    plant(values, times)
    first, *others = found(rows_of(values, times))
    assert first.startswith(said)
    assert not others


def test_cameras_that_show_nothing_or_stand_still(tmp_path: Path):
    values, frames = clean()
    wrist = frames[..., ::-1].copy()
    frames[1], wrist[2:] = 0, wrist[2:, :1]
    features = {"action": Feature("float32", (8,), NAMES)}
    features |= {f"observation.images.{name}": Feature("video", (32, 32, 3), None) for name in ("front", "wrist")}
    with LeRobotWriter.create(tmp_path / "arm", FPS, features, video_codec="h264") as writer:
        for e in range(EPISODES):
            films = {"observation.images.front": frames[e], "observation.images.wrist": wrist[e]}
            writer.add_episode({"action": values[e]}, films, "push")
    said = [finding.what for finding in inspect_dataset(open_dataset(tmp_path / "arm")).findings]
    assert any("images.front` shows nothing in 1 of 4" in each and each.endswith(": 1.") for each in said)
    assert any("images.wrist` shows the same picture" in each and each.endswith(": 2, 3.") for each in said)
