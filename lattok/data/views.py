"""Datasets seen otherwise: with some cameras, under other names; with actions that say what they mean, or converted.

    chosen = with_cameras(dataset, {"front": "image_0"})
    declared = declare(dataset, {"action": "bridge"})      or meta/action_space.json in the dataset
    joined = with_columns(dataset, {"observation.state": ["observation.eef_pos", "observation.gripper"]})
    renamed = with_dimensions(dataset, {"action": ["dx", "dy", "gripper"]})
    converted = with_actions(declared, "libero")           columns() then gives `action` in that space

All are views: nothing is read before it is asked for, all else is the dataset's own, and they can be pickled.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, get_origin, get_type_hints

import numpy as np

from lattok.data.actions.convert import Space, convert_actions, known_dimensions, of_arm, to_unified
from lattok.data.actions.space import UNIFIED, UNIFIED_STATE, ActionSpace
from lattok.data.schema import (
    DEPTH,
    INDEX_KEYS,
    LONGEST_NAME,
    OTHER_DEPTH,
    PARTS,
    Feature,
    ManyColumns,
    RobotDataset,
    camera_keys,
    depth_cameras,
    vector_key,
)
from lattok.types import Episode
from lattok.utils import checks, files
from lattok.utils.untrusted import inside, is_file_name

PREFIX = "observation.images."
_CAMERA = re.compile(re.escape(PREFIX) + r"[\w-]+(\.[\w-]+)*")
DECLARATION = Path("meta") / "action_space.json"
MOST_JOINED = 256  # new columns
_OWN = [name for name, kind in get_type_hints(RobotDataset).items() if get_origin(kind) is not ClassVar]


def _passed_on(name: str) -> Any:
    """Make a method of a view that is the other dataset's."""
    return lambda view, *arguments, **options: getattr(view.dataset, name)(*arguments, **options)


class View(RobotDataset):
    """A dataset in front of another one: what it does not define is the other's. Can be pickled where that one can."""

    def __init__(self, dataset: RobotDataset):
        self.dataset = dataset
        for name in _OWN:  # copied: defaults that RobotDataset declares would win over the values of the other one
            setattr(self, name, getattr(dataset, name))

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({self.dataset!r})"

    def __getattr__(self, name: str) -> Any:
        """Return what only the format of the other one has."""
        if name == "dataset" or name.startswith("__"):  # not there yet while it is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    columns = _passed_on("columns")
    columns_of = _passed_on("columns_of")
    blocks = _passed_on("blocks")
    length = _passed_on("length")
    files_of = _passed_on("files_of")
    subtasks = _passed_on("subtasks")
    encoded_images = _passed_on("encoded_images")
    video_span = _passed_on("video_span")
    shared_spans = _passed_on("shared_spans")
    provenance = _passed_on("provenance")
    statistics = _passed_on("statistics")
    all_statistics = _passed_on("all_statistics")
    file_findings = _passed_on("file_findings")
    original_camera = _passed_on("original_camera")


def unwrap(dataset: RobotDataset) -> RobotDataset:
    """Return the dataset behind all views of it."""
    while isinstance(dataset, View):
        dataset = dataset.dataset
    return dataset


def with_cameras(dataset: RobotDataset, cameras: Sequence[str] | Mapping[str, str]) -> RobotDataset:
    """Return the dataset with only these cameras, in this order; a mapping {"front": "image_0"} gives new names."""
    return _Cameras(dataset, cameras)


class _Cameras(View):
    def __init__(self, dataset: RobotDataset, cameras: Any):
        super().__init__(dataset)
        if not isinstance(cameras, Mapping | list | tuple) or not all(isinstance(name, str) for name in cameras):
            checks.fail("cameras", 'names, or {"new name": "name"}', repr(cameras))
        renamed = isinstance(cameras, Mapping)
        keys = camera_keys(dataset, [str(key) for key in (cameras.values() if renamed else cameras)])
        names = [name if name.startswith(PREFIX) else PREFIX + name for name in cameras] if renamed else keys
        if len(set(names)) != len(names) or not all(_CAMERA.fullmatch(name) for name in names if renamed):
            checks.fail("cameras", "different new names of letters, digits, _, - and .", repr(list(cameras)))
        self._key_of = dict(zip(names, keys, strict=True))
        self.cameras = tuple(names)
        others = {key: feature for key, feature in dataset.features.items() if key not in dataset.cameras}
        self.features = others | {name: dataset.features[key] for name, key in self._key_of.items()}
        self.left_out = {key: reason for key, reason in dataset.left_out.items() if reason not in (DEPTH, OTHER_DEPTH)}
        new = {key: name for name, key in self._key_of.items()}
        self.camera_names = {name: new[key] for name, key in dataset.camera_names.items() if key in new}

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        return self.dataset.blocks(episode_index, self._key_of[camera], indices)

    def encoded_images(self, episode_index: int, camera: str) -> list[bytes] | None:
        return self.dataset.encoded_images(episode_index, self._key_of[camera])

    def video_span(self, episode_index: int, camera: str) -> tuple[Path, float, float] | None:
        return self.dataset.video_span(episode_index, self._key_of[camera])

    def shared_spans(self, camera: str) -> Mapping[int, int]:
        return self.dataset.shared_spans(self._key_of[camera])

    def original_camera(self, key: str) -> str:
        return self.dataset.original_camera(self._key_of[key])


