"""What a dataset holds, and what in it will hurt training: `inspect_dataset(dataset).render()`."""

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.action_flaws import (
    check_cut,
    check_jumps,
    check_signs,
    check_stuck,
    check_units,
    leaked,
    only_actions,
)
from lattok.data.actions.conventions import convention_text
from lattok.data.copies import copies_of, copies_text, cut_episodes, first_of_copies
from lattok.data.episodes import check_stride, select_episodes, split_text
from lattok.data.filling_actions import check_filling
from lattok.data.flaws import RATE_TOLERANCE, check_angles, check_held, check_still, check_times, still_rows
from lattok.data.formats.lerobot import LeRobotV3
from lattok.data.instruction_flaws import check_instructions, check_task_numbers
from lattok.data.instructions import TASK
from lattok.data.lags import Lag, check_lag, check_picture_lag
from lattok.data.odd_episodes import check_odd
from lattok.data.opening import as_dataset
from lattok.data.outcome_flags import check_flags, flags_of
from lattok.data.picture_flaws import (
    BLANK_LEVELS,
    check_pictures,
    check_repeated,
    check_shown_otherwise,
    check_stale,
    check_swapped,
    look,
    picture_moves,
)
from lattok.data.problems import Dimension, Rows, column_figures
from lattok.data.schema import (
    BARE_STATE,
    INDEX_KEYS,
    NUMBERS,
    RobotDataset,
    camera_keys,
    described_by,
    dimension_names,
    how_to_join,
    parts_of,
    vector_key,
)
from lattok.data.statistics import check_picture_means, check_statistics
from lattok.data.video import VideoFacts, probe
from lattok.data.views import action_spaces, unwrap
from lattok.types import Episode, Gap
from lattok.utils import checks
from lattok.utils.commands import DATASET
from lattok.utils.findings import Finding, by_severity, fitted, lines, wrapped
from lattok.utils.output import unused

DIMENSIONS_SHOWN = 12
JSON_SCHEMA = 1  # goes up where keys change their meaning, not where some are added
COUNTED = ("frame_index", "index")
SEGMENTS = re.compile(r"(^|[._])(seg(mentation)?|semantics?|masks?|normals?)([._]|$)", re.IGNORECASE)  # of cameras
FAILED_FOLDER = re.compile(r"(fail(ed|ure|ures)?|unsuccessful)(_(episodes|demos|trajectories))?", re.IGNORECASE)
SHORT_S = 1.0  # episodes shorter than this hardly hold a pair or a chunk
ACTIONS, STATES = ("action", "actions"), ("observation.state", "state")  # the first that is there is looked at
MOVING = ("action", "observation")  # columns of the robot's own motion
ALL_NUMBERS = 2**26  # in columns; of larger datasets, runs of episodes are looked at
ALL_FRAMES_BY_ROW = 50_000  # the same where columns lie among the images, all of which must be read
EPISODES_PER_RUN = 100  # episodes in a run
MAX_DIMENSIONS = 256  # dimensions; wider columns are embeddings
FILES_LOOKED_INTO = 64  # per camera
FILES_FETCHED = 4  # per camera, of a dataset on the Hub


