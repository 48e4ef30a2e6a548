"""Facts and findings of a dataset, and how they look on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lattok.data.inspection.summary import Dimension
from lattok.data.video import VideoFacts
from lattok.findings import Finding, fitted, lines

DIMENSIONS_SHOWN = 12


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

    def render(self) -> str:
        """Plain text, at most 88 columns wide."""
        dimensions = [*self._dimension_lines(), ""] if self.dimensions else []
        return "\n".join([*self._facts(), "", *dimensions, *self._finding_lines()])

    def headline(self) -> str:
        """One line."""
        frames = int(self.lengths.sum())
        parts = [f"{len(self.lengths):,} episodes", f"{frames:,} frames ({frames / self.fps:,.0f} s)"]
        parts += [f"{len(self.tasks)} tasks", f"{len(self.cameras)} cameras", f"{len(self.findings)} findings"]
        return f"{self.name}: {', '.join(parts)}"

    def _facts(self) -> Iterator[str]:
        frames = int(self.lengths.sum())
        yield fitted("", f"{self.name}  ({', '.join(filter(None, (self.kind, self.robot)))})").strip()
        seconds = f"{frames / self.fps:,.1f} s at {self.fps:g} fps"
        yield fitted("episodes", f"{len(self.lengths):,}, {frames:,} frames, {seconds}")
        if len(self.lengths):
            low, middle, high = self.lengths.min(), float(np.median(self.lengths)), self.lengths.max()
            yield fitted("lengths", f"{low} to {high} frames, median {middle:g} ({middle / self.fps:.2f} s)")
        if self.scope:
            yield fitted("values", self.scope)
        for key, facts in self.cameras:
            yield fitted("camera", f"{key} {_camera(facts)}")
        for key, space in self.spaces:
            yield fitted("space", f"{key}: {space}")
        for i, (task, count) in enumerate(self.tasks[:DIMENSIONS_SHOWN]):
            shown = task if len(task) <= 60 else task[:59] + "…"
            yield fitted("tasks" if i == 0 else "", f"{shown or '(no instruction)'} ({count:,})")
        if len(self.tasks) > DIMENSIONS_SHOWN:
            yield fitted("", f"… and {len(self.tasks) - DIMENSIONS_SHOWN:,} more")

    def _dimension_lines(self) -> Iterator[str]:
        yield f"  {'column':<33} {'dimension':<12} {'min':>9} {'mean':>9} {'std':>9} {'max':>9}"
        previous, shown = "", 0
        for d in self.dimensions:
            shown = shown + 1 if d.key == previous else 1
            if shown <= DIMENSIONS_SHOWN:
                numbers = " ".join(f"{v:>9.3g}" for v in (d.minimum, d.mean, d.std, d.maximum))
                yield f"  {d.key[-33:] if d.key != previous else '':<33} {d.name[:12]:<12} {numbers}"
            elif shown == DIMENSIONS_SHOWN + 1:
                yield f"  {'':<33} … and {sum(x.key == d.key for x in self.dimensions) - DIMENSIONS_SHOWN} more"
            previous = d.key

    def _finding_lines(self) -> Iterator[str]:
        yield from lines(self.findings) if self.findings else ["Nothing found that would hurt."]


def _camera(facts: VideoFacts | None) -> str:
    if facts is None:
        return "nothing read"
    size = f"{facts.width}x{facts.height}"
    return f"{size}, stored images" if facts.codec == "images" else f"{size}, {facts.fps:g} fps, {facts.codec}"
