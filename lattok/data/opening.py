"""`open_dataset`: which format a path holds, Hub ids, and description files that carry a dataset's options.

"FORMAT::PLACE" is the address of a dataset whose format is named: whatever takes a path takes it too.

Datasets of a mixture are opened together; what they must have in common is checked here.
"""

import json
import math
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast, get_type_hints

from lattok.data.instructed import with_instruction
from lattok.data.modality import with_modality
from lattok.data.schema import (
    ARRAYS,
    FORMATS,
    LONGEST_NAME,
    PROVENANCE,
    SOURCE,
    TABLES,
    RobotDataset,
    camera_keys,
    holds,
    short_name,
    vector_key,
)
from lattok.data.video import SUFFIXES as VIDEOS
from lattok.data.views import declare, with_actions, with_cameras, with_columns, with_dimensions
from lattok.hub import CONFIG, WEIGHTS, client
from lattok.hub.fetching import HubFiles, LocalFiles
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.files import read_json
from lattok.utils.registry import Registry, is_ours
from lattok.utils.untrusted import FETCH, UNPACK, copy_again, safe_path


def _converted(dataset: RobotDataset, actions: Any) -> RobotDataset:
    if not isinstance(actions, Mapping) or "as" not in actions:
        checks.fail("actions", 'an object such as {"as": "libero"}', f"{actions!r:.60}")
    options = {key: value for key, value in actions.items() if key != "as"}
    checks.known_keys("actions", options, ("key", "state_key", "drop", "state_drop", "arm"))
    return with_actions(dataset, actions["as"], **options)


# options of every format, in the order in which they act
_VIEWS = {"cameras": with_cameras, "columns": with_columns, "dimensions": with_dimensions}
_VIEWS |= {"instruction": with_instruction, "action_space": declare, "actions": _converted}
_HUB = (*get_type_hints(client.HubOptions), "cache_gb")
# what is read beside a dataset, by the option that says where
BESIDE: Registry[Callable[[RobotDataset, Any], RobotDataset]] = Registry(
    "lattok.beside", named={"labels": "lattok.labels.sidecar"}
)
MOST_BELOW = 100  # of what is in a folder, searched for datasets
WRITE = "Write it as a dataset first, with lattok.data.LeRobotWriter: docs/howto/own_dataset.md"
_SHOWN = 8  # names of a folder that an error lists
_PLACES = "a folder, a description file, or a Hub id such as org/name"
NAMED = "::"  # between the name of a format and a place


def open_dataset(
    path: str | Path, revision: str | None = None, *, format: str | None = None, **options: Any
) -> RobotDataset:
    """Open a dataset of any format: a folder or file, a Hub id such as "org/name", or a description file.

    `format` is the format, where lattok does not recognise it or several are in one place: open_dataset(path,
    format="zarr"). The address "zarr::path" means the same, also for one dataset among several.

    `revision` is for Hub ids. `options` depend on the format: `fps` (RLDS, HDF5, videos), `split` and `last_action`
    (RLDS; "drop" or "keep"), `captions` (videos), and for all of them `name`, `cameras` (see `with_cameras`), `columns`
    (see `with_columns`), `dimensions` (see `with_dimensions`), `instruction`, the column that numbers instructions if
    that is not `task_index`, `action_space`, what columns mean, such as {"action": "bridge"} (see `declare`), and
    `actions`, what to convert them to: {"as": "libero"}, with further options of `with_actions` next to it. A
    description file `*.json` holds the same: `{"dataset": "path below the file's folder, or Hub id", "format": "rlds",
    "fps": 5, ...}`.

    `labels` are folders that `annotate` wrote for the dataset, one or several, whose columns are then among its own.
    Such a folder is a dataset by itself: the one that it was written for, as it was opened then, with these labels.

    What is on the Hub also takes huggingface_hub's keywords: `token`, `cache_dir`, `force_download`, `local_files_only`
    and `subfolder`. Of a LeRobot dataset only meta/ is fetched now, every other file of the same commit when it is
    first read. `cache_gb`, also in a description file, limits how many GB of these are kept: the least recently used
    are deleted. Other formats are fetched whole; with `force_download` LeRobot's are, too.

    A dataset or a description cannot name files outside its folder, not even by links (`lattok.utils.untrusted`).
    """
    options = {key: value for key, value in options.items() if value is not None}
    address, labels = in_format(path, format), options.pop("labels", ())
    found = _find(address, revision, options)
    if labels:
        found = BESIDE["labels"](found, labels)
        options["labels"] = (labels,) if isinstance(labels, str | os.PathLike) else tuple(labels)
    found.address = address
    found.opened_with = options if revision is None else {**options, "revision": revision}
    return found


