"""Robot datasets: open, look at, cut into windows, write. The format is LeRobot v3; `lerobot` is never needed."""

from lattok.data.action_convert import convert_actions
from lattok.data.action_space import ActionSpace
from lattok.data.action_view import action_spaces, declare, with_actions
from lattok.data.augment import Augmentation
from lattok.data.camera_view import with_cameras
from lattok.data.episodes import select_episodes, split_by_task
from lattok.data.exporting import Exported, export
from lattok.data.extend import fingerprint
from lattok.data.inspect import inspect_dataset
from lattok.data.inspection import Inspection
from lattok.data.interop import frames_from_lerobot
from lattok.data.lerobot import LeRobotV3, sample_dataset_path
from lattok.data.opening import as_dataset, open_dataset
from lattok.data.pixels import resize_pixels
from lattok.data.schema import Feature, FrameTransform, Progress, RobotDataset, camera_keys, dimension_names
from lattok.data.windows import ActionWindows, FramePairs, read_vectors
from lattok.data.writer import LeRobotWriter
from lattok.findings import Finding

__all__ = [
    "ActionSpace",
    "ActionWindows",
    "Augmentation",
    "Exported",
    "Feature",
    "Finding",
    "FramePairs",
    "FrameTransform",
    "Inspection",
    "LeRobotV3",
    "LeRobotWriter",
    "Progress",
    "RobotDataset",
    "action_spaces",
    "as_dataset",
    "camera_keys",
    "convert_actions",
    "declare",
    "dimension_names",
    "export",
    "fingerprint",
    "frames_from_lerobot",
    "inspect_dataset",
    "open_dataset",
    "read_vectors",
    "resize_pixels",
    "sample_dataset_path",
    "select_episodes",
    "split_by_task",
    "with_actions",
    "with_cameras",
]