@dataclass(frozen=True)
class Inspection:
    """Facts and findings of a dataset."""

    name: str
    kind: str  # format: lerobot, rlds, video or hdf5
    robot: str | None
    fps: float
    tasks: tuple[tuple[str, int], ...]  # instruction and number of episodes
    lengths: np.ndarray  # [E] int64, frames per episode
    cameras: tuple[tuple[str, VideoFacts | None], ...]  # None: nothing could be read; codec "images": stored images
    dimensions: tuple[Dimension, ...]
    findings: tuple[Finding, ...]
    scope: str = ""  # what was looked at, where that is not everything
    spaces: tuple[tuple[str, str], ...] = ()  # action spaces that are declared, by column
    convention: str = ""  # what is known of the dataset, or of what wrote it
    split: str = ""  # which episodes are held out
    read: tuple[int, ...] = ()  # episodes whose numbers were looked at
    parts: tuple[str, ...] = ()  # columns that are some of the numbers of another one, as "action.arm (action 0:7)"
    lag: Lag | None = None  # of the state after the action, where it can be told

    def render(self) -> str:
        """Return plain text, at most 88 columns wide."""
        dimensions = [*self._dimension_lines(), ""] if self.dimensions else []
        findings = lines(self.findings) if self.findings else ["Nothing found that would hurt."]
        return "\n".join([*self._facts(), "", *dimensions, *findings])

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values; docs/howto/own_dataset.md lists the keys."""
        cameras = [{"name": key} | ({} if seen is None else seen._asdict()) for key, seen in self.cameras]
        columns = ("column", "dimension", "min", "mean", "std", "max")
        return {
            "schema": JSON_SCHEMA,
            "dataset": self.name,
            "format": self.kind,
            "robot": self.robot,
            "fps": self.fps,
            "scope": self.scope,
            "convention": self.convention,
            "episodes": len(self.lengths),
            "frames": int(self.lengths.sum()),
            "tasks": [{"instruction": task, "episodes": count} for task, count in self.tasks],
            "cameras": cameras,
            "columns": [dict(zip(columns, each, strict=False)) for each in self.dimensions],
            "lag": None if self.lag is None else self.lag.as_json(),
            "findings": [each.as_json() for each in self.findings],
        }

    def headline(self) -> str:
        """Sum up in one line."""
        frames = int(self.lengths.sum())
        parts = [checks.counted(len(self.lengths), "episode")]
        parts += [f"{checks.counted(frames, 'frame')} ({frames / self.fps:,.0f} s)"]
        counts = {"task": self.tasks, "camera": self.cameras, "finding": self.findings}
        parts += [f"{len(found)} {what}{'s' * (len(found) != 1)}" for what, found in counts.items()]
        return f"{self.name}: {', '.join(parts)}"

    def _facts(self) -> Iterator[str]:
        frames = int(self.lengths.sum())
        yield fitted("", f"{self.name}  ({', '.join(filter(None, (self.kind, self.robot)))})").strip()
        seconds = f"{frames / self.fps:,.1f} s at {self.fps:g} fps"
        yield fitted("episodes", f"{len(self.lengths):,}, {checks.counted(frames, 'frame')}, {seconds}")
        if len(self.lengths):
            low, middle, high = self.lengths.min(), float(np.median(self.lengths)), self.lengths.max()
            yield fitted(
                "lengths", f"{low} to {checks.counted(high, 'frame')}, median {middle:g} ({middle / self.fps:.2f} s)"
            )
        for number, part in enumerate(self.split.split("; ") if self.split else ()):
            yield from wrapped("" if number else "held out", part)
        if self.scope:
            yield fitted("values", self.scope)
        for key, facts in self.cameras:
            seen = "nothing read" if facts is None else f"{facts.width}x{facts.height}"
            if facts is not None:
                seen += ", stored images" if facts.codec == "images" else f", {facts.fps:g} fps, {facts.codec}"
            yield fitted("camera", f"{key} {seen}")
        for i, part in enumerate(self.parts):
            yield fitted("" if i else "parts", part)
        for number, part in enumerate(self.convention.split("; ") if self.convention else ()):
            yield fitted("" if number else "means", part)
        for key, space in self.spaces:
            yield fitted("space", f"{key}: {space}")
        if self.lag is not None:
            milliseconds = 1000 * self.lag.steps / self.fps
            noun = "step" if self.lag.interval() == "1" else "steps"
            yield fitted("lag", f"states follow actions by {self.lag.interval()} {noun} ({milliseconds:.0f} ms)")
        for i, (task, count) in enumerate(self.tasks[:DIMENSIONS_SHOWN]):
            shown = task if len(task) <= 60 else task[:59] + "…"
            yield fitted("tasks" if i == 0 else "", f"{shown or '(no instruction)'} ({count:,})")
        if len(self.tasks) > DIMENSIONS_SHOWN:
            yield fitted("", f"… and {len(self.tasks) - DIMENSIONS_SHOWN:,} more")

    def _dimension_lines(self) -> Iterator[str]:
        yield f"  {'column':<33} {'dimension':<12} {'min':>9} {'mean':>9} {'std':>9} {'max':>9}"
        for key, group in groupby(self.dimensions, key=attrgetter("key")):
            dimensions = list(group)
            for i, d in enumerate(dimensions[:DIMENSIONS_SHOWN]):
                name = " ".join(d.name.split())
                name = name if len(name) <= 12 else f"{name[:5]}…{name[-6:]}"  # parts of one often begin alike
                numbers = " ".join(f"{v:>9.3g}" for v in (d.minimum, d.mean, d.std, d.maximum))
                yield f"  {'' if i else key[-33:]:<33} {name:<12} {numbers}"
            if len(dimensions) > DIMENSIONS_SHOWN:
                yield f"  {'':<33} … and {len(dimensions) - DIMENSIONS_SHOWN} more"


def not_opened(dataset: str, error: checks.LattokError) -> dict[str, Any]:
    """Return what `Inspection.as_json` would of a dataset that cannot be opened: its only finding."""
    return {"schema": JSON_SCHEMA, "dataset": dataset, "findings": [problems.unreadable(error).as_json()]}


def inspect_dataset(
    dataset: RobotDataset | str | os.PathLike[str],
    *,
    episodes: str | Sequence[int] | None = None,
    cameras: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    action_key: str | None = None,
    state_key: str | None = None,
    stride: Gap = None,
    horizon: int | None = None,
) -> Inspection:
    """Read the numeric columns and the last frame of every file with frames; collect facts and findings.

    `columns` must exist. Actions and states are compared: those of `action_key` and `state_key`, by default the usual
    ones (`ACTIONS`, `STATES`). `stride` (frames or "0.2s") and `horizon` add how many pairs and chunks there are.
    Of more than 64 million numbers (50,000 frames in formats that keep columns among images), evenly spread runs of 100
    episodes are read, and of each camera the header and last frame of 64 evenly spread files (on the Hub, 4).
    """
    dataset = as_dataset(dataset)
    for key in columns:
        vector_key(dataset, "columns", key)
    chosen = list(select_episodes(dataset, episodes)) if len(dataset.episodes) or episodes is not None else []
    findings = [*_check_structure(dataset), *dataset.file_findings(), *_check_lengths(dataset, chosen, stride, horizon)]
    findings += [*_check_folders(dataset, chosen), *check_instructions(chosen)]
    scope: list[str] = []
    looked_at = _looked_at(dataset, chosen, scope)
    if copies_of(dataset) is None:
        scope.append("equal episodes were not looked for: too many rows would have to be read")
    values = _check_values(dataset, looked_at, findings, (action_key, state_key))
    if parts := parts_of(dataset, values.answers):
        missing = " and no ".join(f"`{key}`" for key in parts)
        findings.append(problems.IN_PARTS.finding(missing=missing, joined=how_to_join(dataset, values.answers)))
    dimensions = values.dimensions
    whole = len(looked_at) == len(dataset.episodes) and not any(found.severity == "error" for found in findings)
    findings += check_statistics(dataset, dimensions, whole)
    keys = camera_keys(dataset, cameras) if dataset.cameras and chosen else ()
    seen = tuple((key, _check_camera(dataset, chosen, key, findings, scope)) for key in keys)
    if dataset.files.commit is None:  # of those on the Hub whole files would be fetched
        known = {index for each in findings if each.severity == "error" for index in each.episodes}
        findings += _check_pictures(dataset, chosen, [key for key, facts in seen if facts], values, known)
    if causes := [each for each in findings if each.problem in problems.OF_TIMES]:  # which is why
        about = {index for each in causes for index in each.episodes}
        follow = (problems.SPAN, problems.UNREADABLE_TIMES)
        findings = [each for each in findings if each.problem not in follow or not about.issuperset(each.episodes)]
    if len({(f.height, f.width) for _, f in seen if f}) > 1:
        findings.append(problems.CAMERA_SIZES.finding())
    try:
        spaces = action_spaces(dataset)
    except checks.LattokError as error:
        findings.append(problems.BAD_SPACE.finding(error=error))
        spaces = {}
    return Inspection(
        name=dataset.name,
        kind=dataset.kind,
        robot=dataset.robot,
        fps=dataset.fps,
        tasks=tuple(Counter(chain.from_iterable(episode.tasks for episode in chosen)).items()),
        lengths=np.array([episode.length for episode in chosen], dtype=np.int64),
        cameras=seen,
        dimensions=tuple(dimensions),
        lag=values.lag,
        findings=by_severity(without_lost(findings, {episode.index for episode in chosen})),
        scope="; ".join(dict.fromkeys(scope)),
        spaces=tuple((key, ", ".join(f"{p.kind} ({p.size})" for p in space.parts)) for key, space in spaces.items()),
        convention=convention_text(dataset),
        split=split_text(dataset),
        read=tuple(episode.index for episode in looked_at),
        parts=tuple(f"{key} ({part.column} {part.start}:{part.end})" for key, part in dataset.parts.items()),
    )


def _check_structure(dataset: RobotDataset) -> Iterator[Finding]:
    """Report episodes that could not be listed, features that a source leaves out, and what is not there at all."""
    for index, reason in dataset.damaged:
        yield problems.DAMAGED.finding([index], episode=index, reason=reason)
    left_out: dict[str, list[str]] = {}
    for name, reason in dataset.left_out.items():
        left_out.setdefault(reason, []).append(f"`{name}`")
    for reason, names in left_out.items():
        said = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
        yield problems.LEFT_OUT.finding(names=said, reason=reason.rstrip("."))
    yield from dataset.findings
    if not any(key.startswith("action") for key, f in dataset.features.items() if f.dtype.startswith(("float", "int"))):
        yield problems.NO_ACTIONS.finding(dataset=dataset.address or DATASET, out=unused("my-lam"))
    if copies := copies_text(dataset):
        yield problems.COPIES.finding(first_of_copies(dataset), copies=copies)
    if not dataset.cameras:
        yield problems.NO_CAMERAS.finding()
    if 0 < len(drawn := [key for key in dataset.cameras if SEGMENTS.search(key)]) < len(dataset.cameras):
        kept = [key for key in dataset.cameras if key not in drawn]
        way_out = described_by(dataset, f'"cameras": {json.dumps(kept)}')
        yield problems.SEGMENTS.finding(cameras=", ".join(f"`{key}`" for key in drawn), way_out=way_out)
    texts = [key for key, feature in dataset.features.items() if feature.dtype == "string"]
    if unread := [key for key in texts if key != dataset.instruction_key]:
        told = {"key": dataset.instruction_key, "other": unread[0]}
        yield problems.TEXTS.finding(columns=", ".join(f"`{key}`" for key in unread), **told)
    for key in (*ACTIONS, *STATES):
        if key in dataset.features and len(shape := dataset.features[key].shape) > 1:
            yield problems.NOT_VECTORS.finding(column=key, shape=list(shape))
    flat = {key: feature for key, feature in dataset.features.items() if len(feature.shape) == 1}
    if wide := [key for key, feature in flat.items() if feature.shape[0] > MAX_DIMENSIONS]:
        yield problems.NOT_READ.finding(columns=", ".join(f"`{key}`" for key in wide), most=MAX_DIMENSIONS)


def _check_folders(dataset: RobotDataset, chosen: Sequence[Episode]) -> Iterator[Finding]:
    """Find episodes in folders that are called after failure, where others are not, unless their files say so."""
    told = {index for each in dataset.findings if each.problem is problems.FAILED for index in each.episodes}
    failed: dict[int, str] = {}
    for episode in chosen if dataset.files.commit is None else ():
        file = dataset.files_of(episode.index)[0]
        names = file.relative_to(dataset.root).parts[:-1] if file.is_relative_to(dataset.root) else ()
        if name := next(filter(FAILED_FOLDER.fullmatch, names), ""):
            failed[episode.index] = name
    if 0 < len(failed) < len(chosen) and not failed.keys() <= told:
        sign = f"the name of their folder ({failed[min(failed)]})"
        yield problems.FAILED.finding(failed, all=len(chosen), sign=sign)


def _check_lengths(dataset: RobotDataset, chosen: list[Episode], stride: Gap, horizon: int | None) -> Iterator[Finding]:
    if short := [e.index for e in chosen if e.length < SHORT_S * dataset.fps]:
        yield problems.SHORT.finding(short, all=len(chosen), seconds=SHORT_S)
    if silent := [e.index for e in chosen if not any(e.tasks)]:
        problem = problems.NO_CAPTIONS if "captions" in unwrap(dataset).options else problems.NO_INSTRUCTIONS
        if not any(found.advice == problems.UNCAPTIONED.advice for found in dataset.findings):  # which says it already
            yield problem.finding(silent, all=len(chosen))
    gap = None if stride is None else checks.stride_in_frames(stride, dataset.fps)
    if not chosen:
        return
    lengths = np.array([e.length for e in chosen], dtype=np.int64)
    if gap is not None:
        try:
            check_stride(gap, lengths, dataset.fps)
            alone = int(np.minimum(lengths, gap).sum()) / int(lengths.sum())
            yield problems.NO_PARTNER.finding(stride=gap, share=alone)
        except checks.LattokError as error:
            yield problems.unreadable(error)
    if horizon is not None:
        checks.counts(1, checks.MOST_STRIDE, horizon=horizon)
        padded = int(np.minimum(lengths, horizon - 1).sum()) / int(lengths.sum())
        yield problems.PADDED.finding(horizon=horizon, share=padded)


def _vectors(dataset: RobotDataset) -> dict[str, tuple[str, ...]]:
    """Return the columns whose numbers are looked at, with the names of their dimensions."""
    flat = {key: f for key, f in dataset.features.items() if len(f.shape) == 1}
    numbers = {key: f for key, f in flat.items() if f.dtype.startswith(NUMBERS if key in ACTIONS else "float")}
    own = {key: f for key, f in numbers.items() if key not in (*INDEX_KEYS, *dataset.parts)}
    narrow = {key: f for key, f in own.items() if f.shape[0] <= MAX_DIMENSIONS}
    return {key: dimension_names(feature) for key, feature in narrow.items()}


def _looked_at(dataset: RobotDataset, chosen: list[Episode], scope: list[str]) -> list[Episode]:
    """Choose the episodes whose numbers are looked at; of large datasets, spread runs: neighbours share files."""
    most = ALL_NUMBERS // (1 + sum(map(len, _vectors(dataset).values())))
    most = most if dataset.columns_apart else min(most, ALL_FRAMES_BY_ROW)
    frames = sum(episode.length for episode in chosen)
    if frames <= most:
        return chosen
    runs = -(-len(chosen) // EPISODES_PER_RUN)
    kept = np.unique(np.linspace(0, runs - 1, max(1, runs * most // frames)).round().astype(int)).tolist()
    near = [episode for run in kept for episode in chosen[run * EPISODES_PER_RUN : (run + 1) * EPISODES_PER_RUN]]
    ends = accumulate(episode.length for episode in near)
    found = [episode for i, (episode, end) in enumerate(zip(near, ends, strict=True)) if end <= most or not i]
    if len(found) < len(chosen):
        scope.append(
            f"from {checks.counted(len(found), 'episode')}, runs of {EPISODES_PER_RUN} evenly spread; lengths from all"
        )
    return found


class _Values(NamedTuple):
    """What numbers say."""

    dimensions: list[Dimension]
    lag: Lag | None = None
    rows: Rows | None = None
    action: str | None = None  # keys of the columns, if there are any
    state: str | None = None
    still: Mapping[int, np.ndarray] = {}  # by episode the rows in which nothing moves
    answers: Collection[str] = ()  # observations that hold nothing but actions


def _check_values(
    dataset: RobotDataset, looked_at: list[Episode], findings: list[Finding], given: tuple[str | None, str | None]
) -> _Values:
    """Read the vectors and timestamps of episodes, and sum up each dimension."""
    columns = _vectors(dataset)
    counted = [key for key in COUNTED if key in dataset.features]
    flags = flags_of(dataset.features)
    others = [key for key in ("timestamp", TASK, *flags) if key in dataset.features and key not in columns]
    if not (keys := [*columns, *others, *counted]):
        return _Values([])
    rows, unreadable = _read(dataset, looked_at, keys)
    findings += unreadable
    if rows is None:
        return _Values([])
    if "timestamp" in keys:
        findings += check_times(rows, dataset.fps)
    findings += [*check_flags(rows, flags), *check_task_numbers(dataset, rows)]
    moving = {key: names for key, names in columns.items() if key.startswith(MOVING)}
    if (still := still_rows(rows, [*moving])) is not None:
        findings += check_still(rows, still, dataset.fps)
        findings += [found for key in moving if (found := check_held(rows, key, still, dataset.fps))]
    angles = [*check_angles(rows, moving)]
    filled = any(key.endswith(".filled") for key in dataset.features)  # within the range of known actions
    measured = {key: names for key, names in moving.items() if not (filled and key.startswith("action"))}
    findings += [*angles, *check_cut(rows, measured)]
    usual = (next((key for key in keys if key in columns), None) for keys in (ACTIONS, STATES))
    action, state = (key if key in columns else other for key, other in zip(given, usual, strict=True))
    observed = [key for key in columns if key in STATES or key.startswith("observation") or BARE_STATE.fullmatch(key)]
    lag, copied = None, []
    if action and not _unchanging(rows, action):
        copied = leaked(rows, action, observed)
        findings += [problems.LEAKED.finding(state=key, column=action) for key in copied]
        shifted = set[int]()
        if state:
            lag, late = check_lag(rows, action, state, dataset.fps)
            findings += [*late, *check_stuck(rows, action, state)]
            shifted |= {episode for each in late for episode in each.episodes}
        findings += check_signs(rows, action, state, columns[action], lag.steps if lag else 1, shifted)
    units = [*check_units(rows, action, state)]
    other = {index for each in units for index in each.episodes}  # which would be said again as jumps and outliers
    findings += units
    odd = [*check_odd(rows, columns, action, state, max(lag.steps, 1) if lag else 1, other)]
    findings[:] = [*_unexplained(findings, odd), *odd]
    other |= {index for each in odd for index in each.episodes}
    if state:
        findings += check_jumps(rows, state, [place for each in angles for place in each.places], other)
    findings += [found for key in counted if (found := problems.counted_otherwise(key, rows))]
    findings += check_filling(dataset, rows, columns)
    findings += cut_episodes(dataset, rows)
    found = [each for key, names in columns.items() for each in column_figures(key, names, rows)]
    said = [each for each in found if isinstance(each, Finding)]
    findings += [each for each in said if each.problem is not problems.WILD or not other.issuperset(each.episodes)]
    by_episode = {} if still is None else {int(rows.episodes[span.start]): still[span] for span in rows.spans()}
    answers = [*copied, *only_actions(rows, [key for key in columns if key.startswith("action")], {*observed})]
    summed = [each for each in found if isinstance(each, Dimension)]
    return _Values(summed, lag, rows, action, state, by_episode, answers)


def _unexplained(findings: Sequence[Finding], odd: Sequence[Finding]) -> list[Finding]:
    """Leave out that actions are late where they are of another kind."""
    known = {index for each in odd if each.problem is problems.OTHER_KIND for index in each.episodes}
    return [each for each in findings if each.problem is not problems.SHIFTED_EPISODES or not known >= {*each.episodes}]


def _unchanging(rows: Rows, key: str) -> bool:
    values = rows.columns[key].reshape(len(rows.frames), -1)
    known = values[np.isfinite(values).all(1)]
    return len(known) < 2 or not np.ptp(known, axis=0).any()


def _check_pictures(
    dataset: RobotDataset, chosen: Sequence[Episode], keys: Sequence[str], values: _Values, known: Collection[int]
) -> Iterator[Finding]:
    """Look at some frames of some episodes of all cameras, and at the motion in a few; `known` are episodes of which it
    is said that they cannot be read."""
    unread: dict[int, checks.LattokError] = {}
    seen = {key: look(dataset, chosen, key, unread) for key in keys}
    yield from (problems.unreadable(error, [index]) for index, error in unread.items() if index not in known)
    for key, each in seen.items():
        yield from check_pictures(key, each, values.still)
        yield from check_shown_otherwise(key, each)
        yield from check_stale(dataset, chosen, key)
        yield from check_picture_means(dataset, key, [viewed.cells for viewed in each.values()])
    yield from check_swapped(seen)
    column = values.state or values.action
    if values.rows is not None and column is not None and not _unchanging(values.rows, column):
        for key in keys:
            moves = picture_moves(dataset, chosen, key)
            yield from check_repeated(key, moves, values.still, dataset.fps)
            yield from check_picture_lag(moves, values.rows, column, key, values.state is None, dataset.fps)


def _read(dataset: RobotDataset, episodes: Sequence[Episode], keys: Sequence[str]) -> tuple[Rows | None, list[Finding]]:
    """Read columns of all episodes that can be read, and why others cannot."""
    parts, unreadable = dict[int, dict[str, np.ndarray]](), list[Finding]()
    for index, columns in dataset.columns_of(episodes, keys):
        if isinstance(columns, checks.LattokError):
            unreadable.append(problems.unreadable(columns, [index]))
        else:
            parts[index] = columns
    if not parts:
        return None, unreadable
    lengths = np.array([len(columns[keys[0]]) for columns in parts.values()])
    frames = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    joined = {key: np.concatenate([columns[key] for columns in parts.values()]) for key in keys}
    return Rows(np.repeat(list(parts), lengths), frames, joined), unreadable


def without_lost(findings: Collection[Finding], episodes: set[int]) -> Iterator[Finding]:
    """Yield findings whose exports leave out what cannot be read, and are proposed only where something is left."""
    lost = {i for each in findings if each.problem in (problems.DAMAGED, problems.UNREADABLE) for i in each.episodes}
    for each in findings:
        if lost and any(command.verb == "export" for command in each.commands):
            kept = each.commands if episodes - lost else ()
            each = each._replace(commands=tuple(command.extended("--skip-damaged") for command in kept))
        yield each


def _shows(dataset: RobotDataset, episode: Episode, camera: str) -> bool:
    """Return whether the first frame of an episode can be read."""
    with suppress(checks.LattokError):
        return len(dataset.frames(episode.index, [camera], indices=[0])) > 0
    return False


def _check_camera(
    dataset: RobotDataset, chosen: Sequence[Episode], key: str, findings: list[Finding], scope: list[str]
) -> VideoFacts | None:
    """Decode the last frame that the dataset needs from each file of a camera; of videos also read the header."""
    files = _episodes_of_files(dataset, chosen, key)
    paths, most = list(files), FILES_LOOKED_INTO if dataset.files.commit is None else FILES_FETCHED
    if len(paths) > most:
        scope.append(f"frames from {most} of {len(paths):,} files, evenly spread")
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, most).round().astype(int).tolist()]
    sizes: dict[tuple[int, int], VideoFacts] = {}
    findings += [*_short_videos(dataset, chosen, key), *_spans(dataset, chosen, key)]
    blank, looked_at, source, hdr = 0, 0, unwrap(dataset), dict[str, list[int]]()
    for path in paths:
        facts = None
        try:
            with dataset.files.at_hand(path) as place:
                facts = probe(place) if dataset.features[key].dtype == "video" else None
            indices = [episode.index for episode in files[path]]
            other = facts and dataset.videos_at_rate and abs(facts.fps - dataset.fps) > RATE_TOLERANCE * dataset.fps
            told = {"file": path, "rate": facts.fps if facts else 0.0, "fps": dataset.fps}
            if facts and other and _is_thinned(source, files[path], dataset.original_camera(key), facts):
                findings.append(problems.THINNED.finding(indices, **told))
            elif facts and other:
                findings.append(problems.VIDEO_RATE.finding(indices, **told))
                sizes.setdefault((facts.width, facts.height), facts)
                continue
            last = files[path][-1]
            if facts and isinstance(source, LeRobotV3):
                findings += _near_rate(source, files[path], dataset.original_camera(key), facts)
            if facts and facts.hdr:
                hdr.setdefault(facts.hdr, []).extend(indices)
            image = dataset.frames(last.index, [key], indices=[last.length - 1])[0, 0]
            height, width, _ = image.shape  # a header has the size before frames are turned
            facts = (facts or VideoFacts(0, 0.0, 0, 0, "images"))._replace(height=height, width=width)
            sizes.setdefault((facts.width, facts.height), facts)
            if empty := int(np.ptp(image)) <= BLANK_LEVELS:  # which an episode may just end with
                empty = int(np.ptp(dataset.frames(last.index, [key], indices=[last.length // 2]))) <= BLANK_LEVELS
            blank, looked_at = blank + empty, looked_at + 1
        except checks.LattokError as error:
            whole = facts is None or not _shows(dataset, files[path][0], key)
            whole = whole and dataset.features[key].dtype == "video"
            broken = files[path] if whole else files[path][-1:]  # the whole file, or what was looked at
            findings.append(problems.unreadable(error, [episode.index for episode in broken]))
    findings += [problems.HDR.finding(indices, camera=key, curve=curve) for curve, indices in hdr.items()]
    if blank and blank == looked_at:
        findings.append(problems.BLANK_FRAMES.finding(camera=key, count=looked_at))
    declared = dataset.features[key].shape
    if len(sizes) == 1 and isinstance(source, LeRobotV3) and len(declared) == 3:
        (width, height), *_ = sizes
        if sorted((width, height)) != sorted(declared[:2]):
            told = {"declared": f"{declared[1]}x{declared[0]}", "shown": f"{width}x{height}"}
            findings.append(problems.OTHER_SIZE.finding(camera=key, **told))
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h}" for w, h in list(sizes)[:4])
        findings.append(problems.FRAME_SIZES.finding(camera=key, count=len(sizes), sizes=shown))
    return next(iter(sizes.values()), None)


def _is_thinned(source: RobotDataset, episodes: Sequence[Episode], camera: str, facts: VideoFacts) -> bool:
    """Tell whether rows are some frames of a film in which every one of them has its frame: each k-th."""
    if not isinstance(source, LeRobotV3) or not facts.frames:
        return False
    last, times = episodes[-1], facts.fps / source.fps
    _, start, _ = source.video_span(last.index, camera)
    shown, needed = facts.frames / facts.fps, start + last.length / source.fps
    return round(times) > 1 and abs(times - round(times)) < RATE_TOLERANCE and abs(shown - needed) < 1 / source.fps


def _near_rate(dataset: LeRobotV3, episodes: Sequence[Episode], camera: str, facts: VideoFacts) -> Iterator[Finding]:
    """Find that a film runs a little faster or slower than the rows of its episodes."""
    last = episodes[-1]
    if (shown := dataset.clock(last.index, camera)) is not None:
        late = abs(shown[-1] - (last.length - 1) / dataset.fps)
        told = {"file": dataset.video_span(last.index, camera)[0], "rate": facts.fps, "fps": dataset.fps, "late": late}
        yield problems.NEAR_RATE.finding([episode.index for episode in episodes], **told)


def _short_videos(dataset: RobotDataset, chosen: Sequence[Episode], key: str) -> Iterator[Finding]:
    """Find episodes of which a video shows less than they have rows."""
    for episode in chosen if dataset.videos_at_rate and dataset.features[key].dtype == "video" else ():
        span, last = dataset.video_span(episode.index, key), (episode.length - 1) / dataset.fps
        if span and (found := problems.short_video(episode.index, key, last, span[2] - span[1], dataset.fps)):
            yield found


def _spans(dataset: RobotDataset, chosen: Sequence[Episode], key: str) -> Iterator[Finding]:
    """Find episodes that claim the same seconds of a video, or lie in it in another order than they have."""
    if dataset.features[key].dtype != "video":
        return
    wanted, shared = {episode.index for episode in chosen}, dataset.shared_spans(key)
    found = {episode.index: dataset.video_span(episode.index, key) for episode in chosen}
    spans = {index: span for index, span in found.items() if span is not None}
    for index, other in shared.items():
        if index in spans and not (other < index and other in wanted and shared[other] == index):  # said once
            yield problems.SHARED_SPAN.finding(
                [index, other], episode=index, other=other, camera=key, file=spans[index][0]
            )
    latest: dict[Path, tuple[int, float]] = {}
    for index, (file, start, _) in spans.items():
        other, later = latest.get(file, (index, start))
        if start < later and index not in shared:
            told = {"camera": key, "dataset": dataset.address or DATASET}
            yield problems.SPANS_IN_OTHER_ORDER.finding([index, other], file=file, episode=index, other=other, **told)
        latest[file] = max((other, later), (index, start), key=lambda each: each[1])


def frame_sizes(dataset: RobotDataset) -> set[tuple[int, int]]:
    """Return heights and widths of the videos of a dataset: what headers of evenly spread files of each camera say."""
    found = set[tuple[int, int]]()
    for key in (key for key in dataset.cameras if dataset.features[key].dtype == "video"):
        paths = [*_episodes_of_files(dataset, dataset.episodes, key)]
        for path in paths[:: 1 + len(paths) // FILES_LOOKED_INTO]:
            with suppress(checks.LattokError), dataset.files.at_hand(path) as place:
                facts = probe(place)
                found.add((facts.height, facts.width))
    return found


def _episodes_of_files(dataset: RobotDataset, chosen: Sequence[Episode], key: str) -> dict[Path, list[Episode]]:
    """Return for every file that a camera's frames come from its episodes, the one that ends last at the end."""
    found: dict[Path, list[tuple[float, Episode]]] = {}
    for episode in chosen:
        span = dataset.video_span(episode.index, key) if dataset.features[key].dtype == "video" else None
        path, _, stop = span or (dataset.files_of(episode.index)[0], 0.0, 0.0)
        found.setdefault(path, []).append((stop, episode))
    return {path: [episode for _, episode in sorted(each, key=itemgetter(0))] for path, each in found.items()}
