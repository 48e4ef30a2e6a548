"""Videos that several cameras took of the same episodes: which files belong together, and whether names tell it."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any, NamedTuple

from lattok.utils import checks
from lattok.utils.untrusted import is_file_name

PLACES = "left|right|front|back|rear|top|side|wrist|hand|head|overhead|ego|exo|high|low|third"
VIEW = re.compile(rf"(?<![a-z])(?:(?:cam(?:era)?|view)[-_ ]?\d+|{PLACES})(?![a-z])", re.IGNORECASE)
NEAR = 2  # frames by which recorders of one episode stop apart
EXPECTED = 'an object such as {"left": "*_left.mp4", "right": "*_right.mp4"}'


class Views(NamedTuple):
    """Files of each camera by its name, in the order of the episodes; of each episode a path in the folder of its
    files, or what is at the `*`, if they are in several; and files of no episode."""

    files: dict[str, list[str]]
    places: list[str]
    left_out: list[str]


def grouped(files: Sequence[str], views: Any) -> Views:
    """Put files together whose names differ by what their camera's pattern has beside its `*`.

    Raises:
        LattokError: `views` is no such object, or no episode has a file of each.
    """
    if not isinstance(views, Mapping) or not views or not all(isinstance(each, str) for each in views.values()):
        checks.fail("views", EXPECTED, f"{views!r:.80}")
    found: dict[str, dict[str, str]] = {}
    for name, pattern in views.items():
        if not isinstance(name, str) or not is_file_name(name) or pattern.count("*") > 1 or {*pattern} & {*"?["}:
            checks.fail("views", f"{EXPECTED}, with one * a pattern at most", f"{name!r:.40}: {pattern!r:.60}")
        start, _, end = pattern.partition("*")
        matches = [file for file in files if fnmatchcase(file, pattern)]
        found[name] = {file[len(start) : len(file) - len(end)] if "*" in pattern else "": file for file in matches}
    episodes = sorted(set.intersection(*({*each} for each in found.values())))
    if not episodes:
        counts = ", ".join(f"{checks.counted(len(each), 'file')} of {name}" for name, each in found.items())
        checks.fail("views", "patterns of files that go together, such as a_left.mp4 and a_right.mp4", counts)
    chosen = {name: [each[episode] for episode in episodes] for name, each in found.items()}
    placed = {file for each in chosen.values() for file in each}
    rows = zip(episodes, zip(*chosen.values(), strict=True), strict=True)
    places = [row[0] if len({file.rpartition("/")[0] for file in row}) == 1 else name for name, row in rows]
    return Views(chosen, places, [file for file in files if file not in placed])


def likely_views(lengths: Mapping[str, int]) -> dict[str, str]:
    """Return patterns of views for files, with their frames, whose names and lengths speak for it; else nothing."""
    by_word: dict[str, list[str]] = {}
    for file in lengths:
        if matches := [*VIEW.finditer(file)]:
            by_word.setdefault(matches[-1][0], []).append(file)
    if len(by_word) < 2 or sum(map(len, by_word.values())) < len(lengths):
        return {}
    patterns = {word: _pattern(files) for word, files in by_word.items()}
    try:
        files = grouped([*lengths], patterns).files
    except checks.LattokError:
        return {}
    together = [[lengths[file] for file in row] for row in zip(*files.values(), strict=True)]
    whole = all(len(each) == len(together) for each in by_word.values())
    return patterns if whole and all(max(row) - min(row) <= NEAR for row in together) else {}


def _pattern(files: Sequence[str]) -> str:
    """Return what several names have in common, with a * for the rest; of one the name."""
    if len(files) == 1:
        return files[0]
    start = _start(files)
    return f"{start}*{_start([file[len(start) :][::-1] for file in files])[::-1]}"


def _start(texts: Sequence[str]) -> str:
    """Return the characters that all texts begin with."""
    alike = takewhile(lambda each: len({*each}) == 1, zip(*texts, strict=False))
    return "".join(each[0] for each in alike)
