"""A `lattok.vla.LatentVLA` as a policy of LeRobot.

The model has its own normalisers, set from the statistics that LeRobot has of the dataset, and works in the dataset's
units; a checkpoint holds what the base model does not have. Loading is always strict.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor, nn

from lattok import checks
from lattok.data import open_dataset
from lattok.data.schema import RobotDataset
from lattok.labels import LatentSpec, latent_spec, only_prefix, read_rows, with_labels
from lattok.normalize import read_statistics
from lattok.vla import LatentVLA, Strategy
from lattok.vla.model import open_backbone
from lerobot_policy_lattok.configuration_lattok import LattokConfig

WEIGHTS = "model.safetensors"
INSIDE = "model."  # the policy's name for its LatentVLA


class Labels:
    """Label columns of a dataset, looked up by the number of the frame; an episode is read when it is met first.

    LeRobot reads windows of actions and observations only, and its preprocessors drop columns that they do not know.
    What they keep is `index` and `episode_index`: these say which rows the labels of a sample are.
    """

    def __init__(self, dataset: RobotDataset, spec: LatentSpec):
        self.spec, self._dataset = spec, dataset
        self._places = {episode.index: place for place, episode in enumerate(dataset.episodes)}
        self._episodes: dict[int, tuple[int, dict[str, Tensor]]] = {}

    @classmethod
    def open(cls, root: str | Path, plan: Strategy, horizon: int, prefix: str | None, labels: str | None) -> Labels:
        """Open the labels of the dataset in `root` for a strategy, from its columns or from the folder `labels`.

        Raises `LattokError` where it has none that the strategy can learn from.
        """
        dataset: RobotDataset = open_dataset(root)
        if labels is not None:
            dataset = with_labels(dataset, labels)
        kind = plan.labels or "steps"
        prefix = prefix or only_prefix(dataset, kind, plan.name)
        return cls(dataset, latent_spec(dataset, prefix, kind, horizon, needs=plan.needs))

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
        """Return the labels of one sample; rows after the episode are not valid."""
        first, columns = self._episodes.get(episode) or self._read(episode)
        frame, length = index - first, len(columns["valid"])
        if not 0 <= frame < length:
            checks.fail("index", f"a frame of episode {episode} of `{self._dataset.name}`", index)
        if self.spec.target == "chunk":
            rows = {part: values[frame] for part, values in columns.items()}
            return rows | {"valid": rows["valid"][0]}
        steps = frame + torch.arange(self.spec.steps)
        rows = {part: values[steps.clamp(max=length - 1)] for part, values in columns.items()}
        return rows | {"valid": rows["valid"][:, 0] & (steps < length)}

    def _read(self, episode: int) -> tuple[int, dict[str, Tensor]]:
        """Read the number of an episode's first frame, and its labels."""
        if episode not in self._places:
            checks.fail("episode_index", f"an episode of `{self._dataset.name}`", episode)
        rows = read_rows(self._dataset, self.spec, [self._dataset.episodes[self._places[episode]]])
        first = int(self._dataset.columns(episode, ["index"])["index"][0])
        self._episodes[episode] = first, rows
        return first, rows


