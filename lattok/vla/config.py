"""Architecture of `LatentVLA`; saved as config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lattok import checks
from lattok.backbones.base import TRAIN, LoraSpec
from lattok.normalize import clipped_kinds, kinds_of
from lattok.vla.strategies import Strategy, strategy_of

PROMPT = "{task} Please predict the next {horizon} robot actions:"  # appendix B.1
POOLS = ("mean", "none")
SCRATCH = "scratch"
MOST_NUMBERS = 1 << 16  # of a chunk: a configuration with more is a mistake or an attack


@dataclass(frozen=True)
class VLAConfig:
    """Architecture of a policy. The first fields come from the dataset, the defaults of the others from the paper."""

    # what recipes take from the dataset and its labels: never an option
    from_data: ClassVar[frozenset[str]] = frozenset(
        {"action_dim", "action_names", "camera_sizes", "proprio_dim", "proprio_names"}
        | {"codes", "codebook_size", "latent_steps", "latent_dim", "latent_vectors", "latent_per_step", "latent_prefix"}
    )

    action_dim: int
    cameras: tuple[str, ...]  # none for a backbone that reads only text
    camera_sizes: tuple[tuple[int, int], ...]  # (H, W) of each camera's images before they are resized
    proprio_dim: int = 0  # 0: without proprio
    action_names: tuple[str, ...] = ()
    proprio_names: tuple[str, ...] = ()
    strategy: Strategy | str | Mapping[str, Any] = "baseline"
    codes: int = 1  # P, of each step; LA-Tok: 1
    latent_steps: int = 0  # S: steps that have latent actions; 0: the horizon
    codebook_size: int = 0  # K
    latent_dim: int = 0  # d
    latent_vectors: int = 0  # vectors of an embedding, for one step; 0: as many as codes
    latent_per_step: bool = False  # tokens of a chunk: each is that of a step, and beyond the episode not valid
    horizon: int = 8
    image_size: int = 224
    interpolation: str = "bicubic"
    prompt: str = PROMPT  # without {task}: a policy that knows no instruction
    backbone: str = "Qwen/Qwen3-VL-2B-Instruct"  # a Hub id, a folder, or "scratch"
    backbone_revision: str | None = None  # commit, or the fingerprint of a folder
    backbone_dtype: str = "float32"  # of the base model's frozen weights, or "bfloat16"; what is trained is float32
    train_backbone: str = "lora"  # "lora", "full" or "frozen"; scratch: full
    lora_rank: int = 64
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    lora_vision: bool = True
    gradient_checkpointing: bool = False
    width: int = 128  # of the scratch backbone
    depth: int = 4
    heads: int = 4
    patch_size: int = 16
    head_dim: int = 512
    head_heads: int = 8
    head_layers: tuple[int, ...] = ()  # hidden states that the head sees; none: ⌈N/2⌉..N
    pool: str = "mean"  # states of the codes of a step, for the head: their mean, or "none"
    action_loss: str = "l2"  # Eq. 4; the published code has "l1"
    loss_reduction: str = "mean"  # "sum" over steps, codes and dimensions, as printed in Eq. 4 and 7
    align_projection: str = "linear"  # or "mlp"
    normalize: str = "quantile"  # of actions and proprio
    normalize_exceptions: tuple[str, ...] = ()  # of actions, as action tokenizers have them
    normalize_clip: bool = False  # what is normalised ends at -1 and 1, for the kinds that have such a range
    action_key: str = "action"
    state_key: str = "observation.state"
    latent_prefix: str = "latent"  # of the label columns

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategy", strategy_of(self.strategy))
        if self.backbone == SCRATCH and self.train_backbone == "lora":
            object.__setattr__(self, "train_backbone", "full")
        object.__setattr__(self, "camera_sizes", _sizes(self.camera_sizes))
        checks.counts(action_dim=self.action_dim, horizon=self.horizon, image_size=self.image_size, codes=self.codes)
        checks.counts(width=self.width, depth=self.depth, heads=self.heads, patch_size=self.patch_size)
        checks.counts(head_dim=self.head_dim, head_heads=self.head_heads)
        if self.head_dim % self.head_heads:
            checks.fail("head_heads", f"a divisor of head_dim {self.head_dim}", self.head_heads)
        checks.whole(proprio_dim=self.proprio_dim, latent_steps=self.latent_steps, codebook_size=self.codebook_size)
        if self.action_dim * self.horizon > MOST_NUMBERS or self.proprio_dim > MOST_NUMBERS:
            got = f"{self.horizon} steps of {self.action_dim} dimensions, proprio_dim {self.proprio_dim}"
            checks.fail("action_dim", f"at most {MOST_NUMBERS:,} numbers in a chunk and in proprio", got)
        checks.whole(latent_dim=self.latent_dim, latent_vectors=self.latent_vectors)
        checks.one_of("train_backbone", self.train_backbone, ("full",) if self.backbone == SCRATCH else TRAIN)
        checks.one_of("backbone_dtype", self.backbone_dtype, ("float32", "bfloat16"))
        checks.one_of("pool", self.pool, POOLS)
        checks.one_of("action_loss", self.action_loss, ("l2", "l1"))
        checks.one_of("align_projection", self.align_projection, ("linear", "mlp"))
        checks.one_of("loss_reduction", self.loss_reduction, ("mean", "sum"))
        checks.one_of("interpolation", self.interpolation, ("bicubic", "bilinear"))
        _check_names("cameras", self.cameras)
        checks.size("camera_sizes", "sizes, one for each camera", len(self.camera_sizes), len(self.cameras))
        _check_layers(self.head_layers)
        _check_prompt(self.prompt)
        _check_latents(self.plan, self.codebook_size, self.latent_dim)
        _ = self.lora, self.action_clipped, self.proprio_clipped  # they check their own numbers

    @property
    def plan(self) -> Strategy:
        """The strategy."""
        return strategy_of(self.strategy)

    @property
    def lora(self) -> LoraSpec:
        """Adapters of the backbone."""
        return LoraSpec(self.lora_rank, self.lora_alpha, self.lora_dropout, self.lora_vision)

    @property
    def action_kinds(self) -> list[str]:
        """The kind of normalisation of each action dimension."""
        return kinds_of(self.normalize, self.normalize_exceptions, self.action_names, self.action_dim)

    @property
    def action_clipped(self) -> list[bool]:
        """Whether a normalised action dimension ends at -1 and 1."""
        return clipped_kinds(self.action_kinds, self.normalize_clip)

    @property
    def proprio_clipped(self) -> list[bool]:
        """The same for proprio, whose dimensions all have one kind."""
        return clipped_kinds([self.normalize] * self.proprio_dim, self.normalize_clip and self.proprio_dim > 0)

    @property
    def steps(self) -> int:
        """Steps S that have latent actions."""
        return self.latent_steps or self.horizon

    @property
    def latent_placeholders(self) -> tuple[tuple[int, int], ...]:
        """Runs of placeholders as (steps, placeholders of each step), whose states the head gets pooled by step."""
        return ((self.steps, self.codes),) if self.plan.latent_placeholders == "codes" else ()

    @property
    def action_placeholders(self) -> tuple[tuple[int, int], ...]:
        """The same for those of actions, which stand after them."""
        each = {"none": (), "one": (1,), "codes": (self.codes,), "codes+one": (self.codes, 1)}
        return tuple((self.horizon, count) for count in each[self.plan.action_placeholders])

    def layers(self, num_layers: int) -> tuple[int, ...]:
        """Hidden states that the head sees, of a backbone with `num_layers` layers (K_layers of Eq. 3)."""
        if not self.head_layers:
            return tuple(range(math.ceil(num_layers / 2), num_layers + 1))
        if max(self.head_layers) > num_layers:
            checks.fail("head_layers", f"hidden states from 0 to {num_layers} of this backbone", self.head_layers)
        supervised = self.plan.layer_index(num_layers) if self.plan.loss != "none" else 0
        if num_layers not in (self.head_layers[-1], supervised):
            hint = "Layers that nothing reads would be trained without a gradient."
            checks.fail("head_layers", f"the last one, {num_layers}, among them", self.head_layers, hint)
        return self.head_layers

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the loss terms (Eq. 4)."""
        return {"action": 1.0} | ({} if self.plan.loss == "none" else {"latent": self.plan.weight})


