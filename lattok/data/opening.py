"""`open_dataset`: which format a path holds, Hub ids, and description files that carry a dataset's options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lattok import checks
from lattok.checks import LattokError
from lattok.data.actions.view import declare, with_actions
from lattok.data.camera_view import with_cameras
from lattok.data.formats import hdf5, video_folder
from lattok.data.formats.hdf5 import RobomimicHDF5
from lattok.data.formats.lerobot import LeRobotV3
from lattok.data.formats.rlds import RLDS
from lattok.data.formats.video_folder import VideoFolder
from lattok.data.schema import PROVENANCE, RobotDataset
from lattok.files import read_json
from lattok.hub import client
from lattok.hub.client import HUB_ID, HubOptions
from lattok.places import followed

_CLASSES = {"lerobot": LeRobotV3, "rlds": RLDS, "hdf5": RobomimicHDF5, "video": VideoFolder}
_OPTIONS = {"lerobot": (), "rlds": ("fps", "split"), "hdf5": ("fps",), "video": ("fps", "captions")}
_FORMATS = {
    "lerobot": "LeRobot v3 (meta/info.json)",
    "rlds": "RLDS (dataset_info.json and features.json, here or in one version folder)",
    "hdf5": "robomimic and LIBERO (.hdf5 or .h5 files)",
    "video": "videos (.mp4, .webm, .mkv and others, flat or in one folder per class)",
}
_VIEWS = ("cameras", "action_space", "actions")  # options of every format
_DESCRIPTION = ("dataset", "revision", "name", "fps", "split", "captions", *_VIEWS)
_HUB = tuple(HubOptions.__annotations__)
ARRAYS = (".npz", ".npy", ".pt", ".pth", ".pkl", ".csv", ".mat", ".safetensors")
_SHOWN = 8  # names of a folder that an error lists


def open_dataset(path: str | Path, revision: str | None = None, **options: Any) -> RobotDataset:
    """Open a dataset of any format: a folder or file, a Hub id such as "org/name", or a description file.

    `revision` is for Hub ids. `options` depend on the format: `fps` (RLDS, HDF5, videos), `split` (RLDS), `captions`
    (videos), and for all of them `name`, `cameras` (see `with_cameras`), `action_space`, what columns mean, such as
    {"action": "bridge"} (see `declare`), and `actions`, what to make of them: {"as": "libero"}, with further options of
    `with_actions` beside it. A description file `*.json` holds the same:
    `{"dataset": "path below the file's folder, or Hub id", "fps": 5, ...}`.

    What is on the Hub also takes huggingface_hub's keywords: `token`, `cache_dir`, `force_download`, `local_files_only`
    and `subfolder`.

    Whatever a dataset or a description says about files stays below its folder, also after links: see `lattok.places`.
    """
    options = {key: value for key, value in options.items() if value is not None}
    place = _local(path)
    if place.suffix == ".json" and _is_no_description(place):
        checks.fail("dataset", "a folder, a description file, or a Hub id", f"the file {place}", _whole_of(place))
    if place.suffix == ".json":
        if revision is not None:
            raise LattokError(f"`revision` cannot be given for a description file. Write {revision!r} into {place}.")
        return _open_described(place, options)
    if _exists(place):
        if revision is not None:
            raise LattokError(f"`revision` {revision!r} is for datasets of the Hub, and {place} is a local folder.")
        subfolder = options.get("subfolder")
        return _open(client.inside(place, subfolder) if subfolder else place, _without_hub(options))
    if not HUB_ID.fullmatch(str(path)):
        hint = f"Recognised are {', '.join(_FORMATS.values())}."
        checks.fail("dataset", "a folder, a description file, or a Hub id such as org/name", f"`{path}`", hint)
    return _open_from_hub(str(path), revision, options)


def _is_no_description(place: Path) -> bool:
    """Whether a JSON file is a part of a dataset, and so describes no dataset by itself."""
    beside = place.parent
    named = place.name in ("dataset_info.json", "features.json")
    return place.is_file() and (named or (place.name == "info.json" and beside.name == "meta"))


def as_dataset(dataset: RobotDataset | str | os.PathLike[str]) -> RobotDataset:
    """A dataset as it is, or the one that `open_dataset` finds under a path or a Hub id."""
    if isinstance(dataset, str | os.PathLike):
        return open_dataset(os.fspath(dataset))
    if not isinstance(dataset, RobotDataset):
        checks.fail("dataset", "a dataset of lattok.open_dataset, a path or a Hub id", type(dataset).__name__)
    return dataset


def _open_from_hub(hub_id: str, revision: str | None, options: dict[str, Any]) -> RobotDataset:
    ours = {*_VIEWS, "name", *(name for names in _OPTIONS.values() for name in names)}
    asked = {name: value for name, value in options.items() if name not in ours}
    client.check_options(asked, _HUB)
    snapshot = client.download("dataset", hub_id, revision, None, asked, "dataset")
    return _open(client.inside(snapshot, options.get("subfolder")), {"name": hub_id} | _without_hub(options))


def _without_hub(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _HUB}


def _open_described(file: Path, options: dict[str, Any]) -> RobotDataset:
    """The dataset that a description file names, with the options in it. Paths lead from its folder downwards."""
    entry = {key: value for key, value in read_json(file).items() if value is not None}
    checks.known_keys(str(file), entry, _DESCRIPTION)
    if twice := sorted(set(entry) & set(options)):
        checks.fail(twice[0], f"one value, here or in {file}", "two")
    target = entry.pop("dataset", None)
    if not isinstance(target, str) or not target or target.endswith(".json"):
        checks.fail(f"dataset` of `{file}", "a path relative to that file, or a Hub id", repr(target))
    if isinstance(entry.get("captions"), str):
        captions = file.parent / _local(entry["captions"])
        entry["captions"] = followed(file.parent, captions, f"`captions` of `{file}`")
    local = file.parent / _local(target)
    if _exists(local):
        followed(file.parent, local, f"`dataset` of `{file}`")
        return open_dataset(local, **entry, **options)
    if not HUB_ID.fullmatch(target):
        checks.fail(f"dataset` of `{file}", "a path relative to that file, or a Hub id", repr(target), f"No {local}.")
    return _open_from_hub(target, entry.pop("revision", None), entry | options)


def _open(place: Path, options: dict[str, Any]) -> RobotDataset:
    kind, place = _recognise(place.absolute())  # workers of Ray live in another folder
    name, views = options.pop("name", None), {key: options.pop(key) for key in _VIEWS if key in options}
    for key, value in options.items():
        if key not in _OPTIONS[kind]:
            known = ", ".join((*_OPTIONS[kind], "name", *_VIEWS))
            checks.fail(key, f"an option that {place} has a use for ({known})", repr(value))
    if not isinstance(name, str | None):
        checks.fail("name", "text", repr(name))
    if not isinstance(options.get("captions", ""), str | Path):
        checks.fail("captions", "a path", repr(options["captions"]))
    return _seen_as(_CLASSES[kind](place, name, **options), **views)


def _seen_as(dataset: RobotDataset, cameras: Any = None, action_space: Any = None, actions: Any = None) -> RobotDataset:
    """The dataset with the cameras and the actions that its user asks for."""
    if cameras is not None:
        dataset = with_cameras(dataset, cameras)
    if action_space is not None:
        dataset = declare(dataset, action_space)
    if actions is None:
        return dataset
    if not isinstance(actions, Mapping) or "as" not in actions:
        checks.fail("actions", 'an object such as {"as": "libero"}', f"{actions!r:.60}")
    options = {key: value for key, value in actions.items() if key != "as"}
    checks.known_keys("actions", options, ("key", "state_key", "drop"))
    return with_actions(dataset, actions["as"], **options)


def _recognise(place: Path) -> tuple[str, Path]:
    """Format of a file or folder, and where exactly it is."""
    try:
        return _look_at(place)
    except OSError as error:
        raise LattokError(f"cannot read {place}: {error.strerror}. Check its permissions.") from None


def _look_at(place: Path) -> tuple[str, Path]:
    if place.is_file():
        if place.suffix.lower() in hdf5.SUFFIXES:
            return "hdf5", place
        expected = "a folder, a .hdf5 or .h5 file, or a description file *.json"
        checks.fail("dataset", expected, f"the file {place}", _whole_of(place))
    if (place / PROVENANCE).is_file() and not (place / "meta" / "info.json").is_file():
        way_out = "Open the dataset that they label, or join both: lattok export SOURCE --labels LABELS --out DIR"
        checks.fail("dataset", "a dataset", f"{place}, which holds only the labels of one", way_out)
    if (place / "meta").is_dir():
        return "lerobot", place
    found = _formats_in(place)
    if len(found) != 1:
        checks.fail("dataset", "one of " + ", ".join(_FORMATS.values()), _what_is_in(place, found))
    return found[0]


def _whole_of(file: Path) -> str:
    """What to give instead of a file that is no dataset."""
    for folder in file.parents[:4]:
        if (folder / "meta" / "info.json").is_file():
            return f"Give the whole dataset, {folder}."
    if _holds_rlds(file.parent):
        return f"Give the folder that holds it, {file.parent}."
    if file.suffix.lower() in ARRAYS:
        return "Write arrays as a dataset first, with lattok.data.LeRobotWriter; tokenizers also fit them as they are."
    if file.suffix.lower() in video_folder.SUFFIXES:
        return f"Give the folder that holds it, {file.parent}: every video is an episode."
    return "Give the folder of the dataset that it belongs to."


def _what_is_in(place: Path, found: list[tuple[str, Path]]) -> str:
    """A folder that is no dataset, or several, for an error."""
    if len({kind for kind, _ in found}) > 1:
        return f"{place} with several: {', '.join(kind for kind, _ in found)}; give each a folder of its own"
    names = [path.name for _, path in found] or [path.name + "/" * path.is_dir() for path in place.iterdir()]
    shown = ", ".join(sorted(names)[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    if found:
        return f"{place} with several versions ({shown}); give one of them"
    return f"{place} with {shown or 'nothing in it'}"


def _formats_in(folder: Path) -> list[tuple[str, Path]]:
    """Formats that a folder could hold."""
    below = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    versions = [folder] if _holds_rlds(folder) else [path for path in below if _holds_rlds(path)]
    found = [("rlds", version) for version in versions]
    if _holds(folder, hdf5.SUFFIXES):
        found.append(("hdf5", folder))
    deep = (path for path in folder.glob("*/*/*") if not found and path.suffix.lower() in video_folder.SUFFIXES)
    if any(_holds(path, video_folder.SUFFIXES) for path in (folder, *below)) or any(deep):
        found.append(("video", folder))
    return found


def _holds_rlds(folder: Path) -> bool:
    described = all((folder / name).is_file() for name in ("dataset_info.json", "features.json"))
    return described or any(folder.glob("*.tfrecord*"))


def _holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    return any(path.suffix.lower() in suffixes for path in folder.iterdir())


def _local(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the home folder of nobody here
        return Path(path)


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False
