"""`lattok inspect` and `lattok doctor`: say what is there and what is wrong with it, and change nothing."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

import lattok
from lattok import checks
from lattok.cli.flags import Dataset, Names, Number, Text


def inspect(
    dataset: Dataset,
    action_key: Text = None,
    state_key: Text = None,
    cameras: Names = (),
    episodes: Text = None,
    stride: Text = None,
    horizon: Number = None,
) -> None:
    """Say what a dataset holds and what in it will hurt: constant dimensions, outliers, missing videos, wrong rates.

    Example: lattok inspect path/to/dataset

    Args:
        action_key: Column with the actions (default: action).
        state_key: Column with the robot state (default: observation.state).
        cameras: Cameras to look at, short names allowed (default: all).
        episodes: "train", "test" (the last episode of every task), "0:40" or "0,3,5:9".
        stride: Gap of a frame pair, of which the dataset shall have many: frames ("16") or seconds ("0.2s").
        horizon: Steps of an action chunk, of which it shall have many.
    """
    from lattok.data import inspect_dataset

    opened = lattok.open_dataset(dataset)
    inspection = inspect_dataset(
        opened,
        episodes=episodes,
        cameras=cameras or None,
        columns=[key for key in (action_key, state_key) if key is not None],
        stride=None if stride is None else checks.stride_in_frames(stride, opened.fps),
        horizon=horizon,
    )
    print(inspection.render())


def doctor(
    subjects: Annotated[Positional[tuple[str, ...]], arg(metavar="[MODEL|DATASET ...]")] = (),
    revision: Text = None,
) -> int:
    """Say what is wrong with this machine, with models and with datasets, and what to do about it. Changes nothing.

    Example: lattok doctor my-lam path/to/dataset

    Args:
        subjects: Folders or Hub ids of models and datasets; none for the environment only.
        revision: Revision of a Hub model or dataset.
    """
    from lattok.cli.doctor import diagnose

    diagnosis = diagnose(subjects, revision)
    print(diagnosis.render())
    return 0 if diagnosis.healthy else 1
