"""Writes a copy of a dataset with latent actions as columns: `annotate(dataset, {"latent": model}, out)`.

Labels are made in units of whole episodes, each stored atomically beside `out`; a run that was interrupted and
started again reuses them and ends with the same bytes. Batches never cross units. Video is decoded by other threads
while a model labels; the labels do not depend on that.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
import pyarrow as pa
import torch

import lattok
from lattok import checks
from lattok.checks import LattokError
from lattok.data import ActionWindows, LeRobotV3, Progress, camera_keys, dimension_names
from lattok.data.ahead import Abandoned, Ahead, Job, Stopped
from lattok.data.extend import (
    Labels,
    Shapes,
    Unit,
    append_columns,
    copy_other_files,
    feature_entry,
    fingerprint,
    plan_units,
)
from lattok.data.schema import vector_key
from lattok.data.staging import Staging
from lattok.data.windows import check_stride
from lattok.files import read_json, write_json
from lattok.types import ActionTokenizer, LatentActions, VideoLabeller

UNIT_FRAMES = 4096
BATCH = 1024  # action chunks per call of a tokenizer
PIECE = 512  # frames of an episode at a time; a long one is never in memory as a whole
AHEAD_FRAMES = 2048  # decoded and waiting for the model: 0.6 GB for two cameras at 224 x 224
_PREFIX = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")

Models = Mapping[str, ActionTokenizer | VideoLabeller]
Identities = Mapping[str, dict[str, Any]]  # by prefix, what `describe` says: it hashes all weights, so it is asked once
FramesOf = Callable[[str, int, int, int], np.ndarray]  # see `piece_of_frames`


class Options(NamedTuple):
    """What is written, and from what."""

    embedding: bool = True
    quantized: bool = False
    action_key: str = "action"
    cameras: tuple[str, ...] | None = None  # None: the model's own


def annotate(
    dataset: LeRobotV3,
    models: Models,
    out: str | Path,
    *,
    embedding: bool = True,
    quantized: bool = False,
    action_key: str = "action",
    cameras: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write `dataset` with the labels of `models` (by column prefix, e.g. {"latent": model}) to the new folder `out`.

    Columns per prefix: `.codes` int64 [P], `.valid` bool, `.embedding` float32 [P * d] (latents before quantization),
    `.quantized` on request, `.env.*` for an environment stream. The source is only read. After an interruption the
    same call continues. `progress(frames done, frames in all)` is called after every unit.
    """
    out = Path(out)
    options = Options(embedding, quantized, action_key, None if cameras is None else tuple(cameras))
    _check_models(dataset, models, options)
    _check_outside(dataset.root, out)
    identities = {prefix: model.describe() for prefix, model in models.items()}
    plan = plan_hash(dataset, identities, options)
    staging = Staging(out, plan)
    if staging.finished():
        staging.remove()
        return out
    if out.exists():
        checks.fail("out", "a folder that does not exist yet", str(out), "Remove it or choose another.")
    try:
        staging.prepare()
        units = plan_units(dataset, UNIT_FRAMES)
        _label(dataset, models, units, options, staging, progress)
        _assemble(dataset, models, identities, units, options, staging)
        staging.publish()
    except KeyboardInterrupt:
        message = f"annotation interrupted; finished labels wait in {staging.folder}. Run the same command to continue."
        raise KeyboardInterrupt(message) from None
    except LattokError:
        staging.remove()
        raise
    except (OSError, pa.ArrowException) as error:
        staging.remove()
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise LattokError(
            f"cannot write {out}: {reason}. Nothing half-written is left and the source is untouched. "
            "Free space, check the permissions, or choose another `out`."
        ) from None
    return out


def label_unit(
    dataset: LeRobotV3, models: Models, unit: Unit, options: Options, frames_of: FramesOf | None = None
) -> Labels:
    """Labels of all frames of a unit, in the order of its rows. Depends on its arguments only.

    `frames_of` hands over frames decoded ahead; it is asked by prefix, then by episode, then by piece.
    """
    labels: Labels = {}
    for prefix, model in models.items():
        if model.label_source == "actions":
            parts, valid = _from_actions(dataset, cast(ActionTokenizer, model), unit, options)
        else:
            decode = frames_of or partial(piece_of_frames, dataset, models, options)
            parts, valid = _from_video(dataset, cast(VideoLabeller, model), unit, options, partial(decode, prefix))
        if not parts:
            hint = "Its labels are the embeddings."
            checks.fail("embedding", f"True, since the model of `{prefix}` has no codes", "False", hint)
        labels |= {f"{prefix}.{name}": values for name, values in parts.items()}
        labels[f"{prefix}.valid"] = valid
    for name, values in labels.items():
        checks.size(f"labels {name}", "rows", len(values), unit.last - unit.first)
    return labels


