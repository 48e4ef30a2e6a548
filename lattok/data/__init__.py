"""Robot datasets: open, look at, write. LeRobot itself is never needed."""

from lattok.data.actions.convert import convert_actions, from_unified, known_dimensions, to_unified
from lattok.data.actions.space import ActionSpace
from lattok.data.episodes import select_episodes, split_by_task
from lattok.data.exporting import ExportResult, export
from lattok.data.formats.lerobot import LeRobotV3, sample_dataset_path
from lattok.data.formats.lerobot_writer import LeRobotWriter
from lattok.data.inspection import Inspection, inspect_dataset
from lattok.data.opening import as_dataset, open_dataset
from lattok.data.pixels import frames_from_lerobot, resize_pixels
from lattok.data.repairing import RepairResult, repair
from lattok.data.schema import Damage, Feature, FrameTransform, Progress, RobotDataset, camera_keys, dimension_names
from lattok.data.vectors import read_vectors
from lattok.data.views import action_spaces, declare, with_actions, with_cameras, with_columns, with_dimensions
from lattok.utils.findings import Finding

__all__ = ["ActionSpace", "Damage", "ExportResult", "Feature", "Finding", "FrameTransform", "Inspection", "LeRobotV3"]
__all__ += ["LeRobotWriter", "Progress", "RepairResult", "RobotDataset", "action_spaces", "as_dataset", "camera_keys"]
__all__ += ["convert_actions", "declare", "dimension_names", "export", "frames_from_lerobot", "from_unified"]
__all__ += ["inspect_dataset", "known_dimensions", "open_dataset", "read_vectors", "repair", "resize_pixels"]
__all__ += ["sample_dataset_path", "select_episodes", "split_by_task", "to_unified", "with_actions", "with_cameras"]
__all__ += ["with_columns", "with_dimensions"]