def with_columns(dataset: RobotDataset, columns: Mapping[str, Sequence[str]]) -> RobotDataset:
    """Return the dataset with new columns, each of which joins several of its own, float32 [T, sum of their sizes].

    `{"observation.state": ["observation.eef_pos", "observation.eef_quat"]}`; a new name may be that of an old column,
    but of no camera, nor of a column that counts frames or seconds. A new column may hold each of them once.
    """
    return _JoinedColumns(dataset, columns)


def with_dimensions(dataset: RobotDataset, dimensions: Mapping[str, Sequence[str]]) -> RobotDataset:
    """Return the dataset with other names for the dimensions of some columns, {"action": ["dx", "dy", "gripper"]}."""
    return _Dimensions(dataset, dimensions)


class _Dimensions(View):
    def __init__(self, dataset: RobotDataset, dimensions: Any):
        super().__init__(dataset)
        if not isinstance(dimensions, Mapping):
            checks.fail("dimensions", 'names by column, as in {"action": ["x", "y"]}', f"{dimensions!r:.60}")
        named = {}
        for key, names in dimensions.items():
            feature, where = vector_key(dataset, "dimensions", key), f"dimensions: {key}"
            if not isinstance(names, list | tuple):
                checks.fail(where, "a list of names", f"{names!r:.60}")
            checks.size(where, "names, one for each number of the column", len(names), feature.shape[0])
            for name in names:
                if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
                    checks.fail(where, f"names of one line, at most {LONGEST_NAME} characters", f"{name!r:.60}")
            if len(set(names)) != len(names):
                checks.fail(where, "different names", checks.listed(names))
            named[key] = feature._replace(names=tuple(names))
        self.features = {**dataset.features, **named}


def action_spaces(dataset: RobotDataset) -> dict[str, ActionSpace]:
    """Return the spaces that a dataset declares, by column."""
    if dataset.action_spaces is not None:
        return dict(dataset.action_spaces)
    if not (path := dataset.root / DECLARATION).is_file():
        return {}
    return _declared(dataset, files.read_json(inside(dataset.root, DECLARATION, str(path))), str(path))


def declare(dataset: RobotDataset, spaces: Mapping[str, Space]) -> RobotDataset:
    """The dataset with spaces for some of its columns, such as {"action": "bridge"}, over those it declares itself."""
    return _Declaration(dataset, action_spaces(dataset) | _declared(dataset, spaces, "action_space"))


