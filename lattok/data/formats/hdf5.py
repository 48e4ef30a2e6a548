"""Demonstrations in HDF5 files as robomimic and LIBERO write them. Needs the extra hdf5."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import mode
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.schema import INDEX_FEATURES, Damage, Feature, RobotDataset, index_column, readable
from lattok.data.video import BLOCK, BLOCK_BYTES
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError, first_line
from lattok.utils.untrusted import parse_json, safe_path
from lattok.version import install_extra

MEMBERS = ("actions", "rewards", "dones")  # next to obs/*
ONE_FILE = "lattok reads every file by itself: write what it holds into one (h5copy)."
MIN_CHECKED_BYTES, MAX_EXPANSION = 2**26, 1100  # what numbers may unpack to: deflate, the usual filter, does no better
WAYS_OUT = {  # by what HDF5's message says
    "is not registered": "Write it again without that filter (h5repack).",
    "unable to lock": "Close what writes to it; on a drive without locks set HDF5_USE_FILE_LOCKING=FALSE.",
}
LEFT_OUT = {
    **dict.fromkeys((*MEMBERS, "obs"), "it holds no numbers"),
    "states": "the simulator's own state, of another size for every scene",
    "robot_states": "the simulator's own state",
    "next_obs": "the observations of the next step",
}
SPARSE = 4  # rows further apart than this on average are read one by one, not with those between them
KEYS = {"actions": "action", "rewards": "next.reward", "dones": "next.done"}
FINGERS = ("gripper_0", "gripper_1")
# What `observation.state` is made of where no dataset has that name: LIBERO's parts, and robosuite's.
STATES = (
    (("ee_pos", "ee_ori", "gripper_states"), ("x", "y", "z", "rx", "ry", "rz", *FINGERS)),
    (("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"), ("x", "y", "z", "rx", "ry", "rz", "rw", *FINGERS)),
)


class StoredArray(NamedTuple):  # a dataset of every demonstration: where it is, and what one step of it is
    path: str  # in the demonstration's group
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_camera(self) -> bool:
        return self.path.startswith("obs/") and self.dtype == "uint8" and len(self.shape) == 3 and self.shape[-1] == 3


class Demo(NamedTuple):
    file: Path
    name: str  # of its group below `data`
    length: int  # steps
    instruction: str


Layout = tuple[StoredArray, ...]


class Contents(NamedTuple):
    demos: tuple[Demo | str, ...]  # in the order of their numbers; for one that cannot be read, the reason
    layout: Layout  # of all demonstrations that can be read; empty if there is none
    left_out: dict[str, str]  # other members of a demonstration, with the reason
    fps: float | None
    robot: str | None
    upside_down: bool  # pictures have their rows from the bottom, as OpenGL does


def _h5py() -> Any:
    try:
        return import_module("h5py")  # which only this format needs
    except ImportError:
        raise LattokError(f"reading hdf5 datasets needs h5py. Install it: {install_extra('hdf5')}") from None


@contextmanager
def _reading(path: Path, where: str = "") -> Iterator[None]:
    """Whatever HDF5 raises over a damaged file becomes one line that names it, and the demonstration."""
    try:
        yield
    except LattokError:
        raise
    except (OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        text = first_line(error)
        way_out = next((hint for word, hint in WAYS_OUT.items() if word in text), "Copy the file again.")
        raise LattokError(f"cannot read {path}{where} ({text}). {way_out}") from None


@contextmanager
def _opened(path: Path, where: str = "") -> Iterator[Any]:
    """Open an `h5py.File` for as long as it is read; errors as those of `_reading`."""
    if not path.is_file():
        raise LattokError(f"missing data file {path}. Download or copy it again.")
    with _reading(path, where), _h5py().File(path, "r") as file:
        yield file


def _check_stored(dataset: Any, where: str) -> None:
    """Refuse numbers that are elsewhere, or more than their bytes can hold: room is made before they are read."""
    if dataset.is_virtual or dataset.external:
        raise LattokError(f"{where}: its numbers are in other files. {ONE_FILE}")
    size, stored = dataset.dtype.itemsize, dataset.id.get_storage_size()
    claimed = size * max(math.prod(dataset.shape), math.prod(dataset.chunks or ()))
    if claimed > max(MIN_CHECKED_BYTES, MAX_EXPANSION * stored):
        raise LattokError(f"{where}: expected what {stored:,} bytes can hold, got {claimed:,}. Copy the file again.")


def read_contents(path: Path) -> Contents:
    """List a file. Numbers and pixels are not read."""
    with _opened(path) as file:
        external = _h5py().h5l.TYPE_EXTERNAL  # links by the mere look at which another file would be opened
        found = file.id.links.visit(lambda name, link: name if link.type >= external else None, info=True)
        if found is not None:
            name = found.decode(errors="replace")[:60]
            raise LattokError(f"{path}: `{name}` is a link into another file. {ONE_FILE}")
        group = file.get("data")
        if not _is_group(group) or not len(group):
            raise LattokError(f"{path} is no robomimic file: expected demonstrations as groups in `data`, got none.")
        arguments = _json(path, "env_args", group.attrs)
        kwargs = given if isinstance(given := arguments.get("env_kwargs"), dict) else {}
        language = _json(path, "problem_info", group.attrs).get("language_instruction")
        if isinstance(language, list):  # words
            language = " ".join(map(str, language))
        said = (language, arguments.get("env_name"), group.attrs.get("env_name"))  # else the name of task or file
        said = (text.strip() for text in said if isinstance(text, str) and text.strip())
        instruction = readable(next(said, path.stem))
        convention = group.attrs.get("macros_image_convention")
        listed = [_list_demo(path, group, name, instruction) for name in sorted(group, key=_natural)]
    layouts = [layout for demo, layout, _ in listed if isinstance(demo, Demo)]
    layout = mode(layouts) if layouts else ()
    demos: list[Demo | str] = []
    for demo, own, _ in listed:
        if isinstance(demo, Demo) and own != layout:
            what = f"{path}, {demo.name}: {_difference(layout, own)}"
            demo = f"{what}, unlike most demonstrations of the file. Remove it."
        demos.append(demo)
    others = next((names for _, own, names in listed if own == layout), ())
    left_out = {name: LEFT_OUT.get(name.split("/")[0], "robomimic's format does not name it") for name in others}
    robots, fps = kwargs.get("robots"), kwargs.get("control_freq")
    robot = ", ".join(map(str, robots)) if isinstance(robots, list) else robots
    robot = robot if isinstance(robot, str) and robot else None
    if fps is not None and not checks.is_frame_rate(fps):
        raise LattokError(f"{path}: `control_freq` in env_args: expected a number greater than 0, got {fps!r}.")
    upside_down = isinstance(convention, str | bytes) and convention in ("opengl", b"opengl")
    return Contents(tuple(demos), layout, left_out, None if fps is None else float(fps), robot, upside_down)


def _difference(*layouts: Layout) -> str:
    """Return the first thing that the second layout has differently from the first, for a message."""
    shown = [{path: f"{kind} [{', '.join(('T', *map(str, shape)))}]" for path, kind, shape in each} for each in layouts]
    expected, got = shown
    path = next(path for path in (*expected, *got) if expected.get(path) != got.get(path))
    return f"`{path[:100]}`: expected {expected.get(path, 'nothing')}, got {got.get(path, 'nothing')}"


def _list_demo(path: Path, group: Any, name: str, instruction: str) -> tuple[Demo | str, Layout, tuple[str, ...]]:
    """Return a demonstration or the reason why not, its layout, and what else is in it."""
    where = f"{path}, {name}"
    try:
        with _reading(path, f", {name}"):
            demo = group[name]
            actions: Any = demo.get("actions") if _is_group(demo) else None
            length = len(actions) if isinstance(actions, _h5py().Dataset) and actions.ndim else 0
            if not length:
                raise LattokError(f"{where}: expected a group with `actions`, at least one, got none. Remove it.")
            if not _is_numeric(actions):
                got = f"{actions.dtype} {list(actions.shape)}"
                raise LattokError(f"{where}: expected numbers as `actions`, got {got}. Write them as numbers.")
            if (samples := demo.attrs.get("num_samples", length)) != length:
                raise LattokError(f"{where}: expected {samples} actions (num_samples), got {length}. Copy it again.")
            layout, others = _members(demo, length, where)
            spoken = _json(path, "ep_meta", demo.attrs).get("lang")  # RoboCasa has an instruction for every episode
            text = spoken.strip() if isinstance(spoken, str) and spoken.strip() else instruction
            return Demo(path, name, length, text), layout, others
    except LattokError as error:
        return str(error), (), ()


def _members(demo: Any, length: int, where: str) -> tuple[Layout, tuple[str, ...]]:
    """List the datasets that are offered, in one order for all files, and names of all else."""
    layout, others = list[StoredArray](), [key for key in demo if key not in (*MEMBERS, "obs")]
    observations = sorted(f"obs/{key}" for key in demo["obs"]) if _is_group(demo.get("obs")) else []
    for member in (*(key for key in MEMBERS if key in demo), *observations):
        dataset = demo[member]
        if not _is_numeric(dataset):
            others.append(member)
            continue
        _check_stored(dataset, f"{where}, `{member}`")
        if readable(member) != member:
            raise LattokError(f"{where}: expected names in UTF-8, got {member!a:.60}. Rename it.")
        if (rows := len(dataset) if dataset.ndim else 0) != length:
            checks.refuse(
                where, f"{checks.counted(length, 'row')} of `{member}`, one per action", rows, "Copy it again."
            )
        layout.append(StoredArray(member, dataset.dtype.name, dataset.shape[1:]))
    return tuple(layout), tuple(others)


def _json(path: Path, name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Read an attribute that holds a JSON object; {} where there is none."""
    text = attributes.get(name, "{}")
    value = parse_json(text if isinstance(text, str | bytes) else "", f"{path}: the attribute {name}", nan=True)
    if not isinstance(value, dict):
        raise LattokError(f"{path}: expected a JSON object as attribute {name}, got {type(value).__name__}.")
    return value


