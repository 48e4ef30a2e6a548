"""Codes: are they used, and do they differ, beside k-means at equal bits? What do they look like: typical pairs of
those used most, codes over time, any pairs?
"""

from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.pair_set import PairSet, exchange
from lattok.evaluation.evidence.unlearned import CodeStream
from lattok.evaluation.page.episode import image_tag, over_time
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Decision, Outcome, Pictures, Section, Table, TableRow, Verdict
from lattok.evaluation.wording import printed
from lattok.image_lam.base.features import FrozenFeatures
from lattok.nn.normalize import Normalizer
from lattok.nn.quantize import CodeStatistics, code_statistics
from lattok.types import PredictsFrames, lacks
from lattok.utils.commands import advise

MIN_JOINT_SHARE = 0.9  # share of the control's bits that rows of healthy codes carry at least: measured, .95 to 1.31
IN_USE = Criterion("codes_in_use", advise("{Revive}; see joint_bits in the log."))
REFERENCES = ("Ye et al. 2025, LAPA; Bu et al. 2025, UniVLA (codes per position)",)
POSITIONS, CODES, CLIPS, CAMERAS = 4, 4, 3, 2  # what fits on a page
SIDE, QUALITY = 64, 70
EXAMPLES, THUMBNAIL = 4, 128


@question("usage", of=("labels",), criteria=(IN_USE,), place=30)
def usage_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Measure usage, perplexity and joint entropy; None for a model without codes."""
    streams = evidence.streams
    if not streams:
        return None
    stats = {s.key: code_statistics(s.held_out, s.size) for s in streams}
    size, own = evidence.size, stats["model"]

    def rows(values: Callable[[CodeStatistics], list[float]]) -> tuple[TableRow, ...]:
        return tuple(TableRow(s.key, s.name, tuple(values(stats[s.key])), s.control) for s in streams)

    joint = rows(lambda s: [s.joint_entropy, s.joint_ceiling, s.combinations, len(evidence.held_out.rows)])
    columns = ("entropy", "ceiling", "combinations", "held-out pairs")
    note = "The ceiling is what this many pairs could show at most. More is not better by itself: random codes have "
    note += "much. A row far below the ceiling whose positions are all in use repeats itself."
    per_position, most = tuple(f"position {i + 1}" for i in range(len(own.used))), f"2 to the entropy; at most {size}."
    tables = (
        Table("Joint code entropy, bits", columns, joint, digits=(".2f", ".2f", ".0f", ".0f"), note=note),
        Table(f"Codes in use of {size}", per_position, rows(lambda s: [float(n) for n in s.used]), digits=".0f"),
        Table("Perplexity", per_position, rows(lambda s: s.perplexity), digits=".1f", note=most),
    )
    text = (
        "Usage per position does not see tokens that repeat one another: every code can be in use at every position "
        "while the whole row says no more than one token. Joint entropy sees it. Few held-out pairs, or "
        "those of one task, show few codes: collapse is judged over all pairs, beside k-means on the same ones."
    )
    clusters = next(each for each in streams if each.key == "residual_kmeans")
    verdict, figures = collapse(streams[0], clusters), dict[str, float]()
    for key, each in stats.items():
        figures[f"joint_entropy_bits/{key}"] = each.joint_entropy
        figures[f"fewest_codes_used/{key}"] = float(min(each.used))
    figures["joint_entropy_bits/ceiling"] = own.joint_ceiling
    section = Section("Are the codes used, and do they differ?", text, tables, (), f"{verdict.text}.", REFERENCES)
    collapsed = Decision(40, False, f"No: the codes have collapsed. {verdict.text}.", caveats=False)
    return Outcome((section,), figures, [verdict], collapsed if verdict.holds is False else None)


def collapse(model: CodeStream, control: CodeStream) -> Verdict:
    """Judge codes over all pairs: few may be in use, and whole rows still carry what k-means does at equal bits."""
    both = [torch.cat([stream.train, stream.held_out]) for stream in (model, control)]
    own, kmeans = (code_statistics(codes, model.size) for codes in both)
    size, pairs, said = model.size, len(both[0]), max(0.0, own.joint_entropy)  # of one code it is -0
    repeat = own.tokens_repeat
    few = min(own.used) < size / 2 or min(own.perplexity) < size / 4 or own.joint_entropy <= 0
    idle = few and own.joint_entropy < MIN_JOINT_SHARE * kmeans.joint_entropy
    still = kmeans.joint_entropy == 0  # all pairs look alike
    less = f"less than {MIN_JOINT_SHARE:.0%} as many, much of a codebook is idle"
    state = "the tokens repeat one another" if repeat else less if idle else "no collapse"
    text = (
        f"At least {min(own.used)} of {size} codes are in use at each position, and whole rows carry "
        f"{said:.1f} bits over all {pairs} pairs, those of simple clustering {kmeans.joint_entropy:.1f}: "
        f"{'all pairs look alike' if still else state}"
    )
    return Verdict(text, None if still else not (repeat or idle), IN_USE)


@question("gallery", of=("labels",), place=84)
def gallery_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Show the codes used most, position by position; the first one is open. None for a model without codes."""
    if not evidence.codes:
        return None
    codes = evidence.held_out.latents.codes
    shown = []
    for position in range(min(POSITIONS, codes.shape[1])):
        counts = torch.bincount(codes[:, position], minlength=evidence.size)
        most = counts.argsort(descending=True, stable=True)[:CODES]
        panels = tuple(_panel(evidence, position, int(code)) for code in most if counts[code])
        caption = f"The {len(panels)} codes used most at position {position + 1}. Before | after, one clip per row."
        shown.append(Pictures(caption, panels, title=f"Position {position + 1}", folded=position > 0))
    text = (
        "Held-out pairs whose latents are nearest to the middle of all pairs with that code, each from another "
        "episode where there are enough. Mean action: in standard deviations from the training mean. Codes of a "
        "residual quantizer refine one another, so that later positions look less pure."
    )
    return Outcome((Section("What do single codes look like?", text, (), tuple(shown)),))


