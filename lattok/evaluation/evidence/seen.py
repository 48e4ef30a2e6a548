"""Which episodes a model has learned from, as its training.json says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lattok.data import RobotDataset
from lattok.data.content import Known, digests, in_order, known_of
from lattok.data.schema import same_split


def training_entries(trained_on: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """List all that a model has learned from, as its training.json says: `dataset`, `split` if it has any, `episodes`,
    and `content`, by which they are known again.

    What the models before it had learned from (`earlier`) is part of it.
    """
    known = trained_on or {}
    entries = [*known.get("mixture", [known]), *known.get("earlier", ())]
    wanted = ("dataset", "split", "episodes", "content")
    return [{name: entry[name] for name in wanted if name in entry} for entry in entries if "dataset" in entry]


class SeenEpisodes(NamedTuple):
    """Episodes, of those asked for, that a model has learned from."""

    episodes: list[int]
    complete: bool  # otherwise there may be more: of very many only a part is known again


def seen_episodes(trained_on: Mapping[str, Any] | None, dataset: RobotDataset, wanted: Sequence[int]) -> SeenEpisodes:
    """Find which of the `wanted` episodes a model has learned from, as far as its training.json says.

    Episodes are known again by their content, under any name of the dataset and with any numbers. Where one cannot be
    told from others by its content, or nothing is recorded, dataset and number count.
    """
    seen: set[int] = set()
    complete = True
    for entry in training_entries(trained_on):
        named = entry["dataset"] == dataset.name and same_split(entry.get("split"), dataset.split)
        numbers = {index for index in wanted if _among(index, entry.get("episodes", ()))}
        if "content" not in entry:
            seen |= numbers if named else set()
            continue
        found, undecided = _by_content(entry, dataset, wanted, numbers)
        complete = complete and (named or not undecided)
        seen |= found | (numbers & undecided if named else set())
    return SeenEpisodes(sorted(seen), complete)


def _by_content(
    entry: Mapping[str, Any], dataset: RobotDataset, wanted: Sequence[int], numbers: set[int]
) -> tuple[set[int], set[int]]:
    """Find which of the `wanted` episodes were trained on by their content, and for which it does not tell."""
    found, undecided, kinds = set[int](), set(wanted), known_of(entry["content"])
    for kind, known in kinds.items():
        for here in digests(dataset, wanted, kind):
            matching = {index for index, digest in here.items() if digest in known.digests}
            if not matching <= numbers and _numbered_alike(entry.get("episodes", ()), dataset, kind, known):
                matching &= numbers  # the same dataset: others merely look like one that was trained on
            found |= matching
            if kind == next(iter(kinds)):  # actions, where they were recorded: videos are encoded again sooner
                undecided &= {index for index in wanted if index not in here or known.undecided(here[index])}
    return found, undecided - found


def _numbered_alike(runs: Sequence[Sequence[int]], dataset: RobotDataset, kind: str, known: Known) -> bool:
    """Tell whether the episodes of these numbers are the ones that were trained on."""
    trained = [episode.index for episode in dataset.episodes if _among(episode.index, runs)]
    return any(in_order(here) == known.in_order for here in digests(dataset, trained, kind))


def _among(index: int, runs: Sequence[Sequence[int]]) -> bool:
    return any(first <= index <= last for first, last in runs)