def _natural(name: str) -> tuple:
    """Put demo_2 before demo_10."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name))


def _is_group(item: Any) -> bool:
    return isinstance(item, _h5py().Group)


def _is_numeric(item: Any) -> bool:
    return isinstance(item, _h5py().Dataset) and item.dtype.kind in "fiub" and 0 not in item.shape[1:]


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

    def __init__(self, path: str | Path, name: str | None = None, *, fps: float | None = None):
        self.root = Path(path)
        self.name = name or (self.root.stem if self.root.is_file() else self.root.resolve().name)
        _h5py()  # a package that is missing is no damage of a file
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
            if content.layout:
                contents[file] = content
        self._demos = {index: demo for index, demo in enumerate(listed) if isinstance(demo, Demo)}
        self.damaged = tuple(Damage(index, reason) for index, reason in enumerate(listed) if isinstance(reason, str))
        if not self._demos:
            raise LattokError(f"{self.root}: no demonstration can be read, first {self.damaged[0].reason}")
        self.tasks = tuple(dict.fromkeys(demo.instruction for demo in self._demos.values()))
        self.episodes = tuple(Episode(i, demo.length, (demo.instruction,)) for i, demo in self._demos.items())
        first_file, first = next(iter(contents.items()))
        for file, content in contents.items():
            if content.layout != first.layout:
                what = f"{file} differs from {first_file} in {_difference(first.layout, content.layout)}"
                raise LattokError(f"{what}. Open them apart: put files of one kind into a folder of their own.")
        self.fps = _frames_per_second(self.root, contents) if fps is None else float(fps)
        self.robot = first.robot
        self.findings = (problems.UPSIDE_DOWN.finding(),) if first.upside_down else ()
        features, self._parts = _columns(first.layout)
        used = {stored.path for parts in self._parts.values() for stored in parts}
        gone = [stored.path for stored in first.layout if stored.path not in used]
        self.left_out = first.left_out | dict.fromkeys(gone, "a camera has its name")
        self.features = features | INDEX_FEATURES
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
        with _arrays(episode_index, demo) as read:
            for key in keys:
                if key in INDEX_FEATURES:
                    columns[key] = index_column(key, demo.length, episode_index, task, self.fps)
                    continue
                parts = [read(stored, np.arange(demo.length)) for stored in self._parts[key]]
                shape, dtype = self.features[key].shape, self.features[key].dtype
                rows = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
                columns[key] = rows.reshape(demo.length, *(() if shape == (1,) else shape)).astype(dtype, copy=False)
        return columns

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        demo, (stored,) = self._demo(episode_index), self._parts[camera]
        step = max(1, min(BLOCK, BLOCK_BYTES // math.prod(stored.shape)))
        for i in range(0, len(indices), step):
            with _arrays(episode_index, demo) as read:
                block = read(stored, indices[i : i + step])
            yield block

    def _demo(self, episode_index: int) -> Demo:
        return self._demos.get(episode_index) or self.no_episode(episode_index)


@contextmanager
def _arrays(episode_index: int, demo: Demo) -> Iterator[Callable[[StoredArray, np.ndarray], np.ndarray]]:
    """Open the file of a demonstration, to read rows of its datasets, ascending and each once."""
    where = f", {demo.name} (episode {episode_index})"

    def read(stored: StoredArray, rows: np.ndarray) -> np.ndarray:
        first, last, dataset = int(rows[0]), int(rows[-1]) + 1, file["data"][demo.name][stored.path]
        if (dataset.dtype.name, dataset.shape) != (stored.dtype, (demo.length, *stored.shape)):
            what = f"`{stored.path}` is not as it was when the dataset was opened"
            raise LattokError(f"{demo.file}{where}: {what}. Open it again.")
        if last - first > SPARSE * len(rows):
            return dataset[rows]
        block = dataset[first:last]
        return block if len(block) == len(rows) else block[rows - first]

    with _opened(demo.file, where) as file:
        yield read


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        checks.fail("path", "an HDF5 file or a folder of them", f"{root}", "There is no such file.")
    found = (path for path in root.iterdir() if path.suffix.lower() in RobomimicHDF5.suffixes)
    files = [safe_path(root, path, str(path)) for path in sorted(found) if not path.name.startswith(".")]
    if not files:
        checks.fail("path", f"a folder with files {' or '.join(RobomimicHDF5.suffixes)}", f"none in {root}")
    return files


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


def _columns(layout: Layout) -> tuple[dict[str, Feature], dict[str, Layout]]:
    """Return features by key, cameras last, and where each comes from: one dataset, or several side by side."""
    found: dict[str, Feature] = {}
    pictures: dict[str, Feature] = {}
    parts_of: dict[str, Layout] = {}
    for stored in sorted(layout, key=lambda stored: stored.is_camera):  # which have the last word
        name = stored.path.removeprefix("obs/")
        if stored.is_camera:
            key = f"observation.images.{name}"
            pictures[key] = Feature("image", stored.shape, None)
        else:
            dtype = "bool" if stored.path == "dones" else stored.dtype
            key = KEYS.get(stored.path, f"observation.{name}")
            found[key] = Feature(dtype, stored.shape or (1,), None)
        parts_of[key] = (stored,)
    for names, dimensions in STATES:
        parts = [part for name in names for part in parts_of.get(f"observation.{name}", ())]
        flat = len(parts) == len(names) and all(len(part.shape) == 1 for part in parts)
        if "observation.state" not in found and flat and sum(part.shape[0] for part in parts) == len(dimensions):
            dtype = np.result_type(*(part.dtype for part in parts)).name
            found["observation.state"] = Feature(dtype, (len(dimensions),), dimensions)
            parts_of["observation.state"] = tuple(parts)
    return found | pictures, parts_of
