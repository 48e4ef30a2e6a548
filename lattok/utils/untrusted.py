"""What strangers send: where files may lie, JSON and its types, templates and names. Nothing in it is ever run.

Datasets and models come from anybody, so what they say is checked before anything is done with it.

One rule for all paths: they lead to plain files and folders below the root, also after links are followed. The root may
be a link itself, as the user named it. Beyond it only two places count as inside:

- of a snapshot in the Hub's cache (.../snapshots/COMMIT), whose files are links, the folder `blobs` of the same
  repository: only files of that repository are there; and the folder `blobs` of the whole cache, which newer clients
  let those be links to, so that files of several repositories are stored once;
- folders that the user names in the environment variable LATTOK_DATA, separated as in PATH, such as a large drive that
  the videos of a dataset are linked to, or the base model that a policy was trained on (`hub/weights.py`).
"""

import json
import math
import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from string import Formatter
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from lattok.utils import checks
from lattok.utils.checks import LattokError

TRUSTED = "LATTOK_DATA"
SHARED = ".huggingface-shared-blobs"  # by which the Hub's client knows the `blobs` of its whole cache
MOST_LEVELS = 100  # of folders: Python's own tools for them recurse
MOST_LINKS = 16  # to one folder of a dataset
NAME_BYTES = 200  # of a file name; systems take 255, and endings are added


def inside(root: Path, relative: object, what: str, folders: set[str] | None = None) -> Path:
    """Return the file that something in a dataset calls `relative`: text without `..` that stays below `root`.

    `what` names file and field in errors. The file need not be there. Who asks for many files keeps the `folders` that
    are known to be below `root`: a plain file in them is, and no link need be followed.
    """
    text = os.fspath(relative) if isinstance(relative, str | os.PathLike) else None
    if not isinstance(text, str) or not _is_relative(text):
        raise LattokError(f"{what}: expected a path below {root}, got {relative!a:.80}.")
    path = root / text
    if folders is not None:
        folder = os.path.dirname(path)
        with suppress(OSError, LattokError):  # which is said of the file itself
            if folder not in folders and os.path.isdir(folder):
                safe_path(root, Path(folder), what)
                folders.add(folder)
            if folder in folders and stat.S_ISREG(os.lstat(path).st_mode):
                return path
    return safe_path(root, path, what)


def safe_path(root: Path, path: Path, what: str) -> Path:
    """Return `path`, which must be below `root` after links are followed, and no device or pipe. It need not exist."""
    try:
        real = os.path.realpath(path)
        plain = os.path.normcase(real)
        if not any(plain == area or plain.startswith(area.rstrip(os.sep) + os.sep) for area in _areas(root)):
            got = f"got {path}" if real == os.path.abspath(path) else f"but {path} leads to {real}"
            if ANNEX in real and not os.path.exists(real):
                raise LattokError(f"{what}: {path} is no file yet. {FETCH_ANNEX}")
            folder = real if os.path.isdir(real) else os.path.dirname(real)  # no more than is asked for
            way_out = f"Move it there, or name the folder that may be read as well: {TRUSTED}={folder}"
            raise LattokError(f"{what}: expected a path below {root}, {got}. {way_out} (environment).")
        mode = os.stat(real).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path  # whoever reads it says that it is missing
    except OSError as error:
        raise LattokError(f"{what}: cannot read {str(path)[:200]} ({error.strerror}).") from None
    except ValueError as error:
        if isinstance(error, LattokError):
            raise
        raise LattokError(f"{what}: expected a path, got {str(path)!a:.80}.") from None  # NUL
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise LattokError(f"{what}: expected a plain file, but {path} is a device or a pipe. Remove it.")
    return path