def typical(evidence: LatentEvidence, position: int, code: int) -> list[int]:
    """Find held-out pairs with a code, nearest first to the mean latent of all of them, one per episode first."""
    latents, episodes = evidence.held_out.latents, evidence.held_out.episode_of
    rows = (latents.codes[:, position] == code).nonzero()[:, 0]
    flat = latents.latents[rows].flatten(1)
    order = rows[(flat - flat.mean(0)).square().sum(1).argsort(stable=True)].numpy()
    first = np.sort(np.unique(episodes[order], return_index=True)[1])
    return [*order[first].tolist(), *np.delete(order, first).tolist()][:CLIPS]


def _panel(evidence: LatentEvidence, position: int, code: int) -> str:
    held_out, cameras = evidence.held_out, evidence.model.cameras[:CAMERAS]
    rows = typical(evidence, position, code)
    frames = held_out.pictures(torch.tensor(rows))
    lines = []
    for row, pair in zip(rows, frames, strict=True):
        images = "".join(
            image_tag(f"{camera}, {moment}", pair[i, v].numpy(), SIDE, QUALITY)
            for v, camera in enumerate(cameras)
            for i, moment in enumerate(("before", "after"))
        )
        lines.append(f'<div title="{_where(held_out, row)}">{images}</div>')
    used = held_out.latents.codes[:, position] == code
    head = f"<p>code <b>{code}</b> · {int(used.sum())} pairs{_mean_action(evidence, used)}</p>"
    return f'<div class="strip">{head}<div class="gallery">{"".join(lines)}</div></div>'


def _mean_action(evidence: LatentEvidence, used: Tensor) -> str:
    """Name the three dimensions in which the pairs' actions depart most from the training mean."""
    if evidence.target is None:
        return ""
    units = Normalizer(len(evidence.names)).fit(evidence.target.train)
    scaled = units(evidence.target.held_out[used].mean(0))
    top = scaled.abs().argsort(descending=True)[:3]
    parts = (f"{escape(evidence.names[int(i)])} {printed(float(scaled[i]), '+.1f')}" for i in top)
    return f"<br>mean action {', '.join(parts)}"


