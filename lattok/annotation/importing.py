"""Adds actions that another program inferred to a dataset, as `annotate` adds a model's."""

import os
from pathlib import Path
from typing import Any

from lattok.annotation import INFERRED, AnnotationResult, label
from lattok.annotation.labels import Work
from lattok.data import Progress, RobotDataset, as_dataset
from lattok.data.episodes import any_unmeasured
from lattok.labels.imported import ImportedActions
from lattok.labels.spec import Options
from lattok.utils.checks import warn


def import_labels(
    dataset: RobotDataset | str | os.PathLike[str],
    files: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    action_key: str = "action",
    prefix: str = INFERRED,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """Write actions that another program inferred to the new folder `out`, as `annotate` writes a model's.

    `files` is a folder of files, or the LeRobot dataset of a dump (`lattok.labels.imported` says which); `options` are
    those of `ImportedActions`: `fps`, `between`, `scale`, `offset`, `names`, `unit`, `made_by` and `every`. Where
    actions are unknown, they fill `action_key`, and `PREFIX.filled` says where. Where all are known, they are beside
    them, in `PREFIX.action`.
    """
    given = {"action_key": action_key, "prefix": prefix, "progress": progress, **options}
    result, _ = import_actions(as_dataset(dataset), files, out, **given)
    if not result.complete:
        warn(result.report(), stacklevel=2)
    return result.path


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
