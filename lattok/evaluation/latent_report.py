"""Page and summary of an image latent action model, arranged from the evidence that `latent` gathers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lattok import checks
from lattok.data import RobotDataset
from lattok.evaluation import dependence, pictures
from lattok.evaluation.latent import Evidence, LatentOptions, ProbeRow, ProbeRows, gather, probe_rows
from lattok.evaluation.pairs import PairSet, Source
from lattok.evaluation.report import NEEDS_TRAINING, Progress, Report, Row, Section, Table, Verdict
from lattok.evaluation.split import Split
from lattok.image_lam import ImageLAM
from lattok.quantize import CodeStatistics, code_statistics

MATTERS = 0.98  # a loss has to be below this share of another one to count as lower in the verdict
VARIANTS = {  # name in the table, name beside a bar
    "true": ("true latents", "true latents"),
    "without_latents": ("decoder trained without latents", "trained without"),
    "shuffled_in_episode": ("latents of another pair of the episode", "other, episode"),
    "shuffled": ("latents of another pair of the split", "other, split"),
    "zero": ("zero vectors", "zero vectors"),
    "copy": ("copy of the first frame", "copy of frame"),
}
DRAWN = {  # probes in the pictures, under names that fit beside a bar
    "codes": "codes",
    "residual_kmeans": "k-means codes",
    "latents": "latents",
    "pca_change": "frame change",
    "untrained": "untrained",
    "current_frame": "current frame",
}


def evaluate_latent(
    model: ImageLAM, dataset: RobotDataset, split: Split, options: LatentOptions, title: str, progress: Progress
) -> Report:
    """Judge `model` on the held-out episodes of `split`."""
    stride = checks.stride_in_frames(options.stride or model.config.stride, dataset.fps)
    cameras = options.cameras or model.cameras
    source = Source(dataset, stride, options.action_key, options.state_key, cameras, options.cache_dir)
    evidence = gather(model, source, split, options, progress)
    progress("linear probes", 0, 1)
    probes = probe_rows(evidence)
    progress("linear probes", 1, 1)
    sections = [_code_section(evidence), _dependence_section(evidence)]
    if probes.discrete:
        sections.insert(0, _probe_section(evidence, probes))
    shown = pictures.examples(model, evidence.held_out)
    sections.append(Section("Examples", "Pairs of frames from the middle of equal parts of the split.", (), (shown,)))
    figures = _figures(evidence, probes)
    verdicts = _verdicts(evidence, probes)
    provenance = _provenance(evidence, stride, cameras)
    return Report("image-lam", title, _headline(figures), verdicts, figures, tuple(sections), provenance)


def _space(names: Sequence[str]) -> list[int]:
    """Dimensions called x, y, z; none unless all three are there."""
    lower = [name.lower() for name in names]
    return [lower.index(axis) for axis in "xyz"] if {"x", "y", "z"} <= set(lower) else []


def _scores(row: ProbeRow, names: Sequence[str]) -> tuple[float | None, ...]:
    """Mean over dimensions, mean over x, y, z where there are such, then every dimension."""
    if row.probe is None:
        return ()
    each = row.probe.r2
    means = [each.nanmean(), *([each[space].nanmean()] if (space := _space(names)) else [])]
    return tuple(None if math.isnan(value) else float(value) for value in [*means, *each])


def _probe_section(evidence: Evidence, probes: ProbeRows) -> Section:
    discrete, continuous = probes
    names = evidence.names
    columns = ("mean", *(("x, y, z",) if _space(names) else ()), *names)

    def table(title: str, rows: list[ProbeRow], note: str) -> Table:
        rows = sorted(rows, key=lambda row: row.reference)  # ceilings stand last
        lines = (Row(r.key, r.name, _scores(r, names), r.control, r.reference, r.not_run) for r in rows)
        return Table(title, columns, tuple(lines), better="higher", digits=".2f", note=note)

    bits = evidence.model.config.tokens * math.log2(evidence.size)
    tables = (
        table(
            f"From codes: at most {bits:.0f} bits per pair",
            discrete,
            "Residual k-means has the same number of levels and codes, and no learning; widths are chosen on training "
            "episodes. The last two rows are not limited in bits.",
        ),
        table("From continuous latents", continuous, "PCA widths are the best of 32, 64 and 128 on training episodes."),
    )
    drawn = [
        (DRAWN[row.key], _colour(row), row.probe.r2.tolist())
        for row in (discrete[0], *(r for r in discrete if r.key == "residual_kmeans"), *continuous)
        if row.key in DRAWN and row.probe is not None
    ]
    shown = [pictures.probe_bars(names, drawn)]
    if discrete[0].probe is not None and evidence.target is not None:
        shown.append(pictures.probe_scatter(names, discrete[0].probe.predicted, evidence.target.held_out))
    text = (
        "Ridge regression from each input to the mean action between the two frames, fitted on the training episodes, "
        "judged on the held-out ones: R² = 1 − squared error ÷ squared distance to the training mean. Part of every "
        "action can be read from the current frame alone, often most of the gripper: what counts is the gain over the "
        "controls, per dimension."
    )
    return Section("Do the latent actions say what the robot did?", text, tables, tuple(shown))


def _colour(row: ProbeRow) -> str:
    if not row.control:
        return "model"
    return "rival" if row.key == "residual_kmeans" else "control"


def _code_section(evidence: Evidence) -> Section:
    size, positions, latents = evidence.size, evidence.model.config.tokens, evidence.held_out.latents
    streams = [("model", "latent actions", latents.codes, False)]
    if latents.env is not None:
        streams.append(("env", "environment stream", latents.env.codes, False))
    streams.append(("residual_kmeans", evidence.kmeans.name, evidence.kmeans.held_out, True))
    drawn = [("k-means control" if control else name, codes) for _, name, codes, control in streams]
    streams.append(("untrained", "untrained model, codes by k-means", evidence.untrained.held_out, True))
    sizes = {"env": evidence.env_size}
    stats = [(k, name, code_statistics(codes, sizes.get(k, size)), control) for k, name, codes, control in streams]

    def table(
        title: str, columns: tuple[str, ...], values: Callable[[CodeStatistics], list[float]], digits: str, note: str
    ) -> Table:
        rows = tuple(Row(key, name, tuple(values(s)), control) for key, name, s, control in stats)
        return Table(title, columns, rows, digits=tuple(digits.split()) if " " in digits else digits, note=note)

    per_position = tuple(f"position {i + 1}" for i in range(positions))
    tables = (
        table(
            "Joint code entropy, bits",
            ("entropy", "ceiling", "combinations", "held-out pairs"),
            lambda s: [s.joint_entropy, s.joint_ceiling, s.combinations, len(latents.codes)],
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
    return Section(
        "Are the codes used, and do they differ?",
        text,
        tables,
        (pictures.usage_heat(drawn, max(size, evidence.env_size) if latents.env is not None else size),),
    )


def _dependence_section(evidence: Evidence) -> Section:
    losses, rows, bars = evidence.losses, [], []
    copy, blind = losses["copy"] or math.nan, losses[dependence.BLIND]
    for key, (name, short) in VARIANTS.items():
        loss = losses[key]
        values = () if loss is None else (loss, loss / copy, *(() if blind is None else (loss / blind,)))
        rows.append(Row(key, name, values, key != "true", not_run="" if values else NEEDS_TRAINING))
        colour = {"true": "model", dependence.BLIND: "rival"}.get(key, "control")
        bars.append((short, colour, None if loss is None else loss / copy))
    table = Table(
        "Prediction loss on held-out pairs",
        ("loss", "÷ copying", *(() if blind is None else ("÷ trained without latents",))),
        tuple(rows),
        better="lower",
        decides=1,
        digits=("#.3g", ".3f", ".3f"),
        note="Mean squared error of the later frame's features."
        + ("" if blind is None else f" The decoder without latents was trained with {evidence.budget}.")
        + (" Only the control stream is exchanged; the environment stream stays true." if evidence.model.env else ""),
    )
    text = (
        "If the decoder uses the latent actions, wrong ones must cost it something. Shuffled and zero latents are easy "
        "to beat, since the decoder never met them in training; the honest control is a decoder of the same "
        "architecture trained without latents: much of what happens next can be seen in the current frame."
    )
    return Section("Does the decoder need them?", text, (table,), (pictures.dependence_bars(bars),))


def _figures(evidence: Evidence, probes: ProbeRows) -> dict[str, float]:
    """Flat summary: `quantity/whose`; the model's own come first."""
    figures: dict[str, float] = {}
    prefixes = ("r2", "r2_xyz") if _space(evidence.names) else ("r2",)
    for kind, rows in (("codes", probes.discrete), ("latents", probes.continuous)):
        for row in (row for row in rows if row.probe is not None):
            scores = _scores(row, evidence.names)
            for prefix, score in zip(prefixes, scores[: len(prefixes)], strict=True):
                if score is not None:
                    figures[f"{prefix}_from_{kind}/{row.key}"] = score
    codes = {
        "model": evidence.held_out.latents.codes,
        "residual_kmeans": evidence.kmeans.held_out,
        "untrained": evidence.untrained.held_out,
    }
    for key, value in codes.items():
        stats = code_statistics(value, evidence.size)
        figures[f"joint_entropy_bits/{key}"] = stats.joint_entropy
        figures[f"fewest_codes_used/{key}"] = float(min(stats.used))
        figures["joint_entropy_bits/ceiling"] = stats.joint_ceiling
    figures.update({f"prediction_loss/{key}": loss for key, loss in evidence.losses.items() if loss is not None})
    copy, blind, true = (evidence.losses[key] for key in ("copy", dependence.BLIND, "true"))
    if true is not None and copy:
        figures["prediction_ratio/true_to_copy"] = true / copy
        if blind:
            figures["prediction_ratio/without_latents_to_copy"] = blind / copy
            figures["prediction_ratio/true_to_without_latents"] = true / blind
    return figures


