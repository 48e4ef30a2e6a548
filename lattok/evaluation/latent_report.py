"""Page and summary of an image latent action model: one part per question, in the order a reader asks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lattok import checks
from lattok.data import RobotDataset
from lattok.evaluation import pictures
from lattok.evaluation.code_report import information_part, usage_part
from lattok.evaluation.dependence_report import dependence_part
from lattok.evaluation.gallery import gallery
from lattok.evaluation.latent import Evidence, LatentOptions, gather
from lattok.evaluation.pairs import PairSet, Source
from lattok.evaluation.probe_report import probe_part
from lattok.evaluation.probe_rows import probe_rows
from lattok.evaluation.report import NEEDS_TRAINING, Part, Progress, Report, Section, Verdict
from lattok.evaluation.separation_report import separation_part
from lattok.evaluation.split import Split
from lattok.evaluation.structure_report import structure_part, transfer_part
from lattok.image_lam import ImageLAM


def evaluate_latent(
    model: ImageLAM, dataset: RobotDataset, split: Split, options: LatentOptions, title: str, progress: Progress
) -> Report:
    """Judge `model` on the held-out episodes of `split`."""
    if model.config.language is not None:
        hint = "Its codebook is for stage 2: lattok train image-lam --stage 2 --env-codebook MODEL."
        checks.fail("model", "one that labels video without instructions", "a stage-1 model", hint)
    stride = checks.stride_in_frames(options.stride or model.config.stride, dataset.fps)
    cameras = options.cameras or model.cameras
    keys, cache = (options.action_key, options.state_key), options.feature_cache
    source = Source(dataset, stride, *keys, cameras, options.cache_dir, cache)
    evidence = gather(model, source, split, options, progress)
    parts = _parts(evidence, progress)
    figures = {name: value for part in parts for name, value in part.figures.items()}
    verdicts = [verdict for part in parts for verdict in part.verdicts]
    if evidence.training is None:
        text = "The same encoder trained on labels alone, and a decoder trained without latents"
        verdicts.append(Verdict(f"{text}: {NEEDS_TRAINING}", None, "trained_controls"))
    sections = [part.section for part in parts]
    if evidence.codes is not None:
        sections.append(gallery(evidence))
    shown = pictures.examples(model, evidence.held_out)
    sections.append(Section("Examples", "Pairs of frames from the middle of equal parts of the split.", (), (shown,)))
    headline = " ".join(part.section.reading for part in parts[:2] if part.section.reading)
    provenance = _provenance(evidence, stride, cameras)
    return Report("image-lam", title, headline, tuple(verdicts), figures, tuple(sections), provenance)


def _parts(evidence: Evidence, progress: Progress) -> list[Part]:
    """The answers to all questions that this model and dataset allow."""
    parts: list[Part | None] = []
    if evidence.target is not None:
        parts.append(probe_part(evidence, probe_rows(evidence, progress)))
    rest: list[Callable[[Evidence], Part | None]] = [
        dependence_part,
        usage_part,
        information_part,
        separation_part,
        structure_part,
        transfer_part,
    ]
    for done, make in enumerate(rest):
        progress("questions", done, len(rest))
        parts.append(make(evidence))
    progress("questions", len(rest), len(rest))
    return [part for part in parts if part is not None]


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
        "held_out_tasks": evidence.folds.text,
    }


def _thinned(pairs: PairSet) -> str:
    used, available = len(pairs.rows), len(pairs.frames)
    return f"{used}" if used == available else f"{used} of {available}, evenly spaced"
