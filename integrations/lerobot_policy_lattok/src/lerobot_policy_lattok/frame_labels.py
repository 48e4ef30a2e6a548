"""Labels of the samples that LeRobot's loader draws, in a training run that knows nothing of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lattok.data import open_dataset
from lattok.data.schema import RobotDataset
from lattok.labels import LatentSpec, latent_spec, only_prefix, read_rows, with_labels
from lattok.utils import checks
from lattok.vla import Strategy


class FrameLabels:
    """Label columns of a dataset, looked up by the number of the frame; an episode is read when it is met first.

    LeRobot reads windows of actions and observations only, and its preprocessors drop columns that they do not know.
    What they keep is `index` and `episode_index`: these say which rows the labels of a sample are.
    """

    def __init__(self, dataset: RobotDataset, spec: LatentSpec, steps: Sequence[int]):
        """`steps`: which frames have the labels of a window, counted from the sample's own."""
        self.spec, self._dataset, self._steps = spec, dataset, torch.tensor(list(steps))
        self._places = {episode.index: place for place, episode in enumerate(dataset.episodes)}
        self._episodes: dict[int, tuple[int, dict[str, Tensor]]] = {}

    @classmethod
    def open(
        cls,
        root: str | Path,
        plan: Strategy,
        steps: Sequence[int],
        prefix: str | None = None,
        labels: str | None = None,
        known: LatentSpec | None = None,
    ) -> FrameLabels:
        """Open the labels of the dataset in `root` for a strategy, from its columns or from the folder `labels`.

        `steps` are those of the actions that are predicted. Raises `LattokError` where it has none that the strategy
        can learn from, or others than those that are `known` from a checkpoint.
        """
        dataset: RobotDataset = open_dataset(root)
        if labels is not None:
            dataset = with_labels(dataset, labels)
        kind = plan.labels or "steps"
        prefix = prefix or only_prefix(dataset, kind, plan.name)
        spec = latent_spec(dataset, prefix, kind, len(steps), needs=plan.needs)
        if known is not None:
            was, now = known.to_json(), spec.to_json()
            for name in [name for name in was if was[name] != now[name]]:
                hint = "Annotate the dataset with the model that this policy learned from."
                checks.fail(name, f"{was[name]}, as in the checkpoint", f"{now[name]} in {root}", hint)
        return cls(dataset, spec, steps)

    def add(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Add its labels to a batch: a window of as many rows as steps, or the frame's row (tokens of a chunk)."""
        for key in ("index", "episode_index"):
            if not isinstance(batch.get(key), Tensor):
                hint = "LeRobot's loader gives it, and its preprocessors keep it."
                checks.fail("batch", f"`{key}`, which says what the labels are", "none", hint)
        numbers = zip(batch["episode_index"].flatten().tolist(), batch["index"].flatten().tolist(), strict=True)
        rows = [self._rows(int(episode), int(index)) for episode, index in numbers]
        labels = {self.spec.column(part): torch.stack([row[part] for row in rows]) for part in rows[0]}
        return {**batch, **{name: values.to(batch["index"].device) for name, values in labels.items()}}

    def _rows(self, episode: int, index: int) -> dict[str, Tensor]:
        """Return the labels of one sample; rows outside the episode are not valid."""
        first, columns = self._episodes.get(episode) or self._read(episode)
        frame, length = index - first, len(columns["valid"])
        if not 0 <= frame < length:
            checks.fail("index", f"a frame of episode {episode} of `{self._dataset.name}`", index)
        if self.spec.target == "chunk":
            rows = {part: values[frame] for part, values in columns.items()}
            return rows | {"valid": rows["valid"][0]}
        steps = frame + self._steps
        rows = {part: values[steps.clamp(0, length - 1)] for part, values in columns.items()}
        return rows | {"valid": rows["valid"][:, 0] & (steps >= 0) & (steps < length)}

    def _read(self, episode: int) -> tuple[int, dict[str, Tensor]]:
        """Read the number of an episode's first frame, and its labels."""
        if episode not in self._places:
            checks.fail("episode_index", f"an episode of `{self._dataset.name}`", episode)
        rows = read_rows(self._dataset, self.spec, [self._dataset.episodes[self._places[episode]]])
        first = int(self._dataset.columns(episode, ["index"])["index"][0])
        self._episodes[episode] = first, rows
        return first, rows
