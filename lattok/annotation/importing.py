"""Adds what another program made to a dataset, as `annotate` adds a model's: inferred actions, or latent actions."""

import os
from pathlib import Path
from typing import Any

from lattok.annotation import INFERRED, AnnotationResult, label
from lattok.annotation.labels import Work
from lattok.data import Progress, RobotDataset, as_dataset
from lattok.data.episodes import any_unmeasured
from lattok.labels.imported import ImportedActions
from lattok.labels.imported_latents import ImportedLatents
from lattok.labels.spec import LatentSpec, Options
from lattok.utils.checks import warn


def import_labels(
    dataset: RobotDataset | str | os.PathLike[str],
    files: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    latents: bool = False,
    action_key: str = "action",
    prefix: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """Write actions that another program inferred to the new folder `out`, as `annotate` writes a model's; with
    `latents`, its latent actions, which policies learn from.

    `files` is a folder of files, or the LeRobot dataset of a dump (`lattok.labels.imported` says which); `options` are
    those of `ImportedActions`: `fps`, `between`, `scale`, `offset`, `names`, `unit`, `made_by` and `every`. Where
    actions are unknown, they fill `action_key`, and `PREFIX.filled` says where. Where all are known, they are beside
    them, in `PREFIX.action` (`inferred.action`).

    Latent actions are what `lattok.labels.given_labels` takes: a column, a folder of `.npy`, arrays; `options` are
    `stride` and `made_by`. They become `PREFIX.codes`, `PREFIX.embedding` and `PREFIX.valid` (`latent.codes`).
    """
    source = as_dataset(dataset)
    if latents:
        given = {"prefix": prefix or LatentSpec.prefix, "progress": progress, **options}
        result, _ = import_latents(source, files, out, **given)
    else:
        given = {"action_key": action_key, "prefix": prefix or INFERRED, "progress": progress, **options}
        result, _ = import_actions(source, files, out, **given)
    if not result.complete:
        warn(result.report(), stacklevel=2)
    return result.path


def import_latents(
    dataset: RobotDataset,
    labels: Any,
    out: str | os.PathLike[str],
    *,
    prefix: str,
    progress: Progress | None,
    **options: Any,
) -> tuple[AnnotationResult, ImportedLatents]:
    """Do what `import_labels` does with latent actions; return what could not be labelled, and what was written."""
    model = ImportedLatents(dataset, labels, **options)
    written = Options(embedding=model.labels_of(dataset.episodes[0].index).latents.shape[1] > 0)
    work = Work(dataset, {prefix: model}, written)  # pyright: ignore[reportArgumentType]
    return label(work, out, progress=progress), model


def import_actions(
    dataset: RobotDataset,
    files: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    action_key: str,
    prefix: str,
    progress: Progress | None,
    **options: Any,
) -> tuple[AnnotationResult, bool]:
    """Do what `import_labels` does; return what could not be labelled, and whether the column was filled."""
    model = ImportedActions(dataset, os.fspath(files), **options)
    fill = model.every or action_key not in dataset.features or any_unmeasured(dataset, action_key)
    if fill and action_key in dataset.features and not model.every:
        model.check_unit(dataset, action_key)
    work = Work(dataset, {prefix: model}, Options(fill=fill, action_key=action_key))  # pyright: ignore[reportArgumentType]
    return label(work, out, progress=progress), fill
