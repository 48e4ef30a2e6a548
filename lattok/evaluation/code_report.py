"""Are the codes used, do they differ, and do they know the direction of the action? Tables, figures and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lattok.evaluation import pictures, svg
from lattok.evaluation.information import Directions, Information, directions, information
from lattok.evaluation.latent import Evidence
from lattok.evaluation.report import Part, Row, Section, Table, Verdict
from lattok.quantize import CodeStatistics, code_statistics

REFERENCES = (
    "Ye et al. 2025, LAPA; Bu et al. 2025, UniVLA (codes per position)",
    "Panzeri & Treves 1996, Analytical estimates of limited sampling biases in different information measures",
    "Xu et al. 2020, A theory of usable information under computational constraints",
)


class Stream(NamedTuple):
    """Codes of one source on both splits."""

    key: str
    name: str
    train: Tensor  # [n, P]
    held_out: Tensor  # [N, P]
    size: int
    control: bool


def streams_of(evidence: Evidence) -> list[Stream]:
    """The model's streams, then the controls; none for a model without codes."""
    if evidence.codes is None:
        return []
    train, held_out, size = evidence.train.latents, evidence.held_out.latents, evidence.size
    found = [Stream("model", "latent actions", train.codes, held_out.codes, size, False)]
    if train.env is not None and held_out.env is not None:
        codes = (train.env.codes, held_out.env.codes)
        found.append(Stream("env", "environment stream", *codes, evidence.env_size, False))
    for key, control in (("residual_kmeans", evidence.codes.kmeans), ("untrained", evidence.codes.untrained)):
        found.append(Stream(key, control.name, control.train, control.held_out, size, True))
    return found


def usage_part(evidence: Evidence) -> Part | None:
    """Usage, perplexity and joint entropy; None for a model without codes."""
    streams = streams_of(evidence)
    if not streams:
        return None
    stats = {s.key: code_statistics(s.held_out, s.size) for s in streams}
    size, own = evidence.size, stats["model"]

    def table(
        title: str, columns: tuple[str, ...], values: Callable[[CodeStatistics], list[float]], digits: str, note: str
    ) -> Table:
        rows = tuple(Row(s.key, s.name, tuple(values(stats[s.key])), s.control) for s in streams)
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
    heat = pictures.usage_heat([(name, s.held_out) for name, s in drawn], max(s.size for _, s in drawn))
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
    section = Section("Are the codes used, and do they differ?", text, tables, (heat,), reading, REFERENCES[:1])
    return Part(section, figures, [_collapse(own, size)])


def _collapse(stats: CodeStatistics, size: int) -> Verdict:
    repeat = stats.tokens_repeat
    idle = min(stats.used) < size / 2 or min(stats.perplexity) < size / 4
    state = "the tokens repeat one another" if repeat else "much of a codebook is idle" if idle else "no collapse"
    text = (
        f"Joint code entropy {stats.joint_entropy:.1f} of {stats.joint_ceiling:.1f} bits, at least "
        f"{min(stats.used)} of {size} codes in use at each position: {state}"
    )
    return Verdict(text, not (repeat or idle), "codes_in_use")


def information_part(evidence: Evidence) -> Part | None:
    """Mutual information with the action's direction; None without actions or codes."""
    target, streams = evidence.target, streams_of(evidence)
    if target is None or not streams:
        return None
    dims = evidence.space or list(range(len(evidence.names)))
    found = directions(target, dims, evidence.names)
    results = {s.key: information(s.train, s.held_out, s.size, found, target, evidence.bootstrap) for s in streams}
    own, rival = results["model"], results["residual_kmeans"]
    sums = evidence.bootstrap.sums
    gain = sums((own.usable - rival.usable)[:, None]) / sums(torch.ones(len(own.usable), 1, dtype=torch.float64))
    span = evidence.bootstrap.interval(gain[:, 0])
    unclear = span is None or span[0] <= 0 <= span[1]
    word = "no clear difference to" if unclear else "more than" if own.bits > rival.bits else "less than"
    text = (
        f"The codes say {own.bits:.2f} bits about the direction of the action, {word} k-means codes ({rival.bits:.2f})"
    )
    figures = {f"direction_bits/{key}": result.bits for key, result in results.items()}
    figures["direction_bits/entropy"] = _entropy(found.held_out)
    figures |= {f"direction_bits_best_position/{key}": max(result.positions) for key, result in results.items()}
    best = max(range(len(own.positions)), key=lambda i: own.positions[i])
    section = Section(
        "Do the codes know the direction of the action?",
        "The direction is the axis along which the mean action departs most from its training mean, and its sign: "
        f"{', '.join(found.names)}. Per position: mutual information on held-out pairs, corrected by what codes "
        "shifted against the actions would show, with intervals over episodes (jackknife). All positions: the bits "
        "that a linear classifier gains, fitted on training episodes; what it cannot read is not counted.",
        (_information_table(evidence, streams, results, found),),
        (_direction_heat(evidence, found, best),),
        f"{text}, of {figures['direction_bits/entropy']:.2f} bits there are; position {best + 1} says most.",
        REFERENCES[1:],
    )
    return Part(section, figures, [Verdict(text, None if unclear else own.bits > rival.bits, "codes_know_direction")])


def _information_table(
    evidence: Evidence, streams: list[Stream], results: dict[str, Information], found: Directions
) -> Table:
    rows, count = [], len(found.held_out)
    ones = evidence.bootstrap.sums(torch.ones(count, 1, dtype=torch.float64))
    for stream in streams:
        result = results[stream.key]
        drawn = evidence.bootstrap.sums(result.usable[:, None]) / ones
        intervals = (evidence.bootstrap.interval(drawn[:, 0]), *result.intervals)
        rows.append(Row(stream.key, stream.name, (result.bits, *result.positions), stream.control, intervals=intervals))
    columns = ("all positions", *(f"position {i + 1}" for i in range(len(results["model"].positions))))
    return Table("Bits about the direction of the action", columns, tuple(rows), better="higher", digits=".2f")


def _direction_heat(evidence: Evidence, found: Directions, position: int) -> pictures.Pictures:
    """How often each code goes with each direction, at one position, beside the k-means control."""
    panels = []
    assert evidence.codes is not None
    own, kmeans = evidence.held_out.latents.codes, evidence.codes.kmeans.held_out
    for name, codes in (("latent actions", own), ("k-means control", kmeans)):
        counts = torch.zeros(len(found.names), evidence.size)
        counts.index_put_((found.held_out, codes[:, position]), torch.ones(len(codes)), accumulate=True)
        shares = (counts / counts.sum(1, keepdim=True).clamp_min(1)).tolist()
        panels.append(svg.heat(f"{name}, position {position + 1}", shares, found.names))
    return pictures.Pictures(
        "Codes (columns) that go with each direction (rows): the fuller the colour of a cell, the more often.",
        tuple(panels),
    )


def _entropy(values: Tensor) -> float:
    share = torch.bincount(values).double() / len(values)
    share = share[share > 0]
    return float(-(share * share.log2()).sum())
