"""What an export takes over from a LeRobot dataset as it is: depth cameras, columns that nothing declares, and all
that info.json says of features beside their type and shape."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lattok.data.formats.lerobot import LeRobotV3
from lattok.data.formats.lerobot_meta import PLACE, SPAN, EpisodeTable, file_of
from lattok.data.image_writer import VideoSpan
from lattok.data.schema import INDEX_KEYS, NOTE, Feature, RobotDataset, depth_cameras
from lattok.data.summaries import QUANTILES, Stats
from lattok.data.tables import common_types, open_table, read_table
from lattok.data.views import unwrap
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError

STATS = ("min", "max", "mean", "std", "count", *QUANTILES)
ENCODING = ("video.", "audio.", "has_audio")  # how names of facts about an encoded video begin
# of info.json: what is another in the export
COUNTED = ("codebase_version", "robot_type", "fps", "splits", "data_path", "video_path", "features", "chunks_size")
COUNTED += ("data_files_size_in_mb", "video_files_size_in_mb")
LEAVES = {pa.float32(): "float32", pa.float64(): "float64", pa.bool_(): "bool", pa.large_string(): "string"}


class Extra(NamedTuple):
    """What goes into one episode beside its columns and frames."""

    videos: Mapping[str, VideoSpan]
    stats: Mapping[str, Stats]


class DepthCameras:
    """Depth cameras of a dataset, in the episodes of an export: `videos` are copied whole, `images` as cells."""

    def __init__(self, dataset: RobotDataset):
        keys = depth_cameras(dataset)
        self.images, self.videos, self._stats = dict[str, Feature](), list[str](), dict[int, dict[str, Stats]]()
        if not keys:
            return
        source = self._source = cast(LeRobotV3, unwrap(dataset))
        self.images = {key: source.depth[key] for key in keys if source.depth[key].dtype == "image"}
        self.videos = [key for key in keys if key not in self.images]
        self._table = EpisodeTable(source.root, source.info, self.videos, source.tasks)
        self._stats = _stats_of(source, keys)

    def warn_of_others(self, chosen: Sequence[Episode]) -> None:
        """Say where files that are copied hold more than these episodes."""
        for key in self.videos:
            rows = np.isin(self._table.indices, [episode.index for episode in chosen])
            chunks, files = (self._table.columns[f"videos/{key}/{name}"] for name in PLACE)
            used = {*zip(chunks[rows].tolist(), files[rows].tolist(), strict=True)}
            together = [place in used for place in zip(chunks.tolist(), files.tolist(), strict=True)]
            if more := sum(together) - int(rows.sum()):
                what = f"`{key}` is copied in whole files, which also show {more} episodes that are not exported"
                checks.warn(f"{what}. If nobody may see them, leave it out by `cameras` of a description file.", 3)

    @contextmanager
    def of(self, index: int) -> Iterator[Extra]:
        """Give the videos and statistics of an episode, whose files are here meanwhile."""
        with ExitStack() as stack:
            spans = {}
            for key in self.videos:
                row = self._table.row(index)
                assert row is not None
                chunk, file, start, stop = (self._table.value(row, f"videos/{key}/{name}") for name in PLACE + SPAN)
                place = {"video_key": key, "chunk_index": chunk, "file_index": file}
                path = file_of(self._source.root, self._source.info, "video_path", **place)
                here = stack.enter_context(self._source.files.at_hand(path))
                if not here.is_file():
                    raise LattokError(f"missing video file {path}. Download or copy it again.")
                spans[key] = VideoSpan(path, start, stop, here)
            yield Extra(spans, self._stats.get(index, {}))


def _stats_of(source: LeRobotV3, keys: Sequence[str]) -> dict[int, dict[str, Stats]]:
    """Read statistics of cameras by episode, in their unit; a camera of which any is missing has none."""
    found: dict[int, dict[str, Stats]] = {}
    for path in sorted((source.root / "meta" / "episodes").glob("*/*.parquet")):
        there = open_table(path).schema_arrow.names
        known = [key for key in keys if all(f"stats/{key}/{name}" in there for name in STATS)]
        columns = ["episode_index", *(f"stats/{key}/{name}" for key in known for name in STATS)]
        for row in read_table(path, columns).to_pylist():
            for key in known:
                try:
                    parts: Stats = {name: np.asarray(row[f"stats/{key}/{name}"], dtype=np.float64) for name in STATS}
                    shapes = {part.shape for name, part in parts.items() if name != "count"}
                    if len(shapes) == 1 and parts["count"].shape == (1,) and parts["count"][0] > 0:
                        parts["count"] = parts["count"].astype(np.int64)
                        found.setdefault(row["episode_index"], {})[key] = parts
                except (TypeError, ValueError, OverflowError):
                    continue
    everywhere = {key for key in keys if all(key in stats for stats in found.values())}
    return {index: {key: stats[key] for key in everywhere} for index, stats in found.items()}


def check_cells(key: str, column: pa.ChunkedArray) -> None:
    """Require images that are in the data file: a path of the source leads nowhere in a copy."""
    kind = column.type
    held = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not held or pc.struct_field(column, "bytes").null_count:  # type: ignore[attr-defined]
        way_out = "Write the images into the data files, or leave the camera out (`cameras`)."
        checks.fail(key, "images within the data files", "a path or nothing in some rows", way_out)


def undeclared(source: LeRobotV3, chosen: Sequence[Episode]) -> tuple[dict[str, Feature], list[str]]:
    """Return columns that info.json leaves out, as it should declare them, and those for which it has no type."""
    indices = [episode.index for episode in chosen]
    schemas = source.schemas(indices)
    names = dict.fromkeys(name for schema in schemas.values() for name in schema.names)
    found, lost = dict[str, Feature](), list[str]()
    for name in (name for name in names if name not in (*source.features, *source.depth, *INDEX_KEYS)):
        feature = None
        if name and "/" not in name and all(name in schema.names for schema in schemas.values()):
            try:
                feature = _feature(source, name, common_types(name, schemas), indices)
            except LattokError:
                feature = None
        if feature is None:
            lost.append(name)
        else:
            found[name] = feature
    return found, lost


def _feature(source: LeRobotV3, name: str, kind: pa.DataType, indices: Sequence[int]) -> Feature | None:
    """Say in LeRobot's words what a column of numbers or texts is; None of anything else, and of lists that vary."""
    leaf, shape = kind, list[int]()
    while pa.types.is_fixed_size_list(leaf):
        leaf, shape = leaf.value_type, [*shape, leaf.list_size]
    if pa.types.is_list(leaf) and not shape:
        columns = (source.stored(index, [name])[name] for index in indices)
        sizes = {size for column in columns for size in pc.list_value_length(column).unique().to_pylist()}  # type: ignore[attr-defined]
        leaf, shape = leaf.value_type, [size for size in sizes if size]
        if len(sizes) != 1 or not shape:
            return None
    dtype = LEAVES.get(leaf, str(leaf))
    plain = pa.types.is_integer(leaf) or pa.types.is_string(leaf) or leaf in LEAVES
    return Feature(dtype, tuple(shape) or (1,), None) if plain else None


