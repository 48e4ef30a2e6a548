"""The columns that say where a row is, for formats that do not store them: as LeRobot writes them."""

from __future__ import annotations

import numpy as np

from lattok.data.schema import Feature

INDEX_FEATURES = {
    "timestamp": Feature("float32", (1,), None),
    "frame_index": Feature("int64", (1,), None),
    "episode_index": Feature("int64", (1,), None),
    "task_index": Feature("int64", (1,), None),
}


def index_column(key: str, length: int, episode_index: int, task_index: int, fps: float) -> np.ndarray:
    """Column [T] of an episode; `key` is one of `INDEX_FEATURES`."""
    frame = np.arange(length, dtype=np.int64)
    if key == "timestamp":
        return (frame / fps).astype(np.float32)  # seconds from the episode's start
    return frame if key == "frame_index" else np.full_like(frame, {"episode_index": episode_index}.get(key, task_index))
