"""What can be made right in a dataset without inventing anything: for each flaw that inspection names one repair, most
of them a function of a few lines. `lattok.data.repairing` finds out which ones are due, and writes.

A repair says which rows of an episode stay (`Marks`), or what the numbers of a column become; what is written anew in
any case, such as numbers and statistics, needs neither.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.flaws import LOST, TURNS, UNIT
from lattok.types import Episode
from lattok.utils.commands import NOTHING, Advice, advise, command
from lattok.utils.findings import Finding, Problem


class Marks(NamedTuple):
    """What becomes of the T rows of an episode."""

    without: np.ndarray  # bool [T], rows that are left out; what is before and after them are two episodes
    split: np.ndarray  # bool [T], rows that begin another episode


class EpisodeRows(NamedTuple):
    """An episode, as far as it can be read."""

    episode: Episode
    columns: Mapping[str, np.ndarray]  # vectors of numbers [T, m], and `timestamp` [T] where there is one
    seconds: np.ndarray  # [T], when rows are shown in the videos, from where the episode begins in them
    shown: int  # rows for which all videos have a frame
    equals: int | None = None  # an earlier episode
    error: str = ""  # why it cannot be read


class FlawedPart(NamedTuple):
    """The part of a column that a finding is about."""

    first: int  # of its dimensions
    span: float  # from the smallest to the largest number of this dimension, in all episodes


@dataclass(frozen=True)
class DatasetRepair:
    """How a kind of flaw is made right."""

    name: str
    problems: tuple[Problem, ...]  # what inspection says
    did: str  # one sentence, of {episodes}, {rows} or the {column}
    asked: bool = False  # only where somebody asks for it: what is right depends on the use
    marks: Callable[[EpisodeRows, Sequence[Finding]], Marks] | None = None
    values: Callable[[np.ndarray, FlawedPart], np.ndarray] | None = None  # [T, m] of a column, a new array


REPAIRS: dict[str, DatasetRepair] = {}


def _register(repair: DatasetRepair) -> None:
    REPAIRS[repair.name] = repair


def by_rows(*found: Problem, did: str, asked: bool = False):
    """Register what says which rows stay."""

    def registered(marks: Callable[[EpisodeRows, Sequence[Finding]], Marks]):
        _register(DatasetRepair(marks.__name__, found, did, asked, marks=marks))
        return marks

    return registered


def by_values(*found: Problem, did: str, asked: bool = False):
    """Register what says what the numbers of a column become."""

    def registered(values: Callable[[np.ndarray, FlawedPart], np.ndarray]):
        _register(DatasetRepair(values.__name__, found, did, asked, values=values))
        return values

    return registered


def repair_of(finding: Finding) -> DatasetRepair | None:
    """Return the repair of what was found, None where there is none."""
    return next((each for each in REPAIRS.values() if finding.problem in each.problems), None)


GONE = (problems.DAMAGED.kind, problems.UNREADABLE.kind)  # of episodes that are left out


def advice_for(findings: Iterable[Finding], dataset: str, out: str) -> Advice:
    """Say how what was found is repaired, if any of it is."""
    found = list(findings)
    if any(finding.problem == problems.OTHER_RATE for finding in found):  # first somebody has to know which is right
        return NOTHING
    due = {repair.name: repair for finding in found if (repair := repair_of(finding)) is not None}
    also = [name for name, repair in due.items() if repair.asked]
    typed = command("repair", dataset, "--out", out)
    if len(also) < len(due):
        return advise("Repair what needs no decision, in a copy", typed)
    return (
        advise("If that is wrong for your use, repair it in a copy", typed.extended("--also", *also))
        if also
        else NOTHING
    )


# rows


@by_rows(
    problems.DAMAGED,
    problems.UNREADABLE,
    problems.SHARED_SPAN,
    problems.DISORDERED,
    did="{episodes} left out, which cannot be read. The first: {why}",
)
def unreadable(recording: EpisodeRows, found: Sequence[Finding]) -> Marks:
    return _marks(recording, np.full(recording.episode.length, bool(recording.error)))


@by_rows(problems.SPAN, did="{episodes} cut to the rows that all cameras show: {rows} left out.")
def cut(recording: EpisodeRows, found: Sequence[Finding]) -> Marks:
    return _marks(recording, np.arange(recording.episode.length) >= recording.shown)


@by_rows(problems.TIMES_GO_BACK, problems.TIMES_JUMP, did="{episodes} split where times go back or frames were lost.")
def times(recording: EpisodeRows, found: Sequence[Finding]) -> Marks:
    """Split at steps that go back, and at those longer than one frame that the next step does not make up for."""
    if "timestamp" not in recording.columns or recording.episode.length < 2:
        return _marks(recording)
    steps = np.diff(recording.columns["timestamp"].astype(np.float64).reshape(-1))
    forward = steps[steps > 0]
    middle = float(np.median(forward)) if len(forward) else np.inf
    after = np.append(steps[1:], middle)
    lost = (steps > LOST * middle) & (steps + after > (LOST + 1) * middle)
    return _marks(recording, split=np.append(False, (steps <= 0) | lost))


@by_rows(problems.NOT_FINITE, did="{rows} with numbers that are not finite left out of {episodes}, and split there.")
def values(recording: EpisodeRows, found: Sequence[Finding]) -> Marks:
    """Leave out rows of the columns that were found; an episode of which no action is known has none to mend."""
    bad = np.zeros(recording.episode.length, dtype=bool)
    for key in {str(dict(finding.facts)["column"]) for finding in found}:
        if (column := recording.columns.get(key)) is not None:
            rows = column.reshape(len(column), -1)
            if not ("action" in key and np.isnan(rows).all()):
                bad |= ~np.isfinite(rows).all(1)
    return _marks(recording, bad)


@by_rows(problems.COPIES, did="{episodes} left out, which equal earlier ones.", asked=True)
def copies(recording: EpisodeRows, found: Sequence[Finding]) -> Marks:
    return _marks(recording, np.full(recording.episode.length, recording.equals is not None))


@by_rows(problems.LAST_ACTION_FILLS, did="The last row of {episodes} left out: its action only filled it.", asked=True)
def last(recording: EpisodeRows, found: Sequence[Finding]) -> Marks:
    return _marks(recording, np.arange(recording.episode.length) == recording.episode.length - 1)


def _marks(recording: EpisodeRows, without: np.ndarray | None = None, split: np.ndarray | None = None) -> Marks:
    none = np.zeros(recording.episode.length, dtype=bool)
    return Marks(none if without is None else without, none if split is None else split)


# values


@by_values(problems.FLIPS, did="Signs of quaternions kept from row to row in {column}: {rows} changed in {episodes}.")
def signs(values: np.ndarray, part: FlawedPart) -> np.ndarray:
    """Give each quaternion the sign that is nearer to the row before; both are the same rotation."""
    four = values[:, part.first : part.first + 4].astype(np.float64)
    unit = np.abs(np.linalg.norm(four, axis=1) - 1) <= UNIT
    flips = ((four[1:] * four[:-1]).sum(1) < 0) & unit[1:] & unit[:-1]
    turned = np.append(False, np.cumsum(flips) % 2 == 1)
    mended = values.copy()
    mended[turned, part.first : part.first + 4] *= -1
    return mended


@by_values(problems.WRAPS, did="{column} unwrapped: {rows} moved by whole turns in {episodes}.", asked=True)
def wraps(values: np.ndarray, part: FlawedPart) -> np.ndarray:
    """Add the whole turns that make every step at most half a turn, as `numpy.unwrap` does; values that do not move
    stay as they are."""
    turn = min(TURNS, key=lambda each: abs(each - part.span))
    steps = np.diff(values[:, part.first].astype(np.float64)) / turn
    turns = np.append(0, -np.cumsum(np.round(np.where(np.isfinite(steps), steps, 0))))
    mended = values.copy()
    mended[turns != 0, part.first] += (turns[turns != 0] * turn).astype(values.dtype)
    return mended


# what is written anew in any case, and what frames show, which the writer of repairs looks at

for _repair in (
    DatasetRepair(
        "clock",
        (problems.TIMES_STRAY, problems.TIMES_BEGIN, problems.TIMES_UNIT, problems.TIMES_COARSE),
        "Times of {episodes} are frame / fps now; they strayed by up to {why}.",
    ),
    DatasetRepair("numbers", (problems.COUNTED_OTHERWISE,), "Episodes, frames and rows numbered again."),
    DatasetRepair(
        "statistics",
        (
            problems.OTHER_STATISTICS,
            problems.PICTURE_STATISTICS,
            problems.OTHER_QUANTILES,
            problems.OVERCOUNTED,
            problems.UNREADABLE_STATISTICS,
        ),
        "Statistics of rows and pictures measured again.",
    ),
    DatasetRepair(
        "unlisted",
        (problems.UNKNOWN_FILE, problems.UNKNOWN_ROWS),
        "Files and rows left out that belong to no episode of meta/.",
    ),
    DatasetRepair("meta", (problems.OTHER_TOTALS,), "meta/ written again, from the episodes that it lists. {why}."),
    DatasetRepair("short", (), "Parts shorter than a second left out: {rows} of {episodes}."),
    DatasetRepair(
        "video",
        (problems.VIDEO_RATE, problems.THINNED, problems.NEAR_RATE),
        "Videos of {episodes} encoded again: {why}.",
    ),
    DatasetRepair(
        "blank", (problems.BLANK_EPISODES,), "{episodes} left out, in which a camera shows nothing.", asked=True
    ),
    DatasetRepair(
        "frozen",
        (problems.FROZEN_EPISODES, problems.FROZEN_FILMS),
        "{episodes} left out, in which a camera shows one picture from beginning to end.",
        asked=True,
    ),
):
    _register(_repair)
