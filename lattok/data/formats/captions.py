"""Captions: what is said of films or folders of pictures, in a table of all of them or in a text beside each film."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from lattok.data.schema import readable
from lattok.utils import checks
from lattok.utils.checks import LattokError, is_int
from lattok.utils.untrusted import Rule, parse_json, safe_path, typed

VIDEO_KEYS = ("file", "file_name", "video", "path", "id")  # the first of these that a row has names its video
CAPTION_KEYS = ("caption", "text", "label", "instruction")
CAPTION_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
MAX_CAPTION_BYTES = 2**28
ROWS = Rule("a list of objects, one for each video, or an object of captions by file")
METADATA = ("metadata.jsonl", "metadata.csv")  # of Hugging Face's VideoFolder, which may hold anything else
TEXT_FOLDERS = ("metas", "captions")  # of Cosmos and others: metas/7.txt of videos/7.mp4
MOST_TABLES, LARGEST_TABLE = 16, 2**26  # that are looked at; bytes
LONGEST_TEXT = 2**14  # bytes of a text beside a film
_SHOWN = 3  # names that an error lists


def captions_in(root: Path, files: Sequence[str], given: str | Path | None) -> tuple[dict[str, str], Path | None]:
    """Return captions by file (relative paths with /) and the table that they are from: the `given` one, else what is
    found in the folder. Without a table it is None, and captions are texts of the names of films, or in other tables of
    the folder that tell of most of them."""
    if given is not None or (source := find_captions(root)) is not None:
        source = source if given is None else Path(given)
        return captions_of(files, source), source
    written: dict[str, str] = {}
    if tables := _metadata(root):
        names = _names(files)
        for table in tables:
            written |= _described(names, table, table.parent.relative_to(root))
    return written or _beside(root, files) or _in_tables(root, files), None


def find_captions(folder: Path) -> Path | None:
    """Return the file captions.jsonl (.json, .csv, .tsv) of a folder, if it has one."""
    found = [path for suffix in CAPTION_SUFFIXES if (path := folder / f"captions{suffix}").is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        checks.fail("captions", f"one captions file in {folder}", names, "Name the right one with `captions`.")
    return safe_path(folder, found[0], str(found[0])) if found else None


def captions_of(files: Sequence[str], path: Path) -> dict[str, str]:
    """Captions from `path` by file, for those of `files` (relative paths with /) that have one. A row names its video
    by relative path or by file name, with or without the suffix. Rows about no video of the folder, about one of
    several videos of the same name, or about a video that had a row before are errors."""
    names = _names(files)
    captions: dict[str, str] = {}
    wrong: dict[str, list[str]] = {"not in the folder": [], "in the folder more than once": [], "in two rows": []}
    for video, caption in _rows(path):
        matches = names.get(str(PurePosixPath(video.replace("\\", "/"))), ())
        if len(matches) != 1:
            wrong["in the folder more than once" if matches else "not in the folder"].append(video)
        elif matches[0] in captions:
            wrong["in two rows"].append(video)
        else:
            captions[matches[0]] = caption
    if faults := [f"{len(videos)} {what} ({_some(videos)})" for what, videos in wrong.items() if videos]:
        way_out = "Name each video by its path relative to the folder, once."
        raise LattokError(f"{path}: expected one row per video of the folder, got {', '.join(faults)}. {way_out}")
    return captions


def _metadata(root: Path) -> list[Path]:
    """List tables of Hugging Face's VideoFolder, in the folder or in those directly in it."""
    found = (path for name in METADATA for place in (name, f"*/{name}") for path in sorted(root.glob(place)))
    return [safe_path(root, path, str(path)) for path in found if path.is_file()]


def _in_tables(root: Path, files: Sequence[str]) -> dict[str, str]:
    """Return what tables in a folder, or in those directly in it, say of films, as Something-Something's labels/; {} if
    that is of half of the films or less, or if two of them disagree."""
    suffixes = {f"{above}*{suffix}" for above in ("", "*/") for suffix in CAPTION_SUFFIXES}
    tables = [path for each in sorted(suffixes) for path in sorted(root.glob(each))[:MOST_TABLES] if path.is_file()]
    names, captions = _names([file for file in files if file != "."]), dict[str, str]()
    for table in tables if len(tables) <= MOST_TABLES else ():
        if safe_path(root, table, str(table)).stat().st_size <= LARGEST_TABLE:
            said = _described(names, table, table.parent.relative_to(root))
            said = {file: text for file, text in said.items() if _says(text)}
            if any(captions.get(file, text) != text for file, text in said.items()):
                return {}
            captions |= said
    return captions if len(captions) > len(files) / 2 else {}


