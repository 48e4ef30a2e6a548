"""What a dataset is, beside the contents of its files: a run goes on only from the same one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lattok.data.action_view import action_spaces
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


def dataset_hash(dataset: RobotDataset) -> str:
    """SHA-256 of what models depend on: name, format, rate, split, cameras, action spaces, episodes, instructions."""
    content = hashlib.sha256()
    for episode in dataset.episodes:
        content.update(repr(tuple(episode)).encode())
    facts = {
        "name": dataset.name,
        "kind": dataset.kind,
        "fps": dataset.fps,
        "split": split_of(dataset),
        "seen_as": seen_as(dataset),
        "action_spaces": {key: space.to_json() for key, space in action_spaces(dataset).items()},
        "episodes": content.hexdigest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
