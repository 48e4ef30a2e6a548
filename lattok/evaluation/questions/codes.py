"""Are the codes used, and do they differ? Usage, perplexity and joint entropy, beside k-means at equal bits."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lattok.evaluation.evidence.latent_evidence import CodeStream, LatentEvidence
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Decision, Outcome, Section, Table, TableRow, Verdict
from lattok.nn.quantize import CodeStatistics, code_statistics

MIN_JOINT_SHARE = 0.9  # share of the control's bits that rows of healthy codes carry at least: measured, .95 to 1.31
IN_USE = Criterion("codes_in_use", "{Revive}; see joint_bits in the log.")
REFERENCES = ("Ye et al. 2025, LAPA; Bu et al. 2025, UniVLA (codes per position)",)


@question("usage", of=("pairs",), criteria=(IN_USE,), place=30)
def usage_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Measure usage, perplexity and joint entropy; None for a model without codes."""
    streams = evidence.streams
    if not streams:
        return None
    stats = {s.key: code_statistics(s.held_out, s.size) for s in streams}
    size, own = evidence.size, stats["model"]

    def rows(values: Callable[[CodeStatistics], list[float]]) -> tuple[TableRow, ...]:
        return tuple(TableRow(s.key, s.name, tuple(values(stats[s.key])), s.control) for s in streams)

    per_position, most = tuple(f"position {i + 1}" for i in range(len(own.used))), f"2 to the entropy; at most {size}."
    tables = (
        Table(
            "Joint code entropy, bits",
            ("entropy", "ceiling", "combinations", "held-out pairs"),
            rows(lambda s: [s.joint_entropy, s.joint_ceiling, s.combinations, len(evidence.held_out.rows)]),
            digits=(".2f", ".2f", ".0f", ".0f"),
            note="The ceiling is what this many pairs could show at most. More is not better by itself: random codes "
            "have much. A row far below the ceiling whose positions are all in use repeats itself.",
        ),
        Table(f"Codes in use of {size}", per_position, rows(lambda s: [float(n) for n in s.used]), digits=".0f"),
        Table("Perplexity", per_position, rows(lambda s: s.perplexity), digits=".1f", note=most),
    )
    text = (
        "Usage per position does not see tokens that repeat one another: every code can be in use at every position "
        "while the whole row says no more than one token. Joint entropy sees it. Few held-out pairs, or "
        "those of one task, show few codes: collapse is judged over all pairs, beside k-means on the same ones."
    )
    verdict, figures = collapse(streams[0], evidence.codes["residual_kmeans"]), dict[str, float]()
    reading = f"{verdict.text}."
    for key, each in stats.items():
        figures[f"joint_entropy_bits/{key}"] = each.joint_entropy
        figures[f"fewest_codes_used/{key}"] = float(min(each.used))
    figures["joint_entropy_bits/ceiling"] = own.joint_ceiling
    section = Section("Are the codes used, and do they differ?", text, tables, (), reading, REFERENCES)
    collapsed = Decision(40, False, f"No: the codes have collapsed. {verdict.text}.", caveats=False)
    return Outcome((section,), figures, [verdict], collapsed if verdict.holds is False else None)


def collapse(model: CodeStream, control: CodeStream) -> Verdict:
    """Judge codes over all pairs: few may be in use, and whole rows still carry what k-means does at equal bits."""
    both = [torch.cat([stream.train, stream.held_out]) for stream in (model, control)]
    own, kmeans = (code_statistics(codes, model.size) for codes in both)
    size, pairs = model.size, len(both[0])
    repeat = own.tokens_repeat
    few = min(own.used) < size / 2 or min(own.perplexity) < size / 4
    idle = few and own.joint_entropy < MIN_JOINT_SHARE * kmeans.joint_entropy
    still = kmeans.joint_entropy == 0  # all pairs look alike
    state = "the tokens repeat one another" if repeat else "much of a codebook is idle" if idle else "no collapse"
    text = (
        f"At least {min(own.used)} of {size} codes are in use at each position, and whole rows carry "
        f"{own.joint_entropy:.1f} bits over all {pairs} pairs, those of simple clustering {kmeans.joint_entropy:.1f}: "
        f"{'all pairs look alike' if still else state}"
    )
    return Verdict(text, None if still else not (repeat or idle), IN_USE)