class LattokPolicy(PreTrainedPolicy):
    """`policy.model` is the `LatentVLA`: its `save_pretrained` writes an artefact for `lattok.load`."""

    config_class = LattokConfig  # pyright: ignore[reportAssignmentType]  # LeRobot annotates both with None
    name = "lattok"  # pyright: ignore[reportAssignmentType]
    config: LattokConfig

    def __init__(
        self,
        config: LattokConfig,
        dataset_stats: Mapping[str, Any] | None = None,
        dataset_meta: Any = None,
        model: LatentVLA | None = None,
        **kwargs: Any,
    ):
        """Take `dataset_meta` and `dataset_stats` as LeRobot hands them to a policy that it makes for a dataset.

        They fill in what the configuration does not know yet. Without them it must come from a checkpoint, or with the
        `model` that it describes.
        """
        super().__init__(config)
        self.labels = self._describe(dataset_meta) if dataset_meta is not None else None
        made = config.model_config()
        config.cameras = list(made.cameras)
        if model is None:
            backbone = open_backbone(made)
            config.backbone_revision = backbone.revision
            model = LatentVLA(made, backbone)
        self.model = model
        self.model.queues.n_action_steps = config.steps_taken
        if dataset_stats is not None:
            self._normalize(dataset_stats)

    def _describe(self, meta: Any) -> Labels | None:
        """Fill in names and what the labels are; returns the labels, where there is a loss that needs them."""
        config, plan = self.config, self.config.plan
        config.validate_features()
        config.action_names = _names_of(meta.features.get("action"), config.action_dim)
        config.proprio_names = _names_of(meta.features.get("observation.state"), config.proprio_dim)
        if plan.labels is None:
            return None
        labels = Labels.open(meta.root, plan, config.chunk_size, config.prefix, config.labels)
        if config.latent is not None:
            was, now = config.latent.to_json(), labels.spec.to_json()
            for name in [name for name in was if was[name] != now[name]]:
                hint = "Annotate the dataset with the model that this policy learned from."
                checks.fail(name, f"{was[name]}, as in the checkpoint", f"{now[name]} in {meta.root}", hint)
        config.latent = labels.spec
        return labels if plan.losses else None

    def _normalize(self, statistics: Mapping[str, Any]) -> None:
        """Set the normalisers from LeRobot's statistics of the dataset."""
        model, kind = self.model, self.config.normalize
        parts = {"action": model.action_normalizer, "observation.state": model.proprio_normalizer}
        for key, normalizer in parts.items():
            if normalizer is None or kind == "identity":
                continue
            if key not in statistics:
                checks.fail("dataset_stats", f"statistics of `{key}`", f"only {', '.join(statistics)}")
            normalizer.set(read_statistics(statistics[key], kind)[0] or {})

    def forward(self, batch: dict[str, Any], reduction: str = "mean") -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum of the strategy's losses (Eq. 4), and each of them for the log.

        Labels come from the dataset that the policy was made for, unless the batch has a window of them already.
        """
        if reduction != "mean":
            checks.fail("reduction", "mean: the policy has no loss of single samples", reduction)
        if self.labels is not None and self.labels.spec.column("valid") not in batch:
            batch = self.labels.add(batch)
        terms = self.model(batch)
        weights = self.model.config.loss_weights
        loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        named = {f"{name}_loss" if name in weights else name: value for name, value in terms.items()}
        return loss, {name: float(value.detach()) for name, value in named.items()}

    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """Return the next actions of every sample, [B, chunk_size, m] in the dataset's units."""
        return self.model.predict_chunk(batch)

    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """Return the next action of every environment, [B, m]; each has a queue of its own."""
        return self.model.select_action(batch)

    def reset(self) -> None:
        """Forget planned actions: LeRobot resets all environments at once."""
        self.model.reset()

    def drop_queued_actions(self) -> None:
        """Forget planned actions in the middle of an episode (LeRobot >= 0.6)."""
        self.model.reset()

    def get_optim_params(self) -> list[nn.Parameter]:
        """Return the parameters that are trained."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def wrap_with_peft(self, *args: Any, **kwargs: Any) -> PreTrainedPolicy:
        """Raise `LattokError`: the backbone has its own adapters."""
        hint = "--policy.train_backbone=lora and --policy.lora_rank adapt the backbone."
        checks.fail("peft", "none for this policy", "adapters of LeRobot", hint)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write config.json and model.safetensors: own weights, statistics, and what the base model does not have."""
        self.config._save_pretrained(save_directory)
        saved = self.model.saved_tensors()
        tensors = {INSIDE + name: value.detach().cpu().contiguous() for name, value in saved.items()}
        safetensors.torch.save_file(tensors, save_directory / WEIGHTS, {"format": "pt"})

    @classmethod
    def _load_as_safetensor(cls, model: LattokPolicy, model_file: str, map_location: str, strict: bool) -> LattokPolicy:
        """Fill a policy; tensors that are missing, unexpected or of another shape are an error, whatever `strict`."""
        tensors = safetensors.torch.load_file(model_file)
        model.model.load_tensors({name.removeprefix(INSIDE): value for name, value in tensors.items()}, model_file)
        return model


def _names_of(feature: Any, count: int) -> list[str]:
    """Return the names of a column's numbers, as a dataset has them; none where they do not fit."""
    names = (feature or {}).get("names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    names = list(names) if isinstance(names, list | tuple) else []
    return names if len(names) == count and all(isinstance(name, str) for name in names) else []