def walk(root: Path, skip: Callable[[Path], bool], once: bool = False) -> Iterator[Path]:
    """Yield paths of all files below a folder, relative to it: those of a folder by name, then those of its folders.

    Links are followed where they stay inside. A folder that is linked into itself is passed over there; one to which
    many links lead comes with all of them, or is entered `once`. `skip` sees relative paths of files and folders.
    """
    waiting: list[tuple[Path, tuple[str, ...]]] = [(Path(), (os.path.realpath(root),))]
    entered = Counter[str]()
    while waiting:
        folder, above = waiting.pop()
        below: list[tuple[Path, tuple[str, ...]]] = []
        for entry in _entries(root / folder):
            path = folder / entry.name
            if skip(path):
                continue
            if not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
                safe_path(root, root / path, str(root / path))
            if not entry.is_dir():
                yield path
                continue
            real = os.path.realpath(root / path) if entry.is_symlink() or once else os.path.join(above[-1], entry.name)
            entered[real] += entry.is_symlink() or once
            if real in above or (once and entered[real] > 1):
                continue
            if len(path.parts) > MOST_LEVELS:
                raise LattokError(f"{root}: expected at most {MOST_LEVELS} folders in each other, got more.")
            if entered[real] > MOST_LINKS:
                raise LattokError(f"{root / path}: more than {MOST_LINKS} links lead to {real}. Remove some.")
            below.append((path, (*above, real)))
        waiting += reversed(below)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        way_out = "Check its permissions, or move it elsewhere."
        raise LattokError(f"cannot read {str(folder)[:200]} ({error.strerror}). {way_out}") from None


def is_file_name(text: str) -> bool:
    """Return whether a name out of a dataset can be the name of a file or folder, on every system."""
    odd = any(not character.isprintable() for character in text) or set(text) & set('/\\<>:"|?*')
    return not odd and text.strip(". ") != "" and len(text.encode()) <= NAME_BYTES


def _is_relative(text: str) -> bool:
    path = Path(text)
    down = bool(path.parts) and not path.anchor and ".." not in re.split(r"[/\\]", text)
    return down and not ("\0" in text or SURROGATE.search(text)) and len(path.parts) <= MOST_LEVELS


def _areas(root: Path) -> Iterator[str]:
    real = Path(os.path.realpath(root))
    yield os.path.normcase(real)
    for folder in (real, *real.parents):
        if folder.parent.name == "snapshots":
            repository = folder.parent.parent
            yield os.path.normcase(repository / "blobs")
            if (repository.parent / "blobs" / SHARED).is_file():
                yield os.path.normcase(repository.parent / "blobs")
    for trusted in filter(None, os.environ.get(TRUSTED, "").split(os.pathsep)):
        yield os.path.normcase(os.path.realpath(os.path.expanduser(trusted)))


_NUMBER_FORM = re.compile("0?[0-9]{0,2}d")
_MOST_FIELDS = 20


def plain_format(template: str, /, **values: str | int) -> str:
    """Fill in the fields of `template`: {name}, {number:d} or {number:03d}, and {{ or }} for a brace.

    For templates out of files: `str.format` would look into attributes and pad to gigabytes. Whatever is no plain field
    is a `LattokError`, which the caller makes one about its file.
    """
    try:
        fields = [(name, form, mark) for _, name, form, mark in Formatter().parse(template) if name is not None]
    except (TypeError, ValueError):  # no text, or a brace without its other one
        fields = [("", "", None)]

    def is_plain(name: str, form: str | None, mark: str | None) -> bool:
        number = not form or (isinstance(values.get(name), int) and _NUMBER_FORM.fullmatch(form))
        return name in values and not mark and bool(number)

    if len(fields) > _MOST_FIELDS or not all(is_plain(*field) for field in fields):
        names = ", ".join(f"{{{name}}}" for name in values)
        raise LattokError(f"expected text with {names} at most, numbers also as {{number:03d}}, got {template!r:.60}.")
    return template.format(**values)


JSON_BYTES = 32 << 20  # no file of ours or of a dataset comes near; parsed, JSON takes up to 25 times as much memory
JSON_DEPTH = 100  # of YAML too
YAML_BYTES = 1 << 15  # which its reader takes half a second for at worst; published settings have a tenth of it
MAX_VOCABULARY = 1 << 24  # ids of a tokenizer, whose file would be larger than is read
TOO_DEEP, TOO_LARGE = "nested too deeply", "a whole number beyond 64 bits"
COPY = "Copy the file again."
MISSING = "Download or copy it again."
UNPACK = {  # what unpacks a file, by its ending; .tar is webdataset's, .zstd that of rosbag2
    ".tar": "tar -xf",
    ".tgz": "tar -xf",
    ".gz": "gunzip",
    ".zip": "unzip",
    ".zst": "unzstd",
    ".zstd": "unzstd",
    ".xz": "unxz",
    ".7z": "7z x",
}
LFS = (
    b"version https://git-lfs"  # how a pointer of Git LFS begins, which stands in place of a file that was not fetched
)
EMPTY = "It is empty: copy it again."
GZIP = b"\x1f\x8b"  # how what is packed begins, whatever its ending
FETCH = "It is a pointer of Git LFS, not the file. Fetch it: git lfs pull"
FETCH_ANNEX = "Its content is in git-annex, and was not fetched: git annex get"
ANNEX = "annex/objects"  # in what links and pointers of git-annex lead to
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character


