"""Configurations of the action tokenizers; saved as config.json."""

from __future__ import annotations

from dataclasses import dataclass, field

from lattok.hub import ADDED
from lattok.nn.normalize import MOST_NUMBERS, Normalization, NormalizedActions, gripper_dims
from lattok.utils import checks
from lattok.utils.options import FROM_DATA, REQUIRED, knows_data

QUICK_MODEL = {"dropout": 0.0}  # in a short run dropout costs reconstruction before it can help
MOST_STEPS = 4096  # of a chunk
ACTION_KINDS = ("unspecified", "relative", "absolute")


@dataclass(frozen=True)
class FitOptions:
    """What `fit` of a family takes by name besides its configuration: nothing, unless the family says more."""


@dataclass(frozen=True)
class SeededFit(FitOptions):
    """What every family of ours takes.

    Attributes:
        seed: of everything random
    """

    seed: int = 0


@dataclass(frozen=True)
class ChunkConfig(NormalizedActions):
    """What every family of action tokenizers knows about its chunks.

    A recipe has one before it has opened the dataset, with `action_dim=0`: checks that compare with it wait until
    `lattok.utils.options.knows_data`.

    Attributes:
        horizon: steps of a chunk
        normalize: "mean_std", "quantile", "min_max", "bounded" or "identity"
        normalize_exceptions: "gripper=min_max": another kind, by name, pattern (*) or index
        normalize_clip: normalised actions end at -1 and 1, for the kinds that have such a range
        action_kind: "relative": errors add up over a chunk, and a missing step is no motion
        normalizers: datasets with a normaliser of their own; none: one normaliser for all
    """

    action_dim: int = field(default=0, metadata=REQUIRED)
    horizon: int = 8
    normalize: Normalization = "mean_std"
    normalize_exceptions: tuple[str, ...] = ()
    normalize_clip: bool = field(default=False, metadata=ADDED)
    action_names: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    action_kind: str = "unspecified"
    normalizers: tuple[str, ...] = field(default=(), metadata=ADDED | FROM_DATA)

    def __post_init__(self) -> None:
        checks.counts(horizon=self.horizon)
        checks.one_of("action_kind", self.action_kind, ACTION_KINDS)
        if not knows_data(self):
            return
        checks.counts(action_dim=self.action_dim)
        if self.horizon > MOST_STEPS or self.horizon * self.action_dim > MOST_NUMBERS:
            expected = f"at most {MOST_STEPS:,} steps, and {MOST_NUMBERS:,} numbers in a chunk"
            checks.fail("horizon", expected, f"{self.horizon:,} steps of {self.action_dim:,} dimensions")
        checks.named(self.action_dim, action_names=self.action_names)
        if len(set(self.normalizers)) != len(self.normalizers):
            checks.fail("normalizers", "different names of datasets", ", ".join(self.normalizers))
        _ = self.action_clipped

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the action dimensions; numbers where there are none."""
        return self.action_names or tuple(str(i) for i in range(self.action_dim))

    @property
    def gripper(self) -> list[int]:
        """Find dimensions that open and close something."""
        return gripper_dims(self.action_names)

    @property
    def relative(self) -> list[int]:
        """Find dimensions that are increments."""
        return [i for i in range(self.action_dim) if self.action_kind == "relative" and i not in self.gripper]


@dataclass(frozen=True)
class ActionVQConfig(ChunkConfig):
    """Architecture and losses of `P2TActionVQ`. Defaults: LIBERO, P2T appendix A.2.

    Attributes:
        dim: width of a code
        codebook_size: codes to choose from
        fft: the encoder also sees the chunk's spectrum
        dilations: of the encoder's convolutions
        depth: Transformer layers of the encoder, and of the context decoder
        heads: their attention heads
        hidden: width inside the MLPs
        dropout: in the Transformer layers, while it learns
        decoder: "step": the paper's MLP, one code at a time; "context": over all codes of the chunk
        commitment_weight: of the loss that keeps latents near their codes
        loss_reduction: "sum": every norm of Eq. 16 to 18 a sum over steps and dimensions, as printed
        mask_weight: the paper's 0.1 raises the error by a third (docs/decisions.md)
        mask_ratio: share of the steps that the mask loss leaves out
        mask_passes: 2: Eq. 16 from unmasked latents; 1: the published code, one masked pass for everything
        mask_detach_target: the mask loss does not move what it compares with
        codebook_start: from the first latents; or random: "uniform" in ±1/K, "normal" with deviation 1
        continuous_steps: training steps that pass latents through before the codebook starts
        decay: per step, of the moving averages that the codebook is made of
        revive_below: a code is dead below this share of the mean use; 0 switches revival off
    """

    dim: int = 128
    codebook_size: int = 256
    fft: bool = True
    dilations: tuple[int, ...] = (1, 2, 4)
    depth: int = 2
    heads: int = 4
    hidden: int = 256
    dropout: float = 0.1
    decoder: str = "step"

    commitment_weight: float = 0.25
    loss_reduction: str = "mean"
    mask_weight: float = 0.0
    mask_ratio: float = 0.15
    mask_passes: int = 2
    mask_detach_target: bool = False

    codebook_start: str = "kmeans"
    continuous_steps: int = 0
    decay: float = 0.99
    revive_below: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(dim=self.dim, hidden=self.hidden, depth=self.depth, heads=self.heads)
        checks.counts(2, codebook_size=self.codebook_size)
        checks.counts(**{f"dilations[{i}]": r for i, r in enumerate(self.dilations)})
        checks.at_least_zero(mask_weight=self.mask_weight, commitment_weight=self.commitment_weight)
        checks.one_of("decoder", self.decoder, ("step", "context"))
        checks.one_of("loss_reduction", self.loss_reduction, ("mean", "sum"))
        checks.one_of("mask_passes", self.mask_passes, (1, 2))
        checks.below_one(dropout=self.dropout, mask_ratio=self.mask_ratio)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each loss term (Eq. 16)."""
        return {"reconstruction": 1.0, "commitment": self.commitment_weight, "mask": self.mask_weight}