def in_format(path: str | Path, format: str | None) -> str:
    """Return the address of a dataset: its path, Hub id or description file, after the format if one is named."""
    if not isinstance(path, str | os.PathLike):
        checks.fail("dataset", _PLACES, repr(path)[:200])
    address = os.fspath(path)
    if format is None:
        return address
    if (own := _parsed(address)[0]) not in (None, format):
        checks.fail("format", f"{own}, as {address} says", repr(format), "Give one of them.")
    formats(format)  # which refuses unknown ones
    return address if own else f"{format}{NAMED}{address}"


def _parsed(address: str) -> tuple[str | None, str]:
    """Split an address into format and place; what is there under all of it is a place."""
    name, mark, place = address.partition(NAMED)
    return (name, place) if mark and client.find_local(address) is None else (None, address)


def _find(address: str, revision: str | None, options: dict[str, Any]) -> RobotDataset:
    named, path = _parsed(address)
    known = formats(named)
    if (bound := options.get("cache_gb")) is not None:
        checks.positive(cache_gb=bound)
    missing = path.endswith(".json") and client.find_local(path) is None
    place = Path(path) if missing else client.find_local_or_hub("dataset", path, _PLACES, _near(path))
    if place is None:
        return _open_from_hub(path, revision, options, named)
    if place.suffix == ".json" and not (named and ".json" in known[0].suffixes):
        if named is not None:
            way_out = f'Write "format": "{named}" into {place}.'
            raise LattokError(f"`format` cannot be given for a description file. {way_out}")
        parts = (place.name, f"{place.parent.name}/{place.name}")  # of a dataset, which describe none by themselves
        if place.is_file() and {"dataset_info.json", "features.json", "meta/info.json"} & {*parts}:
            checks.fail("dataset", "a folder, a description file, or a Hub id", f"the file {place}", _whole_of(place))
        if revision is not None:
            raise LattokError(f"`revision` cannot be given for a description file. Write {revision!r} into {place}.")
        return _open_described(place, options)
    if revision is not None:
        raise LattokError(f"`revision` {revision!r} is for datasets of the Hub, and {place} is a local folder.")
    return _open(client.inside(place, options.get("subfolder")), options, named)


def _near(path: str) -> str:
    """Return what may be meant by a path at which there is nothing."""
    with suppress(OSError, RuntimeError, ValueError):  # a name too long, an unknown user, what may not be listed
        wanted = Path(path).expanduser()
        if gone := [folder for folder in wanted.parents if not folder.exists()]:
            return f"There is no folder {gone[-1]}."
        names = [each.name for each in wanted.parent.iterdir() if not each.name.startswith(".")]
        if meant := checks.nearest(wanted.name, names):
            return f"Did you mean {wanted.parent / meant}?"
        return f"There is no {wanted.name[:60]} in {wanted.parent.absolute()}. One to try things with: sample/dataset."
    return ""


def formats(named: str | None = None) -> list[type[RobotDataset]]:
    """All formats, ours and those of installed packages; first those with marks that no other format has. Of a format
    that is `named`, that one alone."""
    if named is not None:
        checks.one_of("format", named, FORMATS)
        return [FORMATS[named]]
    found = []
    for kind in FORMATS:
        try:
            found.append(FORMATS[kind])
        except LattokError as error:  # somebody else's: other datasets open without it
            checks.warn(str(error), stacklevel=2)
    return sorted(found, key=lambda each: not each.marked)


