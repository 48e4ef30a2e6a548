"""What a training run says about its codebooks: usage, and a warning with numbers for each that collapses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import nn

from lattok.quantize import CodeUsage, QuantizerConfig


@dataclass
class CodebookReport:
    """Logged values and warnings about the codebooks of a model."""

    values: dict[str, float]
    warnings: list[str]
    warned: list[str] = field(default_factory=list)  # names of the codebooks that the warnings are about


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
        before = len(report.warnings)
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
        report.warned += [name] * (len(report.warnings) - before)
    return report


START, START_STEPS = 0.25, 1000  # share of a run, and steps at most, in which codebooks may still be finding themselves
GROWTH = 1.1  # a codebook whose perplexity rises by this factor between two looks is on its way


@dataclass
class CodebookWatch:
    """`codebook_report` over a run, with the warnings that matter: few codes are normal while a codebook starts.

    There is no warning in the first steps, later on where a codebook that collapses does not recover by itself. What is
    collapsed when the run ends is said in any case.
    """

    steps: int  # of the run
    quiet: bool = False  # no warnings: a trial run ends before a codebook has started
    seen: dict[str, float] = field(default_factory=dict)  # perplexity of each codebook at the last look

    def __call__(self, model: nn.Module, done: int, last: bool = False) -> CodebookReport:
        """Usage since the last look, after `done` steps; `last`: the run ends here."""
        report = codebook_report(model)
        warnings = dict(zip(report.warned, report.warnings, strict=True))
        now = {name: report.values[f"codebook/{name}/perplexity"] for name in report.warned}
        starting = done <= min(START * self.steps, START_STEPS)
        for name in report.warned:
            before = self.seen.get(name)
            growing = before is not None and now[name] > GROWTH * before
            if self.quiet or (not last and (starting or growing)):
                del warnings[name]
        self.seen = now
        return CodebookReport(report.values, list(warnings.values()), list(warnings))


def _remedy(config: QuantizerConfig | None, frozen: bool) -> str:
    """Return what has not been tried against collapse."""
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
    """Return the same for a codebook that learns by its loss: latents find it more easily than it finds them."""
    if config.start != "uniform":
        return "Start it small: codebook_start=uniform."
    if config.restart_every == 0 and config.revive_below == 0:
        return "Let dead codes restart as copies of used ones: restart_every=100."
    return "Early on this passes; if it stays, use the `robust` preset (normalised latents, moving averages)."
