"""Any dataset written as LeRobot v3 or another format: `export(dataset, "out")`, with labels (`labels.with_labels`).

Episodes are numbered again; meta/export.json says which they were. One episode's columns and one block of frames are in
memory at a time, nothing is published before all is written, and the same call writes the same bytes.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lattok.data.carried import CopiedVideos, DepthCameras, Piece, check_cells, told, told_of_all, undeclared
from lattok.data.content import digests_from_json, digests_to_json
from lattok.data.episodes import damaged_among, select_episodes
from lattok.data.formats.lerobot_writer import DTYPES
from lattok.data.image_writer import EpisodeFrames, Frames
from lattok.data.images import decode_image
from lattok.data.instructions import instruction_of
from lattok.data.modality import MODALITY, modality_of
from lattok.data.opening import as_dataset
from lattok.data.schema import (
    EXPORTED,
    FORMATS,
    IMAGE_DTYPES,
    INDEX_KEYS,
    NONE,
    PROVENANCE,
    Damage,
    Feature,
    Progress,
    RobotDataset,
)
from lattok.data.table_dataset import tables_of
from lattok.data.tables import common_types
from lattok.data.views import DECLARATION, action_spaces
from lattok.data.writers import WRITERS, DatasetWriter, Extra
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError, first_line
from lattok.utils.files import make_room
from lattok.utils.output import Output
from lattok.utils.runs import index_runs, run_of

Size = tuple[int, int] | None  # height and width that all frames are resized to
# of an entry of provenance and of its model: what is true of any part of the labels
PORTABLE = ("spec", "options", "actions_as", "cameras", "columns", "fills")
IDENTITY = ("type", "config_sha256", "weights_sha256", "features_sha256", "backend", "precision")
MAX_EPISODES_TRIED = 20  # episodes that show whether images are stored encoded, should the first ones be damaged


class ExportResult(NamedTuple):
    """Path of an export, and which episodes of the source it holds."""

    path: Path
    episodes: tuple[int, ...]  # index in the source of each episode, in the new order
    frames: int
    left_out: tuple[Damage, ...]  # episodes that cannot be read


class _Camera(NamedTuple):
    key: str
    feature: Feature  # dtype "video" or "image", the size written
    source: tuple[int, int]  # height and width of its frames
    verbatim: bool  # encoded images as they are stored


class Plan(NamedTuple):
    """What is written of a dataset, and how."""

    dataset: RobotDataset
    columns: dict[str, Feature]
    cameras: list[_Camera]
    resized: bool
    kept: dict[str, Feature]  # columns of LeRobot that are stored as they are: neither numbers nor text, or undeclared
    depth: DepthCameras
    copied: CopiedVideos
    as_measured: bool  # all columns are those of the source, row by row


def export(
    dataset: RobotDataset | str | os.PathLike[str],
    out: str | Path,
    *,
    format: str = "lerobot",
    episodes: str | Sequence[int] | None = None,
    images: str = "auto",
    video_codec: str = "libsvtav1",
    size: tuple[int, int] | None = None,
    skip_damaged: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write `dataset` as LeRobot v3 to the new folder `out`, with its label columns.

    `format` "rlds" writes what TFDS reads, `out`/1.0.0, for code that is tied to it: `tfds.builder_from_directory`. It
    has no videos: frames that are not stored as images become PNG, without loss. Other packages may add formats, see
    `lattok.data.writers`.

    `dataset` may be its path or Hub id. `episodes` as in `select_episodes`. `images`: "auto" keeps stored JPEG and
    PNG images as they are and makes videos of all other cameras; "video" makes videos of all; "image" stores all
    frames without loss. A video has even sides: an odd last row or column is cut off. `size` (height, width)
    resizes all frames, which sources with frames of different sizes need. An episode that cannot be read, also one
    within a range, is an error; with `skip_damaged` it is left out, and everything is read twice. `progress(frames
    done, frames in all)` is called after every episode. Depth cameras of LeRobot are copied as they are.
    """
    out, dataset = Path(out), as_dataset(dataset)
    writer_class = check_export(dataset, out, format, images, size)
    if "video" not in writer_class.stores:
        images = writer_class.stores[0]  # of encoded images, those that are stored stay as they are
    left_out = damaged_among(dataset, episodes)
    if left_out and not skip_damaged:
        raise _cannot_read(left_out[0].reason)
    chosen = select_episodes(dataset, episodes, skip_damaged)
    plan = plan_export(dataset, chosen, images, size)
    if skip_damaged:
        left_out += [Damage(e.index, why) for e in chosen if (why := damage_of(plan, Piece.whole(e))) is not None]
        damaged = {damage.episode_index for damage in left_out}
        chosen = [episode for episode in chosen if episode.index not in damaged]
        if not chosen:
            raise LattokError(f"`{dataset.name}`: no episode can be read: {left_out[0].reason}")
    write_pieces(writer_class, out, plan, [Piece.whole(episode) for episode in chosen], video_codec, progress=progress)
    return ExportResult(out, tuple(e.index for e in chosen), sum(e.length for e in chosen), tuple(sorted(left_out)))