def _headline(figures: dict[str, float]) -> str:
    parts = []
    if "r2_from_codes/codes" in figures:
        own, control = figures["r2_from_codes/codes"], figures["r2_from_codes/residual_kmeans"]
        parts.append(f"codes predict held-out actions with R² {own:.2f} (k-means codes at equal bits {control:.2f})")
    entropy, ceiling = figures["joint_entropy_bits/model"], figures["joint_entropy_bits/ceiling"]
    control = figures["joint_entropy_bits/residual_kmeans"]
    parts.append(f"joint code entropy {entropy:.1f} of {ceiling:.1f} bits (k-means codes {control:.1f})")
    if (ratio := figures.get("prediction_ratio/true_to_without_latents")) is not None:
        parts.append(f"prediction loss {ratio:.2f} × a decoder trained without latents")
    elif (ratio := figures.get("prediction_ratio/true_to_copy")) is not None:
        parts.append(f"prediction loss {ratio:.2f} × copying the frame")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "."


def _against(rows: list[ProbeRow], what: str, names: Sequence[str]) -> list[Verdict]:
    """The model's first row against the best of its controls: the mean, and x, y, z, which the gripper cannot carry."""
    found = []
    for column, over in enumerate(("all dimensions", "x, y, z")[: 2 if _space(names) else 1]):
        scored = [(row, each[column]) for row in rows if (each := _scores(row, names))]
        own = next((score for row, score in scored if not row.control), None)
        rivals = [(s, row.name) for row, s in scored if row.control and not row.reference and s is not None]
        if own is not None and rivals:
            best, name = max(rivals)
            word = "above" if own > best else "not above"
            text = f"R² from {what} over {over}, {own:.2f}, is {word} the best control: {name}, {best:.2f}"
            found.append(Verdict(text, own > best))
    return found


