"""Recordings of Unitree's xr_teleoperate: numbers of every frame in JSON, pictures beside them.

pour the tea/episode_0007/data.json        {"info": {"image": {"fps": 30}, "joint_names": {"left_arm": [...], ...}},
                                            "text": {"goal": "..."}, "data": [frame, ...]}
pour the tea/episode_0007/colors/*.jpg     which frames name

A frame is {"colors": {"color_0": "colors/000000_color_0.jpg"}, "states": {"left_arm": {"qpos": [...]}, ...},
"actions": ...}; what a robot does not have is an empty list.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import TypedDict

from lattok.data.formats.array_layouts import UNITREE
from lattok.data.formats.array_listing import CAMERA, natural
from lattok.data.formats.array_reader import ArrayDataset
from lattok.data.formats.array_store import FlatStore, Store, known
from lattok.utils.checks import LattokError, refuse
from lattok.utils.untrusted import JSON_BYTES, MISSING, copy_again, inside, parse_json, typed

FILE, PICTURES, DEPTHS = "data.json", "colors", "depths"
WHOLE = {"actions": "action", "states": "state"}  # what becomes one column
JOINED = tuple(f"{part}/qpos" for part in ("left_arm", "right_arm", "waist", "left_ee", "right_ee"))  # of these
NUMBERS = (*WHOLE, "tactiles", "torques")
MOST_OPEN = 256  # recordings that are kept in memory, a few MB each


class Image(TypedDict, total=False):
    fps: float


class TeleopInfo(TypedDict, total=False):
    image: Image
    joint_names: dict[str, list[str]]


class Text(TypedDict, total=False):
    goal: str


class TeleopFile(TypedDict, total=False):
    info: TeleopInfo
    text: Text
    data: list[dict[str, Any]]


class TeleopRecording(NamedTuple):
    arrays: Mapping[str, np.ndarray]  # by path
    pictures: Mapping[str, list[str]]  # relative to the recording, by path
    names: Mapping[str, tuple[str, ...]]  # of dimensions, of joined arrays
    about: Mapping[str, Any]


class PictureFiles:
    """Pictures of a camera as an array of what their files hold."""

    dtype = np.dtype(object)

    def __init__(self, folder: Path, files: list[str]):
        self.folder, self.files, self.shape = folder, files, (len(files),)
        self._known: set[str] = set()

    def __getitem__(self, rows: Any) -> np.ndarray:
        chosen = [self._bytes(self.files[row]) for row in np.arange(len(self.files))[rows].tolist()]
        found = np.empty(len(chosen), dtype=object)
        found[:] = chosen
        return found

    def _bytes(self, file: str) -> bytes:
        path = inside(self.folder, file, f"{self.folder / FILE}: a picture", self._known)
        try:
            return path.read_bytes()
        except OSError as error:
            raise LattokError(f"cannot read {path} ({error.strerror}). {copy_again(path, MISSING)}") from None


class TeleopStore(FlatStore):
    """One recording, read as a whole."""

    def __init__(self, path: Path):
        self.path, stamp = path, path.stat()
        self.recording = _recording(path, (stamp.st_mtime_ns, stamp.st_size))

    def check(self) -> None:
        """Refuse a recording that names pictures which are not there."""
        there: dict[Path, frozenset[str]] = {}
        known: set[str] = set()
        for file in (file for files in self.recording.pictures.values() for file in files):
            place = inside(self.path.parent, file, f"{self.path}: a picture", known).parent
            if place not in there:
                there[place] = frozenset(os.listdir(place) if place.is_dir() else ())
            if os.path.basename(file) not in there[place]:
                refuse(self.path, f"the picture {file[:100]}, which a frame names", "none", MISSING)

    def nodes(self) -> Mapping[str, bool]:
        return dict.fromkeys((*self.recording.arrays, *self.recording.pictures), True)

    def array(self, path: str) -> Any:
        if path in self.recording.pictures:
            return PictureFiles(self.path.parent, self.recording.pictures[path])
        return known(self.recording.arrays, path, self.path)

    def attributes(self, path: str) -> Mapping[str, Any]:
        return self.recording.about

    def stored_bytes(self, array: Any, where: str) -> int:
        return 8 * int(np.prod(array.shape))  # it is in memory


class Unitree(ArrayDataset):
    """Folders of xr_teleoperate, one a recording, or folders of these by task.

    `action` and `observation.state` are the positions of both arms, the waist and both hands, as far as there are
    some, in this order; all else are columns of their own. The instruction is the `goal`, the rate that of the images.
    """

    kind = "unitree"
    text = f"Unitree's recordings (folders with {FILE} and {PICTURES}/)"
    marked = True
    options = MappingProxyType({"fps": float})
    layouts = (UNITREE,)

    def __init__(self, path: str | Path, name: str | None = None, *, fps: float | None = None):
        super().__init__(path, name, fps=fps)
        with self.opened(next(iter(self._demos.values())).file) as store:
            assert isinstance(store, TeleopStore)
            for place, names in store.recording.names.items():
                key = UNITREE.columns[place]
                if key in self.features:
                    self.features[key] = self.features[key]._replace(names=names)

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if cls.files_in(folder) else ()

    @classmethod
    def files_in(cls, folder: Path) -> list[Path]:
        found = (path for above in ("", "*/", "*/*/") for path in folder.glob(above + FILE))
        return sorted(
            (path for path in found if (path.parent / PICTURES).is_dir()), key=lambda path: natural(path.as_posix())
        )

    @classmethod
    @contextmanager
    def opened(cls, path: Path, where: str = "") -> Iterator[Store]:
        with TeleopStore.guarded(path, where):
            yield TeleopStore(path)

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        file = self._demo(episode_index).file
        with self.opened(file) as store:
            assert isinstance(store, TeleopStore)
            pictures = store.recording.pictures.values()
        return (file, *(file.parent / picture for files in pictures for picture in files))

    def encoded_images(self, episode_index: int, camera: str) -> list[bytes] | None:
        with self.opened(self._demo(episode_index).file) as store:
            return list(store.array(f"{PICTURES}/{camera.removeprefix(CAMERA)}")[:])


@lru_cache(maxsize=MOST_OPEN)
def _recording(path: Path, stamp: tuple[int, int]) -> TeleopRecording:
    """Read a recording; its `stamp` tells it from others that were at its place."""
    with path.open("rb") as file:
        text = file.read(JSON_BYTES + 1)
    hint = "Copy it again; one that was cut off while recording has no end: leave it out."
    content: TeleopFile = typed(parse_json(text, str(path), hint, nan=True), TeleopFile, "", str(path))
    info, frames = content.get("info", {}), content.get("data", [])
    arrays: dict[str, np.ndarray] = {}
    for kind in NUMBERS:
        arrays |= {f"{kind}/{name}": values for name, values in _numbers(frames, kind, path).items()}
    names = {}
    for kind, whole in WHOLE.items():
        if parts := {name: arrays.pop(f"{kind}/{name}") for name in JOINED if f"{kind}/{name}" in arrays}:
            arrays[whole] = np.concatenate([values.reshape(len(frames), -1) for values in parts.values()], 1)
            widths = {name.partition("/")[0]: values[0].size for name, values in parts.items()}
            names[whole] = tuple(_dimensions(widths, info.get("joint_names", {})))
    pictures = {}
    for kind in (PICTURES, DEPTHS):
        pictures |= {f"{kind}/{name}": files for name, files in _pictures(frames, kind, path).items()}
    about = {"fps": info.get("image", {}).get("fps"), "goal": content.get("text", {}).get("goal", "")}
    return TeleopRecording(arrays, pictures, names, {key: value for key, value in about.items() if value is not None})


def _numbers(frames: Sequence[Mapping[str, Any]], kind: str, path: Path) -> dict[str, np.ndarray]:
    """Return arrays [T] or [T, n] by what leads to them in a frame."""
    rows = [dict(_leaves(frame.get(kind), "")) for frame in frames]
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        sizes = [None if value is None else np.shape(value) for value in values]
        if odd := next((i for i, size in enumerate(sizes) if size is None or size != sizes[0]), 0):
            wanted = f"{list(sizes[0] or ())} numbers in `{kind}.{name.replace('/', '.')}` of frame {odd}, as before"
            refuse(path, wanted, f"{values[odd]!r:.60}", "Leave the recording out.")
        try:
            found[name] = np.array(values, dtype=np.float64)
        except (TypeError, ValueError):  # objects or texts in lists
            wanted = f"numbers in `{kind}.{name.replace('/', '.')}` of each frame"
            refuse(path, wanted, "others", "Leave the recording out.")
    return found


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{name}/{key}" if name else str(key))
    elif isinstance(value, list | int | float) and value != []:  # the kind of a hand is text
        yield name, value


def _pictures(frames: Sequence[Mapping[str, Any]], kind: str, path: Path) -> dict[str, list[str]]:
    """Return the files of each camera."""
    rows = [frame.get(kind) or {} for frame in frames]
    if (odd := next((i for i, row in enumerate(rows) if not isinstance(row, Mapping)), None)) is not None:
        refuse(path, f"`{kind}` of frame {odd} by camera", f"{rows[odd]!r:.60}", "Leave the recording out.")
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        files = [row.get(name) for row in rows]
        if (odd := next((i for i, file in enumerate(files) if not isinstance(file, str)), None)) is not None:
            refuse(path, f"a picture of {name!r:.60} in frame {odd}", f"{files[odd]!r:.60}", "Leave the recording out.")
        found[name] = [str(file) for file in files]
    return found


def _dimensions(widths: Mapping[str, int], known: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield names of the numbers of each part: those in the file where they are as many."""
    for part, width in widths.items():
        own = known.get(part, ())
        yield from own if len(own) == width else (f"{part}_{i}" for i in range(width))
