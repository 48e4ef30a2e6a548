"""Demonstrations in files of arrays by path: one reader for HDF5, zarr and npz, told by a layout what is where."""

import json
import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePath
from statistics import mode
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from lattok.data import problems
from lattok.data.formats.array_draft import rates_of
from lattok.data.formats.array_episodes import array_of
from lattok.data.formats.array_files import acting, frames_per_second, like, members, of_split, unlike
from lattok.data.formats.array_films import (
    FEW,
    FILM,
    film_of_bytes,
    film_of_file,
    films_of_episodes,
    frame_rate,
    picture_shape,
    shown,
)
from lattok.data.formats.array_layouts import LAYOUTS, Layout, described
from lattok.data.formats.array_listing import CAMERA, Contents, Demo, list_contents, natural
from lattok.data.formats.array_pictures import picture_size, pictures
from lattok.data.formats.array_rows import Stored, StoredArray, alike, difference, is_action
from lattok.data.formats.array_sources import texts_of
from lattok.data.formats.array_states import state_of
from lattok.data.formats.array_store import CHANGED, Store
from lattok.data.formats.folder_names import folder_splits
from lattok.data.instructions import TASK
from lattok.data.schema import (
    FAR_BELOW,
    HELD_OUT,
    INDEX_FEATURES,
    TIME,
    Damage,
    Feature,
    RobotDataset,
    holds,
    in_a_description,
    index_column,
    short_name,
)
from lattok.data.video import BLOCK, BLOCK_BYTES, decode_at, probe
from lattok.data.video import SUFFIXES as VIDEOS
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.findings import Finding
from lattok.utils.spread import evenly_spread
from lattok.utils.untrusted import UNPACK, safe_path, walk

STATE = "observation.state"
PLAIN_STATES = ("observation.observation", "observation.observations")  # of npz files, where there is no state
NO_FILM = "expected {film}, as others have, got none. Download it, or leave it out."
PACKED = "packed: unpack it ({typed} {file})"
TIMES = re.compile(rf"(^|[._]){TIME}$")
OTHER_RATE = 0.15  # of the dataset's: less may be a clock
LOOKED_AT = 3  # episodes, and frames of each, for how bright floats are
SPARSE = 4  # rows further apart than this on average are read one by one, not with those between them