def _verdicts(evidence: Evidence, probes: ProbeRows) -> tuple[Verdict, ...]:
    names, losses = evidence.names, evidence.losses
    lines = [*_against(probes.discrete, "the codes", names), *_against(probes.continuous, "the latents", names)]
    lines.append(_collapse(code_statistics(evidence.held_out.latents.codes, evidence.size), evidence.size))
    true, wrong, blind = losses["true"], losses["shuffled_in_episode"], losses[dependence.BLIND]
    if true is not None and wrong:
        holds = true < MATTERS * wrong
        word = "depends" if holds else "hardly depends"
        text = f"The decoder {word} on the latents: loss {true / wrong:.2f} × that with another pair's of the episode"
        lines.append(Verdict(text, holds))
    if blind is None:
        lines.append(Verdict(f"Loss against a decoder trained without latents: {NEEDS_TRAINING}", None))
    elif true is not None:
        word = "below" if true < blind else "not below"
        text = f"Prediction loss is {word} that of a decoder trained without latents: ratio {true / blind:.2f}"
        lines.append(Verdict(text, true < blind))
    return tuple(lines)


def _collapse(stats: CodeStatistics, size: int) -> Verdict:
    repeat = stats.tokens_repeat
    idle = min(stats.used) < size / 2 or min(stats.perplexity) < size / 4
    state = "the tokens repeat one another" if repeat else "much of a codebook is idle" if idle else "no collapse"
    text = (
        f"Joint code entropy {stats.joint_entropy:.1f} of {stats.joint_ceiling:.1f} bits, at least "
        f"{min(stats.used)} of {size} codes in use at each position: {state}"
    )
    return Verdict(text, not (repeat or idle))


def _provenance(evidence: Evidence, stride: int, cameras: Sequence[str]) -> dict[str, Any]:
    model, train, held_out = evidence.model, evidence.train, evidence.held_out
    full = round(model.features.count**0.5)
    side = round((train.features.shape[1] / (len(model.cameras) * model.features.dim)) ** 0.5)
    seen = "all patch features" if side == full else f"patch features averaged from {full}x{full} to {side}x{side}"
    return {
        "stride_frames": stride,
        "cameras": list(cameras),
        "held_out_pairs": _thinned(held_out),
        "training_pairs": _thinned(train),
        "frame_controls_see": seen,
    }


def _thinned(pairs: PairSet) -> str:
    used, available = len(pairs.rows), len(pairs.frames)
    return f"{used}" if used == available else f"{used} of {available}, evenly spaced"