def as_dataset(dataset: RobotDataset | str | os.PathLike[str]) -> RobotDataset:
    """Return a dataset unchanged, or open the one at a path or Hub id."""
    if isinstance(dataset, str | os.PathLike):
        return open_dataset(os.fspath(dataset))
    if not isinstance(dataset, RobotDataset):
        checks.fail("dataset", "a dataset of lattok.open_dataset, a path or a Hub id", type(dataset).__name__)
    return dataset


def _open_from_hub(hub_id: str, revision: str | None, options: dict[str, Any], named: str | None) -> RobotDataset:
    known = formats(named)
    ours = {*_VIEWS, "name", "cache_gb", *(name for each in known for name in each.options)}
    asked = {name: value for name, value in options.items() if name not in ours}
    client.check_options(asked, _HUB)
    few = [each for each in known if each.opens_with]
    files, folder = LocalFiles(), None
    if few and not asked.get("force_download"):
        patterns = list(dict.fromkeys(pattern for each in few for pattern in each.opens_with))
        folder = client.download("dataset", hub_id, revision, patterns, asked, "dataset")
        place = folder / (asked.get("subfolder") or "")
        if place.is_dir() and any(each.recognise(place) for each in few):
            files = HubFiles(hub_id, folder, asked, options.get("cache_gb"))
        revision = folder.name  # whatever is uploaded meanwhile
    if files.commit is None:
        folder = client.download("dataset", hub_id, revision, None, asked, "dataset")
    assert folder is not None
    place = client.inside(folder, asked.get("subfolder"))
    return _open(place, {"name": hub_id} | options, named, files)


def _open_described(file: Path, options: dict[str, Any]) -> RobotDataset:
    """Open what a description file names, with the options in it. Paths lead from its folder downwards."""
    entry = {key: value for key, value in read_json(file).items() if value is not None}
    kinds = {name: kind for each in formats() for name, kind in each.options.items()}
    known = ("dataset", "format", "revision", "cache_gb", "name", "labels", *kinds, *_VIEWS)
    checks.known_keys(str(file), entry, known)
    if twice := sorted(set(entry) & set(options)):
        checks.fail(twice[0], f"one value, here or in {file}", "two")
    target = entry.pop("dataset", None)
    expected = "a path relative to that file, or a Hub id"
    if not isinstance(target, str) or not target or Path(target).suffix == ".json":
        checks.fail(f"dataset` of `{file}", expected, repr(target))
    for name in [name for name, kind in kinds.items() if kind is Path and isinstance(entry.get(name), str)]:
        place = client.find_local(entry[name], file.parent) or file.parent / entry[name]
        entry[name] = safe_path(file.parent, place, f"`{name}` of `{file}`")
    hint = f"There is no {file.parent / target}."
    local = client.find_local_or_hub(f"dataset` of `{file}", target, expected, hint, file.parent)
    if "labels" in entry:
        given = [entry["labels"]] if isinstance(entry["labels"], str) else entry["labels"]
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            checks.fail(f"labels` of `{file}", "folders of labels", repr(given))
        entry["labels"] = [safe_path(file.parent, file.parent / name, f"`labels` of `{file}`") for name in given]
    if local is None:
        return open_dataset(target, **entry, **options)
    safe_path(file.parent, local, f"`dataset` of `{file}`")
    return open_dataset(local, **entry, **options)


