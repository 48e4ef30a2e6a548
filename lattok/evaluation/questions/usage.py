"""Are the codes used, and do they differ?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.page import svg
from lattok.evaluation.report import Outcome, Pictures, Section, Table, TableRow, Verdict
from lattok.quantize import CodeStatistics, code_statistics

REFERENCES = ("Ye et al. 2025, LAPA; Bu et al. 2025, UniVLA (codes per position)",)


def usage_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Measure usage, perplexity and joint entropy; None for a model without codes."""
    streams = evidence.streams
    if not streams:
        return None
    stats = {s.key: code_statistics(s.held_out, s.size) for s in streams}
    size, own = evidence.size, stats["model"]

    def table(
        title: str, columns: tuple[str, ...], values: Callable[[CodeStatistics], list[float]], digits: str, note: str
    ) -> Table:
        rows = tuple(TableRow(s.key, s.name, tuple(values(stats[s.key])), s.control) for s in streams)
        return Table(title, columns, rows, digits=tuple(digits.split()) if " " in digits else digits, note=note)

    per_position = tuple(f"position {i + 1}" for i in range(len(own.used)))
    tables = (
        table(
            "Joint code entropy, bits",
            ("entropy", "ceiling", "combinations", "held-out pairs"),
            lambda s: [s.joint_entropy, s.joint_ceiling, s.combinations, len(evidence.held_out.rows)],
            ".2f .2f .0f .0f",
            "The ceiling is what this many pairs could show at most. More is not better by itself: random codes have "
            "much. A row far below the ceiling whose positions are all in use repeats itself.",
        ),
        table(f"Codes in use of {size}", per_position, lambda s: [float(n) for n in s.used], ".0f", ""),
        table("Perplexity", per_position, lambda s: s.perplexity, ".1f", f"2 to the entropy; at most {size}."),
    )
    text = (
        "Usage per position does not see tokens that repeat one another: every code can be in use at every position "
        "while the whole row says no more than one token. Joint entropy sees it."
    )
    drawn = [("k-means control" if s.key == "residual_kmeans" else s.name, s) for s in streams if s.key != "untrained"]
    heat = _usage_heat([(name, s.held_out) for name, s in drawn], max(s.size for _, s in drawn))
    reading = (
        f"At least {min(own.used)} of {size} codes are in use at each position, and whole rows carry "
        f"{own.joint_entropy:.1f} of at most {own.joint_ceiling:.1f} bits "
        f"(k-means codes {stats['residual_kmeans'].joint_entropy:.1f})."
    )
    figures: dict[str, float] = {}
    for key, each in stats.items():
        figures[f"joint_entropy_bits/{key}"] = each.joint_entropy
        figures[f"fewest_codes_used/{key}"] = float(min(each.used))
    figures["joint_entropy_bits/ceiling"] = own.joint_ceiling
    section = Section("Are the codes used, and do they differ?", text, tables, (heat,), reading, REFERENCES)
    return Outcome((section,), figures, [_collapse(own, size)])


def _collapse(stats: CodeStatistics, size: int) -> Verdict:
    repeat = stats.tokens_repeat
    idle = min(stats.used) < size / 2 or min(stats.perplexity) < size / 4
    state = "the tokens repeat one another" if repeat else "much of a codebook is idle" if idle else "no collapse"
    text = (
        f"Joint code entropy {stats.joint_entropy:.1f} of {stats.joint_ceiling:.1f} bits, at least "
        f"{min(stats.used)} of {size} codes in use at each position: {state}"
    )
    return Verdict(text, not (repeat or idle), "codes_in_use")


def _usage_heat(streams: Sequence[tuple[str, Tensor]], size: int) -> Pictures:
    """Draw the share of every code at every position: (name, codes [N, P])."""
    panels = []
    for name, codes in streams:
        shares = [(torch.bincount(column, minlength=size).double() / len(codes)).tolist() for column in codes.T]
        panels.append(svg.heat(name, shares, [str(i + 1) for i in range(len(shares))]))
    return Pictures("Usage per position (rows) and code (columns); a dashed cell is never used.", tuple(panels))
