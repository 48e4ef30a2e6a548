"""What `lattok inspect` does with its flags. Needs no models, so it stays apart from the verbs that do."""

from __future__ import annotations

from typing import Any

from lattok import checks
from lattok.data import inspect_dataset, open_dataset


def inspect_verb(dataset_name: str, reading: dict[str, Any]) -> None:
    """Print what a dataset holds, and what these options would do to it."""
    dataset = open_dataset(dataset_name)
    stride = reading.get("stride")
    inspection = inspect_dataset(
        dataset,
        episodes=reading.get("episodes"),
        cameras=reading.get("cameras"),
        columns=[reading[name] for name in ("action_key", "state_key") if name in reading],
        stride=None if stride is None else checks.stride_in_frames(stride, dataset.fps),
        horizon=reading.get("horizon"),
    )
    print(inspection.render())
