"""The local engine: one unit after the other in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

from lattok.annotation.columns import Unit
from lattok.annotation.labels import AHEAD_FRAMES, Labelled, Work, jobs, label_decoded, piece_of_frames
from lattok.data.prefetch import Ahead


class Engine(Protocol):
    """Who labels units. The labels are the same whoever does it, with however many workers."""

    @property
    def device(self) -> str | None:
        """Kind of device that labels; None: where the models are."""
        ...

    def label(self, work: Work, units: Sequence[Unit]) -> Iterator[tuple[Unit, Labelled]]:
        """Return the labels of every unit, in any order, as they are finished."""
        ...


class LocalEngine:
    """Labels here; other threads decode video ahead."""

    device: str | None = None

    def label(self, work: Work, units: Sequence[Unit]) -> Iterator[tuple[Unit, Labelled]]:
        """See `Engine`."""
        with Ahead(partial(piece_of_frames, work), jobs(work, units), AHEAD_FRAMES) as frames_of:
            for unit in units:
                yield unit, label_decoded(work, unit, frames_of)