def _open(place: Path, options: dict[str, Any], named: str | None, files: LocalFiles | None = None) -> RobotDataset:
    try:
        place = place.absolute()  # workers of Ray live in another folder
        plain = Path(os.path.normpath(place))  # without `..`, which behind a link may lead elsewhere
        place = plain if plain.exists() and plain.samefile(place) else place
        labelled = files is None and named is None and (place / SOURCE).is_file() and holds_labels_alone(place)
        format_, place = (None, place) if labelled else _recognise(place, named, options)
    except OSError as error:
        raise LattokError(f"cannot read {place}: {error.strerror}. Check its permissions.") from None
    if format_ is None:
        return _open_labelled(place, options)
    options = {key: value for key, value in options.items() if key not in _HUB}
    name, asked = options.pop("name", None), {key: options.pop(key) for key in _VIEWS if key in options}
    kinds = format_.options
    for key, value in options.items():
        if key not in kinds:
            known = ", ".join((*kinds, "name", *_VIEWS))
            hint = f"Leave it out: {format_.kind} datasets take none."
            checks.fail(key, f"an option that {place} has a use for ({known})", repr(value), hint)
        if kinds[key] is Path and not isinstance(value, str | Path):
            checks.fail(key, "a path", repr(value))
    if not isinstance(name, str | None) or len(name or "") > LONGEST_NAME:
        checks.fail("name", f"text of at most {LONGEST_NAME} characters", f"{name!r:.60}")
    if (fps := options.get("fps")) is not None:
        checks.frame_rate(fps=fps)
    where = () if files is None or not format_.opens_with else (files,)
    dataset = with_modality(cast(Any, format_)(place, name, *where, **options))
    for option, view in _VIEWS.items():
        dataset = view(dataset, asked[option]) if option in asked else dataset
    return dataset


def _recognise(place: Path, named: str | None, options: Collection[str]) -> tuple[type[RobotDataset], Path]:
    """Find the format of a file or folder, if it is not `named`, and where exactly it is; of several that are there the
    one that takes these options."""
    known = formats(named)
    if place.is_file():
        for each in known:
            part = place.suffix.lower() in TABLES and _dataset_of(place) is not None
            if named or (place.suffix.lower() in each.suffixes and not part):
                return each, place
        single = "".join(f", a {' or '.join(each.suffixes)} file" for each in known if each.suffixes)
        checks.fail("dataset", f"a folder{single}, or a description file *.json", f"the file {place}", _whole_of(place))
    found: list[tuple[type[RobotDataset], Path]] = []
    for each in known:
        found += [(each, path) for path in each.recognise(place)]
        if each.marked and len(found) == 1:
            break
    if theirs := [each for each in found if not is_ours(each[0])]:  # whoever installed a reader wants it to read
        found = theirs
    if not found and (place / PROVENANCE).is_file():
        way_out = f"Give both: lattok inspect DATASET --labels {shlex.quote(str(place))}"
        checks.fail("dataset", "a dataset", f"{place}, which holds only the labels of one", way_out)
    found = found or [(each, place) for each in known if named or each.guess(place)]
    inner = "" if found else _below(place, known)
    found = found or [(each, place) for each in known if not inner and each.guess_below(place)]
    asked = {*options} - {"name", *_VIEWS, *_HUB}
    if len({each.kind for each, _ in found}) > 1 and any(asked <= {*each.options} for each, _ in found):
        found = [(each, path) for each, path in found if asked <= {*each.options}]
    if len(kinds := [*dict.fromkeys(each.kind for each, _ in found)]) > 1:
        typed = shlex.join(["lattok", "inspect", str(place), "--format", kinds[0]])
        way_out = f"Name one: {typed}, or give each a folder of its own."
        checks.fail("format", f"the one to read, as {place} holds several ({', '.join(kinds)})", "none", way_out)
    if not found and (place / CONFIG).is_file() and (place / WEIGHTS).is_file():
        way_out = f"Evaluate it on one: {shlex.join(['lattok', 'evaluate', str(place), 'DATASET'])}"
        checks.fail("dataset", "a dataset", f"{place}, which holds a model", way_out)
    if not found and not any(place.iterdir()):
        way_out = "Which files make one: docs/howto/own_dataset.md"
        checks.fail("dataset", "a dataset", f"{place} with nothing in it", way_out)
    if len(found) != 1:
        hint = " ".join(filter(None, (each.hint(place) for each in known))) if not found else ""
        own = hint if (place / "meta").is_dir() else ""  # of a dataset that lacks something
        hint = own or inner or hint or ("" if found else _packed(place) or WRITE)
        checks.fail("dataset", f"one of {', '.join(each.text for each in known)}", _what_is_in(place, found), hint)
    return found[0]


