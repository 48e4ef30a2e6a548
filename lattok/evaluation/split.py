"""Which episodes judge a model (held out) and which ones fit its probes and controls (all others)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lattok import checks
from lattok.data import RobotDataset, select_episodes
from lattok.data.identity import same_split


@dataclass(frozen=True)
class Split:
    """Episode indices of both halves, and how many there were before large datasets were thinned."""

    train: list[int]
    held_out: list[int]
    train_available: int
    held_out_available: int

    @property
    def text(self) -> str:
        """One line for the page."""

        def half(used: int, available: int) -> str:
            return f"{used}" if used == available else f"{used} of {available}"

        return (
            f"{half(len(self.held_out), self.held_out_available)} held-out episodes; "
            f"{half(len(self.train), self.train_available)} others fit probes and controls"
        )


def split_episodes(dataset: RobotDataset, episodes: str | Sequence[int] | None, max_episodes: int) -> Split:
    """Held out are `episodes`, training is the rest; at most `max_episodes` and half as many, evenly spaced."""
    checks.positive(max_episodes=max_episodes)
    held_out = [episode.index for episode in select_episodes(dataset, episodes)]
    train = [episode.index for episode in dataset.episodes if episode.index not in set(held_out)]
    if not train:
        hint = "Probes and controls are fitted to the episodes that are not held out."
        checks.fail("episodes", "a choice that leaves other episodes", repr(episodes), hint)
    return Split(
        train=evenly(train, max_episodes),
        held_out=evenly(held_out, max(1, max_episodes // 2)),
        train_available=len(train),
        held_out_available=len(held_out),
    )


def training_entries(trained_on: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Everything that a model has learnt from, as its training.json says: `dataset`, `split` if it has any, `episodes`.

    What the models before it had learnt from (`earlier`) is part of it.
    """
    known = trained_on or {}
    entries = [*known.get("mixture", [known]), *known.get("earlier", ())]
    wanted = ("dataset", "split", "episodes")
    return [{name: entry[name] for name in wanted if name in entry} for entry in entries if "dataset" in entry]


def trained_episodes(trained_on: Mapping[str, Any] | None, dataset_name: str, split: str | None = None) -> set[int]:
    """Episodes of a dataset that a model has learnt from, as its training.json says; none where it says nothing."""
    entries = [entry for entry in training_entries(trained_on) if entry["dataset"] == dataset_name]
    runs = [run for entry in entries if same_split(entry.get("split"), split) for run in entry["episodes"]]
    return {i for first, last in runs for i in range(first, last + 1)}


def evenly(items: list[int], most: int) -> list[int]:
    """At most `most` items, evenly spaced, first and last included."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]