def write_pieces(
    writer_class: type[DatasetWriter],
    out: Path,
    plan: Plan,
    pieces: Sequence[Piece],
    video_codec: str,
    more: Mapping[str, Mapping[str, Any]] = NONE,
    progress: Progress | None = None,
) -> None:
    """Write pieces of episodes as the episodes of a new dataset; `more` are further files for meta/."""
    chosen = list(dict.fromkeys(piece.episode for piece in pieces))
    if writer_class.carries:
        plan.depth.warn_of_others(chosen)
    elif missing := [*plan.kept, *plan.depth.videos]:
        what = f"no place for {', '.join(missing)[:200]} of {plan.dataset.name}: the export is without"
        checks.warn(f"{writer_class.text or writer_class.kind} has {what}", stacklevel=3)
        plan.kept.clear()
        plan.depth.videos.clear()
    features = plan.columns | plan.kept | {camera.key: camera.feature for camera in plan.cameras}
    kept, records = _types(plan, chosen), [*_records(plan, pieces), *more.items()]
    modality = modality_of(plan.dataset) if writer_class.carries else None
    try:
        about = {"robot_type": plan.dataset.robot, "video_codec": video_codec, "kept": kept}
        with writer_class.create(out, plan.dataset.fps, features, **about) as writer:
            if modality is not None:
                writer.write_meta(MODALITY.name, modality)
                writer.number_tasks(plan.dataset.tasks if "annotation" in modality else ())
            _write(writer, plan, pieces, progress)
            _write_records(writer, plan, pieces, records)
    except (OSError, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        what = f"cannot write {out}: {why}. Nothing half-written is left."
        if isinstance(error, OSError):
            what += f" {make_room(error)} or choose another `out`."
        raise LattokError(what) from None


def _write_records(
    writer: DatasetWriter, plan: Plan, pieces: Sequence[Piece], records: Sequence[tuple[str, Any]]
) -> None:
    """Write what is known of the dataset beside its episodes."""
    notes = dict[str, Any]()
    for name, value in records:
        writer.write_meta(name, value)
        if name == PROVENANCE.name:  # which LeRobot's tools drop
            made = {prefix: entry for prefix, entry in value.items() if "model" in entry}
            notes = {f"{prefix}.valid": portable_facts(entry) for prefix, entry in made.items()}
    cameras = [*(camera.key for camera in plan.cameras), *plan.copied.keys]
    keys = [*plan.columns, *plan.kept, *plan.depth.videos, *cameras]
    said = told(plan.dataset, keys, [camera.key for camera in plan.cameras if camera.verbatim], plan.copied.keys)
    writer.carry(notes, said, told_of_all(plan.dataset, [piece.episode for piece in pieces]))
    source = tables_of(plan.dataset)
    if source is not None and source.subtask_texts:
        writer.write_subtasks(source.subtask_texts)


def check_export(dataset: RobotDataset, out: Path, format: str, images: str, size: Size) -> type[DatasetWriter]:
    """Check everything before anything is read; return the writer of the format."""
    if dataset.absent:
        hint = "Export it as it is, and convert it when it is read."
        checks.fail("dataset", "one whose columns are all there", f"`{next(iter(dataset.absent))}` in parts", hint)
    if format not in WRITERS and format in FORMATS:
        hint = f"lattok only reads {format}. A DATASET of that format is named {format}::DATASET."
        checks.fail("format", f"one of {', '.join(WRITERS)}", repr(format), hint)
    checks.one_of("format", format, WRITERS)
    writer_class = WRITERS[format]
    checks.one_of("images", images, ("auto", *writer_class.stores))
    if size is not None:
        checks.size("size", "numbers, height and width", len(size), 2)
        checks.counts(size_height=size[0], size_width=size[1])
    Output(out).check_outside(dataset.root)
    writer_class.check_place(out)
    return writer_class


class _Misfit(LattokError):
    """Frames of another size, which is no damage."""


def plan_export(
    dataset: RobotDataset,
    chosen: Sequence[Episode],
    images: str,
    size: Size = None,
    copied: CopiedVideos | None = None,
    as_measured: bool = True,
) -> Plan:
    """Say what is written and how; the first episodes show whether images are stored encoded."""
    copied = copied or CopiedVideos()
    columns, kept, source = dict[str, Feature](), dict[str, Feature](), tables_of(dataset)
    for key, feature in dataset.features.items():
        if key not in (*INDEX_KEYS, *dataset.parts) and feature.dtype not in IMAGE_DTYPES:
            dtype = "float32" if feature.dtype == "float16" else feature.dtype  # LeRobot does not know float16
            place = kept if source is not None and dtype not in DTYPES else columns
            place[key] = feature._replace(dtype=dtype, shape=feature.shape or (1,))
    tried = chosen[:MAX_EPISODES_TRIED]
    cameras = [_camera(dataset, key, tried, images, size) for key in dataset.cameras if key not in copied.keys]
    depth = DepthCameras(dataset)
    kept |= depth.images
    if source is not None:
        found, lost = undeclared(source, chosen)
        kept |= {key: feature for key, feature in found.items() if key not in columns}
        if lost:
            what = f"{dataset.name}: {', '.join(lost)[:200]} in its data files: meta/info.json does not declare it"
            checks.warn(f"{what}, so the export is without. Declare it there to keep it.", stacklevel=3)
    return Plan(dataset, columns, cameras, bool(size), kept, depth, copied, as_measured)


def _types(plan: Plan, chosen: Sequence[Episode]) -> dict[str, pa.DataType]:
    """Return Arrow types of the columns that are kept as they are."""
    source = tables_of(plan.dataset)
    if source is None or not plan.kept:
        return {}
    schemas = source.schemas([episode.index for episode in chosen])
    return {key: common_types(key, schemas) for key in plan.kept}


def _camera(dataset: RobotDataset, key: str, tried: Sequence[Episode], images: str, size: Size) -> _Camera:
    source = (dataset.features[key].shape[0], dataset.features[key].shape[1])
    height, width = size or source
    verbatim = images not in ("video", "pixels") and (height, width) == source and _keeps(dataset, key, tried)
    if images == "video" or (images == "auto" and not verbatim):
        if size and (height % 2 or width % 2):
            checks.fail("size", "an even height and width for video", f"{height} {width}")
        if height % 2 or width % 2:
            cut = f"{height - height % 2}x{width - width % 2}"
            checks.note(f"{dataset.name}: {key}: {height}x{width} become {cut}: frames of video have even sides")
        return _Camera(key, Feature("video", (height - height % 2, width - width % 2, 3), None), source, False)
    return _Camera(key, Feature("image", (height, width, 3), None), source, verbatim)


def _keeps(dataset: RobotDataset, key: str, tried: Sequence[Episode]) -> bool:
    """Return whether the dataset stores encoded images that can be stored again as they are."""
    for episode in tried:
        with suppress(LattokError):  # damaged, or images of another kind
            stored = dataset.encoded_images(episode.index, key)
            if not stored or decode_image(stored[0], key).shape == dataset.features[key].shape:
                return bool(stored)
    return False


def _write(writer: DatasetWriter, plan: Plan, pieces: Sequence[Piece], told: Progress | None) -> None:
    done, total = 0, sum(piece.length for piece in pieces)
    for piece in pieces:
        try:
            columns = _columns(plan, piece)
            frames = {camera.key: _frames(plan, camera, piece) for camera in plan.cameras}
            instruction = instruction_of(plan.dataset, piece.episode)
            if not isinstance(instruction, str):
                instruction = instruction[piece.first : piece.last]
            with plan.depth.of(piece) as depth, plan.copied.of(piece) as copied:
                extra = Extra({**depth.videos, **copied.videos}, {**depth.stats, **copied.stats})
                writer.add_whole_episode(columns, frames, instruction, piece.length, extra)
        except _Misfit:
            raise
        except LattokError as error:
            raise _cannot_read(f"episode {piece.episode.index}: {error}") from None
        done += piece.length
        if told is not None:
            told(done, total)


def _columns(plan: Plan, piece: Piece) -> dict[str, Any]:
    """Return all columns of a piece, those of LeRobot's own kinds as they are stored."""
    source, index = tables_of(plan.dataset), piece.episode.index
    stored = source.stored(index, list(plan.kept)) if source is not None and plan.kept else {}
    for key in plan.kept.keys() & plan.depth.images.keys():
        check_cells(key, stored[key])
    columns = plan.dataset.columns(index, list(plan.columns)) | stored
    return {key: values[piece.first : piece.last] for key, values in columns.items()}


def _cannot_read(reason: str) -> LattokError:
    way_out = "Repair it, or leave out what cannot be read: skip_damaged=True."
    return LattokError(f"{reason.rstrip('.')}. Nothing was exported. {way_out}")


def _frames(plan: Plan, camera: _Camera, piece: Piece) -> Frames:
    """Return encoded images, or blocks of pixels as they are decoded."""
    if camera.verbatim:
        if (stored := plan.dataset.encoded_images(piece.episode.index, camera.key)) is None:
            raise LattokError(f"`{camera.key}` is not stored as encoded images here. Choose images=video.")
        return stored[piece.first : piece.last]
    blocks = plan.dataset.blocks(piece.episode.index, camera.key, np.arange(piece.first, piece.last))
    return (_fitted(plan, camera, block, piece.episode) for block in blocks)


def _fitted(plan: Plan, camera: _Camera, block: np.ndarray, episode: Episode) -> np.ndarray:
    """Bring frames to the size that is written: resize them if asked to, or cut off an odd last row or column."""
    height, width, _ = camera.feature.shape
    if plan.resized:
        if block.shape[1:3] == (height, width):
            return block
        from PIL import Image  # only for --size

        how = Image.Resampling.BILINEAR  # with antialiasing
        return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), how)) for frame in block])
    if block.shape[1:3] != camera.source:
        got, expected = ("x".join(map(str, size)) for size in (block.shape[1:3], camera.source))
        hint = f"LeRobot keeps one size per camera. Give one for all, such as size={height} {width}."
        raise _Misfit(f"`{camera.key}` of episode {episode.index}: expected frames of {expected}, got {got}. {hint}")
    return block[:, :height, :width]


