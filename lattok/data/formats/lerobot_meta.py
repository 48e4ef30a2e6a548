"""meta/ of a LeRobot v3 dataset, checked as it is read: info.json, the instructions, the table of episodes."""

import copy
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import TypedDict

from lattok.data import problems
from lattok.data.schema import IMAGE_DTYPES, NOTE, Damage, Feature
from lattok.data.summaries import QUANTILES, Stats
from lattok.data.tables import damaged_values, open_table, read_table
from lattok.types import Episode
from lattok.utils.checks import LattokError, is_frame_rate, is_int, refuse
from lattok.utils.files import read_json
from lattok.utils.findings import Finding
from lattok.utils.untrusted import Rule, inside, is_file_name, plain_format, safe_path, typed

MOST_MISSING = 100_000  # episodes that are listed as damaged one by one
_WHOLE = ("episode_index", "length", "data/chunk_index", "data/file_index")
PLACE, SPAN = ("chunk_index", "file_index"), ("from_timestamp", "to_timestamp")  # which file, which seconds of it
AGAIN = "Copy the dataset again."
MAX_AXES = 8  # of a feature
MAX_VECTOR_SIZE = 1 << 20  # dimensions, which all have names and statistics


INFO, STATS = "meta/info.json", "meta/stats.json"
STATISTICS = ("min", "max", "mean", "std", "count", *QUANTILES)  # of an episode, in meta/episodes


# what equal episodes have in common: values of their rows, and means, which were summed in some order: few digits count
OUTLINE = {"min": np.float32, "max": np.float32, "mean": np.float16}


class FeatureEntry(TypedDict, total=False):
    dtype: str
    shape: list[int]
    names: Any


def _is_feature(entry: FeatureEntry) -> bool:
    if not {"dtype", "shape"} <= entry.keys():
        return False
    sizes = entry.get("shape") or [1]  # [] are single numbers
    fits = len(sizes) <= MAX_AXES and min(sizes) > 0 and math.prod(sizes) < 2**31
    return fits and (len(sizes) > 1 or sizes[0] <= MAX_VECTOR_SIZE)


class Info(TypedDict, total=False):
    fps: Annotated[float, Rule("frames per second", is_frame_rate)]
    robot_type: str | None
    features: dict[str, Annotated[FeatureEntry, Rule("dtype and shape (a vector has up to 2^20 numbers)", _is_feature)]]


def version_of(folder: Path) -> str:
    """Return the version in meta/info.json of a folder, "" where there is none or it cannot be read."""
    path = folder / INFO
    try:
        return _version(read_json(path)) if path.is_file() else ""
    except (LattokError, OSError):  # which is said where the dataset is opened
        return ""


def _version(info: Mapping[str, Any]) -> str:
    """Return a version as LeRobot writes it, such as v2.1; some write 2.1."""
    return re.sub(r"^(?=\d)", "v", str(info.get("codebase_version") or ""))


def lance_tables(folder: Path) -> list[Path]:
    """List the Lance tables that hold the rows of a v3 dataset; none where these are in data/."""
    if (folder / "data").is_dir() or not version_of(folder).startswith("v3."):
        return []
    return sorted(path for path in folder.glob("*.lance") if path.is_dir())


