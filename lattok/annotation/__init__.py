"""Labels a dataset with latent actions: `annotate(dataset, {"latent": model}, out)`.

Labels are made in units of whole episodes, each stored atomically beside the output; a run that was interrupted and
started again reuses them and ends with the same bytes, with one worker or many. What cannot be read is left out by
episode, and said; everything else is labelled.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from lattok import checks
from lattok.annotation.engines import Engine, LocalEngine
from lattok.annotation.labels import Models, Options, Work
from lattok.annotation.output import Planned, assemble, by_reason, mark_of, unlabelled_in
from lattok.annotation.plan import check_models, check_places, identities_of, request_hash
from lattok.annotation.ray_engine import RayEngine
from lattok.annotation.verify import Verification, verify
from lattok.checks import LattokError
from lattok.data import Progress, RobotDataset, fingerprint
from lattok.data.extend import plan_units, unit_keys
from lattok.data.staging import Busy, Staging
from lattok.files import finish_exchange, first_line
from lattok.normalize import for_dataset

__all__ = [
    "Annotated",
    "Engine",
    "LocalEngine",
    "Options",
    "RayEngine",
    "Verification",
    "annotate",
    "label",
    "recover",
    "verify",
]

UNIT_FRAMES = 4096
HOPELESS = 20  # episodes that fail without one that succeeds


class Annotated(NamedTuple):
    """An annotated dataset."""

    path: Path
    episodes: int  # that have labels
    unlabelled: dict[int, str]  # other episodes, and why

    def report(self) -> str:
        """One line: how many episodes have labels, and why others have none."""
        if not self.unlabelled:
            return f"{self.episodes} episodes labelled"
        (index, why), more = next(iter(sorted(self.unlabelled.items()))), len(self.unlabelled) - 1
        others = f" and {more} more" if more else ""
        return (
            f"{self.episodes} of {self.episodes + len(self.unlabelled)} episodes labelled; not episode {index} ({why})"
            f"{others}: codes -1, not valid, listed in meta/lattok.json. Repair, and the same command fills the gaps."
        )


def annotate(
    dataset: RobotDataset,
    models: Models,
    out: str | Path | None = None,
    *,
    in_place: bool = False,
    embedding: bool = True,
    quantized: bool = False,
    action_key: str = "action",
    cameras: Sequence[str] | None = None,
    threads: int = 1,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Path:
    """Label `dataset` with `models` (by column prefix, e.g. {"latent": model}) into the new folder `out`.

    A LeRobot dataset becomes a copy with further columns, or gets them itself with `in_place`; for any other `out` is a
    sidecar: labels/*.parquet by episode_index and frame_index. Columns per prefix: `.codes` int64 [P], `.valid` bool,
    `.embedding` float32 [P * d] (latents before quantization), `.quantized` on request, `.env.*` for an environment
    stream. `meta/lattok.json` says how they were made.

    The source is only read, but in place. After an interruption the same call continues. Episodes that cannot be read
    have codes -1 and are not valid: a warning says so. `threads` of torch are part of the result; `engine` is not.
    `progress(frames done, frames in all)` is called after every unit.
    """
    options = Options(embedding, quantized, action_key, None if cameras is None else tuple(cameras), threads)
    result = label(Work(dataset, models, options), out, in_place=in_place, engine=engine, progress=progress)
    if result.unlabelled:
        warnings.warn(result.report(), stacklevel=2)
    return result.path


def label(
    work: Work,
    out: str | Path | None,
    *,
    in_place: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Annotated:
    """As `annotate`, from its arguments put together; returns what could not be labelled instead of a warning."""
    work = work._replace(models={prefix: for_dataset(m, work.dataset.name) for prefix, m in work.models.items()})
    target = check_places(work.dataset.root, out, in_place)
    if in_place and work.dataset.kind != "lerobot":
        checks.fail("in_place", "a LeRobot dataset", f"{work.dataset.kind}", "Its labels go beside it: give `out`.")
    if not work.models:
        checks.fail("models", "at least one model, by prefix", "none")
    engine = engine or LocalEngine()
    identities = identities_of(work.models, engine.device)
    staging = Staging(target, request_hash(work, identities, UNIT_FRAMES))
    replaces = mark_of(target) if staging.published(mark_of(target)) else None
    if replaces is not None and not unlabelled_in(target, work.models):
        staging.remove()  # a run was killed when all was done
        return Annotated(target, len(work.dataset.episodes), {})
    check_models(work)
    if target.exists() and replaces is None and not in_place:
        checks.fail("out", "a folder that does not exist yet", str(out), "Remove it or choose another.")
    try:
        with staging.alone():
            return _run(work, identities, staging, replaces, in_place, engine, progress)
    except Busy:
        raise
    except KeyboardInterrupt:
        message = f"annotation interrupted; finished labels wait in {staging.folder}. Run the same command to continue."
        raise KeyboardInterrupt(message) from None
    except LattokError:
        if not staging.holds_labels():
            staging.remove()
        raise
    except (OSError, pa.ArrowException) as error:
        raise _cannot_write(staging, error) from None


def recover(root: str | Path) -> None:
    """Finish an annotation in place that was killed while the new dataset took the place of the old one, so that there
    is a dataset at `root`. Needed only where folders cannot change places in one step."""
    staging = Staging(Path(root).absolute(), "")
    finish_exchange(staging.dataset, staging.out)


def _run(
    work: Work,
    identities: Any,
    staging: Staging,
    replaces: str | None,
    in_place: bool,
    engine: Engine,
    progress: Progress | None,
) -> Annotated:
    staging.prepare()
    units = plan_units(work.dataset, UNIT_FRAMES)
    keys = unit_keys(work.dataset, units)
    planned = Planned(work, identities, units, keys, staging, in_place)
    failures = _label_missing(planned, engine, progress)
    unlabelled = {damage.episode_index: damage.reason for damage in work.dataset.damaged} | failures
    result = Annotated(staging.out, len(work.dataset.episodes) - len(failures), unlabelled)
    if unlabelled and in_place:
        hint = "The dataset is as it was and finished labels wait: repair it and run again, or write a copy."
        checks.fail("in_place", "a dataset that can be read as a whole", result.report().split(":")[0], hint)
    if replaces is not None and unlabelled_in(staging.out, work.models) == by_reason(work, unlabelled):
        return result  # what could not be read before cannot be read now
    state = [fingerprint(work.dataset.root), *keys, repr(unlabelled)]
    staging.begin_assembly(hashlib.sha256("\n".join(state).encode()).hexdigest())
    assemble(planned, unlabelled)
    staging.publish(str(mark_of(staging.dataset)), replaces, in_place)
    staging.remove(but_units=bool(failures))
    return result


def _label_missing(planned: Planned, engine: Engine, progress: Progress | None) -> dict[int, str]:
    """Label the units that are not there yet; returns the episodes that failed, with reasons."""
    staging, key_of = planned.staging, dict(zip(planned.units, planned.keys, strict=True))
    missing = [unit for unit, key in key_of.items() if not staging.has(unit, key)]
    total = sum(unit.last - unit.first for unit in planned.units)
    done = total - sum(unit.last - unit.first for unit in missing)
    failures: dict[int, str] = {}
    succeeded = len(missing) < len(planned.units)
    for unit, (rows, failed) in engine.label(planned.work, missing):
        failures |= failed
        succeeded = succeeded or bool(rows)
        if not succeeded and len(failures) >= HOPELESS:
            _give_up(staging, failures)
        staging.store(unit, key_of[unit], rows, failed)
        done += unit.last - unit.first
        if progress is not None:
            progress(done, total)
    if not succeeded:
        _give_up(staging, failures)
    return failures


def _give_up(staging: Staging, failures: dict[int, str]) -> None:
    """Where nothing succeeds, it is not the data."""
    staging.remove()
    index, why = next(iter(failures.items()))
    raise LattokError(f"{why} (episode {index}; none of the first {len(failures)} episodes could be labelled)")


def _cannot_write(staging: Staging, error: Exception) -> LattokError:
    """A full or read-only disk: what was put together goes, finished labels stay."""
    staging.remove(but_units=staging.holds_labels())
    why = getattr(error, "strerror", None) or first_line(error)
    left = f"finished labels wait in {staging.folder}" if staging.holds_labels() else "nothing half-written is left"
    return LattokError(
        f"cannot write {os.fspath(staging.out)}: {why}. The source is untouched and {left}. "
        "Free space or mend the permissions and run the same command, or choose another `out`."
    )