def copy_again(path: Path, hint: str = COPY) -> str:
    """Return the way out where a file cannot be read or is missing: a pointer of Git LFS or git-annex is fetched, an
    empty one copied, one that is there with another ending unpacked."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(LFS))
    except OSError:
        if os.path.islink(path) and ANNEX in os.readlink(path):
            return FETCH_ANNEX
        packed = (path.with_name(f"{path.name}{ending}") for ending in UNPACK)
        there = next((each for each in packed if not path.exists() and each.is_file()), None)
        return hint if there is None else f"There is {there.name} instead: {UNPACK[there.suffix]} {there}"
    if ANNEX.encode() in begins[: len(ANNEX) + 1]:
        return FETCH_ANNEX
    if begins[: len(GZIP)] == GZIP and path.suffix not in UNPACK:
        plain = shlex.quote(str(path))
        return f"It is packed: mv {plain} {plain}.gz && gunzip {plain}.gz"
    return FETCH if begins == LFS else hint if begins else EMPTY


def parse_json(text: str | bytes, where: str, hint: str = COPY, *, nan: bool = False, nul: bool = False) -> Any:
    """Parse JSON from a stranger: what the standard reader takes and later code trips over is a `LattokError` too.

    That is nesting deeper than `JSON_DEPTH`, whole numbers beyond 64 bits, names that come twice, texts with half a
    character, texts with NUL unless `nul`, and NaN and infinity unless `nan`.
    """
    if len(text) > JSON_BYTES:
        raise LattokError(f"{where}: expected at most {JSON_BYTES >> 20} MB of JSON. Is this the right file?")
    if text[: len(LFS)] in (LFS, LFS.decode()):
        hint = FETCH
    try:
        plain = text if isinstance(text, str) else text.decode()
        value = json.loads(plain.removeprefix("\ufeff"), object_pairs_hook=_named_once)  # which Windows puts before it
        _check_parsed(value, nan, nul)
    except RecursionError:
        raise LattokError(f"{where} is not valid JSON ({TOO_DEEP}). {hint}") from None
    except ValueError as error:
        reason = TOO_LARGE if "integer string conversion" in str(error) else error
        raise LattokError(f"{where} is not valid JSON ({reason}). {hint}") from None
    return value


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!r:.60} comes twice in one object")
    return found


def _check_parsed(value: object, nan: bool, nul: bool) -> None:
    level, depth = [value], 0
    while level:
        if depth > JSON_DEPTH:
            raise ValueError(TOO_DEEP)
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                if ("\0" in item and not nul) or (not item.isascii() and SURROGATE.search(item)):
                    raise ValueError(f"a text with NUL or half a character: {item!a:.60}")
            elif isinstance(item, float):
                if not nan and not math.isfinite(item):
                    raise ValueError(f"{item} where a finite number is expected")
            elif isinstance(item, int) and not -(2**63) <= item < 2**63:
                raise ValueError(TOO_LARGE)
        level, depth = below, depth + 1


def read_yaml(path: Path, argument: str) -> Any:
    """Read YAML of a stranger; aliases, deep nesting and large files are a `LattokError` about `argument`, too."""
    import yaml  # huggingface_hub brings it

    try:
        with path.open("rb") as file:
            written = file.read(YAML_BYTES + 1)
        if len(written) > YAML_BYTES:
            raise ValueError(f"more than {YAML_BYTES:,} bytes")
        text = written.decode()
        reader, depth = getattr(yaml, "CSafeLoader", yaml.SafeLoader), 0
        for event in yaml.parse(text, reader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("aliases, by which a few lines can become any amount")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > JSON_DEPTH:  # the time to read it grows with its square
                raise ValueError(TOO_DEEP)
        return yaml.load(text, reader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        checks.fail(argument, f"a file of settings; {str(path)!r} could not be read", checks.first_line(error))


class Rule(NamedTuple):
    """What is expected of a value besides its type, in words and as a test: `Annotated[int, Rule(...)]`."""

    expected: str
    fits: Callable[[Any], bool] = lambda value: True


class _Unfit(Exception):
    """A value, by its name, is not what is expected."""

    def __init__(self, name: str, expected: str, got: str, hint: str = ""):
        super().__init__()
        self.name, self.expected, self.got, self.hint = name, expected, got, hint


def typed(value: object, kind: Any, name: str, where: str = "", hint: str = "") -> Any:
    """Return a value out of JSON as the type hint `kind`: lists as its tuples, objects as its dataclasses.

    Whole numbers are numbers too, true and false are none. In the object of a TypedDict names may be missing, and
    others may be there; those of a dataclass are its own. Raises `LattokError` that names the part of `name` that does
    not fit, `where` it stood, the expected type, what came, and `hint`.
    """
    try:
        return _typed(value, kind, name)
    except _Unfit as error:
        place = f"{error.name}` in `{where}" if error.name and where else error.name or where
        checks.fail(place, error.expected, error.got, error.hint or hint)
    except LattokError as error:  # of a dataclass that checks itself
        raise LattokError(str(error) if where in str(error) else f"{where}: {error}") from None


def _typed(value: Any, kind: Any, name: str) -> Any:
    parts, origin, found = get_args(kind), get_origin(kind), value
    if kind is Any:
        return value
    if origin is Annotated:
        base, *rules = parts
        expected = rules[-1].expected
        try:
            found = _typed(value, base, name)
        except _Unfit:
            raise _Unfit(name, expected, _text(value)) from None
        fits = all(rule.fits(found) for rule in rules)
    elif origin in (Union, UnionType):
        return _one_of_several(value, kind, name)
    elif origin is Literal:
        fits = any(type(value) is type(part) and value == part for part in parts)
        expected = f"one of {checks.listed(parts)}"
    else:
        fits, expected = False, f"a value of type {_shown(kind)}"
        if isinstance(value, Mapping):
            if is_dataclass(kind):
                return _dataclass(value, kind, name)
            if is_typeddict(kind):
                kinds = get_type_hints(kind, include_extras=True)
                return {key: _typed(part, kinds.get(key, Any), _below(name, key)) for key, part in value.items()}
            if origin is dict:
                of, kind = parts
                return {_typed(key, of, name): _typed(part, kind, _below(name, key)) for key, part in value.items()}
        if origin in (tuple, list):
            if isinstance(value, list | tuple):
                kinds = parts[:1] * len(value) if origin is list or parts[-1] is ... else parts
                if len(kinds) == len(value):
                    pairs = enumerate(zip(value, kinds, strict=True))
                    return origin(_typed(part, its, f"{name}[{i}]") for i, (part, its) in pairs)
        elif kind in (int, float):
            fits = isinstance(value, int | kind) and not isinstance(value, bool)
        elif not is_typeddict(kind):
            fits = isinstance(value, origin or kind)
    if not fits:
        raise _Unfit(name, expected, _text(value))
    return found


def _one_of_several(value: object, kind: Any, name: str) -> Any:
    unfit: list[_Unfit] = []
    for part in get_args(kind):
        try:
            return _typed(value, part, name)
        except _Unfit as error:
            unfit.append(error)
    deeper = [error for error in unfit if error.name != name]  # the type was right, something in it was not
    raise deeper[0] if deeper else _Unfit(name, f"a value of type {_shown(kind)}", _text(value))


def _dataclass(value: Mapping[str, Any], kind: Any, name: str) -> Any:
    kinds = get_type_hints(kind, include_extras=True)
    known = {field.name for field in fields(kind)}
    if unknown := sorted(map(str, value.keys() - known)):
        older = "If another version of lattok wrote it, make it again with this one."
        hint = f"{checks.did_you_mean(unknown[0], known)} {older}".strip()
        raise _Unfit(name, f"names among {checks.listed(sorted(known))}", checks.listed(unknown), hint)
    given = {key: _typed(part, kinds[key], _below(name, key)) for key, part in value.items()}
    try:
        return kind(**given)
    except LattokError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError, LookupError) as error:
        said = f"something else ({checks.first_line(error)[:200]})"
        raise _Unfit(name, f"the fields of {kind.__name__}, each of its type", said) from None


def _below(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _shown(kind: Any) -> str:
    if get_origin(kind) is dict:  # what it holds is said where something in it does not fit
        return "dict"
    return re.sub(r"\b(?:\w+\.)+", "", str(kind)) if get_args(kind) else getattr(kind, "__name__", str(kind))


def _text(value: object) -> str:
    return f"{value!r:.60}"