def with_actions(
    dataset: RobotDataset,
    space: Space,
    key: str = "action",
    state_key: str | None = "observation.state",
    *,
    drop: Sequence[str] = (),
    state_drop: Sequence[str] = (),
    arm: str = "right",
) -> RobotDataset:
    """Return the dataset with its column `key` converted to `space`, see `convert_actions`; all else as it is.

    The dataset must declare the space of `key`. The column `state_key` is what deltas start from, where the conversion
    needs that and the dataset declares its space. What cannot be converted is an error here, not at the first episode.
    To "unified" the state is converted as well, without the kinds `state_drop`, where its space is declared; `arm` is
    the arm of parts that name none, and `dataset.absent` has the dimensions of both that are 0 because the robot lacks
    them.
    """
    listed = all(isinstance(kinds, list | tuple) for kinds in (drop, state_drop)) and isinstance(state_key, str | None)
    if not listed or not all(isinstance(text, str) for text in (key, *drop, *state_drop)):
        checks.fail("actions", "names of columns, and `drop` as a list of kinds", f"{key!r}, {state_key!r}, {drop!r}")
    if key not in action_spaces(dataset):
        hint = f'Say it in {DECLARATION}, in a description file ("action_space"), or with lattok.data.declare.'
        checks.fail("action_space", f"the space of `{key}` in {dataset.name}", "none", hint)
    declared, target = action_spaces(dataset), ActionSpace.of(space)
    if target != UNIFIED:
        convert = partial(convert_actions, source=declared[key], target=target, fps=dataset.fps, drop=tuple(drop))
        return _Conversion(dataset, target, key, convert, state_key)
    named = {column: of_arm(declared[column], column, arm) for column in (key, state_key) if column in declared}
    dataset = declare(dataset, named)
    for column, target, dropped in ((key, UNIFIED, drop), (state_key, UNIFIED_STATE, state_drop)):
        if column in named:
            options: dict[str, Any] = {"source": named[column], "unified": target, "drop": tuple(dropped)}
            absent = np.flatnonzero(~known_dimensions(**options)).tolist()
            convert = partial(to_unified, fps=dataset.fps, **options)
            dataset = _Conversion(dataset, target, column, convert, None if column == state_key else state_key, absent)
    return dataset


def trained_space(trained_on: Mapping[str, Any] | None, name: str | None = None) -> ActionSpace | None:
    """Return what the actions of training meant, as far as its training.json says: of dataset `name` if it is there.
    Datasets of a mixture have actions of one kind, so any of those that say it will do."""
    known = trained_on or {}
    entries = known.get("mixture", [known])
    own = [entry for entry in entries if name and entry.get("dataset") == name]  # may have been undeclared then too
    said = next((entry["action_space"] for entry in own or entries if "action_space" in entry), None)
    return None if said is None else ActionSpace.of(said, "training.json")


class _Declaration(View):
    def __init__(self, dataset: RobotDataset, spaces: dict[str, ActionSpace]):
        super().__init__(dataset)
        self.action_spaces = spaces


