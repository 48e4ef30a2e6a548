"""What the names of folders say of recordings in them: what is done there, and who judges."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType

from lattok.data import problems
from lattok.data.schema import JUDGES, readable
from lattok.utils.findings import Finding

SPLIT = re.compile(f"train|training|{'|'.join(JUDGES)}", re.IGNORECASE)
OF_SPLIT = re.compile(f"(.+)[-_](train|training|{'|'.join(JUDGES)})", re.IGNORECASE)
STORE = re.compile(  # where something is put, whatever it is
    r"data|raw|videos?|recordings?|mp4|demos?|episodes?|success(es|ful)?(_episodes)?|fail(ed|ures?)?(_episodes)?"
    r"|((rgb|colou?r|jpe?g|png)[-_]?)?(images?|imgs?|frames|pictures)|rgb|colou?r|(all[-_])?variations?|observations?"
    r"|sequences?|traj(s|ectory|ectories)?|clips?|takes?|rollouts?|h5|hdf5|mcap|(ros)?bags?",
    re.IGNORECASE,
)
COUNTED = re.compile(  # of what there are many: with a number it says which one, not what is done there
    r"[a-z]?|ep|episode|traj|trajectory|demo|run|seq|sequence|clip|video|take|rec|recording|session|cam|camera|view"
    r"|scene|env|home|user|subject|trial|variation|part|chunk|shard|batch",
)


def instruction_of(folders: Sequence[str]) -> str:
    """Return the innermost of these folders, given from the outermost on, whose name may say what is done; "" if none
    does."""
    names = (name for name in reversed(folders) if not (SPLIT.fullmatch(name) or STORE.fullmatch(name)))
    return readable(next((name for name in names if not _counts(name)), ""))


def _counts(name: str) -> bool:
    """Return whether a name is a number or a date, or one with a word for what is counted, such as episode_3."""
    words = re.split(r"[\W\d_]+", name.lower())
    return any(map(str.isdigit, name)) and all(map(COUNTED.fullmatch, words))


def without_split(name: str) -> str:
    """Return the name of a file without the split at its end: play of play-val."""
    found = OF_SPLIT.fullmatch(name)
    return found[1] if found else name


def folder_splits(
    folders: Mapping[int, Sequence[str]], files: Mapping[int, PurePath] = MappingProxyType({})
) -> tuple[tuple[int, ...], tuple[Finding, ...]]:
    """Return the episodes that judge, and what to say of it, where the folders that episodes are in are called train
    and val; or their `files`, as OGBench's play.npz and play-val.npz."""
    splits: dict[str, list[int]] = {}
    for index, names in folders.items():
        if name := next(filter(SPLIT.fullmatch, names), ""):
            splits.setdefault(name, []).append(index)
    where, way_out = "folders", "Open that folder alone."
    if not splits and (splits := _file_splits(files)):
        where, way_out = "names of files", "Open that file alone."
    if len(splits) < 2:
        return (), ()
    judge = next((name for each in JUDGES for name in splits if name.lower() == each), "")
    counts = {name: len(indices) for name, indices in splits.items()}
    return tuple(splits.get(judge, ())), (problems.own_splits(where, counts, judge, way_out),)


def _file_splits(files: Mapping[int, PurePath]) -> dict[str, list[int]]:
    """Return the episodes by the split at the end of their files' names, where each has one but those to train on."""
    plain = {file.stem for file in files.values() if not OF_SPLIT.fullmatch(file.stem)}
    splits: dict[str, list[int]] = {}
    for index, file in files.items():
        found = OF_SPLIT.fullmatch(file.stem)
        splits.setdefault(found[2] if found else "train", []).append(index)
    judged = (found for file in files.values() if (found := OF_SPLIT.fullmatch(file.stem)) and not plain <= {found[1]})
    return splits if not any(judged) else {}
