"""Demonstrations in HDF5 files as robomimic and LIBERO write them. Needs h5py: pip install 'lattok[hdf5]'."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.formats.hdf5_meta import Contents, Demo, StoredArray, difference, opened, read_contents
from lattok.data.schema import INDEX_FEATURES, Damage, Feature, RobotDataset, index_column
from lattok.data.video import BLOCK, BLOCK_BYTES
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.untrusted import followed

SPARSE = 4  # rows further apart than this on average are read one by one, not with those between them
KEYS = {"actions": "action", "rewards": "next.reward", "dones": "next.done"}
FINGERS = ("gripper_0", "gripper_1")
# What `observation.state` is made of where no dataset has that name: LIBERO's parts, and robosuite's.
STATES = (
    (("ee_pos", "ee_ori", "gripper_states"), ("x", "y", "z", "rx", "ry", "rz", *FINGERS)),
    (("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"), ("x", "y", "z", "rx", "ry", "rz", "rw", *FINGERS)),
)


class Column(NamedTuple):
    """Where a column comes from: one dataset, or several side by side."""

    parts: tuple[StoredArray, ...]
    feature: Feature


class RobomimicHDF5(RobotDataset):
    """A robomimic or LIBERO file, or a folder of such files; see `lattok.data.RobotDataset` for what it offers.

    Episodes are the demonstrations of the files in the order of their names, demo_2 before demo_10. Pictures among the
    observations (uint8 [T, H, W, 3]) are cameras `observation.images.<name>`, other numbers `observation.<name>`.
    `observation.state` is an observation of that name, or LIBERO's or robosuite's position, rotation and gripper side
    by side. Numbers stay of the stored type; `next.done` is bool. The frame rate is `fps`, else the `control_freq` in
    env_args. The instruction is LIBERO's (or RoboCasa's), else the name of the environment, else of the file.
    `left_out` has what is not offered, with the reason, `findings` what inspection should say.

    A demonstration that cannot be read is in `damaged` and keeps its number. A file of a folder that cannot be opened
    takes one number there, as how many it held cannot be told: once it is repaired, later files have other numbers.

    Pictures come as they are stored. LIBERO stores them upside down (`macros_image_convention` is "opengl", rows from
    the bottom); what OpenVLA and others train on is turned by 180 degrees, which also swaps left and right.
    """

    kind = "hdf5"
    options = MappingProxyType({"fps": float})
    text = "robomimic and LIBERO (.hdf5 or .h5 files)"
    suffixes = (".hdf5", ".h5")
    needs: ClassVar = {"h5py": "pip install 'lattok[hdf5]'"}

    def __init__(self, path: str | Path, name: str | None = None, *, fps: float | None = None):
        self.root = Path(path)
        self.name = name or (self.root.stem if self.root.is_file() else self.root.resolve().name)
        if fps is not None:
            checks.frame_rate(fps=fps)
        self.check_needs()  # a package that is missing is no damage of a file
        contents: dict[Path, Contents] = {}  # of the files that hold a demonstration that can be read
        listed: list[Demo | str] = []
        for file in _files(self.root):
            try:
                content = read_contents(file)
            except LattokError as error:
                if self.root.is_file():
                    raise
                listed.append(str(error))  # how many it held cannot be told
                continue
            listed += content.demos
            contents |= {file: content} if content.layout else {}
        self._demos = {index: demo for index, demo in enumerate(listed) if isinstance(demo, Demo)}
        self.damaged = tuple(Damage(index, reason) for index, reason in enumerate(listed) if isinstance(reason, str))
        if not self._demos:
            raise LattokError(f"{self.root}: no demonstration can be read, first {self.damaged[0].reason}")
        self.tasks = tuple(dict.fromkeys(demo.instruction for demo in self._demos.values()))
        self.episodes = tuple(Episode(i, demo.length, (demo.instruction,)) for i, demo in self._demos.items())
        first = _checked_alike(contents)
        self.fps = _frames_per_second(self.root, contents) if fps is None else float(fps)
        self.robot, self.left_out = first.robot, first.left_out
        self.findings = (problems.UPSIDE_DOWN.finding(),) if first.upside_down else ()
        self._columns = _columns(first.layout)
        self.features = {key: column.feature for key, column in self._columns.items()} | INDEX_FEATURES
        self.cameras = tuple(key for key, feature in self.features.items() if feature.dtype == "image")

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if any(path.suffix.lower() in cls.suffixes for path in folder.iterdir()) else ()

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        return (self._demo(episode_index).file,)

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        demo = self._demo(episode_index)
        self.check_columns(keys)
        task, columns = self.tasks.index(demo.instruction), {}
        with self._opened(episode_index, demo) as file:
            for key in keys:
                if key in INDEX_FEATURES:
                    columns[key] = index_column(key, demo.length, episode_index, task, self.fps)
                else:
                    columns[key] = _column(file, episode_index, demo, self._columns[key])
        return columns

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        demo, (stored,) = self._demo(episode_index), self._columns[camera].parts
        step = max(1, min(BLOCK, BLOCK_BYTES // math.prod(stored.shape)))
        for i in range(0, len(indices), step):
            with self._opened(episode_index, demo) as file:
                block = _rows(file, episode_index, demo, stored, indices[i : i + step])
            yield block

    def _opened(self, episode_index: int, demo: Demo) -> AbstractContextManager[Any]:
        return opened(demo.file, f", {demo.name} (episode {episode_index})")

    def _demo(self, episode_index: int) -> Demo:
        if episode_index not in self._demos:
            self.no_episode(episode_index)
        return self._demos[episode_index]


def _column(file: Any, episode_index: int, demo: Demo, column: Column) -> np.ndarray:
    parts = [_rows(file, episode_index, demo, stored, np.arange(demo.length)) for stored in column.parts]
    shape = () if column.feature.shape == (1,) else column.feature.shape
    values = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0].reshape(demo.length, *shape)
    return values.astype(column.feature.dtype, copy=False)


def _rows(file: Any, episode_index: int, demo: Demo, stored: StoredArray, rows: np.ndarray) -> np.ndarray:
    """Read rows of a dataset, ascending and each once."""
    first, last, dataset = int(rows[0]), int(rows[-1]) + 1, file["data"][demo.name][stored.path]
    if (dataset.dtype.name, dataset.shape) != (stored.dtype, (demo.length, *stored.shape)):
        what = f"`{stored.path}` is not as it was when the dataset was opened"
        raise LattokError(f"{demo.file}, {demo.name} (episode {episode_index}): {what}. Open it again.")
    if last - first > SPARSE * len(rows):
        return dataset[rows]
    block = dataset[first:last]
    return block if len(block) == len(rows) else block[rows - first]


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        checks.fail("path", "an HDF5 file or a folder of them", f"{root}", "There is no such file.")
    found = (path for path in root.iterdir() if path.suffix.lower() in RobomimicHDF5.suffixes)
    files = [followed(root, path, str(path)) for path in sorted(found) if not path.name.startswith(".")]
    if not files:
        checks.fail("path", f"a folder with files {' or '.join(RobomimicHDF5.suffixes)}", f"none in {root}")
    return files


def _checked_alike(contents: dict[Path, Contents]) -> Contents:
    """Return what holds for all files: that of the first one, which all others must be like."""
    first_file, first = next(iter(contents.items()))
    for file, content in contents.items():
        if content.layout != first.layout:
            what = f"{file} differs from {first_file} in {difference(first.layout, content.layout)}"
            raise LattokError(f"{what}. Open them apart: put files of one kind into a folder of their own.")
    return first


def _frames_per_second(root: Path, contents: dict[Path, Contents]) -> float:
    file, first = next(iter(contents.items()))
    beside = root.absolute().with_suffix(".json")
    hint = f'Write {{"dataset": "{root.name}", "fps": 20}} into a file such as {beside} and open that.'
    if first.fps is None:
        checks.fail("fps", f"the control_freq of env_args, which {file} does not have", "none", hint)
    for other, content in contents.items():
        if content.fps != first.fps:
            got = "none" if content.fps is None else f"{content.fps:g}"
            checks.fail("fps", f"one for all, {first.fps:g} as in {file}", f"{got} in {other}", hint)
    return first.fps


def _columns(layout: tuple[StoredArray, ...]) -> dict[str, Column]:
    """Find features by key, cameras last."""
    columns: dict[str, Column] = {}
    pictures: dict[str, Column] = {}
    observations: dict[str, StoredArray] = {}
    for stored in layout:
        name = stored.path.removeprefix("obs/")
        if stored.is_camera:
            pictures[f"observation.images.{name}"] = Column((stored,), Feature("image", stored.shape, None))
            continue
        dtype = "bool" if stored.path == "dones" else stored.dtype
        feature = Feature(dtype, stored.shape or (1,), None)
        columns[KEYS.get(stored.path, f"observation.{name}")] = Column((stored,), feature)
        observations[name] = stored
    for names, dimensions in STATES:
        parts = tuple(observations[name] for name in names if name in observations)
        flat = len(parts) == len(names) and all(len(part.shape) == 1 for part in parts)
        if "observation.state" not in columns and flat and sum(part.shape[0] for part in parts) == len(dimensions):
            dtype = np.result_type(*(part.dtype for part in parts)).name
            columns["observation.state"] = Column(parts, Feature(dtype, (len(dimensions),), dimensions))
    return columns | pictures
