"""LeRobot's classes, for tests that are marked lerobot."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="session")
def lerobot_dataset():
    """LeRobot's class, offline and with the decoder that every machine has."""
    pytest.importorskip("lerobot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        module = importlib.import_module("lerobot.datasets.lerobot_dataset")
        yield lambda root, **options: module.LeRobotDataset("org/name", root=root, video_backend="pyav", **options)
