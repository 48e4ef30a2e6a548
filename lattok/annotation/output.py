"""The annotated dataset put together from labelled units: files with labels, info.json, statistics, provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from lattok.annotation.labels import Work, cameras_of
from lattok.annotation.plan import Identities, seen_as, versions
from lattok.data.extend import (
    Shapes,
    Unit,
    Unreadable,
    append_columns,
    copy_other_files,
    feature_entry,
    mirror_other_files,
    write_sidecar,
)
from lattok.data.staging import Staging, shapes_of
from lattok.data.stats import Stats, column_stats, merge_stats
from lattok.files import read_json, write_json
from lattok.types import VideoLabeller

PROVENANCE, INFO, STATS = "meta/lattok.json", "meta/info.json", "meta/stats.json"


class Planned(NamedTuple):
    """Everything an output is put together from."""

    work: Work
    identities: Identities
    units: Sequence[Unit]
    keys: Sequence[str]  # of the units, see `unit_keys`
    staging: Staging
    in_place: bool


def assemble(planned: Planned, unlabelled: dict[int, str]) -> None:
    """Write the output into the staging folder; files that an interrupted run finished stay."""
    staging, sidecar = planned.staging, planned.work.dataset.kind != "lerobot"
    shapes = _shapes(planned)
    unreadable = _write_labels(planned, shapes, sidecar)
    labels = provenance(planned.work, planned.identities, shapes)
    for entry in labels.values():
        entry |= {"unlabelled": by_reason(planned.work, unlabelled)} if unlabelled else {}
        entry |= {"unreadable": [part._asdict() for part in unreadable]} if unreadable else {}
    root = planned.work.dataset.root
    if sidecar:
        write_json(staging.dataset / PROVENANCE, labels, indent=4)
        return
    before = read_json(root / PROVENANCE) if (root / PROVENANCE).exists() else {}
    write_json(staging.dataset / PROVENANCE, before | labels, indent=4)
    info = read_json(root / INFO)
    info["features"] |= {name: feature_entry(*shape) for name, shape in shapes.items()}
    write_json(staging.dataset / INFO, info, indent=4)
    rewritten = {Path(name) for name in (PROVENANCE, INFO, *dict.fromkeys(unit.file for unit in planned.units))}
    if (root / STATS).exists():
        write_json(staging.dataset / STATS, read_json(root / STATS) | _statistics(planned), indent=4)
        rewritten.add(Path(STATS))
    (mirror_other_files if planned.in_place else copy_other_files)(root, staging.dataset, rewritten)


def provenance(work: Work, identities: Identities, shapes: Shapes) -> dict[str, Any]:
    """By prefix: what labels were made from, by what, and their columns. No times, no paths."""
    labels = {}
    for prefix, model in work.models.items():
        entry: dict[str, Any] = {"source": model.label_source}
        seen = seen_as(work.dataset)
        if model.label_source == "actions":
            entry |= {"action_key": work.options.action_key, "horizon": cast(Any, model).horizon}
            if work.options.action_key in seen["actions"]:
                entry["actions_as"] = seen["actions"][work.options.action_key]
        else:
            video = cast(VideoLabeller, model)
            stride = video.stride_frames(work.dataset.fps)
            cameras = cameras_of(work, video)
            entry |= {"cameras": list(cameras), "stride": stride}
            originals = [seen["cameras"][key] for key in cameras]
            entry |= {"original_cameras": originals} if originals != list(cameras) else {}
            entry["stride_seconds"] = stride / work.dataset.fps
        own = {name: shape for name, shape in shapes.items() if name.startswith(prefix + ".")}
        labels[prefix] = entry | {
            "dataset": _facts(work),
            "threads": work.options.threads,
            "versions": versions(),
            "model": identities[prefix],
            "columns": {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in own.items()},
        }
    return labels


def mark_of(root: Path) -> str | None:
    """Hash of a dataset's provenance; None where there is none."""
    path = root / PROVENANCE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def by_reason(work: Work, unlabelled: dict[int, str]) -> list[dict[str, Any]]:
    """Episodes by why they have no labels; without the folder of the dataset, which is no fact about the labels."""
    grouped: dict[str, list[int]] = {}
    for index, reason in sorted(unlabelled.items()):
        grouped.setdefault(reason.replace(f"{work.dataset.root}/", ""), []).append(index)
    return [{"episodes": episodes, "reason": reason} for reason, episodes in grouped.items()]


def unlabelled_in(root: Path, prefixes: Iterable[str]) -> list[dict[str, Any]]:
    """What the provenance of an annotated dataset says about episodes without labels of these prefixes."""
    labels = read_json(root / PROVENANCE)
    return next((labels[prefix]["unlabelled"] for prefix in prefixes if "unlabelled" in labels.get(prefix, {})), [])


def _facts(work: Work) -> dict[str, Any]:
    dataset = work.dataset
    frames = sum(episode.length for episode in dataset.episodes)
    return {"name": dataset.name, "kind": dataset.kind, "episodes": len(dataset.episodes), "frames": frames}


def _shapes(planned: Planned) -> Shapes:
    """Of all label columns, from the first unit that has labels."""
    stored = (planned.staging.load(*pair) for pair in zip(planned.units, planned.keys, strict=True))
    return shapes_of(next(rows for rows, _ in stored if rows))


def _write_labels(planned: Planned, shapes: Shapes, sidecar: bool) -> list[Unreadable]:
    """Every file with labels, and what of the source could not be copied into it."""
    root, staging = planned.work.dataset.root, planned.staging
    by_file: dict[str, list[int]] = {}
    for i, unit in enumerate(planned.units):
        by_file.setdefault(unit.file, []).append(i)
    unreadable: list[Unreadable] = []
    for file, members in by_file.items():
        units, keys = [planned.units[i] for i in members], [planned.keys[i] for i in members]
        target, noted = staging.dataset / file, staging.folder / "unreadable" / f"{file.replace('/', ' ')}.json"
        rows = staging.row_reader(units, keys, shapes)
        if sidecar and not target.exists():
            write_sidecar(target, shapes, units, rows)
        elif not sidecar:
            if not (target.exists() and noted.exists()):
                damage = append_columns(root / file, target, shapes, rows)
                write_json(noted, {"damage": damage})
            unreadable += [Unreadable(file, *part[1:]) for part in read_json(noted)["damage"]]
    return unreadable


def _statistics(planned: Planned) -> dict[str, Any]:
    """Of the label columns for meta/stats.json, over the episodes that have labels."""
    parts: dict[str, list[Stats]] = {}
    for unit, key in zip(planned.units, planned.keys, strict=True):
        for name, values in planned.staging.load(unit, key).rows.items():
            flat = values.reshape(len(values), -1)
            kept = [*parts.get(name, []), column_stats(flat)]
            parts[name] = kept if len(kept) < 256 else [merge_stats(kept)]
    merged = {name: merge_stats(stats) for name, stats in parts.items()}
    return {name: {kind: np.asarray(v).tolist() for kind, v in stats.items()} for name, stats in merged.items()}
