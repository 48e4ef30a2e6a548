"""How label columns were made: meta/lattok.json, and what of it LeRobot's own tools keep.

Splitting, deleting and merging with LeRobot write new files in `meta/` and drop meta/lattok.json. They copy the
features in meta/info.json as they are, so the facts that are true of any part of the labels also stand there, at the
column `PREFIX.valid`: model, preprocessing, shapes. Merging wants equal features: what differs between datasets of one
model is not among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lattok import checks
from lattok.checks import LattokError
from lattok.data.schema import PROVENANCE, RobotDataset
from lattok.files import read_json
from lattok.labels.spec import LatentSpec
from lattok.places import inside

INFO = Path("meta") / "info.json"
NOTE = "info"  # where LeRobot itself keeps facts about a feature
CARRIED = ("spec", "action_key", "actions_as", "cameras", "columns", "threads")
IDENTITY = ("type", "config_sha256", "weights_sha256", "features_sha256", "backend", "precision")
AGAIN = "Annotate again, or copy the file again."


def carried(entry: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return the facts of an entry that are true of any part of the labels."""
    facts = {key: entry[key] for key in CARRIED if key in entry}
    facts["model"] = {key: entry["model"][key] for key in IDENTITY if key in entry["model"]}
    if model.datasets:  # labels of several datasets then differ
        facts["normalizer"] = entry["dataset"]["name"]
    return {"lattok": facts}


def provenance_of(dataset: RobotDataset) -> dict[str, Any]:
    """What a dataset says about its labels, by prefix; entries found in meta/info.json alone say `"restored": true`."""
    if dataset.labels is not None:
        return dataset.labels.provenance
    root = Path(dataset.root)
    if (root / PROVENANCE).is_file():
        return checked(read_json(inside(root, PROVENANCE, str(root))), str(root / PROVENANCE))
    return _restored(dataset, root) if dataset.kind == "lerobot" and (root / INFO).is_file() else {}


def written_spec(dataset: RobotDataset, prefix: str) -> LatentSpec:
    """What a dataset says its labels are. Raises `LattokError` where it does not say it, or in an older layout."""
    entry = provenance_of(dataset).get(prefix)
    if isinstance(entry, Mapping) and "spec" in entry:
        return LatentSpec.from_json(entry["spec"], prefix, f"{PROVENANCE} of {dataset.name}")
    reason = f"{PROVENANCE} of {dataset.name} does not say what the labels `{prefix}` are."
    raise LattokError(f"{reason} Annotate again; columns of your own you can describe as a lattok.labels.LatentSpec.")


def _restored(dataset: RobotDataset, root: Path) -> dict[str, Any]:
    features = read_json(inside(root, INFO, str(root))).get("features")
    found = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        note = feature.get(NOTE) if isinstance(feature, dict) else None
        facts = note.get("lattok") if isinstance(note, dict) else None
        if name.endswith(".valid") and isinstance(facts, dict):
            place = {"name": facts.get("normalizer", dataset.name)}
            found[name.removesuffix(".valid")] = {**facts, "dataset": place, "versions": {}, "restored": True}
    return checked(found, str(root / INFO))


def checked(entries: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Entries whose facts have the types that readers count on; further ones may be there."""
    for prefix, entry in entries.items():
        if isinstance(entry, dict):
            _check(entry, f"{prefix}` in `{where}")
    return dict(entries)


def _check(entry: Mapping[str, Any], where: str) -> None:
    kinds: dict[str, tuple[Any, str]] = {
        "spec": (dict, "an object"),
        "dataset": (dict, "an object"),
        "versions": (dict, "an object"),
        "model": (dict, "an object"),
        "columns": (dict, "an object"),
        "threads": (int, "a whole number"),
        "action_key": (str, "a name"),
        "cameras": (list, "a list of names"),
        "unlabelled": (list, "a list"),
    }
    for name, (kind, expected) in kinds.items():
        if name in entry and (not isinstance(entry[name], kind) or isinstance(entry[name], bool)):
            _wrong(name, where, expected, entry[name])
    if "spec" in entry:
        LatentSpec.from_json(entry["spec"], "latent", f"spec of {where}")
    if not 1 <= entry.get("threads", 1) <= 4096:
        _wrong("threads", where, "1 to 4096", entry["threads"])
    if not isinstance(entry.get("dataset", {}).get("name", ""), str):
        _wrong("dataset", where, "an object with a name", entry["dataset"])
    for camera in entry.get("cameras", ()):
        if not isinstance(camera, str):
            _wrong("cameras", where, "a list of names", entry["cameras"])
    for column, facts in entry.get("columns", {}).items():
        shape = facts.get("shape") if isinstance(facts, dict) else None
        whole = isinstance(shape, list) and all(isinstance(n, int) and 0 < n < 2**31 for n in shape)
        size = math.prod(shape) if whole and shape is not None else 2**31
        if size >= 2**31 or not isinstance(facts.get("dtype"), str):
            _wrong(f"columns.{column}", where, "a dtype and a shape", facts)
    for part in entry.get("unlabelled", ()):
        episodes = part.get("episodes") if isinstance(part, dict) else None
        if not isinstance(episodes, list) or not episodes or not all(isinstance(index, int) for index in episodes):
            _wrong("unlabelled", where, "objects with a list of episodes and a reason", part)
        if not isinstance(part.get("reason", ""), str):
            _wrong("unlabelled", where, "objects with a list of episodes and a reason", part)
    if not all(isinstance(version, str) for version in entry.get("versions", {}).values()):
        _wrong("versions", where, "versions by package", entry["versions"])


def _wrong(name: str, where: str, expected: str, got: Any) -> None:
    checks.fail(f"{name} of {where}", expected, f"{got!r:.60}", AGAIN)


def unsaid(dataset: RobotDataset, known: Mapping[str, Any]) -> list[str]:
    """Prefixes of label columns that are not `known`: nothing is written down about them."""
    found = [name.removesuffix(".valid") for name in dataset.features if name.endswith(".valid")]
    return [p for p in found if p not in known and {f"{p}.codes", f"{p}.embedding"} & dataset.features.keys()]


def nothing(dataset: RobotDataset) -> LattokError:
    """Return the error about a dataset without any label columns."""
    hint = "Run lattok annotate; labels in a folder of their own are named as `labels`, or joined: with_labels."
    return LattokError(f"{dataset.name} has no label columns: it was not annotated. {hint}")
