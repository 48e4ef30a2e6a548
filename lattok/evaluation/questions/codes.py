"""Are the codes used, and do they know the direction of the action? Usage, and mutual information with the direction.

direction     the axis along which the mean action departs most from its training mean, in standard deviations, and sign
per position  I = sum p(k, y) log2 p(k, y) / p(k) p(y), minus what codes shifted against the actions would show
usable        H - cross entropy of a linear classifier that reads all positions, fitted on the training episodes

Shifts move the actions along the pairs as a whole, so that both change as slowly as they do: a plain shuffle would
underestimate what chance shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lattok.evaluation.evidence.latent_evidence import CodeStream, LatentEvidence, Target
from lattok.evaluation.evidence.probes import Bootstrap, above_zero, jackknife, one_hot, validation_rows
from lattok.evaluation.page import svg
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Decision, Interval, Outcome, Pictures, Section, Table, TableRow, Verdict
from lattok.nn.normalize import Normalizer
from lattok.nn.quantize import CodeStatistics, code_statistics

SHIFTS = 20
PENALTIES = (1e-4, 1e-3, 1e-2)
MIN_JOINT_SHARE = 0.9  # share of the control's bits that rows of healthy codes carry at least: measured, .95 to 1.31
IN_USE = Criterion("codes_in_use", "{Revive}; see joint_bits in the log.")
DIRECTION = Criterion(
    "codes_know_direction", "The codes spend their bits on other things: {label}, or use fewer codes."
)
USAGE_REFERENCES = ("Ye et al. 2025, LAPA; Bu et al. 2025, UniVLA (codes per position)",)
DIRECTION_REFERENCES = (
    "Panzeri & Treves 1996, Analytical estimates of limited sampling biases in different information measures",
    "Xu et al. 2020, A theory of usable information under computational constraints",
)


class Directions(NamedTuple):
    """Direction of every pair's action: [n] and [N] int64, below `len(names)`."""

    train: Tensor
    held_out: Tensor
    names: tuple[str, ...]


class Information(NamedTuple):
    """Bits that codes hold about the direction."""

    positions: list[float]
    intervals: list[Interval | None]
    usable: Tensor  # [N] per held-out pair; the mean is the figure

    @property
    def bits(self) -> float:
        """Usable bits from all positions."""
        return float(self.usable.mean())


def directions(target: Target, dims: list[int], names: tuple[str, ...]) -> Directions:
    """Find the direction of every action over the dimensions `dims`, two directions each."""
    units = Normalizer(len(dims)).fit(target.train[:, dims])

    def of(actions: Tensor) -> Tensor:
        scaled = units(actions[:, dims])
        axis = scaled.abs().argmax(1)
        return 2 * axis + (scaled.gather(1, axis[:, None])[:, 0] > 0).long()

    labels = tuple(f"{names[dim]}{sign}" for dim in dims for sign in "−+")
    return Directions(of(target.train), of(target.held_out), labels)


def mutual_information(a: Tensor, b: Tensor) -> float:
    """Estimate mutual information in bits from counts of int64 [N] and [N]."""
    joint = torch.bincount(a * (int(b.max()) + 1) + b, minlength=(int(a.max()) + 1) * (int(b.max()) + 1))
    joint = joint.reshape(int(a.max()) + 1, -1).double() / len(a)
    chance = joint.sum(1, keepdim=True) * joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * (joint[seen] / chance[seen]).log2()).sum())


def corrected_information(a: Tensor, b: Tensor) -> float:
    """Subtract the mean over circular shifts of `b` from mutual information: about 0 for what is independent."""
    count = len(b)
    offsets = np.unique(np.linspace(count * 0.1, count * 0.9, SHIFTS).round().astype(int))
    chance = [mutual_information(a, b.roll(int(offset))) for offset in offsets if 0 < offset < count]
    return mutual_information(a, b) - float(np.mean(chance or [0.0]))


def information(
    train: Tensor, held_out: Tensor, size: int, found: Directions, target: Target, bootstrap: Bootstrap
) -> Information:
    """Measure what codes [n, P], [N, P] of `size` say about the direction of held-out pairs."""
    y = found.held_out
    parts = [bootstrap.index != episode for episode in range(bootstrap.count)] if bootstrap.count > 1 else []
    positions, intervals = [], []
    for column in held_out.T:
        positions.append(value := corrected_information(column, y))
        intervals.append(jackknife(value, [corrected_information(column[keep], y[keep]) for keep in parts]))
    return Information(positions, intervals, usable_bits(one_hot(train, size), one_hot(held_out, size), found, target))


def usable_bits(x: Tensor, x_test: Tensor, found: Directions, target: Target) -> Tensor:
    """Measure the bits [N] that a linear classifier gains over the training split's frequencies, per held-out pair."""
    classes, y = len(found.names), found.train
    left = validation_rows(target.episodes)
    scores = [float(F.cross_entropy(_logits(x[~left], y[~left], x[left], classes, p), y[left])) for p in PENALTIES]
    logits = _logits(x, y, x_test, classes, PENALTIES[scores.index(min(scores))])
    base = (torch.bincount(y, minlength=classes) + 1.0).log().log_softmax(0)  # + 1: none is impossible
    own = F.cross_entropy(logits, found.held_out, reduction="none")
    return ((-base[found.held_out] - own) / np.log(2)).double()


