"""What a dataset holds, and what in it will hurt training: `inspect_dataset(dataset).render()`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lattok import checks
from lattok.checks import LattokError
from lattok.data.episodes import select_episodes
from lattok.data.lerobot import LeRobotV3
from lattok.data.schema import INDEX_KEYS, camera_keys, dimension_names, vector_key
from lattok.data.video import VideoFacts, probe
from lattok.data.windows import check_stride
from lattok.types import Episode

WILD_Z = 20.0  # robust z-score beyond which a value is called an outlier
SHORT_S = 1.0  # episodes shorter than this hardly hold a pair or a chunk
TIME_TOLERANCE = 0.25  # of a frame interval, between timestamps and fps
WIDTH = 88
DIMENSIONS_SHOWN = 12
Severity = Literal["error", "warning", "note"]


class Finding(NamedTuple):
    """Something that will hurt, and what to do about it."""

    severity: Severity
    what: str
    advice: str


class Dimension(NamedTuple):
    """Summary of one dimension of a vector column."""

    key: str
    name: str
    minimum: float
    mean: float
    std: float
    maximum: float


@dataclass(frozen=True)
class Inspection:
    """Facts and findings of a dataset."""

    name: str
    robot: str | None
    fps: float
    tasks: tuple[tuple[str, int], ...]  # instruction and number of episodes
    lengths: tuple[int, ...]  # frames per episode
    cameras: tuple[tuple[str, VideoFacts | None], ...]  # None: stored as images, or unreadable
    dimensions: tuple[Dimension, ...]
    findings: tuple[Finding, ...]

    def render(self) -> str:
        """Plain text, at most 88 columns wide."""
        return "\n".join([*self._facts(), "", *self._dimension_lines(), "", *self._finding_lines()])

    def headline(self) -> str:
        """One line."""
        seconds = sum(self.lengths) / self.fps
        parts = [f"{len(self.lengths):,} episodes", f"{sum(self.lengths):,} frames ({seconds:,.0f} s)"]
        parts += [f"{len(self.tasks)} tasks", f"{len(self.cameras)} cameras", f"{len(self.findings)} findings"]
        return f"{self.name}: {', '.join(parts)}"

    def _facts(self) -> Iterator[str]:
        frames = sum(self.lengths)
        yield f"{self.name}" + (f"  ({self.robot})" if self.robot else "")
        yield f"  episodes  {len(self.lengths):,}, {frames:,} frames, {frames / self.fps:,.1f} s at {self.fps:g} fps"
        low, middle, high = min(self.lengths), float(np.median(self.lengths)), max(self.lengths)
        yield f"  lengths   {low} to {high} frames, median {middle:g} ({middle / self.fps:.2f} s)"
        for key, facts in self.cameras:
            size = f"{facts.width}x{facts.height}, {facts.fps:g} fps, {facts.codec}" if facts else "no video read"
            yield f"  camera    {key}  {size}"
        for i, (task, count) in enumerate(self.tasks[:DIMENSIONS_SHOWN]):
            yield f"  {'tasks' if i == 0 else '':<9} {textwrap.shorten(task, WIDTH - 28, placeholder='…')}  ({count})"
        if len(self.tasks) > DIMENSIONS_SHOWN:
            yield f"  {'':<9} … and {len(self.tasks) - DIMENSIONS_SHOWN} more"

    def _dimension_lines(self) -> Iterator[str]:
        yield f"  {'column':<33} {'dimension':<12} {'min':>9} {'mean':>9} {'std':>9} {'max':>9}"
        previous, shown = "", 0
        for d in self.dimensions:
            shown = shown + 1 if d.key == previous else 1
            if shown <= DIMENSIONS_SHOWN:
                numbers = " ".join(f"{v:>9.4g}" for v in (d.minimum, d.mean, d.std, d.maximum))
                yield f"  {d.key[-33:] if d.key != previous else '':<33} {d.name[:12]:<12} {numbers}"
            elif shown == DIMENSIONS_SHOWN + 1:
                yield f"  {'':<33} … and {sum(x.key == d.key for x in self.dimensions) - DIMENSIONS_SHOWN} more"
            previous = d.key

    def _finding_lines(self) -> Iterator[str]:
        if not self.findings:
            yield "Nothing found that would hurt."
        for finding in self.findings:
            text = f"{finding.what} {finding.advice}"
            yield from textwrap.wrap(text, WIDTH, initial_indent=f"{finding.severity:<8}", subsequent_indent=" " * 8)


def inspect_dataset(
    dataset: LeRobotV3,
    *,
    episodes: str | Sequence[int] | None = None,
    cameras: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    stride: int | None = None,
    horizon: int | None = None,
) -> Inspection:
    """Read all numeric columns, the header and the last frame of every video; collect facts and findings.

    `columns` must be there; `stride` and `horizon` (frames) add what they would do to these episodes.
    """
    for key in columns:
        vector_key(dataset, "columns", key)
    chosen = select_episodes(dataset, episodes)
    findings: list[Finding] = []
    readable = _readable_episodes(dataset, chosen, findings)
    dimensions: list[Dimension] = []
    if readable:
        findings += _check_times(dataset, readable)
        dimensions = _check_values(dataset, readable, findings)
    findings += _check_lengths(dataset, chosen)
    findings += _check_windows(dataset, chosen, stride, horizon)
    keys = camera_keys(dataset, cameras) if dataset.cameras else ()
    seen = tuple((key, _check_camera(dataset, chosen, key, findings)) for key in keys)
    if len({(f.height, f.width) for _, f in seen if f}) > 1:
        advice = "Choose one camera with --cameras, or a model that resizes."
        findings.append(Finding("note", "The cameras have different sizes.", advice))
    counts: dict[str, int] = {}
    for episode in chosen:
        for task in episode.tasks:
            counts[task] = counts.get(task, 0) + 1
    order = {"error": 0, "warning": 1, "note": 2}
    return Inspection(
        name=dataset.name,
        robot=dataset.info.get("robot_type"),
        fps=dataset.fps,
        tasks=tuple(counts.items()),
        lengths=tuple(e.length for e in chosen),
        cameras=seen,
        dimensions=tuple(dimensions),
        findings=tuple(sorted(findings, key=lambda f: order[f.severity])),
    )


def _readable_episodes(dataset: LeRobotV3, chosen: Sequence[Episode], findings: list[Finding]) -> list[int]:
    """Episodes whose rows can be read; one finding for each file or episode that cannot."""
    readable: list[int] = []
    reported: set[str] = set()
    for episode in chosen:
        try:
            dataset.columns(episode.index, ["timestamp"])
            readable.append(episode.index)
        except LattokError as error:
            if str(error) not in reported:
                reported.add(str(error))
                findings.append(Finding("error", str(error), ""))
    return readable


def _check_times(dataset: LeRobotV3, episodes: list[int]) -> Iterator[Finding]:
    """Timestamps must advance by 1 / fps."""
    wrong, steps = [], []
    for index in episodes:
        times = dataset.columns(index, ["timestamp"])["timestamp"].astype(np.float64)
        steps.append(np.diff(times))
        if np.abs(times - np.arange(len(times)) / dataset.fps).max() > TIME_TOLERANCE / dataset.fps:
            wrong.append(index)
    if wrong:
        gap = float(np.median(np.concatenate(steps)))
        measured = f"{1 / gap:.4g}" if gap > 0 else "unknown"
        what = f"{len(wrong)} episodes (first: {wrong[0]}) have timestamps that do not fit fps = {dataset.fps:g}; "
        advice = "Correct fps in meta/info.json, or resample."
        yield Finding("error", what + f"the timestamps say {measured} fps.", advice)


def _check_values(dataset: LeRobotV3, episodes: list[int], findings: list[Finding]) -> list[Dimension]:
    """Statistics per dimension; NaN, constant dimensions and outliers become findings."""
    dimensions = []
    for key, feature in dataset.features.items():
        if not feature.dtype.startswith("float") or len(feature.shape) != 1 or key in INDEX_KEYS:
            continue
        parts = [dataset.columns(index, [key])[key].reshape(-1, feature.shape[0]) for index in episodes]
        values = np.concatenate(parts)
        starts = np.cumsum([0, *(len(part) for part in parts)])
        names = dimension_names(feature)
        constant = []
        for d, name in enumerate(names):
            column = values[:, d].astype(np.float64)
            finite = column[np.isfinite(column)]
            if len(finite) < len(column):
                where = _where(episodes, starts, int(np.argmin(np.isfinite(column))))
                what = (
                    f"`{key}` ({name}) holds {len(column) - len(finite)} values that are not finite, first in {where}."
                )
                findings.append(Finding("error", what, "Leave those episodes out with --episodes, or repair them."))
            if not len(finite):
                continue
            dimensions.append(Dimension(key, name, finite.min(), finite.mean(), finite.std(), finite.max()))
            if finite.min() == finite.max():
                constant.append(name)
            else:
                findings += _outliers(key, name, column, episodes, starts)
        if constant:
            severity: Severity = "warning" if key.startswith("action") else "note"
            what = f"`{key}`: {len(constant)} of {len(names)} dimensions never change ({', '.join(constant[:8])}"
            what += ", …)." if len(constant) > 8 else ")."
            findings.append(Finding(severity, what, "They carry nothing; a tokenizer need not spend codes on them."))
    return dimensions


def _outliers(key: str, name: str, column: np.ndarray, episodes: list[int], starts: np.ndarray) -> Iterator[Finding]:
    """Values far outside the bulk, in units of the spread of the bulk."""
    finite = np.where(np.isfinite(column), column, np.nan)
    low, middle, high = np.nanquantile(finite, [0.01, 0.5, 0.99])
    deviation = np.abs(finite - middle)
    # the wider of two robust scales: the MAD alone is zero or tiny for grippers and resting joints
    scale = max(1.4826 * float(np.nanmedian(deviation)), (high - low) / 4.65)
    if scale > 0:
        z = np.nan_to_num(deviation / scale)
        worst, count = int(np.argmax(z)), int((z > WILD_Z).sum())
        if count:
            where = _where(episodes, starts, worst)
            what = f"`{key}` ({name}) holds {count} wild values, the worst {column[worst]:.4g} in {where} "
            what += f"({z[worst]:.0f} robust standard deviations from the median {middle:.4g})."
            advice = "Look at it; leave the episode out, or normalise with quantiles."
            yield Finding("warning", what, advice)


def _where(episodes: list[int], starts: np.ndarray, row: int) -> str:
    position = int(np.searchsorted(starts, row, side="right")) - 1
    return f"episode {episodes[position]}, frame {row - int(starts[position])}"


def _check_windows(
    dataset: LeRobotV3, chosen: Sequence[Episode], stride: int | None, horizon: int | None
) -> Iterator[Finding]:
    """What a stride and a horizon do to these episodes."""
    lengths = np.array([e.length for e in chosen], dtype=np.int64)
    if stride is not None:
        try:
            check_stride(stride, lengths, dataset.fps)
            alone = int(np.minimum(lengths, stride).sum()) / int(lengths.sum())
            what = f"With a stride of {stride} frames, {alone:.0%} of the frames have no partner."
            yield Finding("note", what, "They are left out of training and marked invalid when annotating.")
        except LattokError as error:
            yield Finding("error", str(error), "")
    if horizon is not None:
        checks.positive(horizon=horizon)
        padded = int(np.minimum(lengths, horizon - 1).sum()) / int(lengths.sum())
        what = f"With a horizon of {horizon}, {padded:.0%} of the chunks run over the end of their episode."
        yield Finding("note", what, "They repeat the last action, as in the paper.")


def _check_lengths(dataset: LeRobotV3, chosen: Sequence[Episode]) -> Iterator[Finding]:
    short = [e.index for e in chosen if e.length < SHORT_S * dataset.fps]
    if short:
        what = f"{len(short)} of {len(chosen)} episodes are shorter than {SHORT_S:g} s (first: {short[0]})."
        yield Finding("note", what, "Choose stride and horizon to fit; frames near an end have no partner.")
    names = {task for episode in chosen for task in episode.tasks}
    if "" in names or not names:
        yield Finding("warning", "Some episodes have no language instruction.", "Tasks cannot be told apart.")


def _check_camera(
    dataset: LeRobotV3, chosen: Sequence[Episode], key: str, findings: list[Finding]
) -> VideoFacts | None:
    """Probe every video file of a camera and decode the last frame that the dataset needs from it."""
    if dataset.features[key].dtype != "video":
        return None
    last: dict[Path, tuple[float, int]] = {}
    for episode in chosen:
        path, _, stop = dataset.video_span(episode.index, key)
        last[path] = max(last.get(path, (0.0, 0)), (stop, episode.index))
    lengths = {episode.index: episode.length for episode in chosen}
    first_facts: VideoFacts | None = None
    for path, (_, index) in last.items():
        try:
            facts = probe(path)
            first_facts = first_facts or facts
            if facts.fps and abs(facts.fps - dataset.fps) > 0.01 * dataset.fps:
                what = f"{path} runs at {facts.fps:g} fps, the dataset at {dataset.fps:g}."
                findings.append(Finding("error", what, "Correct fps in meta/info.json, or encode the video again."))
            dataset.frames(index, [key], indices=[lengths[index] - 1])
        except LattokError as error:
            findings.append(Finding("error", str(error), ""))
    return first_facts