class ColumnsView(View, ABC):
    """A view that makes columns of those that there are."""

    @abstractmethod
    def _read_for(self, keys: Sequence[str]) -> list[str]:
        """Return what is read where `keys` are asked for."""

    @abstractmethod
    def _made(self, episode_index: int, keys: Sequence[str], read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the columns `keys` of an episode from what was read for them."""

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        names = self._read_for(keys)
        return self._made(episode_index, keys, self.dataset.columns(episode_index, names) if names else {})

    def columns_of(self, episodes: Sequence[Episode], keys: Sequence[str], checked: bool = True) -> ManyColumns:
        names, nothing = self._read_for(keys), ((episode.index, {}) for episode in episodes)
        for index, read in self.dataset.columns_of(episodes, names, checked) if names else nothing:
            try:
                yield index, read if isinstance(read, checks.LattokError) else self._made(index, keys, read)
            except checks.LattokError as error:
                yield index, error


class _JoinedColumns(ColumnsView):
    def __init__(self, dataset: RobotDataset, columns: Any):
        super().__init__(dataset)
        parts = columns.values() if isinstance(columns, Mapping) else [None]
        if not all(isinstance(part, list | tuple) and part and all(isinstance(n, str) for n in part) for part in parts):
            checks.fail("columns", 'names by a new one, as in {"observation.state": ["eef_pos", "eef_quat"]}', columns)
        cameras = *dataset.cameras, *unwrap(dataset).cameras, *depth_cameras(unwrap(dataset))
        taken = {*INDEX_KEYS, *cameras}.intersection(columns)
        if taken or len(columns) > MOST_JOINED:
            expected = (
                f"at most {MOST_JOINED} new columns, none with the name of a camera or of {', '.join(INDEX_KEYS)}"
            )
            checks.fail("columns", expected, repr(min(taken)) if taken else f"{len(columns):,}")
        for key, names in columns.items():
            if not is_file_name(key):
                checks.fail("columns", "new names that a file can have", f"{key!r:.60}")
            name, count = Counter(names).most_common(1)[0]
            if count > 1:
                checks.fail("columns", f"different parts of {key!r:.200}", f"{name!r:.200} {count:,} times")
        self._parts = {str(key): tuple(names) for key, names in columns.items()}
        self.joined = {**dataset.joined, **self._parts}
        own = {name: vector_key(dataset, "columns", name, kinds=PARTS) for name in chain(*self._parts.values())}
        made = {key: [*chain(*(part_names(name, own[name]) for name in names))] for key, names in self._parts.items()}
        vectors = {key: Feature("float32", (len(names),), tuple(names)) for key, names in made.items()}
        self.features = {**dataset.features, **vectors}

    def _read_for(self, keys: Sequence[str]) -> list[str]:
        checks.names("keys", keys)
        return list(dict.fromkeys(name for key in keys for name in self._parts.get(key, (key,))))

    def _made(self, episode_index: int, keys: Sequence[str], read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        def joined(names: Sequence[str]) -> np.ndarray:
            return np.concatenate([read[name].reshape(len(read[name]), -1) for name in names], 1, dtype=np.float32)

        return {key: joined(self._parts[key]) if key in self._parts else read[key] for key in keys}


def part_names(column: str, feature: Feature | None) -> Sequence[str]:
    """Return names of the dimensions of a column that is joined to others, made of its own where they have none."""
    short, count = column.rpartition(".")[2], 0 if feature is None else feature.shape[0]
    return (feature and feature.names) or [f"{short}_{i}" for i in range(count)]


class _Conversion(ColumnsView):
    def __init__(
        self,
        dataset: RobotDataset,
        space: ActionSpace,
        key: str,
        convert: Callable[..., np.ndarray],
        state_key: str | None,
        absent: Sequence[int] = (),
    ):
        """`convert` turns rows into those of `space`, with `state` and `state_space` where it has to know them."""
        super().__init__(dataset)
        declared = action_spaces(dataset)
        self._key, self._source, self._target, self._rows = key, declared[key], space, convert
        self._state_space, self._state_key = declared.get(state_key or ""), None
        nothing = np.empty((0, self._source.dim))  # converted to learn whether it is possible, and takes the state
        try:
            self._convert(nothing)
        except checks.LattokError:
            if self._state_space is None:
                raise
            self._convert(nothing, np.empty((0, self._state_space.dim)))
            self._state_key = state_key
        self.features = {**dataset.features, key: Feature("float32", (space.dim,), space.names)}
        self.action_spaces = {**declared, key: space}
        missing = [{"absent": [space.names[dim] for dim in absent]}] if absent else []
        self.absent = {**dataset.absent, key: tuple(absent)} if absent else dataset.absent
        self.actions_as = {**dataset.actions_as, key: [*space.to_json(), *missing]}  # for provenance
        if space.is_unified:
            self.robot_spaces = {**dataset.robot_spaces, key: self._source}

    def _read_for(self, keys: Sequence[str]) -> list[str]:
        checks.names("keys", keys)
        state = () if self._state_key is None or self._key not in keys else (self._state_key,)
        return list(dict.fromkeys([*keys, *state]))

    def _made(self, episode_index: int, keys: Sequence[str], read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._key not in keys:
            return dict(read)
        try:
            values = self._convert(read[self._key], read.get(self._state_key or ""))
        except checks.LattokError as error:
            raise checks.LattokError(f"{self.dataset.name}, episode {episode_index}, `{self._key}`: {error}") from None
        return {name: values if name == self._key else read[name] for name in keys}

    def _convert(self, actions: np.ndarray, state: np.ndarray | None = None) -> np.ndarray:
        """Turn [T, m] or [T] into [T, n] or [T]."""
        if actions.dtype.kind == "f" and len(actions) and np.isnan(actions).all():  # nobody knows them
            width = [self._target.dim] if self._target.dim > 1 else []
            return np.full((len(actions), *width), np.nan, dtype=np.float32)
        start: dict[str, Any] = {}
        if state is not None and self._state_space is not None:
            start = {"state": state.reshape(-1, self._state_space.dim), "state_space": self._state_space}
        rows = self._rows(actions.reshape(-1, self._source.dim), **start)
        return rows[:, 0] if self._target.dim == 1 else rows


def _declared(dataset: RobotDataset, spaces: Any, where: str) -> dict[str, ActionSpace]:
    if not isinstance(spaces, Mapping):
        checks.fail(where, 'spaces by column, such as {"action": "bridge"}', type(spaces).__name__)
    found = {}
    for key, value in spaces.items():
        (width,) = vector_key(dataset, where, key).shape
        space = found[key] = ActionSpace.of(value, f"{where}: {key}")
        checks.size(f"{where}: {key}", f"dimensions ({', '.join(space.names)} declared)", width, space.dim)
    return found
