"""Architecture of `LatentVLA`; saved as config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lattok.backbones import DTYPES, SCRATCH, TRAIN, LoraSpec
from lattok.data.pixels import INTERPOLATIONS, MOST_CAMERAS, MOST_PIXELS
from lattok.hub import ADDED
from lattok.labels import LatentSpec
from lattok.nn.flow import MOST_FLOW_STEPS
from lattok.nn.normalize import MOST_NUMBERS, NormalizedActions, check_mixture, clipped_kinds, gripper_dims
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.vla.strategies import STRATEGIES, Segment, Strategy

PROMPT = "{task} Please predict the next {horizon} robot actions:"  # appendix B.1
POOLS = ("mean", "none")
HEADS = ("regression", "flow")
BCE = "l2_bce"
LATBOT = "latbot"  # name of the strategy of distilled policies
MOST_INSTRUCTIONS = 1000  # that a policy lists
MOST_SIDE = 2**14  # of a camera's images in pixels, twice that of 8K


@dataclass(frozen=True)
class VLAConfig(NormalizedActions):
    """Architecture of a policy. The first fields come from the dataset, the defaults of the others from the paper."""

    # what recipes take from the dataset and its labels: never an option
    from_data: ClassVar[frozenset[str]] = frozenset(
        {"action_dim", "action_names", "camera_sizes", "proprio_dim", "proprio_names", "latent", "fps", "instructions"}
        | {"normalizers", "absent"}
    )

    action_dim: int
    cameras: tuple[str, ...]  # none for a backbone that reads only text
    camera_sizes: tuple[tuple[int, int], ...]  # (H, W) of each camera's images before they are resized
    proprio_dim: int = 0  # 0: without proprio
    action_names: tuple[str, ...] = ()
    proprio_names: tuple[str, ...] = ()
    strategy: Strategy = STRATEGIES["baseline"]
    latent: LatentSpec | None = None  # what the labels are that the strategy follows
    horizon: int = 8  # actions of a prediction
    # of them carried out before it plans again (default: all)
    n_action_steps: int | None = field(default=None, metadata=ADDED)
    fps: float | None = field(default=None, metadata=ADDED)  # decisions a second, where the dataset is known
    instructions: tuple[str, ...] = field(default=(), metadata=ADDED)  # known ones; none: not listed
    normalizers: tuple[str, ...] = field(default=(), metadata=ADDED)  # datasets of a mixture, each with its own
    absent: tuple[tuple[int, ...], ...] = field(default=(), metadata=ADDED)  # of each: actions that its robot lacks
    image_size: int = 224  # side of the images in pixels
    interpolation: str = "bicubic"  # of what is resized, or "bilinear"
    prompt: str = PROMPT  # without {task}: a policy that knows no instruction
    backbone: str = "Qwen/Qwen3-VL-2B-Instruct"  # a Hub id, a folder, or "scratch"
    backbone_revision: str | None = None  # commit, or the fingerprint of a folder
    backbone_dtype: str = "float32"  # of the base model's frozen weights, or "bfloat16"; what is trained is float32
    train_backbone: str = "lora"  # or "full", "all_but_vision", "frozen"; a scratch backbone takes "full" only
    lora_rank: int = 64  # of the adapters in the backbone
    lora_alpha: float = 16.0  # what the adapters add is scaled by alpha / rank
    lora_dropout: float = 0.0  # of the adapters' input, while they learn
    lora_vision: bool = True  # adapters also in the image tower
    # the projector from the image tower to the words, of "lora": trained whole, not by adapters
    lora_projector: bool = field(default=False, metadata=ADDED)
    gradient_checkpointing: bool = False  # less memory for more time
    width: int = 128  # of the scratch backbone
    depth: int = 4  # layers of the scratch backbone
    heads: int = 4  # its attention heads
    patch_size: int = 16  # side of its patches in pixels
    head_dim: int = 512  # width of the action head
    head_heads: int = 8  # its attention heads
    head_layers: tuple[int, ...] = ()  # hidden states that the head sees; none: ⌈N/2⌉..N
    head: str = field(default="regression", metadata=ADDED)  # or "flow": chunks out of noise (flow matching)
    flow_steps: int = field(default=4, metadata=ADDED)  # Euler steps from noise to a chunk, of a flow head
    pool: str = "mean"  # states of the codes of a step, for the head: their mean, or "none"
    # "l2" (Eq. 4); the published code has "l1", which a flow head has not; "l2_bce": grippers by cross-entropy
    action_loss: str = "l2"
    loss_reduction: str = "mean"  # "sum" over steps, codes and dimensions, as printed in Eq. 4 and 7
    # of actions and proprio: "mean_std", "quantile", "min_max", "bounded" or "identity"
    normalize: str = "quantile"
    normalize_exceptions: tuple[str, ...] = ()  # of actions, as action tokenizers have them
    normalize_clip: bool = False  # what is normalised ends at -1 and 1, for the kinds that have such a range
    action_key: str = "action"
    state_key: str = "observation.state"

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, Strategy):
            hint = "lattok.vla.strategy_of has those with a name."
            checks.fail("strategy", "a Strategy", repr(self.strategy), hint)
        checks.counts(action_dim=self.action_dim, horizon=self.horizon)
        checks.counts(1, MOST_PIXELS, image_size=self.image_size)
        checks.counts(width=self.width, depth=self.depth, heads=self.heads, patch_size=self.patch_size)
        checks.counts(head_dim=self.head_dim, head_heads=self.head_heads)
        checks.counts(1, MOST_FLOW_STEPS, flow_steps=self.flow_steps)
        checks.one_of("head", self.head, HEADS)
        if self.head_dim % self.head_heads:
            checks.fail("head_heads", f"a divisor of head_dim {self.head_dim}", self.head_heads)
        checks.whole(proprio_dim=self.proprio_dim)
        check_mixture(self.normalizers)
        if self.absent:
            checks.size("absent", "lists, one for each dataset", len(self.absent), max(1, len(self.normalizers)))
            if not all(0 <= dim < self.action_dim for dims in self.absent for dim in dims):
                checks.fail("absent", f"dimensions from 0 to {self.action_dim - 1}", repr(self.absent))
        if self.n_action_steps is not None:
            checks.counts(1, self.horizon, n_action_steps=self.n_action_steps)
        if self.fps is not None:
            checks.frame_rate(fps=self.fps)
        checks.counts(0, MOST_INSTRUCTIONS, instructions=len(self.instructions))
        if self.action_dim * self.horizon > MOST_NUMBERS or self.proprio_dim > MOST_NUMBERS:
            got = f"{self.horizon} steps of {self.action_dim} dimensions, proprio_dim {self.proprio_dim}"
            checks.fail("action_dim", f"at most {MOST_NUMBERS:,} numbers in a chunk and in proprio", got)
        checks.named(self.action_dim, action_names=self.action_names)
        checks.named(self.proprio_dim, proprio_names=self.proprio_names)
        checks.one_of("train_backbone", self.train_backbone, ("full",) if self.backbone == SCRATCH else TRAIN)
        checks.one_of("backbone_dtype", self.backbone_dtype, DTYPES)
        checks.one_of("pool", self.pool, POOLS)
        checks.one_of("action_loss", self.action_loss, ("l2", "l1", BCE))
        if self.action_loss == BCE and not self.gripper:
            names = ", ".join(self.action_names) or "without names"
            checks.fail("action_loss", f"{BCE} for actions with a *gripper*", names)
        checks.one_of("loss_reduction", self.loss_reduction, ("mean", "sum"))
        checks.one_of("interpolation", self.interpolation, INTERPOLATIONS)
        _check_cameras(self.cameras, self.camera_sizes)
        _check_layers(self.head_layers)
        _check_labels(self.strategy, self.latent, self.horizon)
        try:
            checks.plain_format(self.prompt, task="", horizon=1)
        except LattokError:
            checks.fail("prompt", "a text with {task} and {horizon} at most", f"{self.prompt!r:.80}")
        _ = self.lora, self.action_clipped, self.proprio_clipped  # they check their own numbers

    @property
    def lora(self) -> LoraSpec:
        """Adapters of the backbone."""
        return LoraSpec(self.lora_rank, self.lora_alpha, self.lora_dropout, self.lora_vision, self.lora_projector)

    @property
    def gripper(self) -> tuple[int, ...]:
        """Action dimensions that are compared as opening or closing, with action_loss="l2_bce"."""
        return tuple(gripper_dims(self.action_names)) if self.action_loss == BCE else ()

    @property
    def proprio_clipped(self) -> list[bool]:
        """The same for proprio, whose dimensions all have one kind."""
        return clipped_kinds([self.normalize] * self.proprio_dim, self.normalize_clip and self.proprio_dim > 0)

    @property
    def acts(self) -> bool:
        """Whether it learns to act: a student of LatBot, which only follows its teacher, does not yet."""
        return self.strategy.name != LATBOT or self.latent is None

    @property
    def segments(self) -> dict[str, Segment]:
        """Where the placeholders of each span of the strategy stand."""
        return self.strategy.segments(self.horizon, self.latent)

    def layers(self, num_layers: int) -> tuple[int, ...]:
        """Return the hidden states that the head sees, of a backbone with `num_layers` layers (K_layers of Eq. 3)."""
        if not self.head_layers:
            return tuple(range(math.ceil(num_layers / 2), num_layers + 1))
        if max(self.head_layers) > num_layers:
            checks.fail("head_layers", f"hidden states from 0 to {num_layers} of this backbone", self.head_layers)
        if num_layers not in (self.head_layers[-1], *(loss.layer_index(num_layers) for loss in self.strategy.losses)):
            hint = "Layers that nothing reads would be trained without a gradient."
            checks.fail("head_layers", f"the last one, {num_layers}, among them", self.head_layers, hint)
        return self.head_layers

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the loss terms (Eq. 4)."""
        return {"action": 1.0} | {loss.name: loss.weight for loss in self.strategy.losses}