def read_info(root: Path, versions: Sequence[str], place: Sequence[str]) -> dict[str, Any]:
    """Read meta/info.json of one of these versions, with everything in it that reading needs; `place` are the fields of
    `data_path` that are numbers."""
    path = root / "meta" / "info.json"
    if not safe_path(root, path, str(path)).is_file():
        raise LattokError(f"{root} is no LeRobot dataset: it has no meta/info.json. Give the folder that holds `meta`.")
    info = read_json(path)
    version = _version(info) or "unknown"
    if not version.startswith(tuple(versions)):
        way_out = "A newer lattok may read it."
        if version == "unknown":
            way_out = "Another program wrote it: give a folder with its videos or recordings alone."
        elif version.startswith("v1."):
            way_out = "Convert it to v2.0 with LeRobot 0.1.0; lattok reads that."
        elif version.startswith("v2."):
            way_out = 'Leave out `format`, or give format="lerobot-v2".'
        expected = " or ".join(each.rstrip(".") for each in versions)
        raise LattokError(f"{root}: expected LeRobot format {expected}, got {version[:40]}. {way_out}")
    if missing := [key for key in ("fps", "features", "data_path") if not info.get(key)]:
        raise LattokError(f"{path}: missing {', '.join(missing)}. {AGAIN}")
    info = typed(info, Info, "", str(path), AGAIN)
    numbers = dict.fromkeys(place, 0)
    if file_of(root, info, "data_path", **numbers).relative_to(root).parts[0] == "meta":
        raise LattokError(f"{path}: `data_path`: expected a path outside of meta/, got {info['data_path'][:60]!r}.")
    if info.get("video_path") is not None:
        file_of(root, info, "video_path", video_key="key", **numbers)
    return info


