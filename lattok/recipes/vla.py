"""Recipe of the policy: dataset, labels, backbone, strategy, model and loop put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from typing_extensions import Self

from lattok import checks, files
from lattok.data import RobotDataset, split_by_task
from lattok.data.augment import Augmentation, augment, draw
from lattok.data.latent_columns import LatentSpec, latent_spec, only_prefix, tokenizer_spec
from lattok.data.policy_windows import PolicyWindows
from lattok.data.sidecar import with_labels
from lattok.evaluation.policy import BATCH, policy_errors
from lattok.loading import load
from lattok.recipes.common import DataOptions, Recipe, finish, first_process
from lattok.recipes.progress import bar
from lattok.training import RUN, SeededBatches, fit
from lattok.types import PolicyBatch
from lattok.vla import LatentVLA, Strategy, VLAConfig, strategy_of
from lattok.vla.build import open_backbone
from lattok.vla.config import SCRATCH

HELD_OUT = "held_out.json"
PAPER: Mapping[str, Any] = {  # Table 8
    "steps": 80_000,
    "batch_size": 128,
    "lr": 1e-4,
    "optimizer": "adamw",
    "weight_decay": 0.01,  # the paper does not say; torch's own
    "schedule": "step",
    "decay_every": 10_000,
    "decay_factor": 0.5,
    "log_every": 100,
}


@dataclass(frozen=True)
class PolicyOptions(DataOptions):
    """What a policy learns from."""

    strategy: str = "baseline"
    layer: int | float | None = None  # hidden state of LA-Align: index, or fraction of the layers
    latent_weight: float | None = None  # lambda
    prefix: str | None = None  # of the label columns; None: the only one that fits the strategy
    labels: str | None = None  # folder of labels beside the dataset
    tokenizer: str | None = None  # action tokenizer that labels the batches, in place of columns
    latent_stride: str | None = None  # the stride that labels must have
    proprio: bool = True
    crop: float = 0.9  # augmentation: least share of the image that is kept; 1: none
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.05
    eval_key: str | None = None  # held-out actions to compare with; None: action_key

    @property
    def plan(self) -> Strategy:
        """The strategy with its layer and weight."""
        return strategy_of(self.strategy, layer=self.layer, weight=self.latent_weight)

    @property
    def augmentation(self) -> Augmentation:
        """How images are changed while it learns."""
        return Augmentation(self.crop, self.brightness, self.contrast, self.saturation, self.hue)

    def __post_init__(self) -> None:
        plan = self.plan
        self.augmentation  # noqa: B018  # checks its own numbers
        if self.tokenizer is not None and plan.target != "chunk":
            expected = "none for a strategy without tokens of actions"
            checks.fail("tokenizer", expected, f"{self.tokenizer} for {plan.name}", "LA-Tok learns from tokens.")


@dataclass(frozen=True)
class VLARecipe(Recipe):
    """The paper's recipe (Table 8) on its robots `libero` (H = 8), `robotwin` (25), `jaka` (20); `scratch`: a small
    policy that learns from nothing on two cores.

    Laid over either: `p2t_code`, where the published code differs from the paper (L1).
    """

    kind = "vla"
    model_class = VLAConfig
    data_class = PolicyOptions
    from_dataset = (
        "action_dim",
        "camera_sizes",
        "proprio_dim",
        "action_names",
        "proprio_names",
        "codes",
        "latent_steps",
        "codebook_size",
        "latent_dim",
        "latent_vectors",
        "latent_prefix",
    )
    default_preset = "libero"
    presets = MappingProxyType(
        {
            "libero": {**PAPER, "horizon": 8},
            "robotwin": {**PAPER, "steps": 30_000, "horizon": 25},
            "jaka": {**PAPER, "steps": 30_000, "horizon": 20},
            "scratch": {
                "backbone": SCRATCH,
                "image_size": 64,
                "interpolation": "bilinear",
                "head_dim": 128,
                "head_heads": 4,
                "steps": 1000,
                "batch_size": 32,
                "lr": 1e-3,
                "optimizer": "adamw",
                "weight_decay": 0.01,
                "schedule": "one_cycle",
            },
            "p2t_code": {"action_loss": "l1"},
        }
    )

    @classmethod
    def from_preset(
        cls, dataset: str | Path | None, out: str | Path, preset: str | None = None, **options: Any
    ) -> Self:
        """As every recipe; the scratch backbone comes with the preset of its name, unless another is given."""
        preset = preset or (SCRATCH if options.get("backbone") == SCRATCH else None)
        return super().from_preset(dataset, out, preset, **options)

    def open_labelled(self) -> RobotDataset:
        """The dataset, with the labels beside it as columns."""
        (source,) = self.open()
        return source.dataset if self.data.labels is None else with_labels(source.dataset, self.data.labels)

    def next_step(self) -> str:
        """What to type when it is trained."""
        return f'Use it: policy = lattok.load("{self.out}"); policy.select_action(observation)'


def train_vla(recipe: VLARecipe, resume: bool = False, resume_command: str = "") -> LatentVLA:
    """Train as the recipe says and save the policy into `recipe.out`, with its held-out error in held_out.json."""
    out, data = recipe.folder(resume), recipe.data
    dataset = recipe.open_labelled()
    tokenizer = None if data.tokenizer is None else load(data.tokenizer)
    spec, prefix = labels_of(recipe, dataset, tokenizer)
    torch.manual_seed(recipe.loop.seed)
    windows = read_windows(recipe, dataset, spec, prefix, tokenizer)
    policy = new_policy(recipe, windows, spec, prefix)
    inputs = {} if tokenizer is None else {"tokenizer": tokenizer.describe()["weights_sha256"]}
    recipe.begin(resume, recipe.open(), inputs)
    batches = PolicyBatches(windows, recipe)
    policy.trained_on = recipe.trained_on(recipe.open(), recipe.loop.batch_size)
    weights = policy.config.loss_weights
    fit(policy, batches, recipe.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
    policy = finish(policy, out)
    if first_process():
        _judge(recipe, policy, dataset, windows, spec, prefix, tokenizer)
    return policy


def _judge(
    recipe: VLARecipe,
    policy: LatentVLA,
    dataset: RobotDataset,
    windows: PolicyWindows,
    spec: LatentSpec | None,
    prefix: str,
    tokenizer: Any,
) -> None:
    """Write held_out.json, where episodes were held out: errors of the actions, and how well latents are predicted."""
    if recipe.data.episodes != "train" or not split_by_task(dataset)[1]:
        return
    held_out = read_windows(recipe, dataset, spec, prefix, tokenizer, episodes="test")
    key = recipe.data.eval_key or recipe.data.action_key
    errors = policy_errors(policy.predict_chunk, windows, held_out, key)
    latent = latent_figures(policy, held_out)
    found = errors.to_json() | ({"latent": latent} if latent else {})
    files.write_json(Path(recipe.out) / HELD_OUT, found)
    figures = {name: found[name] for name in ("error", "mean_action", "windows")} | latent
    policy.evaluation = {"headline": errors.text, "verdicts": [errors.verdict], "figures": figures}
    policy.save_card(Path(recipe.out))
    print(errors.text)


@torch.no_grad()
def latent_figures(policy: LatentVLA, windows: PolicyWindows) -> dict[str, float]:
    """Latent loss and accuracy, or cosine, of a policy in evaluation mode over all windows."""
    if windows.latent is None:
        return {}
    sums: dict[str, float] = {}
    total = 0
    for rows in torch.arange(len(windows)).split(BATCH):
        batch = windows.batch(rows)
        labelled = 0 if batch.latent is None else int(batch.latent.valid.any(1).sum())
        for name, value in policy(batch).items():  # each a mean over the samples with labels
            sums[name] = sums.get(name, 0.0) + float(value) * labelled
        total += labelled
    return {name: value / max(1, total) for name, value in sorted(sums.items()) if name != "action"}


def labels_of(recipe: VLARecipe, dataset: RobotDataset, tokenizer: Any = None) -> tuple[LatentSpec | None, str]:
    """What the strategy learns from, and under which prefix the dataset has it.

    A baseline with as many placeholders as codes needs to know how many there are, and no more.
    """
    data, plan = recipe.data, recipe.data.plan
    horizon = recipe.model.get("horizon", VLAConfig.horizon)
    target = plan.target if plan.target != "none" else ("steps" if "codes" in plan.action_placeholders else "none")
    if target == "none":
        return None, data.prefix or "latent"
    if tokenizer is not None:
        return tokenizer_spec(tokenizer, horizon), data.prefix or "latent"
    prefix = data.prefix or only_prefix(dataset, target, plan.name)
    stride = None if data.latent_stride is None else checks.stride_in_frames(data.latent_stride, dataset.fps)
    needs = ("embedding",) if plan.loss in ("align", "regress") else ("codes",)
    return latent_spec(dataset, prefix, target, horizon, stride, needs=needs), prefix


def read_windows(
    recipe: VLARecipe,
    dataset: RobotDataset,
    spec: LatentSpec | None,
    prefix: str,
    tokenizer: Any = None,
    episodes: str | Sequence[int] | None = None,
) -> PolicyWindows:
    """Every frame of the recipe's episodes (or of others) with the actions and labels that follow it."""
    data, config = recipe.data, recipe.model
    with bar("decode") as progress:
        return PolicyWindows(
            dataset,
            config.get("horizon", VLAConfig.horizon),
            cameras=data.cameras,
            size=config.get("image_size", VLAConfig.image_size),
            interpolation=config.get("interpolation", VLAConfig.interpolation),
            action_key=data.action_key,
            state_key=data.state_key if data.proprio else None,
            episodes=data.episodes if episodes is None else episodes,
            latent=spec if data.plan.loss != "none" and tokenizer is None else None,
            prefix=prefix,
            labeller=tokenizer,
            extra_keys=() if data.eval_key is None else (data.eval_key,),
            cache_dir=Path(recipe.out) / RUN,
            progress=progress,
        )


