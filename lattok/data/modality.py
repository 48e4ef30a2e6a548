"""GR00T's meta/modality.json: which numbers of state and action are which part of a robot, by the names that its users
type; further names of cameras; and columns that number instructions.

    {"state": {"left_arm": {"start": 0, "end": 7, "original_key": "observation.state"}},     column state.left_arm
     "action": {"left_arm": {"start": 0, "end": 7, "rotation_type": null, "absolute": true}},       action.left_arm
     "video": {"ego_view": {"original_key": "observation.images.ego_view"}},
     "annotation": {"human.task_description": {"original_key": "task_index"}}}

As Isaac-GR00T N1 to N1.7 reads it (getting_started/data_preparation.md, LeRobotEpisodeLoader). Where `original_key` is
missing, a part is one of `observation.state` or `action`, and an annotation the column annotation.NAME.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from lattok.data import problems
from lattok.data.formats.lerobot_meta import EpisodeTable
from lattok.data.instructed import numbered
from lattok.data.instructions import TASK
from lattok.data.schema import PARTS, ColumnPart, Feature, RobotDataset
from lattok.data.table_dataset import tables_of
from lattok.data.views import ColumnsView
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.files import read_json
from lattok.utils.untrusted import inside, is_file_name, typed

MODALITY = Path("meta") / "modality.json"
WHOLE = {"state": "observation.state", "action": "action"}
MOST = 1000  # entries: a robot with more is a mistake or an attack
DESCRIPTION = "task_description"  # the annotation that GR00T's own configurations read
VALIDITY, VALID = "validity", ("valid", "invalid")  # an annotation that is none of what to do, and its texts
NUMBERED = re.compile(r"\d+$")


class Entry(TypedDict, total=False):  # also rotation_type, absolute, dtype and range, which train nothing here
    start: int
    end: int
    original_key: str | None


class Modality(TypedDict, total=False):
    state: dict[str, Entry]
    action: dict[str, Entry]
    video: dict[str, Entry]
    annotation: dict[str, Entry]


def with_modality(dataset: RobotDataset) -> RobotDataset:
    """Return a LeRobot dataset with the names and parts that its meta/modality.json gives, if it has one."""
    if tables_of(dataset) is None or not (dataset.root / MODALITY).is_file():
        return dataset
    path = inside(dataset.root, MODALITY, str(dataset.root))
    try:
        modality: Modality = typed(read_json(path), Modality, "", str(path))
        kinds = ("state", "action", "video", "annotation")
        if (count := sum(len(modality.get(kind, ())) for kind in kinds)) > MOST:
            checks.fail(str(path), f"at most {MOST:,} entries", f"{count:,}")
    except LattokError as error:  # it is no part of LeRobot: the dataset can be read without
        dataset.findings += (problems.BAD_MODALITY.finding(error=str(error).rstrip(".")),)
        return dataset
    return _instructed(_Parts(dataset, modality), modality)


def modality_of(dataset: RobotDataset) -> dict[str, Any] | None:
    """Return what meta/modality.json says that holds of an export of this dataset, None where nothing does."""
    if tables_of(dataset) is None or not (dataset.parts or dataset.camera_names or dataset.instruction_key != TASK):
        return None
    if not (dataset.root / MODALITY).is_file():
        return None
    stored, kept = read_json(inside(dataset.root, MODALITY, str(dataset.root))), dict[str, Any]()
    new = {*dataset.joined, *dataset.actions_as}
    for kind in WHOLE:
        parts = {name: dataset.parts.get(f"{kind}.{name}") for name in stored.get(kind, ())}
        kept[kind] = {name: stored[kind][name] for name, part in parts.items() if part and part.column not in new}
    kept["video"] = {name: {"original_key": key} for name, key in dataset.camera_names.items()}
    annotations = stored.get("annotation", {}).items() if len({*dataset.tasks}) == len(dataset.tasks) else ()
    kept["annotation"] = {name: entry for name, entry in annotations if _annotated(name, entry) in dataset.features}
    return {kind: entries for kind, entries in kept.items() if entries} or None


def _annotated(name: str, entry: Entry) -> str:
    return entry.get("original_key") or f"annotation.{name}"


def _instructed(dataset: RobotDataset, modality: Modality) -> RobotDataset:
    """Let the annotation that describes the task say what to do: GR00T never reads `task_index` where it has one."""
    known = {name: _annotated(name, entry) for name, entry in modality.get("annotation", {}).items()}
    said = [name for name, key in known.items() if VALIDITY not in name and key in dataset.features]
    if not said:
        return dataset
    chosen = next((name for name in said if name.endswith(DESCRIPTION)), said[0])
    if others := {known[name] for name in said} - {known[chosen]}:
        shown = checks.listed(f"`{key}`" for key in sorted(others))
        found = problems.SEVERAL_ANNOTATIONS.finding(chosen=known[chosen], others=shown, other=min(others))
        dataset.findings += (found,)
    return numbered(dataset, known[chosen])


class _Parts(ColumnsView):
    """A dataset whose parts are further columns, read out of those that are stored."""

    def __init__(self, dataset: RobotDataset, modality: Modality):
        super().__init__(dataset)
        parts, odd = dict[str, ColumnPart](), list[str]()
        for key, part in _parts(dataset, modality):
            if part is None:
                odd.append(key)
            elif key not in dataset.features:
                parts[key] = part
        self.parts = parts
        self.features = dataset.features | _renamed(dataset, parts)
        for key, part in parts.items():
            whole = self.features[part.column]
            names = whole.names and whole.names[part.start : part.end]
            self.features[key] = Feature(whole.dtype, (part.end - part.start,), names)
        cameras = {name: entry.get("original_key") or "" for name, entry in modality.get("video", {}).items()}
        odd += [f"video.{name}" for name, key in cameras.items() if key not in (*dataset.cameras, *dataset.left_out)]
        self.camera_names = {name: key for name, key in cameras.items() if key in dataset.cameras}
        if isinstance(dataset.episodes, EpisodeTable) and any(
            VALIDITY in name for name in modality.get("annotation", ())
        ):
            self.episodes = dataset.episodes.without(VALID)
        if odd:
            self.findings += (problems.ODD_MODALITY.finding(names=checks.listed(odd)),)

    def _read_for(self, keys: Sequence[str]) -> list[str]:
        checks.names("keys", keys)
        return list(dict.fromkeys(self.parts[key].column if key in self.parts else key for key in keys))

    def _made(self, episode_index: int, keys: Sequence[str], read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        parts = self.parts
        return {key: parts[key].of(read[parts[key].column]) if key in parts else read[key] for key in keys}


def _parts(dataset: RobotDataset, modality: Modality) -> Iterator[tuple[str, ColumnPart | None]]:
    """Yield the parts by column; None where the dataset has no such numbers."""
    of_kind = {"state": modality.get("state", {}), "action": modality.get("action", {})}
    for kind, entries in of_kind.items():
        for name, entry in entries.items():
            key, column = f"{kind}.{name}", entry.get("original_key") or WHOLE[kind]
            whole = dataset.features.get(column)
            numbers = whole is not None and whole.dtype.startswith(PARTS) and len(whole.shape) == 1
            if whole is None or not numbers or not is_file_name(key):
                yield key, None
                continue
            (width,) = whole.shape
            start, end = (0, 1) if width == 1 else (entry.get("start", -1), entry.get("end", -1))
            yield key, ColumnPart(column, start, end) if 0 <= start < end <= width else None


def _renamed(dataset: RobotDataset, parts: Mapping[str, ColumnPart]) -> dict[str, Feature]:
    """Name the dimensions of columns after their parts, where they have no names that say more than a number."""
    found = {}
    for column in dict.fromkeys(part.column for part in parts.values()):
        feature = dataset.features[column]
        if feature.shape == (1,) or (feature.names and len({NUMBERED.sub("", name) for name in feature.names}) > 1):
            continue
        names = list(feature.names or map(str, range(feature.shape[0])))
        for key, (whole, start, end) in [*parts.items()][::-1]:  # of parts that overlap, the first one names
            short = key.partition(".")[2]
            if whole == column:
                names[start:end] = [short] if end - start == 1 else [f"{short}_{i}" for i in range(end - start)]
        if len({*names}) == len(names):
            found[column] = feature._replace(names=tuple(names))
    return found
