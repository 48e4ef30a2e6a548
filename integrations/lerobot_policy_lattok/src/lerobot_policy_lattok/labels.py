"""Latent actions of LeRobot's batches, looked up in the dataset's columns by the number of the frame.

LeRobot reads windows of actions and observations only, and its preprocessors drop columns that they do not know. What
they keep is `index` and `episode_index`: these say which rows the labels of a sample are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lattok import checks
from lattok.data import open_dataset
from lattok.data.latent_columns import LatentSpec, latent_spec, only_prefix
from lattok.data.schema import RobotDataset
from lattok.data.sidecar import with_labels
from lattok.vla import Strategy


class Labels:
    """Label columns of a dataset; an episode is read when it is met first."""

    def __init__(self, dataset: RobotDataset, prefix: str, spec: LatentSpec):
        self.prefix, self.spec = prefix, spec
        widths = {"codes": spec.codes, "embedding": spec.vectors, "valid": 1}
        self._dataset, self._parts = dataset, [part for part, width in widths.items() if width]
        self._episodes: dict[int, dict[str, Tensor]] = {}

    @classmethod
    def open(cls, root: str | Path, plan: Strategy, horizon: int, prefix: str | None, labels: str | None) -> Labels:
        """Labels of the dataset in `root` for a strategy, from its columns or from the folder `labels`.

        Raises `LattokError` where it has none that the strategy can learn from.
        """
        dataset: RobotDataset = open_dataset(root)
        if labels is not None:
            dataset = with_labels(dataset, labels)
        target = plan.label_target
        prefix = prefix or only_prefix(dataset, target, plan.name)
        needs = ("embedding",) if plan.loss in ("align", "regress") else ("codes",)
        return cls(dataset, prefix, latent_spec(dataset, prefix, target, horizon, needs=needs))

    def facts(self) -> dict[str, Any]:
        """What a policy must know of them, as fields of its configuration."""
        return self.spec.policy_fields(self.prefix)

    def add(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with its labels: a window of as many rows as steps, or the row of the frame (tokens of a chunk)."""
        for key in ("index", "episode_index"):
            if not isinstance(batch.get(key), Tensor):
                hint = "LeRobot's loader gives it, and its preprocessors keep it."
                checks.fail("batch", f"`{key}`, which says what the labels are", "none", hint)
        numbers = zip(batch["episode_index"].flatten().tolist(), batch["index"].flatten().tolist(), strict=True)
        rows = [self._rows(int(episode), int(index)) for episode, index in numbers]
        device = batch["index"].device
        return {
            **batch,
            **{f"{self.prefix}.{name}": torch.stack([r[name] for r in rows]).to(device) for name in rows[0]},
        }

    def _rows(self, episode: int, index: int) -> dict[str, Tensor]:
        """Labels of one sample; rows after the episode are not valid."""
        columns = self._episodes.get(episode)
        if columns is None:
            columns = self._episodes[episode] = self._read(episode)
        frame = index - int(columns["index"][0])
        length = len(columns["index"])
        if not 0 <= frame < length:
            checks.fail("index", f"a frame of episode {episode} of `{self._dataset.name}`", index)
        if self.spec.target == "chunk":
            return {part: columns[part][frame] for part in self._parts}
        steps = frame + torch.arange(self.spec.steps)
        rows = {part: columns[part][steps.clamp(max=length - 1)] for part in self._parts}
        rows["valid"] = rows["valid"] & (steps < length)
        return rows

    def _read(self, episode: int) -> dict[str, Tensor]:
        keys = {part: f"{self.prefix}.{part}" for part in self._parts}
        found = self._dataset.columns(episode, ["index", *keys.values()])
        columns = {part: torch.from_numpy(found[key]) for part, key in keys.items()}
        columns["valid"] = columns["valid"].bool()
        return columns | {"index": torch.from_numpy(found["index"])}
