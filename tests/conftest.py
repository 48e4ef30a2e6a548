"""Datasets for tests: the packaged sample, and tiny ones written on the spot."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# whatever is set: small tensors gain nothing from threads, and a forked test would wait for those it does not have
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from lattok.data import Feature, LeRobotV3, LeRobotWriter, open_dataset, sample_dataset_path
from lattok.data.video import VideoWriter

# how long an example takes says how busy the machine is
settings.register_profile("lattok", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lattok")

FPS = 10
CAMERAS = ("observation.images.front", "observation.images.wrist")
NAMES = ("x", "y", "z")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give every process of `-n` a stretch of tests, of which others take a part when they are done.

    In the small pieces that are usual most modules would make their fixtures in every process.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session", autouse=True)
def short_reference_policies() -> Iterator[None]:
    """What they learn is tested in test_learnability, with more steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lattok.evaluation.questions.learnability.STEPS", 5)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def sample() -> LeRobotV3:
    """The packaged Meta-World sample: 50 episodes, 4,059 frames, two cameras, 80 Hz."""
    return open_dataset(sample_dataset_path())


def moving_square(rng: np.random.Generator, length: int, size: int = 32) -> np.ndarray:
    """A video uint8 [T, size, size, 3] in which every frame has its own look."""
    frames = np.full((length, size, size, 3), rng.integers(0, 60, 3), dtype=np.uint8)
    for t in range(length):
        row, column = (3 * t) % (size - 10), (5 * t) % (size - 10)
        frames[t, row : row + 10, column : column + 10] = 100 + (37 * t) % 150
    return frames


def write_dataset(
    root: Path,
    lengths: Sequence[int],
    tasks: Sequence[str] = ("lift", "push"),
    cameras: bool = True,
    fps: float = FPS,
    **options,
) -> Path:
    """A dataset with `action` (3), `observation.state` (2), `reward`, `done` and up to two cameras."""
    rng = np.random.default_rng(1)
    features = {
        "action": Feature("float32", (3,), NAMES),
        "observation.state": Feature("float32", (2,), None),
        "reward": Feature("float64", (1,), None),
        "done": Feature("bool", (1,), None),
    }
    videos = CAMERAS if cameras else ()
    features |= {key: Feature("video", (32, 32, 3), None) for key in videos}
    options = {"video_codec": "h264", "encoder_threads": 1, **options}
    with LeRobotWriter.create(root, fps, features, **options) as writer:
        for i, length in enumerate(lengths):
            columns = {
                "action": rng.standard_normal((length, 3)),
                "observation.state": rng.standard_normal((length, 2)),
                "reward": rng.standard_normal(length),
                "done": np.arange(length) == length - 1,
            }
            writer.add_episode(
                columns, {key: moving_square(rng, length) for key in videos}, tasks[i * len(tasks) // len(lengths)]
            )
    return root


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., LeRobotV3]:
    """`make_dataset(lengths, **options)` writes a tiny dataset and opens it."""

    def make(lengths: Sequence[int], name: str = "tiny", **options) -> LeRobotV3:
        return open_dataset(write_dataset(tmp_path / name, lengths, **options))

    return make


def put_video(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write frames uint8 [n, H, W, 3] in place of a video."""
    path.unlink(missing_ok=True)
    writer = VideoWriter(path, fps, frames.shape[1:3], "h264", 1)
    writer.add(frames)
    writer.close()
