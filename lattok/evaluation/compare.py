"""Latent action models side by side, on the same held-out episodes, with the probes and controls of `evaluate`.

Every figure that a single evaluation has is the same one here, under its name after that of the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lattok import hub
from lattok.data import RobotDataset, as_dataset
from lattok.data.schema import own_vectors
from lattok.evaluation.answer import advised, trial_steps
from lattok.evaluation.comparison import comparison
from lattok.evaluation.evaluate import overlap, quietly
from lattok.evaluation.evidence.latent_evidence import latent_evidence
from lattok.evaluation.evidence.pair_set import PairSource
from lattok.evaluation.evidence.split import Split, hold_out_more, split_episodes
from lattok.evaluation.judged import Judged, judge_labels
from lattok.evaluation.page import check_place, write
from lattok.evaluation.report import Progress, Report, Verdict
from lattok.image_lam.base.feature_cache import FeatureCache
from lattok.image_lam.base.pair_model import PairModel
from lattok.image_lam.clips import ClipLAM
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.devices import moved
from lattok.version import __version__


def compare(
    dataset: RobotDataset | str | os.PathLike[str],
    models: Sequence[Any] | Mapping[str, Any],
    *,
    out: str | os.PathLike[str] | None = None,
    episodes: str | Sequence[int] | None = "test",
    action_key: str = "action",
    state_key: str | None = "observation.state",
    cameras: Sequence[str] | None = None,
    stride: str | int | None = None,
    max_episodes: int = 200,
    seed: int = 0,
    device: str | None = None,
    feature_cache: FeatureCache | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Report:
    """Judge latent action models of pairs or clips by the same probes on the same held-out `episodes`, a row for each.

    `models`: folders, Hub ids or loaded ones, or a mapping of these by name. They are loaded one after the other, moved
    to `device` where one is given; those that see frames of the same cameras and size in a row share the decoded ones.
    Each is judged at its own `stride` and cameras unless others are given; it takes as many of `cameras` as it has.
    Other arguments are those of `evaluate`, and so is every figure that both have: `NAME/r2_from_codes/codes`.
    """
    dataset, named = as_dataset(dataset), _named(models)
    if action_key is None or not own_vectors(dataset):
        got = f"{action_key!r:.60}, and {dataset.name} has no vectors" if action_key is not None else "None"
        hint = "Judge each model alone: evaluate asks the questions that need no actions."
        checks.fail("action_key", "a column of actions: they are what labels are compared by", got, hint)
    split = split_episodes(dataset, episodes, max_episodes)
    note: Progress = progress or (lambda stage, done, total: None)
    folder, decoded, judged = None if out is None else Path(out), {}, list[Judged]()
    histories = list[Any]()

    def judge(name: str, model: Any) -> Judged:  # what it holds goes with it: frames, latents, a model loaded here
        views = None if cameras is None else tuple(cameras)[: len(model.cameras)]
        if views is not None:
            checks.size("cameras", f"names, as many as {name} sees", len(views), len(model.cameras))
        source = PairSource.of(
            model,
            dataset,
            stride,
            action_key,
            state_key,
            views,
            cache_dir=folder,
            feature_cache=feature_cache,
            decoded=decoded,
        )
        with quietly(model):
            stages = _Stages(note, name)
            evidence = latent_evidence(model, source, split, None, seed, stages)
            found = judge_labels(name, evidence, stages)
        return found._replace(verdicts=advised([*_doubts(name, model, dataset, split), *found.verdicts], model))

    for name, (model, place) in named.items():
        try:
            loaded = model if place is None else hub.family_of(place.folder).from_place(place)
            judged.append(judge(name, moved(loaded, device)))
            histories.append(loaded.trained_on)
        except LattokError as error:
            raise LattokError(f"{name}: {error}") from None
    provenance = {
        "models": {each.name: {**each.identity, **each.texts} for each in judged},
        "dataset": {"name": dataset.name, "fps": dataset.fps, "episodes": len(dataset.episodes)},
        "split": {"used": split.text, "held_out": split.held_out, "training": split.train},
        "options": {"seed": seed, "action_key": action_key, "state_key": state_key},
        "lattok": __version__,
    }
    hold_out = hold_out_more(dataset, "lattok compare ... --episodes", *histories) if len(split.held_out) == 1 else ""
    report = comparison(judged, dataset.name, provenance, hold_out)
    if folder is not None:
        check_place(folder, provenance, overwrite)
        write(report, folder)
    return report


class _Stages(NamedTuple):
    """Progress with the name of the model in front."""

    note: Progress
    name: str

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.note(f"{self.name}: {stage}", done, total)


def _named(models: Sequence[Any] | Mapping[str, Any]) -> dict[str, tuple[Any, hub.Place | None]]:
    """Name the models, loaded or by their place; all are looked at before any is loaded."""
    if isinstance(models, str | os.PathLike) or not isinstance(models, Mapping | Sequence) or not models:
        checks.fail("models", "folders, Hub ids or models, one or more of them", f"{models!r:.60}")
    found: dict[str, tuple[Any, hub.Place | None]] = {}
    given = list(models.items()) if isinstance(models, Mapping) else [(None, model) for model in models]
    for name, model in given:
        place = hub.resolve(model, argument="models") if isinstance(model, str | os.PathLike) else None
        kind: Any = model if place is None else hub.family_of(place.folder, "models")
        if not issubclass(kind if isinstance(kind, type) else type(kind), PairModel | ClipLAM):
            got = type(model).__name__ if place is None else f"{kind.type!r} in {place.folder}"
            checks.fail("models", "latent action models of frame pairs or clips", got)
        source = kind.source if place is None else place.hub_id or place.folder.resolve().name
        name = str(name or source or kind.type)
        if name in found:
            with suppress(TypeError):  # two folders of the same name
                name = os.fspath(model)
        if name in found:
            hint = 'Name them: {"a": MODEL, "b": MODEL}.'
            checks.fail("models", "models with different names", f"{name!r} twice", hint)
        found[name] = model, place
    return found


def _doubts(name: str, model: Any, dataset: RobotDataset, split: Split) -> Iterator[Verdict]:
    """Say why a model's figures may be worth nothing."""
    for verdict in overlap(model, dataset, split):
        yield Verdict(f"{name}: {verdict.text}", verdict.holds, verdict.key)
    if (steps := trial_steps(model.trained_on)) is not None:
        yield Verdict(f"{name}: a trial run of {steps} steps, whose figures mean nothing", False, "trial")