def _check_cameras(names: Any, sizes: Any) -> None:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        checks.fail("cameras", "a list of names", repr(names))
    if not isinstance(sizes, tuple) or not all(isinstance(size, tuple) and len(size) == 2 for size in sizes):
        checks.fail("camera_sizes", "a pair (H, W) for each camera", repr(sizes))
    checks.size("camera_sizes", "sizes, one for each camera", len(sizes), len(names))
    checks.counts(0, MOST_CAMERAS, cameras=len(names))
    for height, width in sizes:
        checks.counts(1, MOST_SIDE, camera_sizes=height)
        checks.counts(1, MOST_SIDE, camera_sizes=width)


def _check_layers(layers: Any) -> None:
    if not isinstance(layers, tuple) or not all(isinstance(k, int) and k >= 0 for k in layers):
        checks.fail("head_layers", "indices of hidden states", repr(layers))
    if list(layers) != sorted(set(layers)):
        checks.fail("head_layers", "different hidden states in ascending order", layers)


def _check_labels(strategy: Strategy, latent: LatentSpec | None, horizon: int) -> None:
    """Compare labels with what the strategy follows: their kind, and as many of them as its spans have steps."""
    if strategy.labels is None:
        if latent is not None:
            raise LattokError(f"`latent` was given, but {strategy.name} follows no labels. Leave it out.")
        return
    if latent is None:
        checks.fail("latent", f"what the labels of {strategy.labels} are, which {strategy.name} follows", "none")
    if latent.target != strategy.labels:
        checks.fail("latent", f"labels of {strategy.labels}, for {strategy.name}", f"labels of {latent.target}")
    strategy.check_parts(latent)
    steps = horizon if latent.target == "steps" else latent.steps
    if steps < 1 or latent.steps not in (0, steps) or latent.horizon not in (0, horizon):
        got = f"labels of {latent.steps} steps, of chunks of {latent.horizon}"
        checks.fail("latent", f"labels for chunks of {horizon} steps", got)
    segments = strategy.segments(horizon, latent)
    for loss in strategy.losses:
        checks.size("span", f"steps in `{loss.span}`, as the labels have", segments[loss.span].steps, steps)
