"""What an export takes over as it is from a dataset of Parquet files: depth cameras, columns that nothing declares, and
all that info.json says of features beside their type and shape."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lattok.data.image_writer import VideoSpan
from lattok.data.schema import INDEX_KEYS, NOTE, Feature, RobotDataset, depth_cameras
from lattok.data.table_dataset import TableDataset, tables_of
from lattok.data.tables import common_types
from lattok.data.writers import Extra
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.untrusted import MISSING, copy_again

ENCODING = ("video.", "audio.", "has_audio")  # how names of facts about an encoded video begin
# of info.json: what is another in the export
COUNTED = ("codebase_version", "robot_type", "fps", "splits", "data_path", "video_path", "features", "chunks_size")
COUNTED += ("data_files_size_in_mb", "video_files_size_in_mb")
LEAVES = {pa.float32(): "float32", pa.float64(): "float64", pa.bool_(): "bool", pa.large_string(): "string"}


class Piece(NamedTuple):
    """Rows [first, last) of an episode, which become one of the export."""

    episode: Episode
    first: int
    last: int
    seconds: float = 0.0  # into the episode's part of its videos

    @classmethod
    def whole(cls, episode: Episode) -> "Piece":
        return cls(episode, 0, episode.length)

    @property
    def length(self) -> int:
        return self.last - self.first

    @property
    def is_whole(self) -> bool:
        return self.length == self.episode.length

    def span(self, start: float, stop: float, fps: float) -> tuple[float, float]:
        """Return where the piece lies in a video, of which the episode has the seconds from `start` to `stop`."""
        if self.is_whole and not self.seconds:
            return start, stop
        return start + self.seconds, start + self.seconds + self.length / fps


class CopiedVideos:
    """Cameras whose video files an export copies whole; here none."""

    keys: Sequence[str] = ()

    @property
    def encoded(self) -> Collection[str]:
        """Return the cameras of which some pieces are encoded again."""
        return ()

    @contextmanager
    def of(self, piece: Piece) -> Iterator[Extra]:
        """Give the videos of a piece and the statistics of what they show."""
        yield Extra()


class DepthCameras:
    """Depth cameras of a dataset, in the episodes of an export: `videos` are copied whole, `images` as cells."""

    def __init__(self, dataset: RobotDataset):
        self._source, keys = tables_of(dataset), depth_cameras(dataset)
        known = {} if self._source is None else {key: self._source.depth[key] for key in keys}
        self.images = {key: feature for key, feature in known.items() if feature.dtype == "image"}
        self.videos = [key for key in known if key not in self.images]
        self._stats = self._source.episode_statistics(keys) if self._source is not None and known else {}

    def warn_of_others(self, chosen: Sequence[Episode]) -> None:
        """Say where files that are copied hold more than these episodes."""
        wanted = {episode.index for episode in chosen}
        for key in self.videos:
            assert self._source is not None
            files = {each.index: self._source.depth_span(each.index, key)[0] for each in self._source.episodes}
            used = {files[index] for index in wanted}
            if more := sum(file in used for file in files.values()) - len(wanted):
                what = f"`{key}` is copied in whole files, which also show {more} episodes that are not exported"
                checks.warn(f"{what}. If nobody may see them, leave it out by `cameras` of a description file.", 4)

    @contextmanager
    def of(self, piece: Piece) -> Iterator[Extra]:
        """Give the videos and statistics of an episode, whose files are here meanwhile."""
        index = piece.episode.index
        with ExitStack() as stack:
            spans = {}
            for key in self.videos:
                assert self._source is not None
                path, start, stop = self._source.depth_span(index, key)
                start, stop = piece.span(start, stop, self._source.fps)
                here = stack.enter_context(self._source.files.at_hand(path))
                if not here.is_file():
                    raise LattokError(f"missing video file {path}. {copy_again(path, MISSING)}")
                spans[key] = VideoSpan(path, start, stop, here)
            yield Extra(spans, self._stats.get(index, {}))


def check_cells(key: str, column: pa.ChunkedArray) -> None:
    """Require images that are in the data file: a path of the source leads nowhere in a copy."""
    kind = column.type
    held = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not held or pc.struct_field(column, "bytes").null_count:  # type: ignore[attr-defined]
        way_out = "Write the images into the data files, or leave the camera out (`cameras`)."
        checks.fail(key, "images within the data files", "a path or nothing in some rows", way_out)


def undeclared(source: TableDataset, chosen: Sequence[Episode]) -> tuple[dict[str, Feature], list[str]]:
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


def _feature(source: TableDataset, name: str, kind: pa.DataType, indices: Sequence[int]) -> Feature | None:
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


def told(
    dataset: RobotDataset, keys: Sequence[str], kept_images: Sequence[str], copied: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return entries of info.json by key, as far as they hold in the export: of columns that are not converted, and of
    cameras without what is said of an encoding that is another now (all but `kept_images`). Those whose videos are
    `copied` have their whole entry."""
    source = tables_of(dataset)
    if source is None:
        return {}
    found = {}
    for key in (*keys, *INDEX_KEYS):
        camera = key in dataset.cameras
        entry = source.info.get("features", {}).get(dataset.original_camera(key) if camera else key)
        if entry is None or key in dataset.joined or key in dataset.actions_as:
            continue
        if key in copied:
            found[key] = entry
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


def told_of_all(dataset: RobotDataset, chosen: Sequence[Episode]) -> dict[str, Any]:
    """Return what info.json says beside what every export says itself, such as LeRobot's `tools`, and its splits."""
    source = tables_of(dataset)
    if source is None:
        return {}
    kept = {name: value for name, value in source.info.items() if name not in COUNTED and not name.startswith("total_")}
    return kept | ({"splits": splits} if (splits := _splits(source, chosen)) else {})


def _splits(source: TableDataset, chosen: Sequence[Episode]) -> dict[str, str]:
    """Return the splits of info.json ("first:end" by name) under the new numbers of these episodes; no empty ones."""
    stated, found = source.info.get("splits") or {}, dict[str, str]()
    for name, span in stated.items() if isinstance(stated, dict) else ():
        if (bounds := re.fullmatch(r"(\d{1,18}):(\d{1,18})", str(span), re.ASCII)) is None:
            what = f"{source.name}: expected `splits` of meta/info.json such as 0:10, got {name!r:.60} {span!r:.60}"
            checks.warn(f"{what}: the export is without it.", stacklevel=6)
            continue
        first, end = map(int, bounds.groups())
        numbers = [number for number, episode in enumerate(chosen) if first <= episode.index < end]
        if numbers:
            found[name] = f"{numbers[0]}:{numbers[-1] + 1}"
    return found