def damage_of(plan: Plan, piece: Piece) -> str | None:
    """Read a piece, keep nothing, and return why it cannot be read; None where it can."""
    try:
        _columns(plan, piece)
        for camera in plan.cameras:
            if camera.verbatim:  # as the writer will look at them
                EpisodeFrames(camera.key, camera.feature.shape, _frames(plan, camera, piece), piece.length).images()
            else:
                for _ in plan.dataset.blocks(piece.episode.index, camera.key, np.arange(piece.first, piece.last)):
                    pass
    except LattokError as error:
        return str(error)
    return None


def _records(plan: Plan, pieces: Sequence[Piece]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield files for meta/: where everything comes from, what the actions mean, and what made the labels."""
    dataset = plan.dataset
    # of which cameras a reader sees the very pixels of the source
    exact = {c.key: c.feature.dtype == "image" and c.feature.shape[:2] == c.source for c in plan.cameras}
    exact |= {key: key not in plan.copied.encoded for key in plan.copied.keys}
    pictures = {key: "same" if same else "source" for key, same in exact.items()}
    source = {"name": dataset.name, "kind": dataset.kind}
    if dataset.split is not None:
        source["split"] = dataset.split
    record: dict[str, Any] = {"source": source, "episodes": [piece.episode.index for piece in pieces]}
    if not all(piece.is_whole for piece in pieces):
        record["rows"] = [[piece.first, piece.last] for piece in pieces]
    if held_out := [number for number, piece in enumerate(pieces) if piece.episode.index in dataset.held_out]:
        record["held_out"] = held_out
    yield EXPORTED.name, record | {"frames": pictures}
    if spaces := action_spaces(dataset):
        yield DECLARATION.name, {key: space.to_json() for key, space in spaces.items()}
    stored, known = dataset.provenance()
    entries = {key: value for key, value in stored.items() if not (isinstance(value, dict) and "restored" in value)}
    if dataset.labels is not None:
        entries |= dataset.labels.provenance
    if entries:
        made = dict[str, Any]()
        for prefix, entry in ((key, value) for key, value in entries.items() if isinstance(value, dict)):
            try:
                made[prefix] = _provenance(entry, exact, plan, pieces)
            except (AttributeError, KeyError, TypeError):  # a stranger's file
                hint = "Export without it: remove that file, or annotate again."
                checks.fail(f"{prefix}` in `{known}", "what annotate writes there", f"{entry!r:.60}", hint)
        yield PROVENANCE.name, made


def _provenance(entry: dict[str, Any], exact: dict[str, bool], plan: Plan, pieces: Sequence[Piece]) -> dict[str, Any]:
    """A prefix's provenance in the export: `frames` says whether the labels can be checked on it ("same"), or only on
    their source ("source"). Episodes have their new numbers. Columns it converted or joined are so no more."""
    dataset = plan.dataset
    kept = {name: value for name, value in entry.items() if name not in ("files", "unlabelled", "unreadable")}
    if "actions_as" in kept and kept["actions_as"] == dataset.actions_as.get(kept["options"]["action_key"]):
        del kept["actions_as"]
    if "fills" in kept:
        kept["fills"] = _fills(kept["fills"], plan, pieces)
    unchanged = plan.as_measured and all(piece.is_whole for piece in pieces)
    same = (
        unchanged and entry.get("frames") != "source" and all(exact.get(key, False) for key in entry.get("cameras", ()))
    )
    gaps = []
    for gap in entry.get("unlabelled", ()):
        gone = {*gap["episodes"]}
        if numbers := [number for number, piece in enumerate(pieces) if piece.episode.index in gone]:
            gaps.append({**gap, "episodes": numbers})
    return {**kept, "frames": "same" if same else "source", **({"unlabelled": gaps} if gaps else {})}


def _fills(fills: dict[str, Any], plan: Plan, pieces: Sequence[Piece]) -> dict[str, Any]:
    """Return what is said of a column that was filled, about these episodes under their new numbers."""
    dataset = plan.dataset
    kept = {name: value for name, value in fills.items() if name != "parts" or fills["column"] not in dataset.joined}
    if "filled" in kept:
        runs = kept["filled"]
        kept["filled"] = index_runs(
            n for n, piece in enumerate(pieces) if run_of(piece.episode.index, runs) is not None
        )
    if "measured" in kept:
        unchanged = {piece.episode.index: n for n, piece in enumerate(pieces) if piece.is_whole and plan.as_measured}
        found = digests_from_json(kept["measured"], unchanged)
        kept["measured"] = digests_to_json({unchanged[index]: digest for index, digest in found.items()})
    return kept | ({"converted": True} if fills["column"] in dataset.actions_as else {})


def portable_facts(entry: Mapping[str, Any], several: bool = False) -> dict[str, Any]:
    """Return what is said of labels that is true of any part of them, for a note at a column. `several`: labels of
    several datasets differ, as their normalisers do."""
    facts = {key: entry[key] for key in PORTABLE if key in entry}
    if "fills" in facts:
        facts["fills"] = {key: value for key, value in facts["fills"].items() if key not in ("filled", "measured")}
    facts["model"] = {key: entry["model"][key] for key in IDENTITY if key in entry["model"]}
    return {"lattok": facts | ({"normalizer": entry["dataset"]["name"]} if several else {})}