def _below(place: Path, known: Sequence[type[RobotDataset]]) -> str:
    """Name the datasets in a folder of datasets."""
    inner = [path for path in islice(sorted(place.iterdir()), MOST_BELOW) if path.is_dir()]
    found = [path.name for path in inner if any(each.recognise(path) for each in known)]
    if not found:  # as of ORGANISATION/NAME on the Hub
        further = islice((path for above in inner for path in sorted(above.iterdir()) if path.is_dir()), MOST_BELOW)
        marked = [each for each in known if each.marked]
        found = [f"{path.parent.name}/{path.name}" for path in further if any(each.recognise(path) for each in marked)]
    return f"Give one of the datasets in it: {checks.few_of(found, _SHOWN)}." if found else ""


def _packed(place: Path) -> str:
    """Say how what is in a folder is unpacked, if it is packed."""
    typed = [f"{program} FILE{ending}" for ending, program in UNPACK.items() if holds(place, (ending,))]
    return f"Unpack what is packed first: {' or '.join(typed)}" if typed else ""


def source_of(dataset: RobotDataset, labels: Path) -> dict[str, Any] | None:
    """Return what `SOURCE` in a folder of labels says of their dataset: its place, as that folder sees it, and the
    options that it was opened with. None for one that only Python can open again."""
    named, place = _parsed(dataset.address)
    options = {name: value for name, value in dataset.opened_with.items() if name not in _HUB or name == "subfolder"}
    if not place or any(kind is Path and name in options for each in formats() for name, kind in each.options.items()):
        return None

    def seen(given: str | Path) -> str:
        return os.path.relpath(os.path.realpath(Path(given).expanduser()), os.path.realpath(labels))

    if "labels" in options:
        options["labels"] = [seen(each) for each in options["labels"]]
    bundled = place in client.SAMPLES and not os.path.lexists(place)
    address = place if bundled or client.find_local(place) is None else seen(place)
    entry = {"dataset": address, **({"format": named} if named else {}), **options}
    try:
        json.dumps(entry)
    except (TypeError, ValueError):  # objects of Python
        return None
    return entry


def _open_labelled(place: Path, options: dict[str, Any]) -> RobotDataset:
    """Open the dataset of a folder of labels, as it was opened when they were made, with them."""
    file, base = place / SOURCE, Path(os.path.realpath(place))
    entry = {key: value for key, value in read_json(safe_path(place, file, str(file))).items() if value is not None}
    target, beside = entry.pop("dataset", None), entry.pop("labels", [])
    if not isinstance(target, str):
        checks.fail(f"dataset` of `{file}", "the place of a dataset", repr(target)[:200])
    if not isinstance(beside, list) or not all(isinstance(each, str) for each in beside):
        checks.fail(f"labels` of `{file}", "folders of labels", repr(beside)[:200])
    kinds = {name for each in formats() for name, kind in each.options.items() if kind is not Path}
    checks.known_keys(str(file), entry, ("format", "revision", "subfolder", "name", *sorted(kinds), *_VIEWS))
    local = None if target in client.SAMPLES else client.find_local(target, base)
    if local is None and target.startswith(("/", "../")):
        way_out = f"Say where it is: lattok inspect DATASET --labels {shlex.quote(str(place))}"
        checks.fail("dataset", f"the dataset of {place} in {os.path.normpath(base / target)}", "nothing there", way_out)
    address = target if local is None else os.path.normpath(local)
    return open_dataset(address, **{**entry, **options}, labels=[*(base / each for each in beside), place])


def holds_labels_alone(place: Path) -> bool:
    """Return whether a folder holds the labels of a dataset, but no dataset of any format."""
    return (place / PROVENANCE).is_file() and not any(each.recognise(place) for each in formats())


