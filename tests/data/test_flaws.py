"""What inspection finds inside episodes: planted flaws are named, and clean data raise no alarm."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lattok.data import Feature, RobotDataset, flaws, inspect_dataset, open_dataset
from lattok.data.completed import Completed
from lattok.data.lags import estimate_lag
from lattok.data.problems import Rows
from tests.data import planted
from tests.data import sound as in_formats
from tests.data.specimens import write_originals
from tests.real import BRIDGE, REAL

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
    still = flaws.still_rows(rows, ["action"])
    each = [*flaws.check_times(rows, FPS), *([] if still is None else flaws.check_still(rows, still, FPS))]
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


def of_a_clock(values, times):
    times += 1.7e9


def milliseconds(values, times):
    times *= 1000


def in_32_bits(values, times):
    times[:] = (times + 1.7e9).astype(np.float32)


def another_unit(values, times):
    times[1] *= 10**9
    times[1] += 1.7e18


def restless(values, times):
    times[2, 30] += 0.06
    times[2, 31] -= 0.06


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
        (of_a_clock, "error: Times of 4 episodes do not begin at 0 (first: episode 0 at 1700000000 s)"),
        (milliseconds, "error: Times of 4 episodes (first: 0) are in milliseconds, not in seconds"),
        (in_32_bits, "error: Times of 4 episodes are too coarse to tell frames apart (first: episode 0, 100% of them"),
        (another_unit, "error: Times of 1 episode (first: 1) are in nanoseconds, not in seconds"),
        (restless, "note: Times of 1 episode stray from 10 fps by up to 60 ms"),
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


@pytest.mark.parametrize("small", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("most", [1.0, 0.99])
def test_a_gripper_after_small_rotations_is_no_quaternion(small: float, most: float):
    """`lattok repair` would keep its sign from row to row, so that it never closes."""
    rng, values = np.random.default_rng(0), clean()[0]
    values[..., 4:7] = small * np.sin(0.3 * np.arange(LENGTH)[None, :, None] + rng.uniform(0, 6, (EPISODES, 1, 3)))
    values[..., 7] = most * np.where(np.arange(LENGTH) // 20 % 2, 1, -1)
    assert found(rows_of(values)) == []


def test_a_name_tells_a_gripper_from_a_quaternion():
    values = clean()[0]
    flip(values, None)
    names = (*NAMES[:-1], "Gripper.pos")
    assert not list(flaws.check_angles(rows_of(values), {"action": names}))


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return planted.write(tmp_path_factory.mktemp("sound") / "arm", planted.clean())


@pytest.mark.parametrize("plant", [*planted.IN_ARRAYS, *planted.IN_FILES], ids=lambda plant: plant.__name__)
def test_each_kind_is_found_alone_with_its_episodes(plant: Callable, sound: Path, tmp_path: Path):
    kind, episodes = planted.planted(plant, tmp_path / "arm", sound)
    findings = inspect_dataset(tmp_path / "arm").findings
    assert {each.kind for each in findings} == {kind}
    assert sorted({episode for each in findings for episode in each.episodes}) == episodes


def follower(tmp_path: Path) -> Path:
    """An arm that is told where to go, and gets there three rows later."""
    arm = planted.clean(3)
    told = np.concatenate([arm.state[:, 3:, :5], np.repeat(arm.state[:, -1:, :5], 3, axis=1)], axis=1)
    arm.action[:] = told
    return planted.write(tmp_path / "follower", arm)


def clean_datasets(sound: Path, tmp_path: Path, sample: RobotDataset) -> Iterator[tuple[str, RobotDataset]]:
    yield "lerobot", open_dataset(sound)
    yield "lerobot, images", open_dataset(planted.write(tmp_path / "images", planted.clean(1), "image"))
    yield "lerobot, another rate", open_dataset(planted.write(tmp_path / "fast", planted.clean(2, 50), fps=50))
    yield "lerobot, positions", open_dataset(follower(tmp_path))
    yield "lerobot, bundled", sample
    yield from ((name, open_dataset(path)) for name, path in in_formats.written(tmp_path).items())
    names = ("lerobot_v20", "hdf5", "aloha")
    for name, path in write_originals(tmp_path / "originals", names).items():
        yield f"{name}, few rows", open_dataset(path, fps=10) if name == "aloha" else open_dataset(path)
    if BRIDGE.is_dir():
        yield "rlds, real", open_dataset(BRIDGE, fps=5)


def test_clean_datasets_of_all_formats_raise_no_alarm(sound: Path, tmp_path: Path, sample: RobotDataset):
    said = dict[str, list[str]]()
    for name, dataset in clean_datasets(sound, tmp_path, sample):
        said[name] = [str(each) for each in inspect_dataset(dataset).findings if each.severity != "note"]
    assert len(said) >= 12
    assert {name: alarms for name, alarms in said.items() if alarms} == {}


@pytest.mark.skipif(not (REAL / "g1_bottle_v21").is_dir(), reason="the real dataset is not here")
def test_a_real_camera_that_is_slower_than_the_rows_is_the_only_alarm():
    """Every second picture of a G1 at 30 rows a second is the one before for long stretches."""
    dataset = open_dataset(REAL / "g1_bottle_v21")
    pictures = dataset.frames(0, indices=range(100, 120))[:, 0].astype(np.int16)
    assert [bool((a == b).all()) for a, b in pairwise(pictures)].count(True) >= 9
    alarms = [each for each in inspect_dataset(dataset).findings if each.severity != "note"]
    assert [each.kind for each in alarms] == ["repeated-pictures"]


def test_a_lag_is_measured_by_joint(sound: Path, tmp_path: Path):
    lag = inspect_dataset(sound).lag
    assert lag is not None
    assert (lag.steps, lag.low, lag.high) == (1, 1, 1)
    assert {each for each in lag.by_dimension if each is not None} == {1}
    arm = planted.clean()
    arm.state[..., 4] = arm.action[..., 4]  # a gripper whose state is its command answers nothing
    lag = inspect_dataset(planted.write(tmp_path / "copied", arm)).lag
    assert lag is not None
    assert (lag.steps, lag.by_dimension[4]) == (1, None)
    lag = inspect_dataset(follower(tmp_path)).lag
    assert lag is not None
    assert (lag.steps, lag.position) == (3, True)


def test_late_actions_are_found_from_pictures_where_there_is_no_state():
    arm = planted.clean()
    moves = [np.linalg.norm(np.diff(arm.state[e, :, :2], axis=0), axis=1)[:, None] for e in range(planted.EPISODES)]
    for late in (0, 3):
        actions = [np.r_[np.repeat(each[:1], late, axis=0), each[: len(each) - late]] for each in arm.action]
        lag = estimate_lag(actions, moves, planted.FPS, sizes=True)
        assert lag is not None
        assert lag.steps == 1 - late


def without_command(arm: planted.Arm):
    arm.action[3] = arm.action[3, 0]


def infinite(arm: planted.Arm):
    arm.state[3, 5, 0] = np.inf


def of_two_programs(arm: planted.Arm):
    """Half of the episodes have a gripper of 0 and 1, the others of ±1."""
    arm.action[..., 4] = arm.action[..., 4] > 0
    arm.action[::2, :, 4] = 2 * arm.action[::2, :, 4] - 1


def at_full_speed(arm: planted.Arm):
    arm.action[..., :4] = np.clip(4 * arm.action[..., :4], -1, 1)


@pytest.mark.parametrize(
    ("plant", "kind", "count"),
    [
        (without_command, "stuck-state", 1),
        (infinite, "not-finite", 1),
        (of_two_programs, "other-values", planted.EPISODES // 2),
        (at_full_speed, "clipped", 0),
    ],
)
def test_numbers_that_are_another_thing(plant: Callable, kind: str, count: int, tmp_path: Path):
    arm = planted.clean()
    plant(arm)
    planted.write(tmp_path / "arm", arm)
    (finding,) = [each for each in inspect_dataset(tmp_path / "arm").findings if each.kind == kind]
    assert len(finding.episodes) == count
    if kind == "clipped":  # as inferred actions are, to the range of known ones
        mark = {"inferred.filled": (Feature("bool", (1,), None), 1.0)}
        filled = inspect_dataset(Completed(open_dataset(tmp_path / "arm"), mark, {}))
        assert kind not in [each.kind for each in filled.findings]


def test_a_heading_by_cosine_and_sine_is_not_inverted_where_it_looks_the_other_way(tmp_path: Path):
    arm = planted.clean()
    turns = np.cumsum(np.concatenate([0 * arm.action[:, :1, 3], arm.action[:, :-1, 3]], 1), 1)
    yaw = np.where(np.arange(planted.EPISODES) % 4, 1, -1)[:, None] + 0.5 * turns / np.ptp(turns, 1, keepdims=True)
    arm.state[..., 0], arm.state[..., 3], arm.state[..., 5:] = np.sin(yaw), np.cos(yaw), (0, 0, 0, 1)
    for name in ("heading", "turned"):
        planted.write(tmp_path / name, arm)
        found = [each.episodes for each in inspect_dataset(tmp_path / name).findings if each.kind == "inverted"]
        assert found == ([] if name == "heading" else [(2,)])
        arm.action[2, :, 3] *= -1


@pytest.mark.parametrize(("reaches", "told"), [((1.0, 0.4), 0), ((1.0, 0.9), 2)])
def test_a_gripper_that_is_hardly_used_has_no_other_numbers(reaches: tuple[float, float], told: int, tmp_path: Path):
    """It is moved a little where it is moved at all; another unit goes to the same end again."""
    arm, along = planted.clean(), np.linspace(0, 1, planted.clean().action.shape[1])
    arm.action[..., 4] = 0.05 * along
    for episode, reach in zip((2, 6), reaches, strict=True):
        arm.action[episode, :, 4] = reach * along
    planted.write(tmp_path / "arm", arm)
    found = [each for each in inspect_dataset(tmp_path / "arm").findings if each.kind == "other-values"]
    assert sum(len(each.episodes) for each in found) == told
