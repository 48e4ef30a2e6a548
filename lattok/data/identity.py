"""What a dataset is, beside the contents of its files: its split, and what views make of it."""

from __future__ import annotations

from typing import Any

from lattok.data.camera_view import original_camera
from lattok.data.schema import RobotDataset


def split_of(dataset: RobotDataset) -> str | None:
    """The split of an RLDS dataset, which numbers its episodes by itself; None where there are no splits."""
    return getattr(dataset, "split", None)


def same_split(one: str | None, other: str | None) -> bool:
    """Whether two splits are one, as far as both are known: records of older versions do not say."""
    return one == other or None in (one, other)


def seen_as(dataset: RobotDataset) -> dict[str, Any]:
    """What views make of a dataset's files: names of cameras, and columns of actions in another space."""
    cameras = {key: original_camera(dataset, key) for key in dataset.cameras}
    return {"cameras": cameras, "actions": getattr(dataset, "actions_as", {})}