def _whole_of(file: Path) -> str:
    """Return what to give instead of a file that is no dataset."""
    if (way_out := copy_again(file, "")) == FETCH:
        return way_out
    if (typed := UNPACK.get(file.suffix.lower())) is not None:
        return f"Unpack it first: {typed} {shlex.quote(str(file))}"
    if file.suffix.lower() in ARRAYS:
        return "Write arrays as a dataset first, with lattok.data.LeRobotWriter; tokenizers also fit them as they are."
    if (folder := _dataset_of(file)) is not None:
        return f"Give the whole dataset, {folder}."
    with suppress(OSError):
        if any(file.parent in each.recognise(file.parent) for each in formats() if not each.marked):
            inner = (file.parent.glob(f"{below}/meta/info.json") for below in ("*", "*/*"))  # a home is large
            if file.suffix.lower() in VIDEOS and any(map(any, inner)):
                return "Put it into a folder of its own, and give that: others lie here."
            return f"Give the whole dataset, {file.parent}."
    return "Give the folder of the dataset that it belongs to."


def _dataset_of(file: Path) -> Path | None:
    """Return the LeRobot dataset that a file is in, None where it is in none."""
    return next((folder for folder in file.parents[:4] if (folder / "meta" / "info.json").is_file()), None)


def _what_is_in(place: Path, found: list[tuple[type[RobotDataset], Path]]) -> str:
    """Describe a folder that is no dataset, or several, for an error."""
    names = [path.name for _, path in found]
    names = names or [f"{path.name}/" if path.is_dir() else path.name for path in place.iterdir()]
    shown = checks.few_of(sorted(names), _SHOWN)
    if found:
        return f"{place} with several versions ({shown}); give one of them"
    return f"{place} with {shown}"


class Source(NamedTuple):
    dataset: RobotDataset
    weight: float


def open_mixture(texts: Sequence[str]) -> list[Source]:
    """Open datasets given as PATH:WEIGHT, such as "data/bridge:1.0"; their names must differ."""
    sources = [Source(open_dataset(path), weight) for path, weight in map(parse_source, texts)]
    names = [source.dataset.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            places = {source.dataset.root.resolve() for source in sources if source.dataset.name == name}
            again = "Name it once: a weight says how often it is drawn."
            rename = 'Write {"dataset": PATH, "name": ...} into a .json file and mix that.'
            hint = again if len(places) == 1 else rename
            checks.fail("mix", "datasets with different names", f"several called {name!r}", hint)
    return sources


def parse_source(text: str) -> tuple[str, float]:
    """Path and weight of PATH:WEIGHT. Paths may hold colons: the last one counts."""
    path, _, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not path or not math.isfinite(weight) or weight <= 0:
        checks.fail("mix", "PATH:WEIGHT with a weight greater than 0, such as data/bridge:1.0", repr(text))
    return path, weight


def same_cameras(dataset: RobotDataset, names: Sequence[str]) -> tuple[str, ...]:
    """A dataset's cameras called `names`, full names or short; where one is wanted and there is one, that one."""
    short = [short_name(name) for name in names]
    there = [short_name(key) for key in dataset.cameras]
    if len(short) == len(there) == 1:
        return tuple(dataset.cameras)
    if not set(short) <= set(there):
        hint = f'Name them in a description file: "cameras": {{"{short[0]}": "{(there or ["NAME"])[0]}", ...}}.'
        checks.fail("cameras", f"{', '.join(short)} in {dataset.name} too", ", ".join(there) or "none", hint)
    return camera_keys(dataset, short)


def has_actions(dataset: RobotDataset, key: str) -> bool:
    """Whether a dataset has that column; one that has other actions instead is an error, not a video without any."""
    if key in dataset.features:
        return True
    if any(name.split(".")[0].startswith("action") for name in dataset.features):
        vector_key(dataset, "action_key", key)
    return False
