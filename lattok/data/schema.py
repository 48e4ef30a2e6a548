"""What lattok expects of a dataset, whatever its format: the base class, its features, camera names."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
from torch.utils.data._utils.collate import default_collate_fn_map  # torch's documented place

from lattok.hub.fetching import LocalFiles
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.attributes import Suggests
from lattok.utils.checks import LattokError
from lattok.utils.files import read_json
from lattok.utils.findings import Finding
from lattok.utils.parallel import check_wanted
from lattok.utils.registry import Registry
from lattok.utils.untrusted import safe_path

FrameTransform = Callable[[np.ndarray], np.ndarray]  # uint8 [n, H, W, 3] to uint8 [n, h, w, 3]
Progress = Callable[[int, int], None]  # frames done, frames in all
ManyColumns = Iterator[tuple[int, dict[str, np.ndarray] | LattokError]]  # by episode index; or why it cannot be read

NONE: Mapping[str, Any] = {}
NONE_KNOWN: Mapping[int, Any] = {}
IMAGE_DTYPES = ("video", "image")
EXPORTED = Path("meta") / "export.json"  # what a dataset is an export of
PROVENANCE = Path("meta") / "lattok.json"  # what the label columns of a dataset are; see `lattok.labels`
SOURCE = Path("meta") / "source.json"  # which dataset labels in a folder of their own are of
LABELS = "labels/file-*.parquet"  # of a dataset that is elsewhere, beside their PROVENANCE
NOTE = "info"  # where LeRobot itself keeps facts about a feature
INDEX_KEYS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
HELD_OUT = ("valid", "val", "validation")  # splits of files that judge: robomimic's, and of others
JUDGES = (*HELD_OUT, "test", "testing", "eval", "evaluation")  # of folders, and of meta/info.json
# why they are left out: of LeRobot, and of others
DEPTH = "a depth camera, which models here do not read; annotate and export copy it unchanged"
OTHER_DEPTH = "a depth camera, which models here do not read; export leaves it out"
MOST_LOOKED_AT = 1000  # names in the folders of a level, for a hint or a guess
FAR_BELOW = 9  # levels of folders: recordings are put by laboratory, robot, task, success, day, hour
WITHOUT = "Give a dataset with actions: only latent action models of video need none."


class Feature(NamedTuple):
    """One feature of a dataset, e.g. `Feature("float32", (4,), ("x", "y", "z", "gripper"))`."""

    dtype: str  # a numpy name, "string", "video" or "image"
    shape: tuple[int, ...]
    names: tuple[str, ...] | None  # one per dimension of a vector, where the dataset has them


class ColumnPart(NamedTuple):
    """Some of the numbers of a column, which are also a column of their own."""

    column: str
    start: int
    end: int

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return its rows [T] or [T, n] of those of the column, [T] or [T, m]."""
        rows = np.ascontiguousarray(values.reshape(len(values), -1)[:, self.start : self.end])
        return rows[:, 0] if self.end - self.start == 1 else rows


class EpisodeColumns(dict[str, Any]):
    """What `dataset[i]` is: all of an episode."""


def _collate_episodes(batch: list[EpisodeColumns], *, collate_fn_map: Any = None) -> NoReturn:
    hint = "DataLoader(dataset, batch_size=None) gives one at a time; lattok.samples has frame pairs and action chunks."
    checks.fail("batch_size", "None, as the items of a dataset are whole episodes", f"a batch of {len(batch)}", hint)


default_collate_fn_map[EpisodeColumns] = _collate_episodes


class Damage(NamedTuple):  # an episode that cannot be read at all, and why
    episode_index: int
    reason: str


LEROBOT_INDEX = {key: Feature("float32" if key == "timestamp" else "int64", (1,), None) for key in INDEX_KEYS}
INDEX_FEATURES = {key: feature for key, feature in LEROBOT_INDEX.items() if key != "index"}  # of all other formats


def index_column(key: str, length: int, episode_index: int, task_index: int, fps: float) -> np.ndarray:
    """Column [T] of an episode, as LeRobot writes it; `key` is one of `INDEX_FEATURES`."""
    frame = np.arange(length, dtype=np.int64)
    if key == "timestamp":
        return (frame / fps).astype(np.float32)  # seconds from the episode's start
    return frame if key == "frame_index" else np.full_like(frame, {"episode_index": episode_index}.get(key, task_index))


