"""What verdicts mean for a reader: may I use this, and what can be done about those that do not hold?

A model is not recommended where something that learned nothing does as well. What else speaks against it is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from lattok.evaluation.report import NEEDS_TRAINING, ONE_EPISODE, Answer, Report, Verdict, percent, printed

QUESTIONS = {
    "action-vq": "May I use this tokenizer?",
    "image-lam": "May I annotate with this model?",
    "latent-vla": "Does this policy do what it is told?",
}
TARGET = 2.0  # a target for supervision may have this many times the error of an untrained codebook
CAVEATS = {  # verdicts about latent actions that do not decide, but that a user should know of
    "codes_against_controls_xyz": "about x, y and z the codes say less than the best control",
    "decoder_depends": "the decoder hardly uses the latents",
    "action_under_distractors": "the labels suffer where something else moves",
    "codes_new_tasks": "on tasks that were not seen a control says more",
}
NAMES = {"kmeans": "k-means", "uniform_bins": "uniform bins", "fast": "FAST"}
FALLS_SHORT = {  # of a model that lattok trained; what depends on how is filled in
    "action_error": "Train longer; look at the losses in its run folder, and whether the training actions are noisy.",
    "held_out_seen": "Evaluate on episodes that were not trained on, or train with episodes=train.",
    "codes_against_controls": "{Label}, or train longer{robust}; without labels the raw frame change is hard to beat.",
    "codes_against_controls_xyz": "The mean over dimensions hides this: the codes say more about the gripper than "
    "about the motion. {Label}, shorten the stride to one visible movement, add a camera that sees depth.",
    "codes_against_controls_mlp": "A hidden layer reads as much from a control: the codes hold what is there anyway. "
    "{Label}; prefer linear probes only if your policy head is linear.",
    "codes_new_tasks": "What the codes mean depends on the task: train on more tasks, or keep to those trained on.",
    "codes_against_labels_alone": "Reconstruction adds nothing here: with these labels a supervised encoder does as "
    "well. It pays with fewer labels, or with more action-free video than labelled data.",
    "latents_against_controls": "Store the raw frame change (PCA) instead of latents, or {label}.",
    "latents_against_controls_xyz": "{Label}; for continuous targets the raw frame change is a serious rival.",
    "latents_against_controls_mlp": "A hidden layer reads as much from a control: {label}.",
    "latents_new_tasks": "What the latents mean depends on the task: train on more tasks, or keep to those trained on.",
    "latents_against_labels_alone": "Reconstruction adds nothing to the latents here: see the codes, use fewer labels.",
    "codes_in_use": "{Revive}; see joint_bits in the log.",
    "codes_know_direction": "The codes spend their bits on other things: {label}, or use fewer codes.",
    "decoder_depends": "The decoder predicts from the current frame alone: a stride long enough for something to "
    "happen helps, and for image-lam predict_change and conditioning=add.",
    "prediction_against_blind": "What the latents carry does not help prediction: train longer, or see whether the "
    "scene moves by itself within the stride.",
    "action_under_distractors": "Other things that move will change these labels: train with distractors in "
    "view and some labels, or with two streams (streams=joint, or stage 1 and 2).",
    "env_takes_distractor": "The environment stream is not where such motion goes: train it as stage 1 on the same "
    "videos with instructions, or with distractors in view.",
    "additive": "Do not add up latents of consecutive gaps; to make them additive train with additivity_weight and "
    "extra_strides.",
    "reversible": "Do not negate latents to undo a motion; relabel the reversed video instead.",
    "transfers": "A latent means different things in different scenes: do not replay latents of one clip in another.",
    "error_against_kmeans": "A decoder that sees one code at a time is bounded by k-means: use decoder=context, or "
    "ResidualVQ where a codec is wanted.",
    "error_against_uniform_bins": "Train longer or on more data: bins need no training and do better.",
    "error_against_fast": "This is expected of a target for supervision; as a codec use FAST or ResidualVQ.",
    "error_against_mean": "The codes say nothing: look at the loss and at the units of the actions.",
    "tokens_in_use": "Start the codebook from data (codebook_start=kmeans) and revive dead codes (revive_below=0.03).",
}
UNDECIDED = {
    "decoder_depends": "Something depends on them, but little: a stride long enough for something to happen helps, "
    "and for image-lam predict_change and conditioning=add.",
}
USE = ("held_out_seen", "codes_new_tasks", "latents_new_tasks", "reversible", "transfers", "error_against_fast")
ELSEWHERE = {  # of a model that lattok did not train: nothing about its training can be changed
    **{key: FALLS_SHORT[key] for key in USE},
    "additive": "Do not add up latents of consecutive gaps.",
    "latents_against_controls": "Store the raw frame change (PCA) instead of latents, or train one on this dataset.",
    "action_error": "Train a policy on this dataset: lattok train vla.",
    "error_against_mean": "Train a tokenizer on this dataset: lattok train action-vq.",
}
OTHERWISE = "This model was trained elsewhere: train one on this dataset (lattok train {})."
NOT_RUN = "Run: lattok evaluate MODEL DATASET --controls trained."
UNCLEAR = "Too close to tell: hold out more episodes, or average several seeds."
ALONE = "Hold out more episodes than one."


class Subject(NamedTuple):
    """What advice about a model depends on."""

    trained: bool = True  # by lattok
    labels: float | None = 0.0  # share of the pairs whose actions supervised; None: it learns from none
    robust: bool = False  # with what the robust preset sets

    @classmethod
    def of(cls, kind: str, config: Mapping[str, Any], trained_on: Mapping[str, Any] | None) -> Subject:
        """Find it in the type of a model, its configuration, and what it says of its training."""
        known = trained_on or {}
        share = None if kind == "clip-lam" else float((known.get("labels") or {}).get("fraction", 0.0))
        robust = (config.get("latent_norm"), config.get("codebook_start")) == ("batch", "kmeans")
        return cls("loop" in known, share, robust)

    def fill(self, text: str) -> str:
        """Put what fits this model into an advice."""
        label = "label a few per cent of the pairs (labelled_fraction=0.05)"
        if self.labels is None or self.labels >= 1:
            label = "train on more episodes"
        elif self.labels > 0:
            label = f"label more than {percent(self.labels)} of the pairs (labelled_fraction)"
        revive = (
            "Train with the robust preset: per-token heads, normalised latents, a continuous warm-up and residual codes"
        )
        if self.robust or self.labels is None:
            revive = "Train longer, on more episodes, or with fewer codes (codebook_size)"
        robust = "" if self.robust or self.labels is None else ", or with the robust preset"
        return text.format(label=label, Label=label[:1].upper() + label[1:], Revive=revive, robust=robust)


def answered(report: Report, trained_on: Mapping[str, Any] | None, hold_out: str = "") -> Report:
    """Add the answer to a report, from its verdicts and figures and from what the model says about its training.

    `hold_out` is what to do where a single episode was judged.
    """
    held = {verdict.key: verdict.holds for verdict in report.verdicts}
    trial = trial_steps(trained_on)
    if trial is not None:
        text = f"No: this was a trial run of {trial} steps, to see that everything works. Its figures mean nothing."
        holds = False
    elif held.get("held_out_seen") is False and "success" not in report.figures:
        text = "That cannot be told from this report: the model was trained on episodes that judge it here."
        holds = None
    else:
        judge = {"action-vq": _tokenizer, "image-lam": _latent, "latent-vla": _policy}[report.kind]
        holds, text = judge(report, held)
        if any(ONE_EPISODE in verdict.text for verdict in report.verdicts) and holds is None:
            text = f"{text} {hold_out}".rstrip()
    return replace(report, answer=Answer(QUESTIONS[report.kind], holds, text))


def trial_steps(trained_on: Mapping[str, Any] | None) -> int | None:
    """Return the steps of a trial run; None for a model that was trained in earnest, or that does not say."""
    loop = (trained_on or {}).get("loop")
    return loop.get("steps", 0) if isinstance(loop, Mapping) and loop.get("trial") else None


def _policy(report: Report, holds: Mapping[str, bool | None]) -> tuple[bool | None, str]:
    """Judge a policy by its rollouts; without any only the worst can be told."""
    if "success" in report.figures:
        return None, report.sections[0].reading
    if not holds["action_error"]:
        return False, "No: its actions are no nearer to those of held-out episodes than the mean action is."
    text = "That cannot be told from actions, though its own are nearer to held-out ones than the mean action is"
    return None, f"{text}. Let it act: lattok evaluate POLICY DATASET --env TASKS."


def _tokenizer(report: Report, holds: Mapping[str, bool | None]) -> tuple[bool | None, str]:
    """Judge a tokenizer as a target for supervision, and as a codec."""
    figures = report.figures
    own = figures["normalised_mse"]
    rivals = {key: figures[f"normalised_mse/{key}"] for key in NAMES if f"normalised_mse/{key}" in figures}
    if own >= figures["normalised_mse/mean"]:
        return False, "No: it reconstructs actions no better than their mean does."
    if not rivals:
        return None, "That cannot be told: no control at equal bits could be run."
    best = min(rivals, key=lambda key: rivals[key])
    lost = f"It loses {_fine(own)} of the variance of held-out actions"
    rival = f"{NAMES[best]} at equal bits, the strongest control, loses {_fine(rivals[best])}"
    idle = " Mind that most of its codes are never used." if holds.get("tokens_in_use") is False else ""
    if own < rivals[best]:
        return True, f"Yes. {lost}; {rival}.{idle}"
    untrained = {key: value for key, value in rivals.items() if key != "fast"} or rivals
    bound = min(untrained, key=lambda key: untrained[key])
    if own > TARGET * untrained[bound]:
        times = f"{own / untrained[bound]:.1f} times the error of {NAMES[bound]} at equal bits, which needs no training"
        return False, f"No: it has {times}.{idle}"
    target = "Yes as a target for supervision, no as a codec that stores or replays actions"
    return True, f"{target}. {lost}; {rival}.{idle}"


def _latent(report: Report, holds: Mapping[str, bool | None]) -> tuple[bool | None, str]:
    """Judge a model by what its labels say about the action, against the best control."""
    if holds.get("codes_in_use") is False:
        found = next(verdict.text for verdict in report.verdicts if verdict.key == "codes_in_use")
        return False, f"No: the codes have collapsed. {found}."
    kind = next((k for k in ("codes", "latents") if f"{k}_against_controls" in holds), None)
    if kind is None:
        text = "That cannot be told here: without actions nothing says whether the labels mean what the robot did."
        return None, text
    table = report.sections[0].tables[0]
    best = table.strongest(but=("labels_only",))
    found, rival = (0.0 if row is None else row.values[table.decides] or 0.0 for row in (table.rows[0], best))
    numbers = (
        f"R² {printed(found, '.2f')} against {printed(rival, '.2f')} of the best control, {best.name if best else ''}"
    )
    reasons = [text for key, text in CAVEATS.items() if holds.get(key) is False]
    listed = ", ".join(reasons[:-1]) + " and " * (len(reasons) > 1) + "".join(reasons[-1:])
    caveats = f" Mind that {listed}." if reasons else ""
    decides = holds[f"{kind}_against_controls"]
    if any(verdict.key == f"{kind}_against_controls" and ONE_EPISODE in verdict.text for verdict in report.verdicts):
        return None, f"That cannot be told: only one episode was held out, and {ONE_EPISODE} ({numbers}).{caveats}"
    text = {
        True: f"Yes: on episodes it has not seen, its {kind} say more about the action than anything untrained",
        None: f"It makes no clear difference: its {kind} say about as much about the action as the best control does",
        False: f"No: something that learned nothing says as much about the action as its {kind} do",
    }[decides]
    return decides, f"{text} ({numbers}).{caveats}"


def _fine(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else percent(share)


def advice_on(key: str, holds: bool | None, text: str, subject: Subject) -> str:
    """Advise on a verdict in one or two sentences; an empty text for one that holds, or whose key is not known."""
    if holds is None:
        if NEEDS_TRAINING in text:
            return NOT_RUN
        if ONE_EPISODE in text:
            return ALONE
        known = UNDECIDED if subject.trained else {}
        return known.get(key, UNCLEAR if key in FALLS_SHORT and "not run" not in text else "")
    if holds or key not in FALLS_SHORT:
        return ""
    if subject.trained:
        return subject.fill(FALLS_SHORT[key])
    kind = "action-vq" if key.startswith(("error_", "tokens_")) else "image-lam"
    return ELSEWHERE.get(key, OTHERWISE.format(kind))


def advised(verdicts: Iterable[Verdict], model: Any) -> list[Verdict]:
    """Add to verdicts what to do about each with this model."""
    config = getattr(model, "config", None)  # tokenizers of one's own need none
    subject = Subject.of(getattr(model, "type", ""), vars(config) if config is not None else {}, model.trained_on)
    return [replace(each, advice=advice_on(each.key, each.holds, each.text, subject)) for each in verdicts]