def _described(names: Mapping[str, Sequence[str]], table: Path, folder: Path) -> dict[str, str]:
    """Return what a table of VideoFolder says of films, which its rows call by `names`; {} if it is another table."""
    captions: dict[str, str] = {}
    with suppress(LattokError):
        for _, row in _read(table):
            named, text = ((row[key] for key in keys if key in row) for keys in (VIDEO_KEYS, CAPTION_KEYS))
            video, text = next(named, None), next(text, None)
            video = str(video) if is_int(video) else video
            if isinstance(video, str) and isinstance(text, str) and text.strip():
                matches = names.get((folder / video).as_posix(), ()) or names.get(video, ())
                captions |= {matches[0]: text.strip()} if len(matches) == 1 else {}
    return captions


def _beside(root: Path, files: Sequence[str]) -> dict[str, str]:
    """Return texts of the names of films: 7.txt of 7.mp4, or metas/7.txt of videos/7.mp4; {} if most have none."""
    captions: dict[str, str] = {}
    for file in (file for file in files if (root / file).is_file()):
        place = PurePosixPath(file).with_suffix(".txt")
        places = [place, *(place.parent.parent / folder / place.name for folder in TEXT_FOLDERS)]
        found = (root / each for each in places if (root / each).is_file())
        if (path := next(found, None)) is not None and (text := _words(safe_path(root, path, str(path)))):
            captions[file] = text
    return captions if len(captions) > len(files) / 2 else {}


def _words(path: Path) -> str:
    """Return a text in one line, "" where it holds numbers, such as times, or is none."""
    with suppress(OSError, UnicodeDecodeError):
        if path.stat().st_size <= LONGEST_TEXT:
            text = " ".join(path.read_text(encoding="utf-8-sig").split())
            return readable(text) if _says(text) else ""
    return ""


def _says(text: str) -> bool:
    """Return whether a text is one, and no number, such as of a class."""
    return sum(map(str.isalpha, text)) > len(text) / 2


def _names(files: Sequence[str]) -> dict[str, list[str]]:
    """Collect what rows may call the files: path or name, with and without suffix. A full path is never ambiguous."""
    names: dict[str, list[str]] = {}
    for file in files:
        path = PurePosixPath(file)
        for name in {path.name, path.stem, str(path.with_suffix(""))} - {file}:
            names.setdefault(name, []).append(file)
    return names | {file: [file] for file in files}


def _rows(path: Path) -> list[tuple[str, str]]:
    checks.one_of("captions", path.suffix.lower(), CAPTION_SUFFIXES)
    rows = [(_value(where, row, VIDEO_KEYS), _value(where, row, CAPTION_KEYS)) for where, row in _read(path)]
    if not rows:
        raise LattokError(f"{path} holds no captions.")
    return rows


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a table, each with its place."""
    try:
        if path.stat().st_size > MAX_CAPTION_BYTES:
            most = f"captions of at most {MAX_CAPTION_BYTES >> 20} MB"
            raise LattokError(f"{path}: expected {most}. Is this the right file?")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LattokError(f"`captions`: cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise LattokError(f"{path} is not UTF-8 text. Save it as UTF-8.") from None
    yield from (_json_rows if path.suffix.lower().startswith(".json") else _table)(path, text)


def _value(where: str, row: dict[str, Any], keys: Sequence[str]) -> str:
    if (key := next((key for key in keys if key in row), None)) is None:
        checks.refuse(where, f"one of the names {', '.join(keys)}", ", ".join(map(str, row)) or "nothing")
    value = row[key]
    if is_int(value) and keys is VIDEO_KEYS:
        value = str(value)  # ids are often numbers
    if not isinstance(value, str) or not value.strip():
        raise LattokError(f"{where}: expected a text as `{key}`, got {value!r}.")
    return value.strip()


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix.lower() == ".json":
        value = parse_json(text, str(path))
        if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
            value = [{VIDEO_KEYS[0]: video, CAPTION_KEYS[0]: text} for video, text in value.items()]
        rows = typed(value, Annotated[list[dict[str, Any]], ROWS], "", str(path))
        yield from ((f"{path}, entry {number}", row) for number, row in enumerate(rows, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, typed(parse_json(line, where), dict[str, Any], "", where)


def _table(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    names = text.partition("\n")[0]
    commas = ";" if ";" in names and "," not in names else ","  # as spreadsheets write them where 1,5 is a number
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else commas)
    try:
        for row in reader:
            if None in row or None in row.values():
                way_out = "Put texts that hold the separator in double quotes."
                columns = len(reader.fieldnames or ())
                raise LattokError(
                    f"{path}, line {reader.line_num}: expected {checks.counted(columns, 'column')}. {way_out}"
                )
            yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise LattokError(f"{path}, line {reader.line_num}: {error}.") from None


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:100] for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
