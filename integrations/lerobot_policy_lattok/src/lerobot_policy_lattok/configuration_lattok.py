"""`--policy.type=lattok`: the options of a `lattok.vla.LatentVLA`, and what its dataset told about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lattok.backbones import SCRATCH
from lattok.labels import LatentSpec
from lattok.recipes.vla import VLARecipe
from lattok.utils import checks
from lattok.utils.options import built, flat, options_of
from lattok.vla import Strategy, VLAConfig, strategy_of
from lattok.vla.config import TokenSpec

DEFAULTS = flat(VLAConfig())
# these have other defaults for the scratch backbone
OF_BACKBONE = ("backbone_train", "image_size", "interpolation", "head_dim", "head_heads")
OF_BACKBONE += ("action_loss", "prompt", "backbone_depth", "backbone_patch_size")


@LRSchedulerConfig.register_subclass("lattok_steps")
@dataclass
class StepDecayConfig(LRSchedulerConfig):
    """The learning rate times `decay_factor` every `decay_every` steps (Table 8), which LeRobot does not have."""

    num_warmup_steps: int | None = 0
    decay_every: int = 10_000
    decay_factor: float = 0.5

    def build(self, optimizer: Optimizer, num_training_steps: int) -> LambdaLR:
        """Make the schedule; without warm-up, and of any length."""
        return LambdaLR(optimizer, lambda step: self.decay_factor ** (step // self.decay_every))


@PreTrainedConfig.register_subclass("lattok")
@dataclass
class LattokConfig(PreTrainedConfig):
    """Options of the policy; those that are None get lattok's own defaults for the backbone.

    The last block is filled in from the dataset when a policy is made, and travels with the checkpoint.
    """

    # what it learns
    strategy: str = "baseline"
    layer: int | float | None = None  # hidden state of the latent loss: index, or fraction of the layers
    latent_weight: float | None = None  # lambda
    prefix: str | None = None  # of the label columns; None: the only one that fits the strategy
    labels: str | None = None  # folder of labels beside the dataset
    action_loss: str | None = None
    loss_reduction: str = DEFAULTS["loss_reduction"]
    # what it sees and does
    cameras: list[str] | None = None  # None: all of the dataset
    proprio: bool = True  # sees observation.state
    chunk_size: int = 8  # actions of a prediction
    n_action_steps: int | None = None  # of them carried out; None: all
    prompt: str | None = None
    # its model
    backbone: str = DEFAULTS["backbone"]  # a Hub id, a folder, or "scratch"
    backbone_revision: str | None = None
    backbone_dtype: str = DEFAULTS["backbone_dtype"]
    backbone_train: str | None = None
    backbone_lora_rank: int = DEFAULTS["backbone_lora_rank"]
    backbone_lora_alpha: float = DEFAULTS["backbone_lora_alpha"]
    backbone_lora_dropout: float = DEFAULTS["backbone_lora_dropout"]
    backbone_lora_vision: bool = DEFAULTS["backbone_lora_vision"]
    backbone_lora_projector: bool = DEFAULTS["backbone_lora_projector"]
    backbone_gradient_checkpointing: bool = False
    backbone_width: int = DEFAULTS["backbone_width"]  # of the scratch backbone
    backbone_depth: int | None = None
    backbone_heads: int = DEFAULTS["backbone_heads"]
    backbone_patch_size: int | None = None
    image_size: int | None = None
    interpolation: str | None = None
    head_dim: int | None = None
    head_heads: int | None = None
    head_layers: list[int] = field(default_factory=list)
    pool: str = "mean"
    head: str = DEFAULTS["head"]  # "regression"; "flow": chunks out of noise; "tokens": codes of `tokenizer`
    tokenizer: str | None = None  # of head=tokens: a folder or a Hub id; checkpoints hold it
    head_order: str = DEFAULTS["head_order"]  # of tokens: autoregressive, or parallel
    head_temperature: float = DEFAULTS["head_temperature"]  # of tokens that are drawn; 0: the likeliest
    head_draws: int = DEFAULTS["head_draws"]  # of them for a decision, which is their average
    head_average: str = DEFAULTS["head_average"]  # of drawn chunks: mean, or median
    head_codes: int = DEFAULTS["head_codes"]  # of a chunk, the first ones, where these decode alone; 0: all
    head_flow_steps: int = DEFAULTS["head_flow_steps"]
    align_projection: str | None = None  # of LA-Align: linear, or mlp
    # normalisation is the model's own: LeRobot's steps must leave everything as it is
    normalize: str = "mean_std"  # or "quantile", "min_max"; measured in the rows of the dataset
    normalize_exceptions: list[str] = field(default_factory=list)  # "*gripper*=bounded": dimensions of actions
    normalize_clip: bool = False  # of kinds with a range, which ends there
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ENV", "ACTION"), NormalizationMode.IDENTITY)
    )
    # optimizer (Table 8)
    optimizer_lr: float | None = None
    optimizer_weight_decay: float = 0.01
    optimizer_grad_clip_norm: float = 1.0
    scheduler_decay_every: int = 10_000
    scheduler_decay_factor: float = 0.5
    # filled in from the dataset
    latent: LatentSpec | None = None  # what the labels are
    tokens: TokenSpec | None = None  # what the tokenizer is
    action_names: list[str] = field(default_factory=list)
    proprio_names: list[str] = field(default_factory=list)
    fps: float | None = None  # of the episodes, where lattok trained the policy
    instructions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.plan  # noqa: B018  # checks its own numbers
        preset = VLARecipe.presets[SCRATCH if self.backbone == SCRATCH else VLARecipe.default_preset]
        defaults = {name: preset.get(name, DEFAULTS[name]) for name in OF_BACKBONE}
        if self.head == "flow":
            defaults["action_loss"] = DEFAULTS["action_loss"]  # the preset's is for regression
        defaults |= {"optimizer_lr": preset["lr"], "n_action_steps": self.chunk_size}
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.tokenizer is not None and self.head != "tokens":
            checks.fail("tokenizer", "none without head=tokens", self.tokenizer)
        checks.counts(chunk_size=self.chunk_size, n_action_steps=self.steps_taken)
        if self.steps_taken > self.chunk_size:
            checks.fail("n_action_steps", f"at most chunk_size {self.chunk_size}", self.n_action_steps)
        if any(mode is not NormalizationMode.IDENTITY for mode in self.normalization_mapping.values()):
            got = {kind: mode.value for kind, mode in self.normalization_mapping.items()}
            hint = "The policy normalises by itself; `--policy.normalize` says with which statistics."
            checks.fail("normalization_mapping", "IDENTITY for everything", got, hint)

    @property
    def plan(self) -> Strategy:
        """The strategy with its layer and weight."""
        changes = {"layer": self.layer, "weight": self.latent_weight, "projection": self.align_projection}
        return strategy_of(self.strategy, **changes)

    @property
    def steps_taken(self) -> int:
        """Actions of a prediction that are carried out."""
        return self.chunk_size if self.n_action_steps is None else self.n_action_steps

    @property
    def action_dim(self) -> int:
        """Numbers of an action."""
        if self.action_feature is None:
            checks.fail("output_features", "`action`", ", ".join(self.output_features or ()) or "none")
        return self.action_feature.shape[0]

    @property
    def proprio_dim(self) -> int:
        """Numbers of the robot's state that the policy sees."""
        state = self.robot_state_feature if self.proprio else None
        return 0 if state is None else state.shape[0]

    def model_config(self) -> VLAConfig:
        """Return the architecture of the policy; features must be known."""
        self.validate_features()
        cameras, features = self.cameras or list(self.image_features), self.image_features
        names = [option.name for option in options_of(VLAConfig)]
        values: dict[str, Any] = {name: getattr(self, name) for name in names if name in self.__dataclass_fields__}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        values |= {"action_dim": self.action_dim, "proprio_dim": self.proprio_dim, "cameras": tuple(cameras)}
        values |= {"camera_sizes": tuple(tuple(features[camera].shape[1:]) for camera in cameras)}
        values["n_action_steps"] = None if self.steps_taken == self.chunk_size else self.steps_taken
        return built(VLAConfig, values | {"strategy": self.plan, "horizon": self.chunk_size})

    def validate_features(self) -> None:
        """Raise `LattokError` where the dataset has no camera or no `action`, or lacks a camera that was named."""
        have = list(self.image_features)
        missing = [camera for camera in self.cameras or () if camera not in have]
        if missing or not have:
            checks.fail("cameras", f"cameras among {', '.join(have) or 'none'}", ", ".join(missing) or "none")
        self.action_dim  # noqa: B018  # checks that there is one

    @property
    def observation_delta_indices(self) -> None:
        """None: only the present is seen."""
        return

    @property
    def action_delta_indices(self) -> list[int]:
        """The actions of a chunk. Latent actions of its steps are read by the policy itself (`FrameLabels`)."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """None: there are no rewards."""
        return

    def get_optimizer_preset(self) -> AdamWConfig:
        """Return AdamW; its second-moment decay and eps are torch's."""
        lr, decay, clip = self.optimizer_lr, self.optimizer_weight_decay, self.optimizer_grad_clip_norm
        return AdamWConfig(lr=cast(float, lr), weight_decay=decay, grad_clip_norm=clip)

    def get_scheduler_preset(self) -> StepDecayConfig:
        """Return the schedule of Table 8: halved every 10,000 steps."""
        return StepDecayConfig(decay_every=self.scheduler_decay_every, decay_factor=self.scheduler_decay_factor)
