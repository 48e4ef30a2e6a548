"""What a training run says about its codebooks: usage, and a warning with numbers for each that collapses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from lattok.quantize import CodeUsage, QuantizerConfig


@dataclass
class CodebookReport:
    """Logged values and warnings about the codebooks of a model."""

    values: dict[str, float]
    warnings: list[str]


def codebook_report(model: nn.Module) -> CodebookReport:
    """Usage of every codebook since the last call, and a warning with numbers for each that collapses.

    Seen: few codes in use, low perplexity, and tokens that repeat one another (every code in use at every position,
    yet hardly more joint entropy than one token has).
    """
    report = CodebookReport({}, [])
    for name, module in model.named_modules():
        if not isinstance(module, CodeUsage):
            continue
        stats = module.pop_usage()
        if stats is None:
            continue
        size, used, perplexity = module.size, min(stats.used), min(stats.perplexity)
        report.values[f"codebook/{name}/used"] = float(used)
        report.values[f"codebook/{name}/perplexity"] = perplexity
        report.values[f"codebook/{name}/joint_bits"] = stats.joint_entropy
        if used < size / 4 or perplexity < size / 10:
            report.warnings.append(
                f"codebook `{name}` is collapsing: {used} of {size} codes in use, perplexity {perplexity:.1f}. "
                + _remedy(getattr(module, "config", None), module.frozen)
            )
        elif stats.tokens_repeat:
            report.warnings.append(
                f"codebook `{name}`: its {len(stats.used)} tokens repeat one another: {stats.combinations} rows, "
                f"{stats.joint_entropy:.1f} bits jointly, {math.log2(max(stats.perplexity)):.1f} in one token alone. "
                "Use the `robust` preset (per-token heads, normalised latents, residual codes)."
            )
    return report


def _remedy(config: QuantizerConfig | None, frozen: bool) -> str:
    """What has not been tried against collapse."""
    if frozen:
        return "Its codes are given: train the model they come from on data like this, with the same preset."
    if config is None:
        return "There is no codebook to start or revive here: lower lr, or normalise the latents (latent_norm=batch)."
    if config.update == "gradient":
        return _remedy_by_gradient(config)
    if config.start != "kmeans":
        return "Start it from data: codebook_start=kmeans."
    if config.revive_below == 0:
        return "Revive dead codes: revive_below=0.03."
    return "Early on this passes; if it stays, lower lr or start the codebook later (continuous_steps)."


def _remedy_by_gradient(config: QuantizerConfig) -> str:
    """The same for a codebook that learns by its loss: latents find it more easily than it finds them."""
    if config.start != "uniform":
        return "Start it small: codebook_start=uniform."
    if config.restart_every == 0 and config.revive_below == 0:
        return "Let dead codes restart as copies of used ones: restart_every=100."
    return "Early on this passes; if it stays, use the `robust` preset (normalised latents, moving averages)."