def new_policy(recipe: VLARecipe, windows: PolicyWindows, spec: LatentSpec | None, prefix: str) -> LatentVLA:
    """An untrained policy for this data, with its normalisers."""
    latent: dict[str, Any] = {}
    if spec is not None:
        latent = {"codes": max(1, spec.codes), "latent_steps": spec.steps, "codebook_size": spec.codebook_size}
        latent |= {"latent_dim": spec.latent_dim, "latent_vectors": spec.vectors, "latent_prefix": prefix}
    config = VLAConfig(
        action_dim=windows.actions.shape[1],
        cameras=windows.cameras,
        camera_sizes=windows.camera_sizes,
        proprio_dim=0 if windows.states is None else windows.states.shape[1],
        action_names=windows.action_names,
        proprio_names=windows.state_names,
        strategy=recipe.data.plan,
        action_key=recipe.data.action_key,
        state_key=recipe.data.state_key,
        **latent,
        **recipe.model,
    )
    backbone = open_backbone(config)
    policy = LatentVLA(replace(config, backbone_revision=backbone.revision), backbone)
    policy.action_normalizer.fit(windows.actions, config.normalize)
    if policy.proprio_normalizer is not None and windows.states is not None:
        policy.proprio_normalizer.fit(windows.states, config.normalize)
    return policy


class PolicyBatches:
    """Random windows of step t with augmented images; sample i of a step is the same whatever the processes."""

    def __init__(self, windows: PolicyWindows, recipe: VLARecipe):
        self.windows, self.loop, self.data = windows, recipe.loop, recipe.data
        self._draw = SeededBatches(len(windows), recipe.loop.batch_size, recipe.loop.seed)

    def __call__(self, step: int, process: int, processes: int) -> PolicyBatch:
        rows = self._draw(step)
        batch = self.windows.batch(rows[process::processes])
        if self.windows.labelled is not None:
            batch = batch._replace(labelled=self.windows.labelled[rows].sum() / processes)
        size, options = self.loop.batch_size, self.data.augmentation
        changes = draw(options, size, batch.images.shape[1], self.loop.seed, step)[process::processes]
        return batch._replace(images=augment(batch.images, changes))
