"""A `lattok.vla.LatentVLA` as a policy of LeRobot.

The model has its own normalisers, set from the rows of the dataset, and works in the dataset's units; a checkpoint
holds what the base model does not have. Loading is always strict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lerobot.configs import parser
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor, nn

import lattok
from lattok.backbones.model import open_backbone
from lattok.data.alike import check_actions, note_rate
from lattok.data.schema import own_vectors
from lattok.data.statistics import measured_statistics
from lattok.hub.weights import check_named, read_tensors
from lattok.nn.normalize import Normalizer, read_statistics
from lattok.types import ActionTokenizer
from lattok.utils import checks
from lattok.utils.options import flat
from lattok.vla import LatentVLA
from lattok.vla.config import TokenSpec
from lattok.vla.model import codec_of
from lattok.vla.tokens import TOKENIZER
from lerobot_policy_lattok.configuration_lattok import LattokConfig
from lerobot_policy_lattok.frame_labels import FrameLabels

WEIGHTS = "model.safetensors"
FETCHED = ("revision", "token", "cache_dir", "force_download", "local_files_only")
INSIDE = "model."  # the policy's name for its LatentVLA
CHANGEABLE = (  # on the model, after it was made
    "n_action_steps",
    "head_temperature",
    "head_draws",
    "head_average",
    "head_codes",
)


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
        tokenizer: Any = None,
        **kwargs: Any,
    ):
        """Take `dataset_meta` and `dataset_stats` as LeRobot hands them to a policy that it makes for a dataset.

        They fill in what the configuration does not know yet. Without them it must come from a checkpoint, or with the
        `model` that it describes. `tokenizer`: of a checkpoint; otherwise that which the configuration names is opened.
        """
        super().__init__(config)
        self.labels = self._describe(dataset_meta) if dataset_meta is not None else None
        if config.head == "tokens" and model is None:
            if tokenizer is None and config.tokenizer is None:
                checks.fail("tokenizer", "an action tokenizer, whose codes head=tokens predicts", "none")
            tokenizer = tokenizer or lattok.load(config.tokenizer)
            if not isinstance(tokenizer, ActionTokenizer):
                checks.fail("tokenizer", "an action tokenizer", type(tokenizer).__name__)
            if config.tokens not in (None, TokenSpec.of(tokenizer)):
                checks.fail("tokenizer", "the one that the policy was trained with", "another one")
            if dataset_meta is not None:
                dataset = lattok.open_dataset(dataset_meta.root)
                check_actions(tokenizer, dataset, "action")
                note_rate(tokenizer, dataset, any_rate=True)
            config.tokens, config.tokenizer = TokenSpec.of(tokenizer), None
        made = config.model_config()
        config.cameras = list(made.cameras)
        if model is None:
            backbone = open_backbone(made)
            config.backbone_revision = backbone.revision
            model = LatentVLA(made, backbone, tokenizer)
        self.model, self.made = model, made
        if dataset_stats is not None:
            self._normalize({**dataset_stats, **_measured(dataset_meta, dataset_stats)})

    def _describe(self, meta: Any) -> FrameLabels | None:
        """Fill in names and what the labels are; returns the labels, where there is a loss that needs them."""
        config, plan = self.config, self.config.plan
        config.validate_features()
        config.action_names = _names_of(meta.features.get("action"), config.action_dim)
        config.proprio_names = _names_of(meta.features.get("observation.state"), config.proprio_dim)
        if plan.labels is None:
            return None
        steps = range(config.chunk_size)
        labels = FrameLabels.open(meta.root, plan, steps, config.prefix, config.labels, config.latent)
        config.latent = labels.spec
        return labels if plan.losses else None

    def _normalize(self, statistics: Mapping[str, Any]) -> None:
        """Set the normalisers from statistics of columns."""
        model, made = self.model, self.model.config
        parts = {"action": (model.action_normalizer, made.action_kinds)}
        parts["observation.state"] = (model.proprio_normalizer, [made.normalize] * made.proprio_dim)
        for key, (normalizer, kinds) in parts.items():
            if normalizer is None or {*kinds} == {"identity"}:
                continue
            if key not in statistics:
                checks.fail("dataset_stats", f"statistics of `{key}`", f"only {', '.join(statistics)}")
            _set(normalizer, kinds, statistics[key])

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
        hint = "--policy.backbone_train=lora and --policy.backbone_lora_rank adapt the backbone."
        checks.fail("peft", "none for this policy", "adapters of LeRobot", hint)

    def _save_pretrained(self, save_directory: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors: own weights, statistics, and what the base model does not have.

        Of options that were changed on the model, such as `model.head.draws`, config.json says what they are now.
        `state_dict` has the tensors of a policy whose parameters are cut into parts (LeRobot >= 0.6).
        """
        before, now = flat(self.made), flat(self.model.saved_config)
        for name in (name for name in CHANGEABLE if now[name] != before[name]):
            setattr(self.config, name, now[name])
        self.made = self.model.saved_config
        self.config._save_pretrained(save_directory)
        saved = {INSIDE + name: value for name, value in self.model.saved_tensors().items()}
        saved |= {name: value for name, value in (state_dict or {}).items() if name in saved}
        tensors = {name: value.detach().cpu().contiguous() for name, value in saved.items()}
        safetensors.torch.save_file(tensors, save_directory / WEIGHTS, {"format": "pt"})
        if self.config.tokens is not None:
            codec_of(self.model).save(save_directory / TOKENIZER)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: Any, *, config: Any = None, backbone: str | None = None, **options: Any
    ) -> Any:
        """Load as LeRobot does; `backbone`: the base model has moved.

        A checkpoint may name a folder of this machine only where the user does as well, here or by `--policy.backbone`.
        """
        if config is None:
            config = PreTrainedConfig.from_pretrained(pretrained_name_or_path, **options)
        if backbone is not None:
            config.backbone = backbone
        words = [f"--backbone={backbone}"] if backbone is not None else parser.get_cli_overrides("policy") or []
        given = [word.removeprefix("--").partition("=")[0] for word in words]
        check_named(config, Path(pretrained_name_or_path), given)
        if config.head == "tokens":
            found = {name: options[name] for name in FETCHED if name in options}
            options["tokenizer"] = lattok.load(pretrained_name_or_path, subfolder=TOKENIZER, **found)
        return super().from_pretrained(pretrained_name_or_path, config=config, **options)

    @classmethod
    def _load_as_safetensor(cls, model: LattokPolicy, model_file: str, map_location: str, strict: bool) -> LattokPolicy:
        """Fill a policy; tensors that are missing, unexpected or of another shape are an error, whatever `strict`."""
        tensors = read_tensors(Path(model_file))
        model.model.load_tensors({name.removeprefix(INSIDE): value for name, value in tensors.items()}, model_file)
        return model


