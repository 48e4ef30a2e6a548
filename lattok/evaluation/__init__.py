"""Judging a model on held-out episodes: every figure beside its controls, as JSON and as one self-contained page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from lattok import checks
from lattok.data import RobotDataset, as_dataset
from lattok.data.action_view import check_trained_space
from lattok.evaluation.answer import answered
from lattok.evaluation.latent import LatentOptions
from lattok.evaluation.latent_report import evaluate_latent
from lattok.evaluation.place import REPORT_HTML, REPORT_JSON, check_place, write
from lattok.evaluation.report import Progress, Report, Verdict
from lattok.evaluation.split import Split, seen_episodes, split_episodes
from lattok.evaluation.tokenizer_report import evaluate_tokenizer
from lattok.evaluation.trained import control_loop as usual_loop
from lattok.image_lam.feature_cache import FeatureCache
from lattok.loading import as_labeller
from lattok.normalize import for_dataset
from lattok.training import LoopOptions
from lattok.version import __version__

__all__ = ["REPORT_HTML", "REPORT_JSON", "Progress", "Report", "evaluate"]


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
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Report:
    """Judge an action tokenizer or an `ImageLAM` on the held-out `episodes` of a dataset; paths and Hub ids do as well.

    All other episodes fit probes and controls; at most `max_episodes` of them and half as many held-out ones are used,
    evenly spaced. `controls="trained"` also trains what needs training (`control_loop`; kept in `out/controls`).
    With `out`, writes `report.json` and `report.html` there, in place of a report on the same model and dataset if
    there is one, with `overwrite` of any report; many decoded frames then lie in a file there rather than in memory.
    Features come from `feature_cache` where it has all of a split's.
    `progress(stage, done, total)` is called along the way.
    """
    checks.one_of("controls", controls, ("quick", "trained"))
    model, dataset = as_labeller(model), as_dataset(dataset)
    source = getattr(model, "label_source", None)
    if source not in ("actions", "video"):
        hint = f"Of a policy, {model.judged_by}." if hasattr(model, "predict_chunk") else ""
        checks.fail("model", "an action tokenizer or an image latent action model", type(model).__name__, hint)
    model = for_dataset(model, dataset.name)
    split = split_episodes(dataset, episodes, max_episodes)
    title = f"{getattr(model, 'source', None) or type(model).__name__} on {dataset.name}"
    note: Progress = progress or (lambda stage, done, total: None)
    chosen = {"controls": controls, "seed": seed, "action_key": action_key, "state_key": state_key}
    provenance = _provenance(model, dataset, split, chosen)
    if out is not None:
        check_place(Path(out), provenance, overwrite)
    with _quietly(model):
        if source == "actions":
            if action_key is None:
                checks.fail("action_key", "a column of actions", "None")
            check_trained_space(getattr(model, "trained_on", None), dataset, action_key)
            report = evaluate_tokenizer(model, dataset, split, action_key, seed, title, note)
        else:
            options = LatentOptions(
                action_key=action_key,
                state_key=_optional(dataset, state_key),
                cameras=None if cameras is None else tuple(cameras),
                stride=stride,
                trained=controls == "trained",
                loop=replace(control_loop or usual_loop(model), seed=seed),
                controls_folder=None if out is None else Path(out) / "controls",
                cache_dir=None if out is None else Path(out),
                seed=seed,
                feature_cache=feature_cache,
            )
            report = evaluate_latent(model, dataset, split, options, title, note)
    report.provenance.update(provenance)
    report = answered(_with_overlap(report, model, dataset, split), getattr(model, "trained_on", None))
    if out is not None:
        check_place(Path(out), provenance, overwrite)  # another process may have been here since
        write(report, Path(out))
    return report


@contextmanager
def _quietly(model: Any) -> Iterator[None]:
    """Evaluation mode for the duration; the caller's mode and random numbers are as before afterwards."""
    training = getattr(model, "training", None)
    with torch.random.fork_rng(devices=[]):
        try:
            if training:
                model.eval()
            yield
        finally:
            if training:
                model.train()


def _with_overlap(report: Report, model: Any, dataset: RobotDataset, split: Split) -> Report:
    """A failing verdict where held-out episodes were trained on, in this dataset or in one that it was copied from."""
    seen = seen_episodes(getattr(model, "trained_on", None), dataset, split.held_out)
    if not seen.episodes:
        return report
    count = f"{'' if seen.complete else 'at least '}{len(seen.episodes)} of {len(split.held_out)}"
    text = f"{count} held-out episodes were trained on: these figures are too good"
    return replace(report, verdicts=(Verdict(text, False, "held_out_seen"), *report.verdicts))


def _optional(dataset: RobotDataset, state_key: str | None) -> str | None:
    """The default state column may be absent; one that was asked for may not."""
    return None if state_key == "observation.state" and state_key not in dataset.features else state_key


def _provenance(model: Any, dataset: RobotDataset, split: Split, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": model.describe() if hasattr(model, "describe") else {"type": type(model).__name__},
        "dataset": {"name": dataset.name, "fps": dataset.fps, "episodes": len(dataset.episodes)},
        "split": {"used": split.text, "held_out": split.held_out, "training": split.train},
        "options": options,
        "lattok": __version__,
    }