def holds(folder: Path, suffixes: Collection[str], levels: int = 2) -> bool:
    """Return whether a folder, or those in it, have a file with one of these endings."""
    return holds_file(folder, lambda path: path.suffix.lower() in suffixes, levels)


def holds_file(folder: Path, wanted: Callable[[Path], bool], levels: int) -> bool:
    """Return whether a folder, or those in it, have a wanted file: of each of these levels the first thousand are
    looked at."""
    places = [folder]
    for _ in range(levels):
        inner = (path for place in places if place.is_dir() for path in place.iterdir() if path.name[0] != ".")
        places = [*islice(inner, MOST_LOOKED_AT)]
        if any(map(wanted, places)):
            return True
    return False


def readable(text: str) -> str:
    """Text that can be printed and stored: names of files may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


class RobotDataset(Suggests, ABC):
    """Demonstrations: episodes of frames, each with numeric columns and camera images. Every format is a subclass.

    Reading is safe from several threads, and a dataset can be pickled: workers on other machines read the same paths.
    """

    drawn_by = "A page with its films: lattok view DATASET --out FILE.html."

    # what every dataset has
    kind: ClassVar[str]  # format: lerobot, rlds, video or hdf5
    root: Path  # folder of the dataset, or its only file
    name: str  # for titles and messages
    address: str = ""  # what `open_dataset` was given: commands that are suggested name it
    opened_with: Mapping[str, Any] = NONE  # its options
    fps: float
    features: dict[str, Feature]  # all of them, by key
    cameras: tuple[str, ...]  # full keys
    tasks: tuple[str, ...]  # language instructions; `task_index` counts in this order
    episodes: Sequence[Episode]  # by `episode_index`

    # what it may have
    robot: str | None = None  # kind of robot
    origin: str = ""  # who wrote the files, as they say: their layout, or the name that TFDS knows
    control: Any = None  # what the files say of how the robot was controlled
    split: str | None = None  # which numbers its episodes by itself
    held_out: tuple[int, ...] = ()  # episodes that judge, where the files say so themselves
    damaged: tuple[Damage, ...] = ()  # not among `episodes`, as their length cannot be told; their indices stay free
    left_out: Mapping[str, str] = NONE  # what is stored and not offered, with the reason
    findings: tuple[Finding, ...] = ()  # what inspection should say
    columns_apart: bool = False  # from the images: reading columns is cheap
    file_per_episode: bool = False  # a file of rows for every episode: there may be very many of them
    videos_at_rate: bool = False  # its videos show a frame for each row, at `fps`; others are resampled
    files: LocalFiles = LocalFiles()  # all here, or fetched from the Hub when they are read
    labels: Any = None  # those of other folders, whose columns are among the features: their `provenance`
    action_spaces: Mapping[str, Any] | None = None  # what columns mean, where a user says it
    actions_as: Mapping[str, Any] = NONE  # spaces that columns are converted to, for provenance
    robot_spaces: Mapping[str, Any] = NONE  # spaces of the robot's own numbers, of columns that are in a unified one
    joined: Mapping[str, tuple[str, ...]] = NONE  # columns that are several of the files', by name
    parts: Mapping[str, ColumnPart] = NONE  # columns that are some of the numbers of one of the files', by name
    camera_names: Mapping[str, str] = NONE  # further names of cameras, with their keys
    instruction_key: str = "task_index"  # the column that numbers `tasks`
    unlisted_tasks: Collection[int] = ()  # numbers below the highest that stand for no instruction
    absent: Mapping[str, tuple[int, ...]] = NONE  # by column: dimensions that the robot lacks, always 0

    # how `open_dataset` finds the format: it makes `cls(path, name, **options)`
    options: ClassVar[Mapping[str, type]] = NONE  # keywords that users may give, such as {"fps": float}
    text: ClassVar[str] = ""  # what it is and how it is told, for errors
    marked: ClassVar[bool] = False  # by a file that no other format has: no other one is asked
    suffixes: ClassVar[tuple[str, ...]] = ()  # of files each of which is a dataset
    # of what is on the Hub, the files that opening needs; it is then made as `cls(path, name, files, **options)` and
    # reads all others within `files.at_hand`. Empty: everything is fetched first
    opens_with: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "recognise" in vars(cls):
            FORMATS.add(cls.kind, cls)

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        """Datasets of this format in `folder`: itself, or folders in it. Goes by files that only this format has, by
        their names or the first bytes in them; a folder's name proves nothing."""
        return ()

    @classmethod
    def guess(cls, folder: Path) -> bool:
        """Return whether `folder` may be of this format, if no format recognises it."""
        return False

    @classmethod
    def guess_below(cls, folder: Path) -> bool:
        """Return whether folders far below may make `folder` one of this format, if no format guesses so."""
        return False

    @classmethod
    def hint(cls, folder: Path) -> str:
        """Return how to turn `folder`, which no format recognises, into a dataset of this format; "" if nothing
        does."""
        return ""

    @abstractmethod
    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of one episode: [T] for scalars (shape (1,)), else [T, *shape]."""

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Frames of one camera (full key) at ascending `indices`, in blocks uint8 [k, H, W, 3]."""
        raise NotImplementedError(f"{type(self).__name__}.blocks: a dataset with cameras must read them")

    def frames(
        self,
        episode_index: int,
        cameras: Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        transform: FrameTransform | None = None,
    ) -> np.ndarray:
        """Images of one episode, uint8 [T, V, H, W, 3]; `transform` acts on blocks [n, H, W, 3] as they are decoded.

        `indices` are frame indices in the episode, in any order; all frames by default. Other images are not read.
        """
        keys, length = camera_keys(self, cameras), self.length(episode_index)
        wanted = np.arange(length) if indices is None else _whole(indices, length)
        ascending, back = np.unique(wanted, return_inverse=True)
        store: np.ndarray | None = None
        for v, key in enumerate(keys):
            done = 0
            for block in self.blocks(episode_index, key, ascending):
                check_wanted()
                given = len(block)
                block = block if transform is None else transform(block)
                if block.dtype != np.uint8 or block.shape[-1] != 3:
                    name, got = "transform" if transform else f"blocks` of `{key}", f"{block.dtype} {list(block.shape)}"
                    checks.fail(name, "blocks of RGB pixels, uint8 [n, h, w, 3]", got, "Pixels are 0 to 255.")
                checks.size("transform", "frames out of the block that it was given", len(block), given)
                if store is None:
                    store = np.empty((len(ascending), len(keys), *block.shape[1:]), dtype=np.uint8)
                if block.shape[1:] != store.shape[2:]:
                    first, other = ("x".join(map(str, size)) for size in (store.shape[2:], block.shape[1:]))
                    got = f"{first} from {keys[0]} and {other} from {key}"
                    hint = "Choose one camera, or give a `transform` that resizes, such as a model's `resize`."
                    checks.fail("cameras", "frames of one size", got, hint)
                store[done : done + len(block), v] = block
                done += len(block)
            checks.size(f"frames` of `{key}", "frames", done, len(ascending))
        assert store is not None
        return store if np.array_equal(wanted, ascending) else store[back.reshape(-1)]

    def __len__(self) -> int:
        """Count the episodes."""
        return len(self.episodes)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Return what is known of an episode: `episode`, and each column [T] or [T, ...]; images have `frames`."""
        if not isinstance(place, int | np.integer):
            hint = "Several: dataset.columns_of(dataset.episodes[:3], [KEY])."
            checks.fail("place", "the place of an episode, such as 0 or -1", repr(place), hint)
        episode = self.episodes[place]
        columns = self.columns(episode.index, [key for key in self.features if key not in self.cameras])
        return EpisodeColumns(episode=episode, **columns)

    @property
    def num_episodes(self) -> int:
        return len(self.episodes)

    @property
    def num_frames(self) -> int:
        return sum(episode.length for episode in self.episodes)

    def actions(self, episode_index: int, key: str = "action") -> np.ndarray:
        """Read the actions [T, m] of an episode, in the units of the dataset; NaN where they are unknown."""
        vector_key(self, "key", key)
        return self.columns(episode_index, [key])[key]

    @cached_property
    def _lengths(self) -> dict[int, int]:
        return {episode.index: episode.length for episode in self.episodes}

    def length(self, episode_index: int) -> int:
        """Count the frames of an episode; an error if there is no such episode."""
        return self._lengths[episode_index] if episode_index in self._lengths else self.no_episode(episode_index)

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        """List the files that the rows and frames of an episode are read from."""
        return (self.root,)

    def outlines(self) -> Mapping[int, Any]:
        """Return by episode what equal episodes share, as far as it is known without reading rows; else empty."""
        return NONE_KNOWN

    def unchecked_columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """As `columns`, without checks that would read the images too."""
        return self.columns(episode_index, keys)

    def columns_of(self, episodes: Sequence[Episode], keys: Sequence[str], checked: bool = True) -> ManyColumns:
        """Columns of many episodes by index, in any order, or the error; not `checked`: as `unchecked_columns`."""
        read = self.columns if checked else self.unchecked_columns
        for episode in episodes:
            try:
                yield episode.index, read(episode.index, keys)
            except LattokError as error:
                yield episode.index, error

    def subtasks(self, episode_index: int) -> list[str] | None:
        """Return the text of the sub-task at each frame of an episode, "" without one; None: the dataset has none."""
        return None

    def encoded_images(self, episode_index: int, camera: str) -> list[bytes] | None:
        """Return the images of one camera (full key) as they are stored, if as JPEG or PNG, else None."""
        return None

    def video_span(self, episode_index: int, camera: str) -> tuple[Path, float, float] | None:
        """Video file of an episode, with the seconds at which the episode starts and ends in it; None without one."""
        return None

    def shared_spans(self, camera: str) -> Mapping[int, int]:
        """Return episodes that claim seconds of a video which another one claims too, with that one."""
        return NONE_KNOWN

    def provenance(self) -> tuple[dict[str, Any], Path]:
        """Return what the dataset records about its label columns, by their prefix, and the file that it is in."""
        path = self.root / PROVENANCE
        return (read_json(safe_path(self.root, path, str(path))) if path.is_file() else {}), path

    def statistics(self) -> dict[str, Any] | None:
        """Return stored statistics of all rows by column, as {"action": {"mean": [...], ...}}; None without any."""
        return None

    def all_statistics(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield statistics of all rows by column, with the file that holds them."""
        return iter(())

    def file_findings(self) -> Iterator[Finding]:
        """Yield what inspection should say of files that nothing else reads, such as some of no episode."""
        return iter(())

    def original_camera(self, key: str) -> str:
        """Return what the files call the camera `key`, whatever name a view gives it."""
        return key

    @property
    def seen_as(self) -> dict[str, Any]:
        """What views change: names of cameras, and columns of actions in another space."""
        cameras = {key: self.original_camera(key) for key in self.cameras}
        joined = {"columns": {key: list(names) for key, names in self.joined.items()}} if self.joined else {}
        return {"cameras": cameras, "actions": dict(self.actions_as), **joined}

    def check_columns(self, keys: Sequence[str], known: Iterable[str] | None = None, hint: str = "") -> None:
        """Every key must be a column: a feature other than a camera, or one of those `known`."""
        checks.names("keys", keys)
        known = list(known or (key for key in self.features if key not in self.cameras))
        for key in keys:
            if key not in known:
                checks.fail("keys", "columns among " + checks.listed(known), f"{key!r:.200}", hint)

    def no_episode(self, episode_index: int) -> NoReturn:
        """Raise an error about an episode that is not in `episodes`: why it is damaged, or which ones exist."""
        if reason := dict(self.damaged).get(episode_index):
            raise LattokError(f"episode {episode_index}: {reason}")
        last = max([*(e.index for e in self.episodes[-1:]), *(d.episode_index for d in self.damaged)], default=-1)
        checks.fail("episode_index", f"an episode of `{self.name}` (0 to {last})", repr(episode_index))

    def __repr__(self) -> str:
        episodes = checks.counted(self.num_episodes, "episode")
        frames = checks.counted(self.num_frames, "frame")
        return f"{type(self).__name__}({self.name!r}, {episodes}, {frames}, {self.fps:g} fps)"


