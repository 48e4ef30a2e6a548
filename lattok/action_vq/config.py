"""Configuration of the action tokenizer; saved as config.json. Defaults: LIBERO, P2T appendix A.2."""

from __future__ import annotations

from dataclasses import dataclass

from lattok import checks
from lattok.normalize import KINDS


@dataclass(frozen=True)
class ActionVQConfig:
    """Architecture and losses of `P2TActionVQ`."""

    action_dim: int
    horizon: int = 8
    dim: int = 128
    codebook_size: int = 256
    fft: bool = True
    dilations: tuple[int, ...] = (1, 2, 4)
    depth: int = 2
    heads: int = 4
    hidden: int = 256
    dropout: float = 0.1
    decoder: str = "step"  # "step": the paper's MLP, one code at a time; "context": over all codes of the chunk

    commitment_weight: float = 0.25
    mask_weight: float = 0.1
    mask_ratio: float = 0.15
    mask_reduction: str = "mean"  # "sum" as printed in Eq. 18
    mask_passes: int = 2  # 2: Eq. 16 from unmasked latents; 1: the published code, one masked pass for everything
    mask_detach_target: bool = True

    codebook_start: str = "kmeans"
    continuous_steps: int = 0
    decay: float = 0.99
    revive_below: float = 0.03
    normalize: str = "mean_std"
    action_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.counts(action_dim=self.action_dim, horizon=self.horizon, dim=self.dim, hidden=self.hidden)
        checks.counts(
            depth=self.depth, heads=self.heads, **{f"dilations[{i}]": r for i, r in enumerate(self.dilations)}
        )
        checks.counts(codebook_size=self.codebook_size)
        if self.codebook_size < 2:
            checks.fail("codebook_size", "at least 2", self.codebook_size)
        checks.one_of("normalize", self.normalize, KINDS)
        checks.at_least_zero(mask_weight=self.mask_weight, commitment_weight=self.commitment_weight)
        checks.one_of("decoder", self.decoder, ("step", "context"))
        checks.one_of("mask_reduction", self.mask_reduction, ("mean", "sum"))
        checks.one_of("mask_passes", self.mask_passes, (1, 2))
        for name in ("dropout", "mask_ratio"):
            if not 0 <= getattr(self, name) < 1:
                checks.fail(name, "a number in [0, 1)", getattr(self, name))
        if self.action_names:
            checks.size("action_names", "names", len(self.action_names), self.action_dim)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each loss term (Eq. 16)."""
        return {"reconstruction": 1.0, "commitment": self.commitment_weight, "mask": self.mask_weight}
