"""Scores of single rollouts, of any number of methods: a table by its columns, or what `lattok rollout` has written."""

import csv
import hashlib
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lattok.utils import checks, files

ROLLOUTS = "rollouts.json"
SCORES = ("score", "success")  # names of the column, where none is given
TRUTHS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
KNOWN = ("method", "task", "score", "episode", "seed")
Columns = Mapping[str, Sequence[Any]]


class Attempt(NamedTuple):
    """One attempt at one task: `score` is 0 or 1, or graded; the larger, the better."""

    method: str
    task: str
    score: float
    episode: str = ""  # of the task, where it is known
    seed: str = ""  # of the training of the policy, where several were trained
    group: str = ""  # what is judged apart, such as seen and new scenes


def of_table(table: Columns, place: str, columns: Mapping[str, str], by: str | None) -> list[Attempt]:
    """Read rows from columns of equal length; `columns` says what is called otherwise, `by` what is judged apart.

    Raises `LattokError` for a column that is not there, a score that is no number, a rollout that is there twice.
    """
    checks.known_keys("columns", columns, KNOWN)
    named = {key: columns.get(key, key) for key in KNOWN}
    if "score" not in columns:
        named["score"] = next((name for name in SCORES if name in table), SCORES[0])
    asked = {key: name for key, name in named.items() if key not in ("episode", "seed") or key in columns}
    for argument, name in (asked | ({"by": by} if by else {})).items():
        if name not in table:
            hint = "" if argument == "by" else f"Is it called otherwise? columns {argument}=NAME."
            checks.fail(argument, f"a column {name!r} in {place}", checks.listed(table), hint)
    texts = {key: name for key, name in named.items() if key != "score" and name in table} | (
        {"group": by} if by else {}
    )
    found, seen = list[Attempt](), dict[Attempt, int]()
    for number, value in enumerate(table[named["score"]]):
        known = {key: str(table[name][number]).strip() for key, name in texts.items()}
        row = Attempt(score=_number(value, f"row {number + 1} of {place}"), **known)
        same = row._replace(score=0.0)
        if row.episode and same in seen:
            got = f"{row.method}, {row.task}, episode {row.episode} in rows {seen[same] + 1} and {number + 1}"
            checks.refuse(place, "each rollout once", got, "Number the episodes of a task, or rename the column.")
        seen[same] = number
        found.append(row)
    return found


def of_files(
    paths: Sequence[str | os.PathLike[str]], columns: Mapping[str, str], by: str | None
) -> tuple[list[Attempt], bool]:
    """Read CSV files, and folders of `lattok rollout`, each of which is a method that "NAME=FOLDER" can name.

    Returns whether all are such folders, so that equal numbers are equal starts.
    """
    found, tables, read = list[Attempt](), 0, dict[str, str]()
    for path in [os.fspath(each) for each in paths]:
        name, mark, place = path.partition("=") if not os.path.exists(path) else ("", "", path)
        place = place if mark else path
        file = Path(place).expanduser()
        file = file / ROLLOUTS if file.is_dir() else file
        if not file.is_file():
            hint = "Give a CSV file with columns method, task and score, or a folder of `lattok rollout`."
            checks.fail("results", "a file that is there", place, hint)
        content = hashlib.sha256(file.read_bytes()).hexdigest() if file.suffix != ".json" else str(file.resolve())
        if content in read:
            checks.fail("results", "each rollout once", f"the same in {read[content]} and {place}", "Leave one out.")
        read[content] = place
        if file.suffix == ".json":
            found += _of_rollout(file, name or place)
        else:
            tables += 1
            found += of_table(_csv(file), str(file), columns, by)
    return found, not tables


def _of_rollout(file: Path, method: str) -> Iterator[Attempt]:
    """Read episodes of `lattok rollout`: start states have numbers, so that methods meet in the same ones."""
    value = files.read_json(file)
    try:
        for each in value["episodes"]:
            yield Attempt(method, str(each["task"]), float(each["success"]), str(each["seed"]))
    except (KeyError, TypeError, ValueError):
        checks.refuse(file, "results of `lattok rollout`", "another JSON file")


def _csv(file: Path) -> Columns:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        checks.refuse(file, "text in UTF-8", "other bytes", "Save the table as CSV in UTF-8.")
    head = text.partition("\n")[0]
    mark = max(",;\t", key=head.count)
    rows = [
        row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if any(cell.strip() for cell in row)
    ]
    if len(rows) < 2:
        checks.refuse(file, "a line of names and a row for each rollout", checks.counted(len(rows), "row"))
    names = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(names):
            checks.refuse(file, f"{len(names)} cells in row {number}", f"{len(row)}")
    if len({*names}) != len(names):
        checks.refuse(file, "a name of its own for each column", checks.listed(names))
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(names)}


def _number(value: Any, place: str) -> float:
    text = str(value).strip()
    try:
        number = TRUTHS[text.lower()] if text.lower() in TRUTHS else float(text.replace(",", "."))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        checks.refuse(place, "a score: a number, true or false", repr(text))
    return number