def _check_names(argument: str, names: Sequence[str]) -> None:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        checks.fail(argument, "a list of names", repr(names))


def _sizes(sizes: Any) -> tuple[tuple[int, int], ...]:
    """(H, W) of every camera."""
    try:
        return tuple((int(height), int(width)) for height, width in sizes)
    except (TypeError, ValueError):
        checks.fail("camera_sizes", "a pair (H, W) for each camera", repr(sizes))


def _check_layers(layers: Any) -> None:
    if not isinstance(layers, tuple) or not all(isinstance(k, int) and k >= 0 for k in layers):
        checks.fail("head_layers", "indices of hidden states", repr(layers))
    if list(layers) != sorted(set(layers)):
        checks.fail("head_layers", "different hidden states in ascending order", layers)


def _check_prompt(prompt: str) -> None:
    try:
        checks.plain_format(prompt, task="", horizon=1)
    except checks.LattokError:
        checks.fail("prompt", "a text with {task} and {horizon} at most", f"{prompt!r:.80}")


def _check_latents(plan: Strategy, codebook_size: int, latent_dim: int) -> None:
    if plan.loss == "codes" and codebook_size < 2:
        checks.fail("codebook_size", f"at least 2, the size of the codebook that {plan.name} predicts", codebook_size)
    if plan.loss in ("align", "regress") and latent_dim < 1:
        checks.fail("latent_dim", f"the width of the latent actions that {plan.name} learns from", latent_dim)