class ArrayDataset(RobotDataset):
    """Demonstrations in files of arrays; see `lattok.data.RobotDataset` for what a dataset offers.

    `layout` is a `Layout`, the name of one of the table, or its description; by default it is recognised. Episodes are
    those of the files in the order of their names, demo_2 before demo_10. `split` takes those of one of the file's own
    splits (robomimic's masks); they keep their numbers.

    Pictures are cameras `observation.images.<name>`, other numbers columns of the stored type; `next.done` is bool.
    `observation.state` is an array of that name, or LIBERO's or robosuite's position, rotation and gripper side by
    side. Arrays that have one row more than there are actions lose the last one, which no action follows; `findings`
    says so. The frame rate is `fps`, else what the file says. `left_out` has what is not offered, with the reason.

    A demonstration that lacks its actions alone has unknown ones: NaN. One that cannot be read is in `damaged` and
    keeps its number. A file of a folder that cannot be opened takes one number there, as how many it held cannot be
    told: once it is repaired, later files have other numbers.
    """

    options = MappingProxyType({"fps": float, "layout": object, "split": str})
    layouts: ClassVar[tuple[Layout, ...]] = LAYOUTS  # that are recognised
    rate: ClassVar[float | None] = None  # rows a second, where all datasets of a format have the same
    endings: ClassVar[tuple[str, ...]] = ()  # by which a user knows the files, where suffixes say less
    places: ClassVar[tuple[str, ...]] = ("*", "data/*", "*/*", "*/data/*")  # where a folder may have files

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        fps: float | None = None,
        layout: Any = None,
        split: str | None = None,
    ):
        self.root = Path(path)
        self.name = name or (self.root.stem if self.is_file(self.root) else self.root.resolve().name)
        self.require()
        fps = self.rate if fps is None else fps
        self._layout = described(layout) if layout is not None and not isinstance(layout, Layout) else layout
        found: dict[Path, Contents | str] = {}  # or why a file cannot be opened: how many it held cannot be told
        files, packed = self._files()
        for file in files:
            try:
                with self.opened(file) as store:
                    layouts = self.layouts if self._layout is None else (self._layout,)
                    found[file] = list_contents(store, layouts, self.root)
            except LattokError as error:
                if self.is_file(self.root):
                    raise
                found[file] = str(error)
        self._list_without_actions(found)
        # files that hold a demonstration that can be read
        contents = {file: each for file, each in found.items() if isinstance(each, Contents) and each.arrays}
        alone = bool(contents) and not any(each.layout.episodes for each in contents.values())  # an episode each
        files = sorted(found, key=lambda file: natural(file.as_posix())) if alone else list(found)
        demos_of = {file: (each,) if isinstance(each, str) else each.demos for file, each in found.items()}
        listed = [demo for file in files for demo in demos_of[file]]
        if alone:
            arrays = mode(content.arrays for content in acting(contents).values())
            listed = [unlike(demo, contents, arrays) for demo in listed]
            contents = {file: contents[file] for file in files if file in contents and like(contents[file], arrays)}
        demos = {index: demo for index, demo in enumerate(listed) if isinstance(demo, Demo)}
        self.damaged = tuple(Damage(index, reason) for index, reason in enumerate(listed) if isinstance(reason, str))
        if not demos:
            raise LattokError(f"{self.root}: no demonstration can be read, first {self.damaged[0].reason}")
        first_file, first = next(iter(acting(contents).items()))
        for file, content in contents.items():
            if not like(content, first.arrays):
                what = difference(first.arrays, content.arrays, content.left_out)
                what = f"{file} differs from {first_file} in {what}"
                raise LattokError(f"{what}. Open them apart: put files of one kind into a folder of their own.")
        self._demos = of_split(demos, contents, split)
        features, self._parts = self._columns(first.arrays, first.layout)
        self.features = features | INDEX_FEATURES
        self.cameras = tuple(key for key, feature in self.features.items() if feature.dtype == "image")
        self._asked_rate = first.fps if fps is None else fps
        self._numbered = False  # whether films are of the numbers of episodes, at a rate of their own
        self._films = self._find_films()
        self._list_episodes()
        rate = self._film_rate() if self._asked_rate is None else fps
        self.fps = frames_per_second(self.root, self.kind, contents) if rate is None else float(rate)
        self.origin, self.control, self._found = first.layout.name, first.control, first.layout
        self.robot, self._swapped = first.robot, first.layout.swapped
        self._shares = dict[StoredArray, bool]()  # whether floats are shares of 255, of cameras that were read
        self.findings = tuple(dict.fromkeys(finding for each in contents.values() for finding in each.findings))
        failed = [index for index, demo in self._demos.items() if demo.failed]
        if 0 < len(failed) < len(self._demos):
            self.findings += (problems.FAILED.finding(failed, all=len(self._demos), sign="`success`"),)
        if split is None and first.splits:
            judge = next((name for name in HELD_OUT if name in first.splits), "")
            self.held_out = tuple(members(demos, contents, judge))
            counts = {name: len(each) for name, each in first.splits.items()}
            name = "train" if "train" in first.splits else next(iter(first.splits))
            way_out = in_a_description(self.root, f'"split": {json.dumps(name)}')
            self.findings += (problems.own_splits("mask", counts, judge if self.held_out else "", way_out),)
        elif split is None and self.root.is_dir():
            files = {i: demo.file.relative_to(self.root) for i, demo in self._demos.items()}
            self.held_out, own = folder_splits({i: self.split_of(file) for i, file in files.items()}, files)
            self.findings += own
        self.left_out = {path.name: PACKED.format(typed=UNPACK[path.suffix], file=path.name) for path in packed}
        used = {stored for parts in self._parts.values() for stored in parts}
        gone = [stored.path for stored in first.arrays if stored not in used]
        self.left_out |= first.left_out | dict.fromkeys(gone, "a camera has its name")
        if not self.cameras and not self.videos_at_rate and self.root.is_dir() and holds(self.root, VIDEOS, FAR_BELOW):
            self.findings += (problems.FILMS_BESIDE.finding(),)
        if alone := self._films_alone():
            self.findings += (problems.FILMS_ALONE.finding(count=alone),)

    # what a kind of file says of itself

    @classmethod
    def require(cls) -> None:
        """Raise an error if the package that reads such files is missing, which is no damage of a file."""

    @classmethod
    @abstractmethod
    def opened(cls, path: Path, where: str = "") -> AbstractContextManager[Store]:
        """Open a file for as long as it is read; errors name it and `where`."""

    @classmethod
    def is_file(cls, path: Path) -> bool:
        """Return whether `path` is one of the files, rather than a folder of them. Looks at names, opens nothing."""
        return path.is_file()

    @classmethod
    def split_of(cls, file: PurePath) -> tuple[str, ...]:
        """Return the names that may say of which split a file is, given from the dataset's folder on."""
        return file.parts[:-1]

    @classmethod
    def files_in(cls, folder: Path) -> list[Path]:
        """List the files of a folder, or of the folders in it that recordings are put in."""
        for pattern in cls.places:
            found = (path for path in folder.glob(pattern) if path.suffix.lower() in cls.suffixes and cls.is_file(path))
            if files := sorted(path for path in found if not path.name.startswith(".")):
                return files
        return []

    @classmethod
    def guess(cls, folder: Path) -> bool:
        return bool(cls.files_in(folder))

    @classmethod
    def guess_below(cls, folder: Path) -> bool:
        return holds(folder, cls.suffixes, FAR_BELOW)

    def _list_without_actions(self, found: dict[Path, Contents | str]) -> None:
        """List files that are recognised by their actions, but have none, in the layout of the others."""
        layouts = [each.layout for each in found.values() if isinstance(each, Contents)]
        for file in [file for file, each in found.items() if isinstance(each, str)] if layouts else ():
            with suppress(LattokError), self.opened(file) as store:  # what is said of it first counts
                content = list_contents(store, layouts[:1], self.root)
                if content.arrays:
                    found[file] = content

    def _films_beside(self, file: Path) -> dict[str, Path]:
        """Return the films of an episode that is a file of its own, by camera: one of the file's name."""
        film = film_of_file(self.root.parent if self.is_file(self.root) else self.root, file)
        return {} if film is None else {FILM: film}

    def _find_films(self) -> dict[int, dict[str, Path]]:
        """Return films by episode and camera: where there is no other one, every file is an episode, and most have
        films that show its rows. Episodes without what most have are `damaged`."""
        files = [demo.file for demo in self._demos.values()]
        if not self.cameras and len({*files}) == 1 < len(files):
            self._numbered = True
            rows = {i: demo.length for i, demo in self._demos.items()}
            films = films_of_episodes(files[0], rows, self._asked_rate)
            index, first = next(iter(films.items()), (0, dict[str, Path]()))
            self.cameras = tuple(first)
            for camera, film in first.items():
                picture = next(shown(film, rows[index], np.arange(1), self._asked_rate))
                self.features[camera] = Feature("video", picture.shape[1:], None)
            return films
        if self.cameras or len({*files}) < len(files):
            return {}
        films, unreadable = dict[int, dict[str, Path]](), dict[int, str]()
        for index, demo in self._demos.items():
            try:
                films[index] = self._films_beside(demo.file)
            except LattokError as error:
                unreadable[index] = str(error)
        self._leave_out(unreadable)
        kinds = Counter(tuple(sorted(each)) for each in films.values())
        cameras = max(kinds, key=lambda kind: (kinds[kind], kind))
        for camera in cameras:
            rows = {each[camera]: self._demos[i].length for i, each in films.items() if camera in each}
            try:
                size = picture_shape(rows, self.videos_at_rate, None if self.rate else FEW)
            except LattokError:
                if self.rate is not None:  # such films belong to the format
                    raise
                return {}
            self.features[camera] = Feature("video", size, None)
        self.cameras, lacking = cameras, dict[int, str]()
        for index, own in films.items():
            if missing := [short_name(camera) for camera in cameras if camera not in own]:
                named = "a film of its name beside it" if cameras == (FILM,) else f"a film of {checks.listed(missing)}"
                lacking[index] = f"{self._demos[index].file}: {NO_FILM.format(film=named)}"
        self._leave_out(lacking)
        return films if cameras else {}

    def _films_alone(self) -> int:
        """Count films that show no rows, where others are the camera of their files."""
        if self.cameras != (FILM,) or not self.root.is_dir():
            return 0
        files = walk(self.root, lambda path: path.name.startswith("."), once=True)
        films = (self.root / path for path in files if path.suffix.lower() in VIDEOS)
        return sum(not any(film.with_suffix(each).exists() for each in self.suffixes) for film in films)

    def _leave_out(self, reasons: Mapping[int, str]) -> None:
        """Put episodes, each with its reason, among those that are `damaged`."""
        self._demos = {index: demo for index, demo in self._demos.items() if index not in reasons}
        self.damaged = tuple(sorted((*self.damaged, *(Damage(*each) for each in reasons.items()))))
        if not self._demos:
            raise LattokError(f"{self.root}: no demonstration can be read, first {self.damaged[0].reason}")

    def _film_rate(self) -> float | None:
        return frame_rate(own[self.cameras[0]] for own in self._films.values() if self.cameras[0] in own)

    def _instruct(self, texts: Mapping[int, str]) -> None:
        """Give each episode another instruction than the layout found."""
        self._demos = {i: demo._replace(instructions=(texts[i],), texts="") for i, demo in self._demos.items()}
        self._list_episodes()

    def _list_episodes(self) -> None:
        self.tasks = tuple(dict.fromkeys(text for demo in self._demos.values() for text in demo.instructions))
        self.episodes = tuple(Episode(i, demo.length, demo.instructions) for i, demo in self._demos.items())

    @property
    def whole(self) -> bool:
        """Return whether every episode is all steps of its arrays."""
        return all(demo.first == 0 and demo.length == demo.rows for demo in self._demos.values())

    def described_ahead(self, key: str) -> str:
        """Return the entry of a description with which a column is read a row earlier, written as JSON."""
        single = {name: parts[0] for name, parts in self._parts.items() if len(parts) == 1 and parts[0].view is None}
        columns = {part.path: name for name, part in single.items() if name != key}
        layout = {"columns": columns, "ahead": {single[key].path: key}, "rows": single[key].path}
        return f'"layout": {json.dumps({"episodes": self._found.episodes, **layout})}'

    # reading

    def file_findings(self) -> Iterator[Finding]:
        """Find that films, or a column of times, have another rate than the dataset, going by the first episode."""
        film = self._film_rate() if self._films and self.rate is None and not self._numbered else None
        if film is not None and abs(film / self.fps - 1) > OTHER_RATE:
            yield problems.OTHER_TIMES.finding(column=FILM, rate=film, fps=self.fps)
        keys = [key for key, feature in self.features.items() if feature.shape == (1,) and TIMES.search(key)]
        for key in (key for key in keys if key not in INDEX_FEATURES):
            with suppress(LattokError):  # which is said where its rows are read
                rates = rates_of(self.columns(self.episodes[0].index, [key])[key])
                if rates and min(abs(rate / self.fps - 1) for rate in rates) > OTHER_RATE:
                    yield problems.OTHER_TIMES.finding(column=key, rate=rates[0], fps=self.fps)

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        file = self._demo(episode_index).file
        return (file, *self._films.get(episode_index, {}).values())

    def video_span(self, episode_index: int, camera: str) -> tuple[Path, float, float] | None:
        length = self._demo(episode_index).length
        if (film := self._films.get(episode_index, {}).get(camera)) is None:
            return None
        frames = probe(film).frames if self.videos_at_rate else length
        return film, 0.0, (frames or length) / self.fps  # not every container says how many there are

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        demo = self._demo(episode_index)
        self.check_columns(keys)
        task, columns = self.tasks.index(demo.instructions[0]), {}
        with self._arrays(episode_index, demo) as read:
            for key in keys:
                if key == TASK and demo.texts:
                    columns[key] = self._task_numbers(episode_index, demo)
                    continue
                if key in INDEX_FEATURES:
                    columns[key] = index_column(key, demo.length, episode_index, task, self.fps)
                    continue
                parts = [read(stored, np.arange(demo.length)) for stored in self._parts[key]]
                shape, dtype = self.features[key].shape, self.features[key].dtype
                rows = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
                columns[key] = rows.reshape(demo.length, *(() if shape == (1,) else shape)).astype(dtype, copy=False)
        return columns

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        demo = self._demo(episode_index)
        if (film := self._films.get(episode_index, {}).get(camera)) is not None:
            if self.videos_at_rate:
                yield from decode_at(film, indices / self.fps, self.fps)
            else:
                yield from shown(film, demo.length, indices, self.fps if self._numbered else None)
            return
        (stored,) = self._parts[camera]
        if stored.storage == "film":
            yield from self._in_film(episode_index, demo, stored, indices)
            return
        size = self.features[camera].shape
        step = max(1, min(BLOCK, BLOCK_BYTES // math.prod(size)))
        where = f"{demo.file}, `{stored.path}` (episode {episode_index})"
        for i in range(0, len(indices), step):
            with self._arrays(episode_index, demo) as read:
                block = read(stored, indices[i : i + step])
            frames = pictures(block, stored.storage, self._swapped, where, self._has_shares(stored))
            if frames.shape[1:] != size:
                got = "x".join(map(str, frames.shape[1:3]))
                checks.refuse(where, f"pictures of {size[0]}x{size[1]}", got, "Put recordings of one size together.")
            yield frames

    def _in_film(self, index: int, demo: Demo, stored: StoredArray, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Yield frames of a film that is in the file."""
        where = f"{demo.file}, `{stored.path}` (episode {index})"
        with self.opened(demo.file, where) as store:
            data = bytes(np.asarray(array_of(store, demo.name, stored.path)[:]))
        with film_of_bytes(data, where) as film:
            yield from shown(film, demo.length, indices)

    def _has_shares(self, stored: StoredArray) -> bool:
        """Return whether floats of a camera are shares of 255, as far as a few frames of a few episodes show."""
        if stored.storage != "floats":
            return False
        if stored not in self._shares:
            brightest = 0.0
            for index, demo in evenly_spread([*self._demos.items()], LOOKED_AT):
                with suppress(LattokError), self._arrays(index, demo) as read:  # which is said where it is read
                    rows = read(stored, np.array(evenly_spread(range(demo.length), LOOKED_AT)))
                    brightest = max(brightest, float(rows.max(initial=0)))
            self._shares[stored] = 0 < brightest <= 1
        return self._shares[stored]

    def _task_numbers(self, episode_index: int, demo: Demo) -> np.ndarray:
        """Read which instruction each row of an episode has [T]."""
        where = f" (episode {episode_index})"
        with self.opened(demo.file, where) as store:
            array = array_of(store, demo.name, demo.texts)
            texts = texts_of(array[demo.first : demo.first + demo.length])
        if len(texts) != demo.length or not {*texts} <= {*demo.instructions}:
            raise LattokError(f"{demo.file}{where}: `{demo.texts}` {CHANGED}")
        return np.array([self.tasks.index(text) for text in texts], dtype=np.int64)

    def _demo(self, episode_index: int) -> Demo:
        return self._demos.get(episode_index) or self.no_episode(episode_index)

    @contextmanager
    def _arrays(self, episode_index: int, demo: Demo) -> Iterator[Callable[[StoredArray, np.ndarray], np.ndarray]]:
        """Open the file of a demonstration, to read rows of its arrays, ascending and each once."""
        name = demo.name.rpartition("/")[2]
        where = f", {name} (episode {episode_index})" if name else f" (episode {episode_index})"

        def read(stored: StoredArray, rows: np.ndarray) -> np.ndarray:
            if not demo.acts and is_action(stored.column):
                return np.full((len(rows), *stored.shape), np.nan, stored.dtype)
            array = array_of(store, demo.name, stored.path)
            encoded = stored.storage == "encoded"
            axis = 1 if stored.view is None else 2
            there = (stored.dtype, ()) if encoded else (array.dtype.name, tuple(array.shape[axis:]))
            found = stored._replace(dtype=there[0], shape=there[1])
            rows_there = demo.rows + (stored.path in demo.longer)
            if not alike((found,), (stored,)) or array.shape[0] != rows_there:
                raise LattokError(f"{demo.file}{where}: `{stored.path}` {CHANGED}")
            rows = rows + demo.first + stored.ahead
            first, last = int(rows[0]), int(rows[-1]) + 1
            if last - first > SPARSE * len(rows):
                return np.asarray(array[rows])[() if stored.view is None else (slice(None), stored.view)]
            block = np.asarray(array[first:last] if stored.view is None else array[first:last, stored.view])
            return block if len(block) == len(rows) else block[rows - first]

        with self.opened(demo.file, where) as store:
            yield read

    def _files(self) -> tuple[list[Path], list[Path]]:
        """List the files, and those beside them that have to be unpacked first."""
        if self.is_file(self.root):
            return [self.root], []
        ends = " or ".join(self.endings or self.suffixes)
        if not self.root.is_dir():
            hint = "Unpack it, and give the folder." if self.root.exists() else "There is no such file."
            expected = f"a {ends} file or a folder of them" if ends else self.text
            checks.fail("path", expected, f"{self.root}", hint)
        found = self.files_in(self.root) or (self._files_below() if ends else [])
        files = [safe_path(self.root, path, str(path)) for path in found]
        if not files:
            checks.fail("path", f"a folder with files {ends}" if ends else self.text, f"none in {self.root}")
        if not ends:  # folders of a kind of their own, which nobody packs file by file
            return files, []
        beside = (path for folder in {file.parent: None for file in files} for path in sorted(folder.iterdir()))
        packed = [path for path in beside if path.suffix in UNPACK and path.stem.endswith(self.suffixes)]
        return files, [path for path in packed if path.with_name(path.stem) not in files]

    def _files_below(self) -> list[Path]:
        found = (self.root / path for path in walk(self.root, lambda path: path.name.startswith("."), once=True))
        return [path for path in found if path.suffix.lower() in self.suffixes]

    def _columns(self, arrays: Stored, layout: Layout) -> tuple[dict[str, Feature], dict[str, Stored]]:
        """Return features by key, cameras last, and where each comes from: one array, or several side by side."""
        found: dict[str, Feature] = {}
        cameras: dict[str, Feature] = {}
        parts_of: dict[str, Stored] = {}
        for stored in sorted(arrays, key=lambda each: each.storage != "numbers"):  # cameras have the last word
            key = stored.column
            if stored.storage == "numbers":
                dtype = "bool" if key == "next.done" else stored.dtype
                names = layout.names.get(key, ())
                long = tuple(size for size in stored.shape if size != 1)
                shape = stored.shape if len(long) > 1 else long or (1,)
                found[key] = Feature(dtype, shape, names if shape == (len(names),) else None)
            else:
                name = _leaf(stored.path) if key == STATE else key.removeprefix("observation.")
                key = key if key.startswith(CAMERA) else CAMERA + name
                cameras[key] = Feature("image", self._picture_size(stored), None)
            parts_of[key] = (stored,)
        if STATE not in found and (state := state_of(parts_of)) is not None:
            parts, dimensions = state
            dtype = np.result_type(*(part.dtype for part in parts)).name
            found[STATE], parts_of[STATE] = Feature(dtype, (len(dimensions),), dimensions), parts
        for key in PLAIN_STATES:
            if key in found and STATE not in found and found[key].shape != (1,):
                found[STATE], parts_of[STATE] = found.pop(key), parts_of.pop(key)
        for key in cameras:
            found.pop(key, None)
        return found | cameras, parts_of

    def _picture_size(self, stored: StoredArray) -> tuple[int, ...]:
        """Return (H, W, 3) of a camera's pictures; of encoded ones the first that can be decoded tells."""
        if stored.storage == "planes":
            return (*stored.shape[1:], 3)
        if stored.storage not in ("encoded", "film"):
            return stored.shape
        demo_index, demo = next(iter(self._demos.items()))
        if stored.storage == "film":
            return next(self._in_film(demo_index, demo, stored, np.arange(1))).shape[1:]
        with self._arrays(demo_index, demo) as read:
            row = read(stored, np.arange(1))
        return picture_size(row, stored.storage, f"{demo.file}, `{stored.path}`")


def _leaf(path: str) -> str:
    return path.rpartition("/")[2]
