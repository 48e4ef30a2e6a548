"""Does the decoder need the latent actions? Table, figures and verdicts from its losses."""

from __future__ import annotations

import math

from lattok.evaluation import dependence, pictures
from lattok.evaluation.latent import Evidence
from lattok.evaluation.report import NEEDS_TRAINING, Part, Row, Section, Table, Verdict

DEPENDS, HARDLY = 0.9, 0.98  # share of the loss with wrong latents: below the first it depends, above the second hardly
VARIANTS = {  # name in the table, name beside a bar
    "true": ("true latents", "true latents"),
    "without_latents": ("decoder trained without latents", "trained without"),
    "shuffled_in_episode": ("latents of another pair of the episode", "other, episode"),
    "shuffled": ("latents of another pair of the split", "other, split"),
    "zero": ("zero vectors", "zero vectors"),
    "env_shuffled_in_episode": ("environment stream of another pair of the episode", "other env"),
    "env_zero": ("environment stream of zero vectors", "zero env"),
    "copy": ("copy of the first frame", "copy of frame"),
}
REFERENCES = (
    "Schmidt & Jiang 2024, LAPO: learning to act without actions",
    "Bruce et al. 2024, Genie (controllability: quality lost with other latent actions)",
)


def dependence_part(evidence: Evidence) -> Part:
    """Losses of the decoder with true latents, wrong ones and none."""
    model, held_out, training = evidence.model, evidence.held_out, evidence.training
    losses: dict[str, float | None] = {**dependence.losses(model, held_out, evidence.seed), dependence.BLIND: None}
    if training is not None:
        losses[dependence.BLIND] = dependence.loss_without_latents(model, evidence.train, held_out, training)
    figures = _figures(losses)
    text = (
        "If the decoder uses the latent actions, wrong ones must cost it something. Shuffled and zero latents are easy "
        "to beat, since the decoder never met them in training; the honest control is a decoder of the same "
        "architecture trained without latents: much of what happens next can be seen in the current frame."
    )
    table, bars = _table(evidence, losses)
    section = Section(
        "Does the decoder need them?",
        text,
        (table,),
        (pictures.dependence_bars(bars),),
        _reading(figures),
        REFERENCES,
    )
    return Part(section, figures, _verdicts(losses))


def _figures(losses: dict[str, float | None]) -> dict[str, float]:
    figures = {f"prediction_loss/{key}": loss for key, loss in losses.items() if loss is not None}
    copy, blind, true = (losses[key] for key in ("copy", dependence.BLIND, "true"))
    if not true or not copy:
        return figures
    figures["prediction_ratio/true_to_copy"] = true / copy
    if blind:
        figures["prediction_ratio/without_latents_to_copy"] = blind / copy
        figures["prediction_ratio/true_to_without_latents"] = true / blind
    wrong = {key: loss for key, loss in losses.items() if loss is not None and key not in ("true", dependence.BLIND)}
    return figures | {f"prediction_ratio/{key}_to_true": loss / true for key, loss in wrong.items()}


def _reading(figures: dict[str, float]) -> str:
    """One sentence."""
    if "prediction_ratio/true_to_copy" not in figures:
        return ""
    text = (
        f"With true latents the prediction error is {figures['prediction_ratio/true_to_copy']:.2f} × that of copying "
        f"the frame; another pair's latents of the same episode make it "
        f"{figures['prediction_ratio/shuffled_in_episode_to_true']:.2f} × as large"
    )
    if (ratio := figures.get("prediction_ratio/true_to_without_latents")) is not None:
        text += f"; a decoder that never saw latents would be {1 / ratio:.2f} × as far off"
    return text + "."


def _table(evidence: Evidence, losses: dict[str, float | None]) -> tuple[Table, list[tuple[str, str, float | None]]]:
    copy, true, blind = losses["copy"] or math.nan, losses["true"] or math.nan, losses[dependence.BLIND]
    rows, bars = [], []
    for key, (name, short) in VARIANTS.items():
        if key not in losses:
            continue
        loss = losses[key]
        values = () if loss is None else (loss, loss / copy, loss / true, *(() if blind is None else (loss / blind,)))
        rows.append(Row(key, name, values, key != "true", not_run="" if values else NEEDS_TRAINING))
        colour = {"true": "model", dependence.BLIND: "rival"}.get(key, "control")
        bars.append((short, colour, None if loss is None else loss / copy))
    note = "Mean squared error of the later frame's features."
    if blind is not None and evidence.training is not None:
        note += f" The decoder without latents was trained with {evidence.training.text(evidence.train)}."
    if evidence.model.env:
        note += " Where one stream is exchanged, the other one stays true."
    table = Table(
        "Prediction loss on held-out pairs",
        ("loss", "÷ copying", "÷ true latents", *(() if blind is None else ("÷ trained without latents",))),
        tuple(rows),
        better="lower",
        decides=1,
        digits=("#.3g", ".3f", ".3f", ".3f"),
        note=note,
    )
    return table, bars


def _verdicts(losses: dict[str, float | None]) -> list[Verdict]:
    true, wrong, blind = losses["true"], losses["shuffled_in_episode"], losses[dependence.BLIND]
    lines = []
    if true is not None and wrong:
        ratio = true / wrong
        holds = True if ratio < DEPENDS else False if ratio > HARDLY else None
        word = {True: "depends", False: "hardly depends", None: "depends only a little"}[holds]
        text = f"The decoder {word} on the latents: loss {ratio:.2f} × that with another pair's of the episode"
        lines.append(Verdict(text, holds, "decoder_depends"))
    if blind is not None and true is not None:
        word = "below" if true < blind else "not below"
        text = f"Prediction loss is {word} that of a decoder trained without latents: ratio {true / blind:.2f}"
        lines.append(Verdict(text, true < blind, "prediction_against_blind"))
    return lines
