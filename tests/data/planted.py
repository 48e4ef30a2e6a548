"""A small arm with two cameras, and flaws to plant into it: each a function whose name, with - for _, is the kind that
inspection gives it, and that returns the episodes that have it (none: all)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from lattok.data import Feature, LeRobotWriter

FPS, LENGTH, EPISODES, SIDE = 10.0, 60, 8, 48
ACTION = ("vx", "vy", "vz", "roll", "gripper")
STATE = ("x", "y", "z", "roll", "gripper", "qx", "qy", "qz", "qw")
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


class Arm(NamedTuple):
    action: np.ndarray  # [E, T, 5] velocities in metres a second, roll in radians, gripper -1 to 1
    state: np.ndarray  # [E, T, 9]
    times: np.ndarray  # [E, T] seconds
    films: dict[str, np.ndarray]  # by camera uint8 [E, T, H, W, 3]
    tasks: list[str]


def clean(seed: int = 0, fps: float = FPS) -> Arm:
    """Velocities that wander, states that follow them in the next row, and pictures of the states."""
    rng, t = np.random.default_rng(seed), np.arange(LENGTH) / FPS
    action = np.zeros((EPISODES, LENGTH, 5))
    for e in range(EPISODES):
        for j in range(4):
            for rate in rng.uniform(0.3, 1.4, 3):
                action[e, :, j] += rng.uniform(0.2, 0.5) * np.sin(2 * np.pi * rate * t + rng.uniform(0, 7))
        action[e, :, 4] = np.tanh(3 * (t - rng.uniform(2, 4)))
    moved = np.cumsum(action[..., :3], axis=1) / FPS
    position = np.concatenate([np.zeros((EPISODES, 1, 3)), moved[:, :-1]], axis=1)
    turned = np.concatenate([action[:, :1, 3:], action[:, :-1, 3:]], axis=1)
    half = turned[..., :1] / 2
    turns = np.concatenate([np.sin(half), 0 * half, 0 * half, np.cos(half)], axis=-1)
    state = np.concatenate([position, turned, turns], axis=-1) + rng.normal(0, 1e-4, (EPISODES, LENGTH, 9))
    state[..., 5:] /= np.linalg.norm(state[..., 5:], axis=-1, keepdims=True)
    times = np.tile(np.arange(LENGTH) / fps, (EPISODES, 1))
    tasks = [("lift", "push")[e % 2] for e in range(EPISODES)]
    return Arm(action.astype(np.float32), state.astype(np.float32), times, films(state), tasks)


def films(state: np.ndarray) -> dict[str, np.ndarray]:
    """Show states [E, T, 9]: from the front x and y, from the wrist z and x, before other grounds."""
    return {FRONT: _film(state, (0, 1), (40, 60, 120), False), WRIST: _film(state, (2, 0), (190, 180, 150), True)}


def _film(state: np.ndarray, axes: tuple[int, int], ground: tuple[int, ...], turned: bool) -> np.ndarray:
    slope = np.linspace(0, 50, SIDE)[:, None, None] * np.ones((1, SIDE, 1))
    scene = (np.array(ground) + (slope.transpose(1, 0, 2) if turned else slope)).clip(0, 255).astype(np.uint8)
    film = np.tile(scene, (EPISODES, LENGTH, 1, 1, 1))
    at = np.clip(SIDE / 2 + 40 * state[..., axes], 6, SIDE - 6).astype(int)
    for e in range(EPISODES):
        for i in range(LENGTH):
            x, y = at[e, i]
            film[e, i, y - 5 : y + 5, x - 5 : x + 5] = (230, 40, 40)
    return film


def write(root: Path, arm: Arm, dtype: str = "video", fps: float = FPS) -> Path:
    """Write a LeRobot v3 dataset."""
    features = {"action": Feature("float32", (5,), ACTION), "observation.state": Feature("float32", (9,), STATE)}
    features |= {name: Feature(dtype, (SIDE, SIDE, 3), None) for name in arm.films}
    options = {"video_codec": "h264", "encoder_threads": 1} if dtype == "video" else {}
    with LeRobotWriter.create(root, fps, features, **options) as writer:
        for e, task in enumerate(arm.tasks):
            columns = {"action": arm.action[e], "observation.state": arm.state[e]}
            writer.add_episode(columns, {name: film[e] for name, film in arm.films.items()}, task)
    if not np.allclose(arm.times, np.arange(LENGTH) / fps):
        edit_rows(root, "timestamp", arm.times.reshape(-1).astype(np.float32))
    return root


def edit_rows(root: Path, name: str, values: np.ndarray) -> None:
    """Replace a column of scalars of the only data file."""
    from tests.data.edits import set_column

    set_column(next((root / "data").rglob("*.parquet")), name, list(values))


# into what is written


def blank(arm: Arm) -> list[int]:
    """One camera is black in some episodes, in one of them only for a while."""
    arm.films[WRIST][2], arm.films[WRIST][5, 20:40] = 0, 0
    return [2, 5]


def frozen(arm: Arm) -> list[int]:
    """One camera stands still in some episodes, in one of them only for a while."""
    arm.films[FRONT][1], arm.films[FRONT][6, 25:] = arm.films[FRONT][1, 0], arm.films[FRONT][6, 25]
    return [1, 6]


def swapped_cameras(arm: Arm) -> list[int]:
    arm.films[FRONT][4], arm.films[WRIST][4] = arm.films[WRIST][4].copy(), arm.films[FRONT][4].copy()
    return [4]


def copies(arm: Arm) -> list[int]:
    for each in (arm.action, arm.state, *arm.films.values()):
        each[7] = each[3]
    return [3, 7]


def late_actions(arm: Arm) -> list[int]:
    arm.action[:, 3:] = arm.action[:, :-3].copy()
    return []


def shifted_actions(arm: Arm) -> list[int]:
    arm.action[[0, 5], 4:] = arm.action[[0, 5], :-4].copy()
    return [0, 5]


def late_pictures(arm: Arm) -> list[int]:
    for film in arm.films.values():
        film[:, 4:] = film[:, :-4].copy()
    return []


def early_pictures(arm: Arm) -> list[int]:
    for film in arm.films.values():
        film[:, :-4] = film[:, 4:].copy()
    return []


def other_unit(arm: Arm) -> list[int]:
    arm.action[2, :, :3] *= 1000  # millimetres
    arm.state[2, :, :3] *= 1000
    arm.state[5] = np.degrees(arm.state[5])
    return [2, 5]


def inverted(arm: Arm) -> list[int]:
    arm.action[[1, 4], :, 4] *= -1
    return [1, 4]


def clipped(arm: Arm) -> list[int]:
    np.clip(arm.action[..., 0], -0.35, 0.35, out=arm.action[..., 0])
    return []


def constant(arm: Arm) -> list[int]:
    arm.action[..., 2] = 0.25
    return []


def angle_wraps(arm: Arm) -> list[int]:
    arm.state[[2, 3], :, 3] = (2 * np.pi * np.arange(LENGTH) / 25 + np.pi) % (2 * np.pi) - np.pi
    return [2, 3]


def quaternion_flips(arm: Arm) -> list[int]:
    arm.state[6, 30:, 5:] *= -1
    return [6]


def times_go_back(arm: Arm) -> list[int]:
    arm.times[2, 30:] -= 2.5
    return [2]


def times_jump(arm: Arm) -> list[int]:
    arm.times[5, 20:] += 1.0
    return [5]


def other_rate(arm: Arm) -> list[int]:
    arm.times[:] *= 2
    return [*range(EPISODES)]


def still(arm: Arm) -> list[int]:
    arm.action[3, 20:50], arm.state[3, 20:50] = arm.action[3, 20], arm.state[3, 20]
    for film in arm.films.values():
        film[3, 20:50] = film[3, 20]
    arm.state[3, 50:, :5] += arm.state[3, 49, :5] - arm.state[3, 50, :5]
    return [3]


def state_jumps(arm: Arm) -> list[int]:
    """Two recordings in one: the arm is elsewhere from one row to the next, in the pictures too."""
    arm.state[1, 30:, :3] += np.array([0.5, -0.5, 0.5], np.float32)
    for camera, film in films(arm.state).items():
        arm.films[camera][:] = film
    return [1]


def action_in_state(arm: Arm) -> list[int]:
    arm.state[..., :5] = arm.action
    return []


def other_sign(arm: Arm) -> list[int]:
    arm.state[[1, 6], :, 5:] *= -1
    return [1, 6]


def stuck_state(arm: Arm) -> list[int]:
    arm.state[5] = arm.state[5, 0]
    return [5]


def shown_otherwise(arm: Arm) -> list[int]:
    """OpenCV's order of colours, and a driver that mirrors."""
    arm.films[FRONT][5] = arm.films[FRONT][5, ..., ::-1]
    arm.films[WRIST][2] = arm.films[WRIST][2, :, :, ::-1]
    return [2, 5]


