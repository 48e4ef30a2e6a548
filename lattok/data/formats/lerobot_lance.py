"""LeRobot v3 whose rows and videos are in Lance tables, as lerobot-lancedb converts it. Needs the extra lance.

    meta/            as in LeRobot v3
    frames.lance     one row a frame, in the order of `index`; columns have _ for . in their names
    videos.lance     one row a video file of v3: video_key, chunk_index, file_index, and its bytes in video_bytes

Version 0.1 called them NAME.lance and NAME_videos.lance, and could keep the frames themselves, as JPEG or PNG in a
column of NAME.lance.
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lattok.data.formats.lerobot_meta import (
    PLACE,
    SPAN,
    EpisodeTable,
    is_depth,
    lance_tables,
    read_features,
    read_info,
    read_tasks,
)
from lattok.data.images import decode_image
from lattok.data.schema import IMAGE_DTYPES, OTHER_DEPTH, Feature, RobotDataset
from lattok.data.tables import column_to_numpy
from lattok.data.video import BLOCK, decode_at
from lattok.utils.checks import LattokError, counted, first_line, listed, refuse
from lattok.utils.untrusted import copy_again, safe_path, walk
from lattok.version import install_extra

FRAMES, VIDEOS, BYTES = "frames", "videos", "video_bytes"
PIECE = 2**24  # bytes that are copied at once
AGAIN = "Convert the dataset again."


def _lance() -> Any:
    try:
        return import_module("lance")  # which only this format needs
    except ImportError:
        raise LattokError(f"reading Lance tables needs pylance. Install it: {install_extra('lance')}") from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever the library raises over a damaged table becomes one line that names it."""
    try:
        yield
    except LattokError:
        raise
    except BaseException as error:  # of Rust code, of many kinds; one that gives up raises no `Exception`
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise LattokError(f"cannot read {path} as Lance ({first_line(error)}). {copy_again(path)}") from None


def _opened(root: Path, path: Path) -> Any:
    """Open a table all of whose files are below the dataset."""
    for _ in walk(safe_path(root, path, str(path)), lambda _: False):  # which looks at links
        pass
    with _reading(path):
        table = _lance().dataset(str(path))
        _ = table.schema.names  # of a damaged one Rust gives up at the first look
        for fragment in table.get_fragments():
            for file in fragment.data_files():
                if getattr(file, "base_id", None) is not None or Path(file.path).name != file.path:
                    raise LattokError(f"{path}: its rows are in another place. Give a copy that contains them.")
        return table


