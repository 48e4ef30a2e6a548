"""Judging a model on held-out episodes: gather the evidence, ask every question of it, put the outcomes in a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from lattok.data import RobotDataset, as_dataset
from lattok.data.views import check_trained_space
from lattok.evaluation.answer import advised, answered
from lattok.evaluation.evidence.latent_evidence import LatentEvidence, latent_evidence
from lattok.evaluation.evidence.pair_set import PairSource
from lattok.evaluation.evidence.split import Split, hold_out_more, seen_episodes, split_episodes
from lattok.evaluation.evidence.tokenizer_evidence import TokenizerEvidence, tokenizer_evidence
from lattok.evaluation.evidence.trained_controls import ControlTraining, usual_loop
from lattok.evaluation.page import check_place, write
from lattok.evaluation.questions.codes import direction_outcome, usage_outcome
from lattok.evaluation.questions.controllability import controllability_outcome
from lattok.evaluation.questions.dependence import dependence_outcome
from lattok.evaluation.questions.distractor import distractor_outcome
from lattok.evaluation.questions.examples import examples_outcome, gallery_outcome, timeline_outcome
from lattok.evaluation.questions.policy_error import policy_errors, policy_outcome
from lattok.evaluation.questions.readout import readout_outcome
from lattok.evaluation.questions.reconstruction import headline_of, reconstruction_outcome
from lattok.evaluation.questions.rollouts import rollouts_outcome
from lattok.evaluation.questions.structure import structure_outcome, transfer_outcome
from lattok.evaluation.report import NEEDS_TRAINING, Outcome, Progress, Report, Verdict
from lattok.image_lam import ImageLAM
from lattok.image_lam.base.feature_cache import FeatureCache
from lattok.loading import load
from lattok.nn.normalize import for_dataset
from lattok.samples.policy import PolicyWindows
from lattok.training import LoopOptions
from lattok.types import ActionTokenizer, Labeller
from lattok.utils import checks
from lattok.version import __version__
from lattok.vla import LatentVLA

LATENT_QUESTIONS: tuple[Callable[[LatentEvidence], Outcome | None], ...] = (  # after the first, what latents say
    dependence_outcome,
    usage_outcome,
    direction_outcome,
    distractor_outcome,
    structure_outcome,
    transfer_outcome,
    controllability_outcome,
    gallery_outcome,
    timeline_outcome,
    examples_outcome,
)


# clips have no half and no way back, and a patch would have to move through all of their frames
CLIP_QUESTIONS = (dependence_outcome, examples_outcome)


def evaluate(
    model: Any,
    dataset: RobotDataset | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    episodes: str | Sequence[int] | None = "test",
    action_key: str | None = "action",
    state_key: str | None = "observation.state",
    cameras: Sequence[str] | None = None,
    stride: str | int | None = None,
    controls: Literal["quick", "trained"] = "quick",
    control_loop: LoopOptions | None = None,
    max_episodes: int = 200,
    seed: int = 0,
    feature_cache: FeatureCache | None = None,
    rollouts: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Report:
    """Judge an action tokenizer, a latent action model or a policy on held-out `episodes` of a dataset; paths do too.

    All other episodes fit probes and controls; at most `max_episodes` of them and half as many held-out ones are used,
    evenly spaced. `controls="trained"` also trains what needs training (`control_loop`; kept in `out/controls`).
    With `out`, writes `report.json` and `report.html` there, in place of a report on the same model and dataset if
    there is one, with `overwrite` of any report; many decoded frames then lie in a file there rather than in memory.
    Video without actions is judged by what needs none: `action_key=None`, as "action" is where there are no vectors.
    Features come from `feature_cache` where it has all of a split's. A policy is compared with the actions that it
    learned from unless another `action_key` is given; `rollouts`, what `lattok.sim.rollout(...).to_json()` gives, stand
    before that.
    `progress(stage, done, total)` is called along the way.
    """
    checks.one_of("controls", controls, ("quick", "trained"))
    model, dataset = load(model) if isinstance(model, str | os.PathLike) else model, as_dataset(dataset)
    labels_from = model.label_source if isinstance(model, Labeller) else None
    if labels_from not in ("actions", "video") and not isinstance(model, LatentVLA):
        expected = "an action tokenizer, a latent action model or a policy"
        checks.fail("model", expected, getattr(model, "type", type(model).__name__))
    if rollouts is not None and not isinstance(model, LatentVLA):
        checks.fail("rollouts", "none for a model that does not act", "some")
    model = for_dataset(model, dataset.name)
    if isinstance(model, LatentVLA):
        model.check_acts()
    split = split_episodes(dataset, episodes, max_episodes)
    title = f"{model.source or type(model).__name__} on {dataset.name}"
    note: Progress = progress or (lambda stage, done, total: None)
    provenance = {
        "model": model.describe(),
        "dataset": {"name": dataset.name, "fps": dataset.fps, "episodes": len(dataset.episodes)},
        "split": {"used": split.text, "held_out": split.held_out, "training": split.train},
        "options": {"controls": controls, "seed": seed, "action_key": action_key, "state_key": state_key},
        "lattok": __version__,
    }
    folder = None if out is None else Path(out)
    if folder is not None:
        check_place(folder, provenance, overwrite)
    with quietly(model):
        if isinstance(model, LatentVLA):
            report = _policy_report(model, dataset, split, action_key, rollouts, title, note)
        elif labels_from == "actions":
            if action_key is None:
                checks.fail("action_key", "a column of actions", "None")
            check_trained_space(model.trained_on, dataset, action_key)
            note("held-out windows", 0, 1)
            found = tokenizer_evidence(model, dataset, split, action_key, seed)
            note("held-out windows", 1, 1)
            report = _tokenizer_report(model, found, title)
        else:
            if controls == "trained" and not isinstance(model, ImageLAM):
                hint = "Train an ImageLAM on this dataset and judge it as well."
                checks.fail("controls", f"quick for {model.type}, which lattok does not train", repr(controls), hint)
            source = PairSource.of(
                model, dataset, stride, action_key, state_key, cameras, cache_dir=folder, feature_cache=feature_cache
            )
            training = None
            if controls == "trained":
                loop = replace(control_loop or usual_loop(model), seed=seed)
                training = ControlTraining.on(source, split, loop, None if folder is None else folder / "controls")
            evidence = latent_evidence(model, source, split, training, seed, note)
            report = _latent_report(evidence, title, note)
    report.provenance.update(provenance)
    verdicts = advised([*overlap(model, dataset, split), *report.verdicts], model)
    hold_out = (
        hold_out_more(dataset, "lattok evaluate ... --episodes", model.trained_on) if len(split.held_out) == 1 else ""
    )
    report = answered(replace(report, verdicts=tuple(verdicts)), model.trained_on, hold_out)
    if folder is not None:
        check_place(folder, provenance, overwrite)  # another process may have been here since
        write(report, folder)
    return report


def _tokenizer_report(model: ActionTokenizer, evidence: TokenizerEvidence, title: str) -> Report:
    outcome = reconstruction_outcome(evidence)
    provenance = {
        "tokens_per_chunk": model.tokens_per_chunk,
        "horizon": model.horizon,
        "vocab_size": model.vocab_size,
        "held_out_windows": len(evidence.windows),
    }
    return _report("action-vq", title, headline_of(outcome.figures, model.vocab_size), [outcome], provenance)


def _policy_report(
    policy: LatentVLA,
    dataset: RobotDataset,
    split: Split,
    action_key: str | None,
    rollouts: Mapping[str, Any] | None,
    title: str,
    progress: Progress,
) -> Report:
    """Compare actions with the held-out ones; show `rollouts` first, where there are any."""
    config = policy.config
    state_key = config.state_key if config.proprio_dim else None
    key = config.action_key if action_key in (None, "action") else action_key
    options: dict[str, Any] = {"size": config.image_size, "action_key": key}
    trained = PolicyWindows(dataset, config.horizon, cameras=(), state_key=None, episodes=split.train, **options)
    held_out = PolicyWindows(
        dataset,
        config.horizon,
        cameras=config.cameras,
        interpolation=config.interpolation,
        state_key=state_key,
        episodes=split.held_out,
        pixels=False,
        **options,
    )
    names = held_out.action_names
    checks.size(key, "numbers, as the policy's actions have", len(names), config.action_dim)
    if held_out.camera_sizes != config.camera_sizes:
        expected = f"images of {config.camera_sizes} (height, width), as in the policy's training"
        checks.fail("dataset", expected, str(held_out.camera_sizes))
    judged = policy_errors(
        policy.predict_chunk,
        trained,
        held_out,
        key,
        lambda done, total: progress("held-out windows", done, total),
    )
    outcomes = [policy_outcome(judged)]
    if rollouts is not None:
        outcomes.insert(0, rollouts_outcome(rollouts))
    headline = " ".join(outcome.sections[0].reading for outcome in outcomes)
    provenance = {"held_out_windows": judged.windows, "rollouts": None if rollouts is None else rollouts["options"]}
    return _report(policy.type, title, headline, outcomes, provenance)


def _latent_report(evidence: LatentEvidence, title: str, progress: Progress) -> Report:
    outcomes = [readout_outcome(evidence, progress)]
    questions = CLIP_QUESTIONS if evidence.model.reads_task else LATENT_QUESTIONS
    for done, question in enumerate(questions):
        progress("questions", done, len(questions))
        outcomes.append(question(evidence))
    progress("questions", len(questions), len(questions))
    asked = [outcome for outcome in outcomes if outcome is not None]
    headline = " ".join(reading for outcome in asked[:2] if (reading := outcome.sections[0].reading))
    report = _report("image-lam", title, headline, asked, evidence.provenance)
    if evidence.training is not None or not isinstance(evidence.model, ImageLAM):  # of others none can be trained
        return report
    text = f"The same encoder trained on labels alone, and a decoder trained without latents: {NEEDS_TRAINING}"
    return replace(report, verdicts=(*report.verdicts, Verdict(text, None, "trained_controls")))


def _report(kind: str, title: str, headline: str, outcomes: Sequence[Outcome], provenance: dict[str, Any]) -> Report:
    verdicts = tuple(verdict for outcome in outcomes for verdict in outcome.verdicts)
    figures = {name: value for outcome in outcomes for name, value in outcome.figures.items()}
    sections = tuple(section for outcome in outcomes for section in outcome.sections)
    return Report(kind, title, headline, verdicts, figures, sections, provenance)


@contextmanager
def quietly(model: Any) -> Iterator[None]:
    """Hold the model in evaluation mode; the caller's mode and random numbers are as before afterwards."""
    training = isinstance(model, torch.nn.Module) and model.training
    with torch.random.fork_rng(devices=[]):
        try:
            if training:
                model.eval()
            yield
        finally:
            if training:
                model.train()


def overlap(model: Any, dataset: RobotDataset, split: Split) -> tuple[Verdict, ...]:
    """Return a failing verdict where held-out episodes were trained on, here or in a dataset that this one copies."""
    seen = seen_episodes(model.trained_on, dataset, split.held_out)
    if not seen.episodes:
        return ()
    count = f"{'' if seen.complete else 'at least '}{len(seen.episodes)} of {len(split.held_out)}"
    text = f"{count} held-out episodes were trained on: these figures are too good"
    return (Verdict(text, False, "held_out_seen"),)
