"""Depth cameras and language that LeRobot itself wrote: it reads the same of them after annotation and export, and
lattok says the same of them as LeRobot."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lattok import annotate, open_dataset
from lattok.data import export
from tests.conftest import CAMERAS
from tests.lerobot.common import Labeller

pytestmark = pytest.mark.lerobot
LENGTHS, SIZE, DEPTH = (5, 7), 64, "observation.images.depth"
PIPELINE = "lerobot.annotations.steerable_pipeline"
LANGUAGE = ("language_persistent", "language_events")


def recorded(root: Path, extra: dict[str, Any]) -> np.ndarray:
    """Record two episodes by LeRobot's own writer, with the feature `extra` or none; return depth in millimetres."""
    made = importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset
    names, rng = ["height", "width", "channels"], np.random.default_rng(0)
    features = {
        "action": {"dtype": "float32", "shape": (4,), "names": None},
        CAMERAS[0]: {"dtype": "image", "shape": (SIZE, SIZE, 3), "names": names},
    }
    depth = rng.integers(200, 4000, (sum(LENGTHS), SIZE, SIZE, 1)).astype(np.uint16)
    writer = made.create("org/name", 10, features | extra, root=root, use_videos=True)
    for row, millimetres in enumerate(depth):
        frame = {"action": rng.standard_normal(4).astype(np.float32), "task": "push"}
        frame |= {CAMERAS[0]: rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8)}
        writer.add_frame(frame | dict.fromkeys(extra, millimetres))
        if row + 1 in np.cumsum(LENGTHS):
            writer.save_episode()
    writer.finalize()
    return depth


def copies(root: Path, folder: Path) -> tuple[Path, Path]:
    """What annotation and export make of a dataset."""
    return annotate(root, Labeller("actions"), folder / "annotated"), export(root, folder / "exported").path


@pytest.mark.parametrize("kind", ["video", "image"])
def test_depth(kind, lerobot_dataset, tmp_path):
    if not hasattr(importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDatasetMetadata, "depth_keys"):
        pytest.skip("this LeRobot has no depth cameras")
    entry = {"dtype": kind, "shape": (SIZE, SIZE, 1), "names": ["height", "width", "channels"]}
    depth = recorded(tmp_path / "data", {DEPTH: {**entry, "info": {"is_depth_map": True}}})
    ours, theirs = open_dataset(tmp_path / "data"), lerobot_dataset(tmp_path / "data")
    assert ours.cameras == (CAMERAS[0],)
    seen = np.stack([np.asarray(theirs[row][DEPTH]) for row in range(len(theirs))])
    off = abs(seen.reshape(depth.shape) - depth)
    assert (np.median(off) <= 1) if kind == "video" else not off.any()  # a video has 12 bits, and loses some pixels
    for root in copies(tmp_path / "data", tmp_path):
        again = lerobot_dataset(root)
        assert again.meta.depth_keys == [DEPTH]
        assert again.meta.features[DEPTH] == theirs.meta.features[DEPTH]
        for row, expected in enumerate(seen):
            np.testing.assert_array_equal(again[row][DEPTH], expected)
        for name, value in theirs.meta.stats[DEPTH].items():
            np.testing.assert_allclose(again.meta.stats[DEPTH][name], value, rtol=1e-6)


def said_at(item: dict[str, Any]) -> str:
    """The sub-task that LeRobot finds active at a frame."""
    module = importlib.import_module("lerobot.datasets.language_render")
    found = module.active_at(float(item["timestamp"]), persistent=item[LANGUAGE[0]], style="subtask")
    return found["content"] if found else ""


def speak(root: Path, staged: Path) -> None:
    """Let LeRobot write what is said in the second episode: sub-tasks, a question, and a call of a tool."""
    parts = [importlib.import_module(f"{PIPELINE}.{name}") for name in ("reader", "staging", "writer", "executor")]
    reader, staging, writer, executor = parts
    records = list(reader.iter_episodes(root))
    times = records[1].frame_timestamps
    told = [
        {"role": "assistant", "style": "subtask"} | {"content": text, "timestamp": times[frame]}
        for text, frame in (("reach", 1), ("grasp", 4))
    ]
    asked = {"role": "user", "content": "where?", "style": "vqa", "timestamp": times[2], "camera": CAMERAS[0]}
    episode = staging.EpisodeStaging(staged, 1)
    episode.write("plan", told)
    episode.write("vqa", [asked])
    episode.write("interjections", [writer.speech_atom(times[3], "now")])
    writer.LanguageColumnsWriter().write_all(records, staged, root)
    executor.Executor._ensure_annotation_metadata_in_info(root)


def test_language(lerobot_dataset, tmp_path):
    pytest.importorskip(PIPELINE, reason="this LeRobot writes no language")
    recorded(tmp_path / "data", {})
    speak(tmp_path / "data", tmp_path / "staged")
    theirs = lerobot_dataset(tmp_path / "data")
    items = [theirs[row] for row in range(len(theirs))]
    events = [row for row, item in enumerate(items) if item[LANGUAGE[1]]]
    assert events == [LENGTHS[0] + 2, LENGTHS[0] + 3]
    subtasks = [said_at(item) for item in items]
    assert subtasks == [""] * (LENGTHS[0] + 1) + ["reach"] * 3 + ["grasp"] * 3
    for root in (tmp_path / "data", *copies(tmp_path / "data", tmp_path)):
        ours, again = open_dataset(root), lerobot_dataset(root)
        assert [text for episode in ours.episodes for text in ours.subtasks(episode.index) or ()] == subtasks
        assert again.meta.info.tools == theirs.meta.info.tools
        for row, item in enumerate(items):
            assert [again[row][key] for key in LANGUAGE] == [item[key] for key in LANGUAGE]
    part = lerobot_dataset(export(tmp_path / "data", tmp_path / "part", episodes=[1]).path)
    said = [[item[key] for key in LANGUAGE] for item in items[LENGTHS[0] :]]
    assert [[part[row][key] for key in LANGUAGE] for row in range(len(part))] == said
