"""Captions of videos: JSON Lines, JSON, CSV or TSV with one row per video, joined to the files of a folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lattok.utils import checks
from lattok.utils.checks import LattokError, is_int
from lattok.utils.files import parse_json

VIDEO_KEYS = ("file", "video", "path", "id")  # the first of these that a row has says which video it is about
CAPTION_KEYS = ("caption", "text", "label", "instruction")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
MOST_BYTES = 2**28
_SHOWN = 3  # names that an error lists


def find_captions(folder: Path) -> Path | None:
    """Return the file captions.jsonl (.json, .csv, .tsv) of a folder, if it has one."""
    found = [path for suffix in SUFFIXES if (path := folder / f"captions{suffix}").is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        checks.fail("captions", f"one captions file in {folder}", names, "Name the right one with `captions`.")
    return found[0] if found else None


def captions_of(files: Sequence[str], path: Path) -> dict[str, str]:
    """Captions from `path` by file, for those of `files` (relative paths with /) that have one.

    A row names its video by relative path or by file name, with or without the suffix. Rows about no video of the
    folder, about one of several videos of the same name, or about a video that had a row before are errors.
    """
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
    faults = [f"{len(videos)} {what} ({_some(videos)})" for what, videos in wrong.items() if videos]
    if faults:
        way_out = "Name each video by its path relative to the folder, once."
        raise LattokError(f"{path}: expected one row per video of the folder, got {', '.join(faults)}. {way_out}")
    return captions


def _names(files: Sequence[str]) -> dict[str, list[str]]:
    """Collect what rows may call the files: path or name, with and without suffix. A full path is never ambiguous."""
    names: dict[str, list[str]] = {}
    for file in files:
        path = PurePosixPath(file)
        for name in {path.name, path.stem, str(path.with_suffix(""))} - {file}:
            names.setdefault(name, []).append(file)
    return names | {file: [file] for file in files}


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    checks.one_of("captions", path.suffix.lower(), SUFFIXES)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise LattokError(f"{path}: expected captions of at most {MOST_BYTES >> 20} MB. Is this the right file?")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LattokError(f"`captions`: cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise LattokError(f"{path} is not UTF-8 text. Save it as UTF-8.") from None
    read = {".jsonl": _json_lines, ".json": _json_list}.get(path.suffix.lower(), _table)
    empty = True
    for where, row in read(path, text):
        if not isinstance(row, dict):
            raise LattokError(f"{path}, {where}: expected an object, got {type(row).__name__}.")
        yield _value(path, where, row, VIDEO_KEYS), _value(path, where, row, CAPTION_KEYS)
        empty = False
    if empty:
        raise LattokError(f"{path} holds no captions.")


def _value(path: Path, where: str, row: dict[str, Any], keys: Sequence[str]) -> str:
    key = next((key for key in keys if key in row), None)
    if key is None:
        got = ", ".join(map(str, row)) or "nothing"
        raise LattokError(f"{path}, {where}: expected one of the names {', '.join(keys)}, got {got}.")
    value = row[key]
    if is_int(value) and keys is VIDEO_KEYS:
        value = str(value)  # ids are often numbers
    if not isinstance(value, str) or not value.strip():
        raise LattokError(f"{path}, {where}: expected a text as `{key}`, got {value!r}.")
    return value.strip()


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", parse_json(line, f"{path}, line {number}")


def _json_list(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    rows = parse_json(text, str(path))
    if not isinstance(rows, list):
        raise LattokError(f"{path}: expected a list of objects, got {type(rows).__name__}.")
    yield from ((f"entry {number}", row) for number, row in enumerate(rows, start=1))


def _table(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        for row in reader:
            if None in row or None in row.values():
                way_out = "Put texts that hold the separator in double quotes."
                columns = len(reader.fieldnames or ())
                raise LattokError(f"{path}, line {reader.line_num}: expected {columns} columns. {way_out}")
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise LattokError(f"{path}, line {reader.line_num}: {error}.") from None


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:100] for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