class LanceLeRobot(RobotDataset):
    """A LeRobot v3 dataset in Lance tables; labels go into a folder of their own. See `lattok.data.RobotDataset`."""

    kind = "lerobot-lance"
    text = "LeRobot v3 in Lance tables (meta/info.json and *.lance)"
    marked = columns_apart = True

    def __init__(self, root: Path, name: str | None = None):
        self.root, self.name = root, name or root.resolve().name
        info = read_info(root, ("v3.",), PLACE)
        self.fps, self.robot = float(info["fps"]), info.get("robot_type")
        every = read_features(root, info)
        self.left_out = {key: OTHER_DEPTH for key in every if is_depth(key, info["features"][key])}
        shown = {key: feature for key, feature in every.items() if key not in self.left_out}
        self.cameras = tuple(key for key, feature in shown.items() if feature.dtype in IMAGE_DTYPES)
        # a table gives one frame at a time, whatever it keeps them in
        self.features = shown | {key: Feature("image", shown[key].shape, None) for key in self.cameras}
        self.tasks = read_tasks(root)
        self._paths = self._find_tables()
        names = set(self._table(FRAMES).schema.names)
        missing = [key for key in shown if key not in self.cameras and _column(key) not in names]
        if missing or len({*map(_column, shown)}) < len(shown):
            refuse(self._paths[FRAMES], "a column for each feature of info.json", f"none for {listed(missing)}", AGAIN)
        self._films = tuple(key for key in self.cameras if _column(key) not in names)
        if self._films and VIDEOS not in self._paths:
            refuse(root, f"videos.lance, or frames of {listed(self._films)}", "neither", AGAIN)
        self.episodes = self._episodes = EpisodeTable(root, info, self._films, self.tasks)
        self.damaged = self._episodes.missing
        self._spans = self._find_rows()
        self._film_rows = self._find_films() if self._films else {}

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if lance_tables(folder) else ()

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        self._row(episode_index)
        return tuple(self._paths.values())

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        self.check_columns(keys)
        first, last = self._span(episode_index)
        path = self._paths[FRAMES]
        with _reading(path):
            names = list(dict.fromkeys(map(_column, keys)))
            table = self._table(FRAMES).to_table(columns=names, offset=first, limit=last - first)
        found = ((key, f"{path}: `{_column(key)}`") for key in keys)
        return {key: column_to_numpy(table[_column(key)], self.features[key], where) for key, where in found}

    def encoded_images(self, episode_index: int, camera: str) -> list[bytes] | None:
        if camera in self._films:
            return None
        length = self.length(episode_index)
        return self._pictures(episode_index, camera, np.arange(length))

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        if camera not in self._films:
            where = f"{self._paths[FRAMES]}: `{_column(camera)}` of episode {episode_index}"
            for i in range(0, len(indices), BLOCK):
                stored = self._pictures(episode_index, camera, indices[i : i + BLOCK])
                yield np.stack([decode_image(data, where) for data in stored])
            return
        row = self._row(episode_index)
        chunk, file, start = (self._episodes.value(row, f"videos/{camera}/{name}") for name in (*PLACE, SPAN[0]))
        times = self.columns(episode_index, ["timestamp"])["timestamp"].astype(np.float64)
        try:
            yield from decode_at(self._film(camera, chunk, file), start + times[indices], self.fps)
        except LattokError as error:
            what = f"{self._paths[VIDEOS]}: {camera}, chunk {chunk}, file {file}"
            raise LattokError(f"{what}, episode {episode_index}: {error}") from None

    def length(self, episode_index: int) -> int:
        return int(self._episodes.lengths[self._row(episode_index)])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process: open tables, and copies of videos."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_copies")}

    @cached_property
    def _open(self) -> dict[str, Any]:
        return {}

    @cached_property
    def _copies(self) -> Path:
        """Videos that were decoded from, each copied once out of the table; gone with this object."""
        folder = tempfile.mkdtemp(prefix="lattok-lance-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _table(self, which: str) -> Any:
        if which not in self._open:
            self._open[which] = _opened(self.root, self._paths[which])
        return self._open[which]

    def _find_tables(self) -> dict[str, Path]:
        paths = {path.name.removesuffix(".lance"): path for path in lance_tables(self.root)}
        rows = [name for name in paths if name not in (VIDEOS, "meta") and not name.endswith(f"_{VIDEOS}")]
        if len(rows) != 1:
            refuse(self.root, "one table of frames, such as frames.lance", listed(sorted(paths)) or "none", AGAIN)
        films = paths.get(VIDEOS) or paths.get(f"{rows[0]}_{VIDEOS}")
        return {FRAMES: paths[rows[0]]} | ({VIDEOS: films} if films else {})

    def _find_rows(self) -> dict[int, tuple[int, int]]:
        """Rows [first, last) of every episode."""
        path = self._paths[FRAMES]
        with _reading(path):
            table = self._table(FRAMES).to_table(columns=["episode_index"])
        numbers = column_to_numpy(table["episode_index"], self.features["episode_index"], f"{path}: `episode_index`")
        starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])) if len(numbers) else np.empty(0, int)
        if len(np.unique(numbers[starts])) < len(starts):
            refuse(path, "the rows of each episode together", "those of one in several places", AGAIN)
        ends = np.append(starts[1:], len(numbers))
        return dict(zip(numbers[starts].tolist(), zip(starts.tolist(), ends.tolist(), strict=True), strict=True))

    def _find_films(self) -> dict[tuple[str, int, int], int]:
        """Rows of the videos, by camera, chunk and file."""
        path, keys = self._paths[VIDEOS], ["video_key", *PLACE]
        with _reading(path):
            table = self._table(VIDEOS)
            if missing := [key for key in (*keys, BYTES) if key not in table.schema.names]:
                refuse(path, f"columns {listed((*keys, BYTES))}", f"none of {listed(missing)}", AGAIN)
            rows = table.to_table(columns=[*keys, BYTES], blob_handling="blobs_descriptions").to_pylist()
        if any((row[BYTES] or {}).get("blob_uri") for row in rows):
            refuse(path, "videos in the table itself", "links to others", "Give a copy that holds them itself.")
        return {(row["video_key"], row["chunk_index"], row["file_index"]): place for place, row in enumerate(rows)}

    def _film(self, camera: str, chunk: int, file: int) -> Path:
        """Return a copy of a video of the table."""
        if (row := self._film_rows.get((camera, chunk, file))) is None:
            raise LattokError("the table has no such video. Convert the dataset again.")
        made = self._copies / f"{row}.mp4"
        if not made.exists():
            with _reading(self._paths[VIDEOS]), tempfile.NamedTemporaryFile(dir=made.parent, delete=False) as copy:
                (blob,) = self._table(VIDEOS).take_blobs(BYTES, indices=[row])
                shutil.copyfileobj(blob, copy, PIECE)
            Path(copy.name).replace(made)
        return made

    def _pictures(self, episode_index: int, camera: str, indices: np.ndarray) -> list[bytes]:
        first, _ = self._span(episode_index)
        path, name = self._paths[FRAMES], _column(camera)
        with _reading(path):
            stored = self._table(FRAMES).take((first + indices).tolist(), columns=[name])[name].to_pylist()
        if not all(isinstance(each, bytes) for each in stored):
            refuse(f"{path}: `{name}` of episode {episode_index}", "JPEG or PNG pictures", "something else", AGAIN)
        return stored

    def _span(self, episode_index: int) -> tuple[int, int]:
        length = self.length(episode_index)
        first, last = self._spans.get(episode_index, (0, 0))
        if last - first != length:
            where = f"{self._paths[FRAMES]}: episode {episode_index}"
            refuse(where, f"{counted(length, 'row')}, as meta/episodes says", last - first, AGAIN)
        return first, last

    def _row(self, episode_index: int) -> int:
        row = self._episodes.row(episode_index)
        return self.no_episode(episode_index) if row is None else row


def _column(key: str) -> str:
    return key.replace(".", "_")
