"""Writes a copy of a dataset with latent actions as columns: `annotate(dataset, {"latent": model}, out)`.

Labels are made in units of whole episodes, each stored atomically beside `out`; a run that was interrupted and
started again reuses them and ends with the same bytes. Batches never cross units.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import torch

import lattok
from lattok import checks
from lattok.checks import LattokError
from lattok.data import ActionWindows, LeRobotV3, Progress, camera_keys, dimension_names
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
_PREFIX = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


Models = Mapping[str, ActionTokenizer | VideoLabeller]


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
    plan = plan_hash(dataset, models, options)
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
        _assemble(dataset, models, units, options, staging)
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


def label_unit(dataset: LeRobotV3, models: Models, unit: Unit, options: Options) -> Labels:
    """Labels of all frames of a unit, in the order of its rows. Depends on its arguments only."""
    labels: Labels = {}
    for prefix, model in models.items():
        if model.label_source == "actions":
            parts, valid = _from_actions(dataset, cast(ActionTokenizer, model), unit, options)
        else:
            parts, valid = _from_video(dataset, cast(VideoLabeller, model), unit, options)
        labels |= {f"{prefix}.{name}": values for name, values in parts.items()}
        labels[f"{prefix}.valid"] = valid
    for name, values in labels.items():
        checks.size(f"labels {name}", "rows", len(values), unit.last - unit.first)
    return labels


def plan_hash(dataset: LeRobotV3, models: Models, options: Options) -> str:
    """Everything that the labels depend on; finished units are reused only under the same hash."""
    versions = [lattok.__version__, torch.__version__, np.__version__, pa.__version__]
    parts = [fingerprint(dataset.root), _identities(models), options._asdict(), UNIT_FRAMES, BATCH, versions]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _identities(models: Models) -> dict[str, Any]:
    return {prefix: model.describe() for prefix, model in models.items()}


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


def _from_video(dataset: LeRobotV3, model: VideoLabeller, unit: Unit, options: Options) -> tuple[Labels, np.ndarray]:
    cameras = _cameras(dataset, model, options)
    stride = model.stride_frames(dataset.fps)
    outputs, valid = [], []
    for index in unit.episodes:
        frames = dataset.frames(index, cameras, transform=model.resize)
        with torch.no_grad():
            outputs.append(_columns(model.label_video(frames, stride), options))
        valid.append(np.arange(len(frames)) + stride < len(frames))
    return _joined(outputs), np.concatenate(valid)


def _cameras(dataset: LeRobotV3, model: VideoLabeller, options: Options) -> tuple[str, ...]:
    keys = camera_keys(dataset, options.cameras or model.cameras)
    checks.size("cameras", "cameras as in the model's config", len(keys), len(model.cameras))
    return keys


def _columns(out: LatentActions, options: Options) -> Labels:
    """Arrays of one stream, and of the environment stream under `env.`."""
    arrays = {"codes": out.codes.cpu().numpy().astype(np.int64)}
    if options.embedding:
        arrays["embedding"] = out.latents.float().cpu().numpy()
    if options.quantized:
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
    for unit in units:
        if not staging.has(unit):
            staging.store(unit, label_unit(dataset, models, unit, options))
        done += unit.last - unit.first
        if progress is not None:
            progress(done, total)


def _assemble(dataset: LeRobotV3, models: Models, units: list[Unit], options: Options, staging: Staging) -> None:
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
    labels |= {prefix: _provenance(dataset, prefix, model, shapes, options) for prefix, model in models.items()}
    write_json(staging.dataset / "meta" / "lattok.json", labels, indent=4)
    rewritten = {file.relative_to(dataset.root) for file in by_file} | {
        Path("meta/info.json"),
        Path("meta/lattok.json"),
    }
    copy_other_files(dataset.root, staging.dataset, rewritten)


def _provenance(dataset: LeRobotV3, prefix: str, model: Any, shapes: Shapes, options: Options) -> dict[str, Any]:
    """What the labels under a prefix are: model, source, stride or horizon, true shapes. No times, no paths."""
    entry: dict[str, Any] = {"lattok_version": lattok.__version__, "model": model.describe()}
    if model.label_source == "actions":
        entry |= {"source": "actions", "action_key": options.action_key, "horizon": model.horizon}
    else:
        stride = model.stride_frames(dataset.fps)
        cameras = list(_cameras(dataset, model, options))
        entry |= {"source": "video", "cameras": cameras, "stride": stride, "stride_seconds": stride / dataset.fps}
    own = {name: shape for name, shape in shapes.items() if name.startswith(prefix + ".")}
    entry["columns"] = {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in own.items()}
    return entry


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
            _cameras(dataset, video, options)
            lengths = np.array([episode.length for episode in dataset.episodes], dtype=np.int64)
            check_stride(video.stride_frames(dataset.fps), lengths, dataset.fps)


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
