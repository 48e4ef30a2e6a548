"""Models side by side on the same held-out episodes: what labels video, action tokenizers, or inverse models; here for
each kind, who they are and where the report goes.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from lattok import hub
from lattok.data import RobotDataset, as_dataset
from lattok.data.schema import own_vectors
from lattok.evaluation.comparison_of_inverse_models import compare_inverse_models
from lattok.evaluation.comparison_of_labels import compare_labels
from lattok.evaluation.comparison_of_tokenizers import compare_tokenizers
from lattok.evaluation.evidence import EvalOptions, facts_of, kinds_of
from lattok.evaluation.page import check_folder, check_place, write
from lattok.evaluation.report import Report
from lattok.types import Acts, lacks
from lattok.utils import checks
from lattok.utils.devices import moved

BY_ROLLOUTS = "Compare policies by what they do: lattok compare-rollouts one=one/rollouts other=other/rollouts."
COMPARED = {  # by the kind of evidence about a model
    "actions": compare_inverse_models,
    "labels": compare_labels,
    "chunks": compare_tokenizers,
}


def compare(
    dataset: RobotDataset | str | os.PathLike[str],
    models: Sequence[Any] | Mapping[str, Any] = (),
    *,
    labels: Sequence[Any] | Mapping[str, Any] = (),
    device: str | None = None,
    **options: Any,
) -> Report:
    """Compare latent action models and labels, action tokenizers, or inverse models, on the same episodes: a row for
    each.

    `labels` exist already, each as `evaluate` takes it: columns and folders, or a mapping of these and of arrays by
    name. `models`: folders, Hub ids or loaded ones, or a mapping of these by name. They are loaded one after the other,
    moved to `device` where one is given; models in succession that read the same cameras at the same size share the
    decoded frames. A model of video is evaluated at its own `stride` and cameras unless others are given; it takes as
    many of `cameras` as it has. Other `options` are those of `EvalOptions`; figures are those of `evaluate`:
    `NAME/r2_from_codes/codes`.

    Raises `LattokError` for models of other kinds or without names of their own, an unknown option, a dataset
    without actions, and where `out` holds something else.
    """
    chosen, dataset = EvalOptions.of(options, "device"), as_dataset(dataset)
    named, kind = _named(models, _given(labels, dataset, chosen))
    action_key = chosen.action_key
    if action_key is None or not own_vectors(dataset):
        got = f"{action_key!r:.60}, and {dataset.name} has no vectors" if action_key is not None else "None"
        hint = "Evaluate each model alone: evaluate asks the questions that need no actions."
        checks.fail("action_key", "a column of actions: they are what labels are compared by", got, hint)
    opened = {name: partial(_opened, *each, device) for name, each in named.items()}
    if chosen.folder is not None:
        check_folder(chosen.folder)
        if not chosen.overwrite and chosen.folder.is_dir() and any(chosen.folder.iterdir()):  # not when all is computed
            described = {name: each().describe() for name, each in opened.items()}
            check_place(chosen.folder, {"models": described, "dataset": facts_of(dataset)}, overwrite=False)
    report = COMPARED[kind](opened, dataset, chosen)
    if chosen.folder is not None:
        write(report, chosen.folder, chosen.overwrite)
    return report


def _opened(model: Any, place: hub.Place | None, device: str | None) -> Any:
    return moved(model if place is None else hub.family_of(place.folder).from_place(place), device)


def _given(labels: Sequence[Any] | Mapping[str, Any], dataset: RobotDataset, chosen: EvalOptions) -> dict[str, Any]:
    """Return labels by their names."""
    if not isinstance(labels, Mapping):
        texts = isinstance(labels, list | tuple) and all(isinstance(each, str | os.PathLike) for each in labels)
        if not texts or len({*map(str, labels)}) < len(labels):
            hint = 'Name arrays: labels={"theirs": ARRAY}.'
            checks.fail("labels", "different columns or folders, or a mapping by name", f"{labels!r:.60}", hint)
        labels = {os.fspath(each): each for each in labels}
    return {str(name): chosen.labelled(dataset, each, str(name)) for name, each in labels.items()}


def _named(
    models: Sequence[Any] | Mapping[str, Any], labels: Mapping[str, Any]
) -> tuple[dict[str, tuple[Any, hub.Place | None]], str]:
    """Name the models, loaded or by their place, and the kind of evidence about all of them; none is loaded here."""
    wrong = isinstance(models, str | os.PathLike) or not isinstance(models, Mapping | Sequence)
    if wrong or not (models or labels):
        got = f"{models!r:.60}" if wrong else "none"
        checks.fail("models", "folders, Hub ids or models, one or more of them", got, "Such as models=sample/lam.")
    found: dict[str, tuple[Any, hub.Place | None]] = {}
    found_kinds = set[str]()
    given = list(models.items()) if isinstance(models, Mapping) else [(None, model) for model in models]
    for name, model in [*given, *labels.items()]:
        place = hub.resolve(model, argument="models") if isinstance(model, str | os.PathLike) else None
        known: Any = model if place is None else hub.family_of(place.folder, "models")
        found_kinds |= {name for name in COMPARED for kind in kinds_of(known)[:1] if kind.answers([name])} or {"other"}
        if found_kinds not in ({kind} for kind in COMPARED):
            got = type(model).__name__ if place is None else f"{known.type!r} in {place.folder}"
            expected = "latent action models of frame pairs or clips, action tokenizers, or inverse models alone"
            checks.fail("models", expected, got, "Compare each kind by itself." if lacks(known, Acts) else BY_ROLLOUTS)
        source = known.source if place is None else place.hub_id or place.folder.resolve().name
        name = str(name or source or known.type)
        if name in found:
            with suppress(TypeError):  # two folders of the same name
                name = os.fspath(model)
        if name in found:
            hint = 'Leave one out, or name them in Python: {"a": MODEL, "b": MODEL}.'
            checks.fail("models", "models with different names", f"{name!r} twice", hint)
        found[name] = model, place
    return found, next(iter(found_kinds))
