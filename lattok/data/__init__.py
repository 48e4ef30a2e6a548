"""Robot datasets: open, look at, cut into windows, write. The format is LeRobot v3; `lerobot` is never needed."""

from lattok.data.episodes import select_episodes, split_by_task
from lattok.data.extend import fingerprint
from lattok.data.inspect import Finding, Inspection, inspect_dataset
from lattok.data.interop import frames_from_lerobot
from lattok.data.lerobot import LeRobotV3, open_dataset, sample_dataset_path
from lattok.data.schema import Feature, FrameTransform, Progress, RobotDataset, camera_keys, dimension_names
from lattok.data.windows import ActionWindows, FramePairs, read_vectors
from lattok.data.writer import LeRobotWriter

__all__ = [
    "ActionWindows",
    "Feature",
    "Finding",
    "FramePairs",
    "FrameTransform",
    "Inspection",
    "LeRobotV3",
    "LeRobotWriter",
    "Progress",
    "RobotDataset",
    "camera_keys",
    "dimension_names",
    "fingerprint",
    "frames_from_lerobot",
    "inspect_dataset",
    "open_dataset",
    "read_vectors",
    "sample_dataset_path",
    "select_episodes",
    "split_by_task",
]