def piece_of_frames(
    dataset: LeRobotV3,
    models: Models,
    options: Options,
    prefix: str,
    index: int,
    first: int,
    last: int,
    stopped: Stopped = lambda: False,
) -> np.ndarray:
    """What the model of `prefix` sees of the frames [first, last) of an episode, uint8 [n, V, h, w, 3].

    `stopped` is asked before every block.
    """
    model = cast(VideoLabeller, models[prefix])

    def resize(block: np.ndarray) -> np.ndarray:
        if stopped():
            raise Abandoned
        return model.resize(block)

    return dataset.frames(index, _cameras(dataset, model, options), np.arange(first, last), resize)


def _pieces(dataset: LeRobotV3, unit: Unit, index: int) -> list[tuple[int, int]]:
    """Frames [first, last) of the pieces of an episode."""
    begin, end = dataset.episode_rows(unit.file)[index]
    return [(first, min(first + PIECE, end - begin)) for first in range(0, end - begin, PIECE)]


def plan_hash(dataset: LeRobotV3, identities: Identities, options: Options) -> str:
    """Everything that the labels depend on; finished units are reused only under the same hash."""
    versions = [lattok.__version__, torch.__version__, np.__version__, pa.__version__, av.__version__]
    parts = [fingerprint(dataset.root), identities, options._asdict(), UNIT_FRAMES, BATCH, versions]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _from_actions(
    dataset: LeRobotV3, model: ActionTokenizer, unit: Unit, options: Options
) -> tuple[Labels, np.ndarray]:
    windows = ActionWindows(dataset, model.horizon, options.action_key, unit.episodes)
    # windows come by episode index, rows in the file's order
    order = np.concatenate([np.flatnonzero(windows.episode_of == index) for index in unit.episodes])
    outputs = []
    for batch in torch.from_numpy(order).split(BATCH):
        chunks, valid = windows.batch(batch)
        with torch.no_grad():
            outputs.append(_columns(model.latent_actions(chunks, valid), options))
    return _joined(outputs), np.ones(len(windows), dtype=bool)


def _from_video(
    dataset: LeRobotV3,
    model: VideoLabeller,
    unit: Unit,
    options: Options,
    frames_of: Callable[[int, int, int], np.ndarray],
) -> tuple[Labels, np.ndarray]:
    stride = model.stride_frames(dataset.fps)
    outputs, valid = [], []
    for index in unit.episodes:
        pieces = _pieces(dataset, unit, index)
        with torch.no_grad():
            video = (frames_of(index, first, last) for first, last in pieces)
            outputs.append(_columns(model.label_video(video, stride), options))
        valid.append(np.arange(pieces[-1][1]) + stride < pieces[-1][1])
    return _joined(outputs), np.concatenate(valid)


def _cameras(dataset: LeRobotV3, model: VideoLabeller, options: Options) -> tuple[str, ...]:
    keys = camera_keys(dataset, options.cameras or model.cameras)
    checks.size("cameras", "cameras as in the model's config", len(keys), len(model.cameras))
    return keys


def _columns(out: LatentActions, options: Options) -> Labels:
    """Arrays of one stream, and of the environment stream under `env.`; no codes where nothing is quantized."""
    arrays = {"codes": out.codes.cpu().numpy().astype(np.int64)} if out.codes.shape[1] else {}
    if options.embedding:
        arrays["embedding"] = out.latents.float().cpu().numpy()
    if options.quantized and out.codes.shape[1]:
        arrays["quantized"] = out.quantized.float().cpu().numpy()
    if out.env is not None:
        arrays |= {f"env.{name}": values for name, values in _columns(out.env, options).items()}
    return arrays


def _joined(parts: list[Labels]) -> Labels:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _label(
    dataset: LeRobotV3,
    models: Models,
    units: list[Unit],
    options: Options,
    staging: Staging,
    progress: Progress | None,
) -> None:
    """The local engine: one unit after the other, skipping those that are there already."""
    done, total = 0, sum(unit.last - unit.first for unit in units)
    missing = {unit.number: unit for unit in units if not staging.has(unit)}
    video = [prefix for prefix, model in models.items() if model.label_source == "video"]
    jobs = (
        Job((prefix, index, first, last), last - first)
        for unit in missing.values()
        for prefix in video
        for index in unit.episodes
        for first, last in _pieces(dataset, unit, index)
    )
    decode = partial(piece_of_frames, dataset, models, options)
    with Ahead(decode, jobs, AHEAD_FRAMES) as frames_of:
        for unit in units:
            if unit.number in missing:
                staging.store(unit, label_unit(dataset, models, unit, options, frames_of))
            done += unit.last - unit.first
            if progress is not None:
                progress(done, total)