NUMBERS = ("float", "int")  # kinds of columns that are vectors
PARTS = (*NUMBERS, "uint", "bool")  # that can be joined to one
ARRAYS = (".npz", ".npy", ".pt", ".pth", ".pkl", ".pickle", ".csv", ".mat", ".safetensors")  # files of arrays
TABLES = (".parquet", ".arrow", ".feather", ".lance")  # and of rows, where they are of no format
LONGEST_NAME = 255  # characters, as of folders
TIME = "(t|times?|timestamps?|stamps?)"  # the last word of a column of times
# what is no part of a motion: flags, text, and among observations the action itself, which a policy would copy
NO_PART = re.compile(
    r"^observation\..*action|terminate|terminal|instruction|language|\blang_|embed|_emb\b|discount|reward"
    r"|success|intervention|sequence_length|(^|[._])(task|object|episode|scene|step)_?(id|idx|index)$"
    r"|demo_(start|end)_"  # of UMI: where the demonstration begins and ends
    rf"|(^|[._]){TIME}$",
    re.I,
)
WHOLE_ACTION = re.compile(r"^actions(_\w+)?$|^action\..*actions", re.I)  # not a part: several say one motion
KINDS_OF_PARTS = tuple(
    re.compile(words, re.I) for words in ("world_vector|trans|pos|xyz", "rot|quat|ori|rpy|euler", "$^", "gripper")
)
BARE_STATE = re.compile(  # as openpi names DROID's
    r"states\..+|(?!action)[^.]*(joint|gripper|eef|cartesian|qpos|proprio)[^.]*", re.I
)
ALL_ELSE = 2  # place of what matches none of them
FORMATS: Registry[type[RobotDataset]] = Registry("lattok.datasets", "lattok.data.formats", yielding=True)