def restored_provenance(info: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what info.json says of label columns beside them, by prefix, as meta/lattok.json would; `name` is that of
    the dataset."""
    found = {}
    features = info.get("features")
    for key, entry in features.items() if isinstance(features, dict) else ():
        note = entry.get(NOTE) if isinstance(entry, dict) else None
        facts = note.get("lattok") if isinstance(note, dict) else None
        if key.endswith(".valid") and isinstance(facts, dict):
            place = {"name": facts.get("normalizer", name)}
            found[key.removesuffix(".valid")] = {**facts, "dataset": place, "versions": {}, "restored": True}
    return found


def file_of(
    root: Path, info: dict[str, Any], field: str, folders: set[str] | None = None, /, **place: str | int
) -> Path:
    """The file that `data_path` or `video_path` of info.json names; it lies below `root`, as `folders` may do."""
    what = f"{root / 'meta' / 'info.json'}: `{field}`"
    try:
        name = plain_format(info[field], **place)
    except LattokError:
        fields = ", ".join(f"{{{name}}}" for name in place)
        expected = f"a path with plain fields ({fields}; numbers also as in {{chunk_index:03d}})"
        raise LattokError(
            f"{what}: expected {expected}, got {str(info[field])[:60]!a}. Correct it, or copy it again."
        ) from None
    return inside(root, name, what, folders)


def read_features(root: Path, info: dict[str, Any]) -> dict[str, Feature]:
    features = {}
    for key, entry in info["features"].items():
        if entry["dtype"] in IMAGE_DTYPES and not is_file_name(key):  # a folder may have that name
            where = f"{root / 'meta' / 'info.json'}: feature {key[:60]!a}"
            raise LattokError(f"{where}: expected a name that a folder can have. {AGAIN}")
        shape, names = tuple(entry["shape"]) or (1,), tuple(_dimension_names(entry.get("names")))
        if entry["dtype"] in IMAGE_DTYPES and len(shape) == 3 and 3 not in shape[2:] and shape[0] in (1, 3):
            shape = (*shape[1:], shape[0])  # channels come first
        features[key] = Feature(entry["dtype"], shape, names if names and shape == (len(names),) else None)
    return features


def is_depth(key: str, entry: Mapping[str, Any]) -> bool:
    """Tell from an entry of info.json that a camera measures distances: the three spellings of LeRobot 0.6.1, or of
    others, which call one channel so."""
    info, older = (part if isinstance(part, dict) else {} for part in (entry.get("info"), entry.get("video_info")))
    marks = (info.get("is_depth_map"), info.get("video.is_depth_map"), older.get("video.is_depth_map"))
    one_channel = len(entry["shape"]) < 3 or 1 in (entry["shape"][0], entry["shape"][-1])
    said = any(marks) or (one_channel and "depth" in key.lower() and all(mark is None for mark in marks))
    return entry["dtype"] in IMAGE_DTYPES and said


def _dimension_names(given: Any, depth: int = 0) -> list[str]:
    """Return names as recorders write them: ["x", "y"], {"x": 0, "y": 1}, {"0": "x", "1": "y"}, or lists of these, one
    after the other, in a list or by name: [["x", "y"]], {"left": ["x"], "right": ["y"]}; [] where there are none. Lists
    by name that hold the same names get theirs before them: left_x, right_x."""
    if isinstance(given, str) or is_int(given):
        return [str(given)] if depth else []
    places = [str(place) for place in range(len(given))] if isinstance(given, dict) else []
    groups: list[str] = []
    if places and sorted(map(str, given.values())) == sorted(places):
        return sorted(given, key=lambda name: int(given[name]))
    if places and sorted(given) == sorted(places):
        given = [given[place] for place in places]
    elif places:
        groups = [] if "names" in given else [*given]
        given = [given["names"]] if "names" in given else [*given.values()]
        if not all(isinstance(part, list | dict) for part in given):  # units or the like
            return []
    if not isinstance(given, list) or depth > MAX_AXES:
        return []
    parts = [_dimension_names(part, depth + 1) for part in given]
    if groups and len({name for part in parts for name in part}) < sum(map(len, parts)):
        parts = [[f"{group}_{name}" for name in part] for group, part in zip(groups, parts, strict=True)]
    return [name for part in parts for name in part] if all(parts) else []


def read_tasks(root: Path, kind: str = "task") -> tuple[str, ...]:
    """Read the instructions by `task_index`, or the texts of sub-tasks by `subtask_index`."""
    path = root / "meta" / f"{kind}s.parquet"
    table = read_table(safe_path(root, path, str(path)))
    # the instruction is the index of a pandas table; newer versions of LeRobot name it
    text = next((name for name in (kind, "__index_level_0__") if name in table.column_names), None)
    if text is None or f"{kind}_index" not in table.column_names:
        refuse(path, f"columns {kind}_index and {kind}", ", ".join(table.column_names[:6])[:200], AGAIN)
    numbers = _numbers(table, f"{kind}_index", path)
    with damaged_values(path):
        tasks = table[text].to_pylist()
    if not all(isinstance(task, str) for task in tasks) or sorted(numbers.tolist()) != list(range(len(tasks))):
        raise LattokError(f"{path}: expected one text for each {kind}_index from 0. {AGAIN}")
    return tuple(tasks[row] for row in np.argsort(numbers).tolist())


class EpisodeTable(Sequence[Episode]):
    """Episodes by `episode_index`, held as columns: a million of them take tens of megabytes, not hundreds."""

    findings: tuple[Finding, ...] = ()  # about the totals of meta/info.json

    def __init__(self, root: Path, info: dict[str, Any], videos: Sequence[str], tasks: Sequence[str]):
        folder = root / "meta" / "episodes"
        names = [*_WHOLE, "tasks", *(f"videos/{key}/{name}" for key in videos for name in PLACE + SPAN)]
        if not (paths := [safe_path(root, path, str(path)) for path in sorted(folder.glob("*/*.parquet"))]):
            raise LattokError(f"{folder} holds no parquet file. {AGAIN}")
        tables, unread = _tables(paths, names)
        try:
            table = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException:
            raise LattokError(f"the files in {folder} have columns of different types. {AGAIN}") from None
        if not table.num_rows:
            raise LattokError(f"{folder} lists no episodes. {AGAIN}")
        indices = _numbers(table, "episode_index", folder)
        order = np.argsort(indices, kind="stable")
        self.indices = indices[order]  # [E] int64, ascending
        if len(self.indices) > 1 and not np.diff(self.indices).all():
            raise LattokError(f"{folder} lists an episode twice. {AGAIN}")
        numbers = [name for name in names if name not in ("episode_index", "tasks")]  # each column [E]
        self.columns = {name: _numbers(table, name, folder, name.endswith(SPAN))[order] for name in numbers}
        self.lengths = self.columns["length"]
        self.missing = self._check_totals(root / "meta" / "info.json", info, unread)
        kinds, kind_of = _instructions(table["tasks"], folder)
        place = {task: number for number, task in enumerate(tasks)}  # LeRobot writes the list in the order of a hash
        self._kinds = [tuple(sorted({*kind}, key=lambda text: (place.get(text, len(place)), text))) for kind in kinds]
        self._kind_of = kind_of[order]
        self._stops: dict[str, np.ndarray] = {}
        self._leave_out_empty("meta/episodes")

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"EpisodeTable({len(self)} episodes from {self.indices[0]} to {self.indices[-1]})"

    def __getitem__(self, row: int | slice) -> Any:  # an episode, or a tuple of several
        if isinstance(row, slice):
            return tuple(self[i] for i in range(len(self))[row])
        return Episode(int(self.indices[row]), int(self.lengths[row]), self._kinds[self._kind_of[row]])

    def __iter__(self) -> Iterator[Episode]:
        rows = zip(self.indices.tolist(), self.lengths.tolist(), self._kind_of.tolist(), strict=True)
        return (Episode(index, length, self._kinds[kind]) for index, length, kind in rows)

    def without(self, texts: Collection[str]) -> "EpisodeTable":
        """Return the table without these instructions, where an episode has others."""
        table = copy.copy(self)
        table._kinds = [tuple(text for text in kind if text not in texts) or kind for kind in self._kinds]
        return table

    def row(self, episode_index: int) -> int | None:
        row = int(np.searchsorted(self.indices, episode_index))
        return row if row < len(self) and self.indices[row] == episode_index else None

    def value(self, row: int, name: str) -> Any:
        return self.columns[name][row].item()

    def stops(self, camera: str, fps: float) -> np.ndarray:
        """Seconds [E] at which the episodes end in their videos.

        Some writers give the time of the last frame, one frame before: where no other episode begins there, the end is
        a frame later, as LeRobot reads it, which does not look at `to_timestamp`.
        """
        if camera not in self._stops:
            starts, stops = (self.columns[f"videos/{camera}/{name}"] for name in SPAN)
            order, same = self._in_videos(camera)
            following = np.full(len(starts), np.inf)
            following[order[:-1][same]] = starts[order][1:][same]
            short = np.abs(stops - starts - (self.lengths - 1) / fps) < 0.5 / fps
            self._stops[camera] = np.where(short, np.maximum(stops, np.minimum(stops + 1 / fps, following)), stops)
        return self._stops[camera]

    def _in_videos(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows [E] in the order of files and seconds, and whether the next one [E - 1] is in the same file."""
        chunks, files, starts = (self.columns[f"videos/{camera}/{name}"] for name in (*PLACE, SPAN[0]))
        order = np.lexsort((starts, files, chunks))
        return order, (np.diff(chunks[order]) == 0) & (np.diff(files[order]) == 0)

    def frames_in_video(self, camera: str, row: int) -> tuple[int, int]:
        """Count the frames of other episodes before that of a row in its video, and of all in it, by their lengths."""
        chunks, files, starts = (self.columns[f"videos/{camera}/{name}"] for name in (*PLACE, SPAN[0]))
        same = (chunks == chunks[row]) & (files == files[row])
        return int(self.lengths[same & (starts < starts[row])].sum()), int(self.lengths[same].sum())

    def shared_spans(self, camera: str, fps: float) -> dict[int, int]:
        """Find episodes of which more than half a frame lies, in the same video, in the span of another, with it."""
        chunks, files, starts, stops = (self.columns[f"videos/{camera}/{name}"] for name in PLACE + SPAN)
        order, same = self._in_videos(camera)
        stops = np.minimum(stops, starts + self.lengths / fps)  # what rows need: some give the end of the file
        hits = order[1:][same & (starts[order][1:] < stops[order][:-1] - 0.5 / fps)]
        found: dict[int, int] = {}
        for chunk, file in np.unique(np.stack([chunks[hits], files[hits]], 1), axis=0):
            earlier, *rows = order[(chunks[order] == chunk) & (files[order] == file)].tolist()  # by their start
            for row in rows:
                if starts[row] < stops[earlier] - 0.5 / fps:
                    one, other = int(self.indices[row]), int(self.indices[earlier])
                    found[one] = other
                    found.setdefault(other, one)
                earlier = max(earlier, row, key=stops.__getitem__)
        return found

    def _leave_out_empty(self, listed: str) -> None:
        """Count episodes without a frame among the missing ones: recorders that were stopped at once list such."""
        there = self.lengths > 0
        empty = (Damage(index, f"{listed} gives it no frame.") for index in self.indices[~there].tolist())
        self.missing = tuple(sorted((*self.missing, *empty)))
        self.indices, self._kind_of = self.indices[there], self._kind_of[there]
        self.columns = {name: values[there] for name, values in self.columns.items()}
        self.lengths = self.columns["length"]
        if not len(self.indices):
            raise LattokError(f"{listed}: expected episodes with frames, got none. {AGAIN}")

    def _check_totals(
        self, path: Path, info: dict[str, Any], unread: str, listed: str = "meta/episodes"
    ) -> tuple[Damage, ...]:
        """Compare the totals, which alone show that a file of meta/episodes is missing; return the episodes that are
        listed nowhere, with what is `unread` or else missing as the reason."""
        if not ((self.lengths >= 0) & (self.lengths < 2**31)).all():
            raise LattokError(f"{path.parent / 'episodes'}: expected lengths from 0, below 2^31. {AGAIN}")
        total = info.get("total_episodes", len(self))
        lost = f"A file of {listed} is missing" if listed == "meta/episodes" else f"{listed} is cut off"
        why = f"{lost} or from another dataset: copy the dataset again, or see `lattok repair`."
        what = f"{path}: `total_episodes` is {str(total)[:40]}, but {listed} lists {len(self)}. {why}"
        if is_int(total) and len(self) < total <= len(self) + MOST_MISSING:
            absent = sorted(set(range(total)) - set(self.indices.tolist()))
            return tuple(Damage(index, unread or what) for index in absent)
        if unread:
            raise LattokError(unread)
        # a recording that was resumed or trimmed by hand; that each episode has its rows is checked where they are read
        found = {"total_episodes": len(self), "total_frames": int(math.fsum(self.lengths.tolist()))}
        said = {key: str(info[key])[:40] for key, count in found.items() if info.get(key, count) != count}
        self.findings = tuple(
            problems.OTHER_TOTALS.finding(file=path, key=key, total=total, listed=listed, count=found[key])
            for key, total in said.items()
        )
        return ()


def _tables(paths: Sequence[Path], names: Sequence[str]) -> tuple[list[pa.Table], str]:
    """Read the files that can be read, and say why one cannot."""
    tables, unread = list[pa.Table](), ""
    for path in paths:
        try:
            tables.append(read_table(path, names))
        except LattokError as error:
            unread = unread or str(error)
    if not tables:
        raise LattokError(unread)
    return tables, unread


def read_outlines(root: Path, keys: Sequence[str]) -> dict[int, bytes]:
    """Read statistics of columns by episode, as bytes that are equal where they are; none where one is missing."""
    names, found = [f"stats/{key}/{kind}" for key in keys for kind in OUTLINE], dict[int, bytes]()
    for path in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        try:
            table = read_table(path, ["episode_index", *names])
            with damaged_values(path), np.errstate(over="ignore"):
                flat = {name: np.stack(table[name].to_numpy()).reshape(len(table), -1) for name in names}
                rows = [np.ascontiguousarray(flat[name], OUTLINE[name.rpartition("/")[2]]) for name in names]
        except (LattokError, ValueError, TypeError):  # which inspect says elsewhere: without them more rows are read
            return {}
        parts = zip(*([row.tobytes() for row in each] for each in rows), strict=True)
        found.update(zip(table["episode_index"].to_pylist(), map(b"".join, parts), strict=bool(names)))
    return found


def read_episode_statistics(root: Path, keys: Sequence[str]) -> dict[int, dict[str, Stats]]:
    """Read statistics of cameras by episode, in their unit; a camera of which any is missing has none."""
    found: dict[int, dict[str, Stats]] = {}
    for path in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        there = open_table(path).schema_arrow.names
        known = [key for key in keys if all(f"stats/{key}/{name}" in there for name in STATISTICS)]
        columns = ["episode_index", *(f"stats/{key}/{name}" for key in known for name in STATISTICS)]
        for row in read_table(path, columns).to_pylist():
            for key in known:
                try:
                    own = {name: row[f"stats/{key}/{name}"] for name in STATISTICS}
                    parts: Stats = {name: np.asarray(value, dtype=np.float64) for name, value in own.items()}
                    shapes = {part.shape for name, part in parts.items() if name != "count"}
                    if len(shapes) == 1 and parts["count"].shape == (1,) and parts["count"][0] > 0:
                        parts["count"] = parts["count"].astype(np.int64)
                        found.setdefault(row["episode_index"], {})[key] = parts
                except (TypeError, ValueError, OverflowError):
                    continue
    everywhere = {key for key in keys if all(key in stats for stats in found.values())}
    return {index: {key: stats[key] for key in everywhere} for index, stats in found.items()}


def _numbers(table: pa.Table, name: str, where: Path, seconds: bool = False) -> np.ndarray:
    """Read a column of whole numbers from 0, int64 [E], or of seconds, float64 [E]."""
    column, what = table[name], "seconds" if seconds else "whole numbers"
    if not (pa.types.is_floating if seconds else pa.types.is_integer)(column.type) or column.null_count:
        refuse(f"{where}: `{name}`", what, "empty cells" if column.null_count else str(column.type)[:60], AGAIN)
    values = column.to_numpy().astype(np.float64 if seconds else np.int64)
    if seconds and not ((values >= 0) & (values < 1e9)).all():
        raise LattokError(f"{where}: `{name}`: expected seconds of at least 0. {AGAIN}")
    if not seconds and values.min(initial=0) < 0:
        raise LattokError(f"{where}: `{name}`: expected numbers of at least 0, got {values.min()}. {AGAIN}")
    return values


def _lists_of_one(texts: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(range(len(texts) + 1), pa.int32()), texts)


def _instructions(column: pa.ChunkedArray, where: Path) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Return the different lists of instructions, and which of them each episode has, int32 [E]."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):  # one each
        column = pa.chunked_array([_lists_of_one(part) for part in column.chunks], pa.list_(column.type))
    kind = column.type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not nested or not (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)):
        raise LattokError(f"{where}: `tasks`: expected lists of text, got {str(kind)[:60]}. {AGAIN}")
    counts, flat = pc.list_value_length(column), pc.list_flatten(column)  # type: ignore[attr-defined]
    if counts.null_count or flat.null_count:
        raise LattokError(f"{where}: `tasks`: expected lists of text, got empty cells. {AGAIN}")
    encoded = flat.combine_chunks().dictionary_encode()
    with damaged_values(where):
        words, codes, sizes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(), counts.to_numpy()
    if (sizes == 1).all():
        return [(word,) for word in words], codes.astype(np.int32)
    kinds: dict[tuple[str, ...], int] = {}
    parts = np.split(codes, np.cumsum(sizes)[:-1])
    numbers = [kinds.setdefault(tuple(words[code] for code in part.tolist()), len(kinds)) for part in parts]
    return list(kinds), np.array(numbers, dtype=np.int32)