def _measured(meta: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the rows of a dataset, whose quantiles LeRobot averages over episodes; nothing where they are not here,
    as of a dataset that is streamed."""
    if meta is None:
        return {}
    with suppress(checks.LattokError):
        dataset = lattok.open_dataset(meta.root)
        keys = [key for key in ("action", "observation.state") if key in known and key in own_vectors(dataset)]
        found, whole = measured_statistics(dataset, keys)
        return found if whole else {}
    return {}


def _set(normalizer: Any, kinds: Sequence[str], statistics: Mapping[str, Any]) -> None:
    """Set each dimension of a normaliser as `Normalizer.fit` does, from the statistics of a column."""
    for place, kind in enumerate(kinds):
        if kind == "bounded":
            low, high = (read_statistics(statistics, "min_max")[0] or {}).values()
            kind = "min_max" if max(-low[place], high[place]) > 1 else "identity"
        if kind != "identity":
            own = Normalizer(len(kinds)).set(read_statistics(statistics, kind)[0] or {})
            normalizer.shift[place], normalizer.scale[place] = own.shift[place], own.scale[place]


def _names_of(feature: Any, count: int) -> list[str]:
    """Return the names of a column's numbers, as a dataset has them; none where they do not fit."""
    names = (feature or {}).get("names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    names = list(names) if isinstance(names, list | tuple) else []
    return names if len(names) == count and all(isinstance(name, str) for name in names) else []