def same_split(one: str | None, other: str | None) -> bool:
    """Return whether two splits are one, as far as both are known: records of older versions do not say."""
    return one == other or None in (one, other)


def depth_cameras(dataset: RobotDataset) -> list[str]:
    """Full keys of the cameras that measure distances, which are among neither its cameras nor its features."""
    return [key for key, reason in dataset.left_out.items() if reason in (DEPTH, OTHER_DEPTH)]


def camera_keys(dataset: RobotDataset, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Full keys of the cameras called `names`, in that order; all cameras by default.

    A short name is the end of a key after a dot: "corner2" is "observation.images.corner2". The dataset's own further
    names (`camera_names`) count too.
    """
    if not dataset.cameras:
        depth = depth_cameras(dataset)
        few = f" but {', '.join(depth)}, {dataset.left_out[depth[0]]}" if depth else ""
        raise LattokError(f"dataset `{dataset.name}` has no cameras{few}. Choose a dataset with images.")
    if names is None:
        return dataset.cameras
    checks.names("cameras", names)
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        hint = "Frame indices come after the cameras: frames(episode_index, None, indices)."
        checks.fail("cameras", "names of cameras", f"{names!r:.60}", hint)
    keys = tuple(_camera_key(dataset, name) for name in names)
    if not keys or len(set(keys)) != len(keys):
        checks.fail("cameras", "one or more different names", repr(list(names)))
    return keys


def short_name(key: str) -> str:
    """Return what users call a camera: the end of its key after the last dot."""
    return key.rsplit(".", 1)[-1]


def _camera_key(dataset: RobotDataset, name: str) -> str:
    if name not in dataset.cameras:
        name = dataset.camera_names.get(name.removeprefix("video."), name)
    found = [name] if name in dataset.cameras else [key for key in dataset.cameras if key.endswith("." + name)]
    if len(found) != 1:
        short = [*map(short_name, dataset.cameras)]
        hint = "Put spaces between names." if "," in name else checks.did_you_mean(name, short)
        hint = hint or (f"Such as cameras={short[0]}." if short else "")
        if depth := [key for key in depth_cameras(dataset) if key == name or key.endswith("." + name)]:
            hint = f"`{depth[0]}` is {dataset.left_out[depth[0]]}."
        checks.fail("cameras", f"names among {', '.join(short)}", repr(name), hint)
    return found[0]


def vector_key(
    dataset: RobotDataset, argument: str, key: str, hint: str = "", kinds: tuple[str, ...] = NUMBERS
) -> Feature:
    """The feature `key`, which must be a numeric scalar or vector; otherwise an error that lists the candidates."""
    if key not in _vectors(dataset, kinds):
        own = [name for name in own_vectors(dataset, kinds) if argument != "state_key" or not name.startswith("action")]
        if not own:
            other = "another vector that is no action" if argument == "state_key" else "any other vector"
            what = f"{dataset.name} has no {key!r:.200}, nor {other}"
            raise LattokError(f"`{argument}`: {what}. {hint or WITHOUT}")
        way_out = how_to_join(dataset) if key in parts_of(dataset) else checks.did_you_mean(key, own)
        checks.fail(argument, f"one of {checks.listed(own)}", f"{key!r:.200}", f"{hint} {way_out}".strip())
    return dataset.features[key]


def parts_of(dataset: RobotDataset, without: Collection[str] = ()) -> dict[str, list[str]]:
    """Return the columns that become `action` and `observation.state`, where these are missing: none of `without`."""
    found = {}
    for key, kinds in (("action", PARTS), ("observation.state", NUMBERS)):  # of an action, an open gripper may be true
        alone = [name for name in own_vectors(dataset, kinds) if name not in {*dataset.joined, *dataset.parts}]
        above, bare = key.partition(".")[0], key == "observation.state" and "state" not in dataset.features
        parts = [name for name in alone if name.startswith(above) or (bare and BARE_STATE.fullmatch(name))]
        parts = [name for name in parts if not NO_PART.search(name) and name not in without]
        parts = [] if any(WHOLE_ACTION.search(name) for name in parts) else parts
        parts.sort(key=_kind_of_part)
        if key not in dataset.features and len(parts) > 1:
            found[key] = parts
    return found


def _kind_of_part(name: str) -> int:
    """Put positions first, then rotations, then all else, and the gripper last, as published actions have them."""
    leaf = name.rpartition(".")[2]
    found = [place for place, words in enumerate(KINDS_OF_PARTS) if words.search(leaf)]
    return found[-1] if found else ALL_ELSE


def how_to_join(dataset: RobotDataset, without: Collection[str] = ()) -> str:
    """Say how `parts_of` a dataset are joined in a description file, which keeps those that it joins already."""
    columns = json.dumps({**dataset.joined, **parts_of(dataset, without)})
    if len(columns) > checks.MOST_LISTED:
        columns = '{"action": ["COLUMN", "COLUMN"]}'
    return "To join them, " + described_by(dataset, f'"columns": {columns}')


def in_a_description(root: Path, entry: str, name: str = "") -> str:
    """Say how a dataset that cannot be opened without this entry, written as JSON, is described, in a file called
    `name`, by default as the dataset is."""
    beside = root.absolute().with_suffix(".json") if not name else root.absolute().parent / f"{name}.json"
    return f'Write {{"dataset": "{root.name}", {entry}}} into a file such as {beside} and open that.'


def described_by(dataset: RobotDataset, entry: str) -> str:
    """Say how a description file with this entry, written as JSON, is given in place of the dataset."""
    if dataset.address.endswith(".json"):
        return f"set in {dataset.address}: {entry}"
    target, where = (dataset.address, "") if dataset.files.commit else (dataset.root.name, " next to the dataset")
    whole = f'{{"dataset": {json.dumps(target)}, {entry}}}'
    return f"write a file{where}, such as {Path(target).stem}.json, and name it instead: {whole}"


def own_vectors(dataset: RobotDataset, kinds: tuple[str, ...] = NUMBERS) -> list[str]:
    """Return the numeric columns that are no labels; none of video without actions."""
    return [name for name in _vectors(dataset, kinds) if f"{name.rpartition('.')[0]}.valid" not in dataset.features]


def _vectors(dataset: RobotDataset, kinds: tuple[str, ...]) -> list[str]:
    flat = [(name, feature.dtype) for name, feature in dataset.features.items() if len(feature.shape) == 1]
    return [name for name, dtype in flat if dtype.startswith(kinds) and name not in INDEX_KEYS]


def dimension_names(feature: Feature) -> tuple[str, ...]:
    """A name for each dimension of a vector: the dataset's own, or its number."""
    return feature.names or tuple(str(i) for i in range(feature.shape[0]))


def _whole(indices: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """Check frame indices [n]; a mask or fractions are none."""
    wanted = np.asarray(indices)
    right = wanted.dtype.kind in "iu" and wanted.ndim == 1 and len(wanted) > 0
    if not right or wanted.min() < 0 or wanted.max() >= length:
        got = f"{wanted.dtype} {wanted.reshape(-1)[:5].tolist()}"
        checks.fail("indices", f"frame indices from 0 to {length - 1}", got)
    return wanted.astype(np.int64)
