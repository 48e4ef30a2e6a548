"""LeRobot's classes, for tests that are marked lerobot."""

import importlib

import pytest
import torch


@pytest.fixture(scope="session")
def lerobot_dataset():
    """LeRobot's class, offline and with the decoder that every machine has."""
    pytest.importorskip("lerobot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        module = importlib.import_module("lerobot.datasets.lerobot_dataset")
        yield lambda root, **options: module.LeRobotDataset("org/name", root=root, video_backend="pyav", **options)


@pytest.fixture(scope="module")
def plugin():
    """Offline, one thread, and the plugin found in LeRobot's own way."""
    pytest.importorskip("lerobot")
    pytest.importorskip("lerobot_policy_lattok", reason="pip install ./integrations/lerobot_policy_lattok")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    importlib.import_module("lerobot.utils.import_utils").register_third_party_plugins()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def point(plugin):
    return importlib.import_module("tests.lerobot.point")