def _assemble(
    dataset: LeRobotV3,
    models: Models,
    identities: Identities,
    units: list[Unit],
    options: Options,
    staging: Staging,
) -> None:
    """Data files with the labels appended, features in info.json, provenance, and everything else as it was."""
    shapes: Shapes = {name: (str(v.dtype), v.shape[1:] or (1,)) for name, v in staging.load(units[0]).items()}
    by_file: dict[Path, list[Unit]] = {}
    for unit in units:
        by_file.setdefault(unit.file, []).append(unit)
    for file, members in by_file.items():
        target = staging.dataset / file.relative_to(dataset.root)
        if not target.exists():
            append_columns(file, target, shapes, staging.row_reader(members))
    info = read_json(dataset.root / "meta" / "info.json")
    info["features"] |= {name: feature_entry(*shape) for name, shape in shapes.items()}
    write_json(staging.dataset / "meta" / "info.json", info, indent=4)
    provenance = dataset.root / "meta" / "lattok.json"
    labels = read_json(provenance) if provenance.exists() else {}
    for prefix, model in models.items():
        own = {name: shape for name, shape in shapes.items() if name.startswith(prefix + ".")}
        labels[prefix] = _provenance(dataset, model, options) | {
            "model": identities[prefix],
            "columns": {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in own.items()},
        }
    write_json(staging.dataset / "meta" / "lattok.json", labels, indent=4)
    rewritten = {file.relative_to(dataset.root) for file in by_file} | {
        Path("meta/info.json"),
        Path("meta/lattok.json"),
    }
    copy_other_files(dataset.root, staging.dataset, rewritten)


def _provenance(dataset: LeRobotV3, model: Any, options: Options) -> dict[str, Any]:
    """What labels were made from: source, stride or horizon. No times, no paths."""
    entry: dict[str, Any] = {"lattok_version": lattok.__version__}
    if model.label_source == "actions":
        return entry | {"source": "actions", "action_key": options.action_key, "horizon": model.horizon}
    stride = model.stride_frames(dataset.fps)
    cameras = list(_cameras(dataset, model, options))
    return entry | {"source": "video", "cameras": cameras, "stride": stride, "stride_seconds": stride / dataset.fps}


def _check_models(dataset: LeRobotV3, models: Models, options: Options) -> None:
    """Prefixes that are free and models that fit the dataset, before any work."""
    if not models:
        checks.fail("models", "at least one model, by prefix", "none")
    for prefix, model in models.items():
        if not _PREFIX.fullmatch(prefix) or prefix.startswith(("action", "observation")):
            hint = "LeRobot would take a key that starts with action or observation for one of the policy's own."
            checks.fail("prefix", "lower-case letters, digits, _ and .", repr(prefix), hint)
        taken = [key for key in dataset.features if key.startswith(prefix + ".")]
        if taken:
            checks.fail(
                "prefix", "one that the dataset does not use", f"{prefix!r} ({taken[0]} is there)", "Rename it."
            )
        if any(other.startswith(prefix + ".") for other in models):
            checks.fail("models", "prefixes that do not contain each other", ", ".join(models))
        if model.label_source == "actions":
            _check_actions(dataset, cast(ActionTokenizer, model), options)
        else:
            video = cast(VideoLabeller, model)
            _check_stage(prefix, video)
            _cameras(dataset, video, options)
            lengths = np.array([episode.length for episode in dataset.episodes], dtype=np.int64)
            check_stride(video.stride_frames(dataset.fps), lengths, dataset.fps)


def _check_stage(prefix: str, model: VideoLabeller) -> None:
    """A model of stage 1 reads the instruction and keeps what it says out of its codes: those are no actions."""
    if getattr(getattr(model, "config", None), "language", None) is not None:
        hint = "Stage 1 takes in the instruction to learn environment codes: train stage 2 with them."
        checks.fail("models", f"a stage-2 model for `{prefix}`", "a stage-1 model (language-conditioned)", hint)


def _check_actions(dataset: LeRobotV3, model: ActionTokenizer, options: Options) -> None:
    feature = vector_key(dataset, "action_key", options.action_key)
    if feature.shape[0] != model.action_dim:
        raise LattokError(
            f"`{options.action_key}` has {feature.shape[0]} dimensions ({', '.join(dimension_names(feature))}), "
            f"but this tokenizer was trained on {model.action_dim}. "
            "Select or add columns, or train a tokenizer on this dataset."
        )


def _check_outside(root: Path, out: Path) -> None:
    source, target = root.resolve(), out.resolve()
    if target == source or source in target.parents:
        checks.fail("out", "a folder outside the source dataset", str(out))