@question("timeline", of=("labels",), place=86)
def timeline_outcome(evidence: LatentEvidence) -> Outcome:
    """Show codes over time, and the action beside what a probe reads of it from the labels."""
    held_out, lines = evidence.held_out, dict[str, tuple[str, Tensor]]()
    caption = "A held-out episode."
    if evidence.target is not None and evidence.judged is not None:
        own, best = evidence.judged
        lines = {"truth": ("true", evidence.target.held_out), "model": ("labels", own.scores["linear"].probe.predicted)}
        if best is not None:
            lines["rival"] = best.plain, best.scores["linear"].probe.predicted
        caption += " Curves: the mean action over the gap, and what probes read of it from labels and the best control."
    if evidence.codes:
        caption += " A colour is a code: those that mean something change when the robot does something else."
    rows = held_out.episode_of, held_out.frames.frame_of[held_out.rows]
    codes = held_out.latents.codes if evidence.codes else None
    source, names = evidence.source, evidence.names
    return Outcome((over_time(source.dataset, source.cameras, rows, names, lines, caption, codes),))


@question("examples", of=("labels",), place=88)
def examples_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Show a few held-out pairs with the frame that is predicted; None for a model that predicts no pixels. The control
    is predicted with the latents of the next panel's pair (with a stream of the environment: those of the motion)."""
    model, held_out = evidence.model, evidence.held_out
    if not _shows_predictions(model):
        return None
    count = len(held_out.rows)
    rows = torch.linspace(0, count - 1, min(EXAMPLES, count) * 2 + 1).round().long()[1::2]  # middles of equal parts
    frames = held_out.pictures(rows)
    columns = [("now", frames[:, 0]), ("later", frames[:, 1])]
    columns.append(("predicted", predicted_frames(model, held_out, rows, rows)))
    caption = f"One row per camera ({escape(', '.join(model.cameras))})."
    if len(rows) > 1:
        columns.append(("control", predicted_frames(model, held_out, rows, rows.roll(-1))))
        latents = "latent actions" if held_out.latents.env is None else "latents of motion"
        caption += f" Control: predicted with the {latents} of the next panel, of the last with those of the first."
    head = "".join(f"<th>{name}</th>" for name, _ in columns)
    panels = []
    for i, row in enumerate(rows.tolist()):
        lines = [head]
        for v, camera in enumerate(model.cameras):
            cells = (image_tag(f"{camera}, {name}", images[i, v].numpy(), THUMBNAIL, 85) for name, images in columns)
            lines.append("".join(f"<td>{cell}</td>" for cell in cells))
        table = f"<table><tr>{'</tr><tr>'.join(lines)}</tr></table>"
        task = held_out.frames.tasks[held_out.frames.task_of[held_out.rows[row]]]
        said = f"<br>instruction <b>{escape(task)}</b>" if model.reads_task else ""
        panels.append(f'<div class="strip"><p>{_where(held_out, row)}{said}</p>{table}</div>')
    text = "Held-out pairs or clips from the middle of equal parts of the split."
    return Outcome((Section("Predicted frames", text, (), (Pictures(caption, tuple(panels)),)),))


def _shows_predictions(model: Any) -> bool:
    """Return whether what a model predicts can be shown: patches of pixels, or features that decode to them."""
    seen = getattr(model, "pixels", None) or getattr(model, "features", None)
    return not lacks(model, PredictsFrames) and isinstance(seen, FrozenFeatures) and seen.decodes


@torch.no_grad()
def predicted_frames(model: Any, held_out: PairSet, rows: Tensor, control: Tensor) -> Tensor:
    """Decode the later frame of pairs `rows` [B] with latents of motion of `control` [B], to uint8 [B, V, h, w, 3]."""
    seen: Any = model.pixels or model.features
    now = held_out.targets(model, rows)[:, 0]
    patches = model.predict(now, exchange(held_out.latents, control, rows, now.device))
    pixels = seen.pixels_of(patches.unflatten(1, (-1, seen.count)).flatten(0, 1))  # bv h w c
    shown = (pixels * seen.std + seen.mean).clamp(0, 1) * 255
    return shown.round().to(torch.uint8).unflatten(0, (len(rows), -1)).cpu()


def _where(held_out: PairSet, row: int) -> str:
    return f"episode {held_out.episode_of[row]}, frame {held_out.frames.frame_of[held_out.rows[row]]}"