def told(dataset: RobotDataset, keys: Sequence[str], kept_images: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return entries of info.json by key, as far as they hold in the export: of columns that are not converted, and of
    cameras without what is said of an encoding that is another now (all but `kept_images`)."""
    source = unwrap(dataset)
    if not isinstance(source, LeRobotV3):
        return {}
    found = {}
    for key in (*keys, *INDEX_KEYS):
        camera = key in dataset.cameras
        entry = source.info["features"].get(dataset.original_camera(key) if camera else key)
        if entry is None or key in dataset.joined or key in dataset.actions_as:
            continue
        written = () if key in source.depth else ("dtype", "shape")
        entry = {name: value for name, value in entry.items() if name not in written}
        if camera or dataset.features.get(key) != source.features.get(key):
            entry.pop("names", None)
        if camera and key not in kept_images:
            entry.pop("video_info", None)
            if isinstance(entry.get(NOTE), dict):
                entry[NOTE] = {name: fact for name, fact in entry[NOTE].items() if not name.startswith(ENCODING)}
        found[key] = entry
    return found


def told_of_all(dataset: RobotDataset) -> dict[str, Any]:
    """Return what info.json says beside what every export says itself, such as LeRobot's `tools`."""
    source = unwrap(dataset)
    info = source.info if isinstance(source, LeRobotV3) else {}
    return {name: value for name, value in info.items() if name not in COUNTED and not name.startswith("total_")}