def _logits(x: Tensor, y: Tensor, x_test: Tensor, classes: int, penalty: float) -> Tensor:
    """Fit multinomial logistic regression with an L2 penalty by L-BFGS, which is deterministic; predict logits."""
    weights = torch.zeros(x.shape[1] + 1, classes, requires_grad=True)
    padded, padded_test = F.pad(x.float(), (0, 1), value=1.0), F.pad(x_test.float(), (0, 1), value=1.0)
    solver = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        with torch.enable_grad():
            value = F.cross_entropy(padded @ weights, y) + penalty * weights[:-1].square().sum()
            (weights.grad,) = torch.autograd.grad(value, weights)
        return value

    solver.step(loss)  # pyright: ignore[reportArgumentType]
    return (padded_test @ weights).detach()


@question("direction", of=("pairs",), criteria=(DIRECTION,), place=40)
def direction_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Measure mutual information with the action's direction; None without actions or codes."""
    target, streams = evidence.target, evidence.streams
    if target is None or not streams:
        return None
    dims = evidence.space or list(range(len(evidence.names)))
    found = directions(target, dims, evidence.names)
    results = {s.key: information(s.train, s.held_out, s.size, found, target, evidence.bootstrap) for s in streams}
    own, rival = results["model"], results["residual_kmeans"]
    span = evidence.bootstrap.interval(evidence.bootstrap.mean(own.usable - rival.usable))
    holds = above_zero(own.bits - rival.bits, span)
    word = {None: "no clear difference to", True: "more than", False: "less than"}[holds]
    text = f"The codes say {own.bits:.2f} bits about the direction of the action, {word} simple clustering "
    text += f"({rival.bits:.2f})"
    figures = {f"direction_bits/{key}": result.bits for key, result in results.items()}
    figures["direction_bits/entropy"] = code_statistics(found.held_out[:, None], len(found.names)).joint_entropy
    figures |= {f"direction_bits_best_position/{key}": max(result.positions) for key, result in results.items()}
    best = max(range(len(own.positions)), key=lambda i: own.positions[i])
    rows = []
    for key, name, *_, control in streams:
        overall = evidence.bootstrap.interval(evidence.bootstrap.mean(results[key].usable))
        values, intervals = (results[key].bits, *results[key].positions), (overall, *results[key].intervals)
        rows.append(TableRow(key, name, values, control, intervals=intervals))
    columns = ("all positions", *(f"position {i + 1}" for i in range(len(own.positions))))
    table = Table("Bits about the direction of the action", columns, tuple(rows), better="higher", digits=".2f")
    section = Section(
        "Do the codes know the direction of the action?",
        "The direction is the axis along which the mean action departs most from its training mean, and its sign: "
        f"{', '.join(found.names)}. Per position: mutual information on held-out pairs, corrected by what codes "
        "shifted against the actions would show, with intervals over episodes (jackknife). All positions: the bits "
        "that a linear classifier gains, fitted on training episodes; what it cannot read is not counted.",
        (table,),
        (_direction_heat(evidence, found, best),),
        f"{text}, of {figures['direction_bits/entropy']:.2f} bits there are; position {best + 1} says most.",
        DIRECTION_REFERENCES,
    )
    known = figures["direction_bits/entropy"] > 0  # otherwise there is nothing to say
    return Outcome((section,), figures, [Verdict(text, holds, DIRECTION)] if known else [])


def _direction_heat(evidence: LatentEvidence, found: Directions, position: int) -> Pictures:
    """Show how often each code goes with each direction at one position, for the model and the k-means control."""
    panels = []
    own, kmeans = evidence.held_out.latents.codes, evidence.codes["residual_kmeans"].held_out
    for name, codes in (("latent actions", own), ("k-means control", kmeans)):
        counts = torch.zeros(len(found.names), evidence.size)
        counts.index_put_((found.held_out, codes[:, position]), torch.ones(len(codes)), accumulate=True)
        shares = (counts / counts.sum(1, keepdim=True).clamp_min(1)).tolist()
        panels.append(svg.heat(f"{name}, position {position + 1}", shares, found.names))
    caption = "Codes (columns) that go with each direction (rows): the fuller the colour of a cell, the more often."
    return Pictures(caption, tuple(panels))


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
    heat = _usage_heat([stream for stream in streams if stream.key != "untrained"])
    verdict, figures = collapse(streams[0], evidence.codes["residual_kmeans"]), dict[str, float]()
    reading = f"{verdict.text}."
    for key, each in stats.items():
        figures[f"joint_entropy_bits/{key}"] = each.joint_entropy
        figures[f"fewest_codes_used/{key}"] = float(min(each.used))
    figures["joint_entropy_bits/ceiling"] = own.joint_ceiling
    section = Section("Are the codes used, and do they differ?", text, tables, (heat,), reading, USAGE_REFERENCES)
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


def _usage_heat(streams: list[CodeStream]) -> Pictures:
    panels, size = [], max(stream.size for stream in streams)
    for key, name, _, codes, *_ in streams:
        shares = [(torch.bincount(column, minlength=size).double() / len(codes)).tolist() for column in codes.T]
        title = "k-means control" if key == "residual_kmeans" else name
        panels.append(svg.heat(title, shares, [str(i + 1) for i in range(len(shares))]))
    return Pictures("Usage per position (rows) and code (columns); a dashed cell is never used.", tuple(panels))