def stale_first(arm: Arm) -> list[int]:
    for film in arm.films.values():
        film[1:, 0] = film[:-1, -1].copy()
    return [1, 2, 4, 5, 6, 7]  # 3 begins where 2 ends


def placeholder(arm: Arm) -> list[int]:
    arm.tasks[2], arm.tasks[4] = "TODO: describe it", "N/A"
    return [2, 4]


def listed_instructions(arm: Arm) -> list[int]:
    arm.tasks[3] = '["lift it", "pick it up"]'
    return [3]


def variants(arm: Arm) -> list[int]:
    arm.tasks[3] = "Push. "
    return []


def held(arm: Arm) -> list[int]:
    """Commands at a third of the rate, which states follow."""
    arm.action[:] = arm.action[:, np.arange(LENGTH) // 3 * 3 + 2]
    return []


def repeated_pictures(arm: Arm) -> list[int]:
    """A camera of two thirds of the rate."""
    for film in arm.films.values():
        film[:] = film[:, np.arange(LENGTH) * 2 // 3 * 3 // 2]
    return []


def other_values(arm: Arm) -> list[int]:
    """A gripper is told 0 and 1, and -1 and 1 where recordings of another robot were merged."""
    arm.action[..., 4] = arm.action[..., 4] > 0
    arm.action[[1, 6], :, 4] = 2 * arm.action[[1, 6], :, 4] - 1
    return [1, 6]


def _told_where_to_go(arm: Arm) -> None:
    arm.action[:] = np.concatenate([arm.state[:, 1:, :5], arm.state[:, -1:, :5]], axis=1)
    arm.action[:, -1, :4] += 0.01


def other_kind(arm: Arm) -> list[int]:
    """Actions are where to go, and in some episodes how far."""
    _told_where_to_go(arm)
    arm.action[[2, 7]] -= arm.state[[2, 7], :, :5]
    return [2, 7]


def offset(arm: Arm) -> list[int]:
    """An arm was calibrated anew."""
    _told_where_to_go(arm)
    arm.state[[5, 6], :, 1] += 0.6
    for camera, film in films(arm.state).items():
        arm.films[camera][:] = film
    return [5, 6]


def other_order(arm: Arm) -> list[int]:
    _told_where_to_go(arm)
    arm.state[3, :, :4] = arm.state[3][:, [2, 3, 0, 1]]
    return [3]


def not_finite(arm: Arm) -> list[int]:
    arm.action[2, 7, 1] = np.nan
    return [2]


def outliers(arm: Arm) -> list[int]:
    arm.action[4, 9, 0] = 300.0
    return [4]


def no_instruction(arm: Arm) -> list[int]:
    arm.tasks[6] = ""
    return [6]


# into what is on disk


def other_statistics(root: Path) -> list[int]:
    path = root / "meta" / "stats.json"
    told = json.loads(path.read_text())
    told["action"]["max"] = [0.01] * 5
    path.write_text(json.dumps(told))
    return []


def git_lfs_pointer(root: Path) -> list[int]:
    path = _film_of(root, WRIST)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    return [*range(EPISODES)]


def unreadable(root: Path) -> list[int]:
    """A video is cut off."""
    path = _film_of(root, FRONT)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return [*range(EPISODES)]


def empty_file(root: Path) -> list[int]:
    _film_of(root, FRONT).write_bytes(b"")
    return [*range(EPISODES)]


def counted_otherwise(root: Path) -> list[int]:
    frames = np.tile(np.arange(LENGTH), EPISODES)
    frames[2 * LENGTH : 3 * LENGTH] += 5
    edit_rows(root, "frame_index", frames)
    return [2]


def other_task(root: Path) -> list[int]:
    """Numbers of another dataset, as after a merge."""
    numbers = np.arange(EPISODES) % 2
    numbers[5] = 0
    edit_rows(root, "task_index", np.repeat(numbers, LENGTH))
    return [5]


def no_such_task(root: Path) -> list[int]:
    edit_rows(root, "task_index", np.repeat([0, 1, 0, 1, 7, 1, 0, 1], LENGTH))
    return [4]


def video_rate(root: Path) -> list[int]:
    from tests.conftest import put_video

    path = _film_of(root, FRONT)
    path.unlink()
    put_video(path, clean().films[FRONT].reshape(-1, SIDE, SIDE, 3), fps=5)
    return [*range(EPISODES)]


def short_video(root: Path) -> list[int]:
    """The last episode claims to end before its rows do."""
    path = next((root / "meta" / "episodes").rglob("*.parquet"))
    table = pq.read_table(path)
    name = f"videos/{WRIST}/to_timestamp"
    ends = table[name].to_pylist()
    ends[-1] -= 2.0
    pq.write_table(table.set_column(table.column_names.index(name), name, [ends]), path)
    return [EPISODES - 1]


def _film_of(root: Path, camera: str) -> Path:
    return next((root / "videos" / camera).rglob("*.mp4"))


IN_ARRAYS: tuple[Callable[[Arm], list[int]], ...] = (
    *(blank, frozen, swapped_cameras, copies, late_actions, shifted_actions, late_pictures, early_pictures, inverted),
    *(
        clipped,
        constant,
        angle_wraps,
        quaternion_flips,
        other_sign,
        times_go_back,
        times_jump,
        other_rate,
        still,
        state_jumps,
    ),
    *(action_in_state, stuck_state, not_finite, outliers, other_unit, no_instruction),
    *(other_values, other_kind, offset, other_order, held, repeated_pictures, shown_otherwise),
    *(stale_first, placeholder, listed_instructions, variants),
)
IN_FILES: tuple[Callable[[Path], list[int]], ...] = (
    *(other_statistics, git_lfs_pointer, unreadable, empty_file, counted_otherwise, video_rate, short_video),
    *(other_task, no_such_task),
)


def planted(plant: Callable, root: Path, sound: Path) -> tuple[str, list[int]]:
    """Write a dataset with one flaw to `root`, given the `sound` one; return the kind and the episodes."""
    if plant in IN_FILES:
        shutil.copytree(sound, root)
        return plant.__name__.replace("_", "-"), plant(root)
    arm = clean()
    episodes = plant(arm)
    write(root, arm)
    return plant.__name__.replace("_", "-"), episodes
