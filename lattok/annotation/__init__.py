"""Labels a dataset with latent actions: `annotate(dataset, {"latent": model}, out)`.

Labels are made in units of whole episodes, each stored atomically next to the output. An interrupted run reuses them
when started again and ends with the same bytes, with any number of workers. Unreadable episodes are named and left out.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa

from lattok.annotation.assembly import Job, UnreadableRows, assemble, check_readable
from lattok.annotation.engines import Engine, LocalEngine, RayEngine
from lattok.annotation.hiding import HideResult, hide
from lattok.annotation.labels import Work, check_models, identities_of, request_hash
from lattok.annotation.units import UNITS, Failures, Staging, Unit, plan_units, unit_keys
from lattok.annotation.verify import Verification, verify
from lattok.data import Progress, RobotDataset, as_dataset
from lattok.data.content import dataset_fingerprint
from lattok.data.table_dataset import tables_of
from lattok.labels.spec import Options
from lattok.loading import by_prefix
from lattok.nn.normalize import for_dataset
from lattok.samples.reach import note_reach
from lattok.types import ActionTokenizer
from lattok.utils.checks import LattokError, counted, first_line, warn
from lattok.utils.files import make_room
from lattok.utils.output import Busy, Output
from lattok.utils.signals import restate

__all__ = ["Engine", "HideResult", "LocalEngine", "Options", "RayEngine", "Verification", "annotate", "hide", "label"]
__all__ += ["verify"]
UNIT_FRAMES = 4096
INFERRED = "inferred"  # prefix of a model that stands alone and fills a column
MAX_FAILURES_IN_A_ROW = 20  # failures in a row that say nothing about the data: a lost device, not a damaged file


class AnnotationResult(NamedTuple):
    """Path of an annotated dataset, and what could not be labelled."""

    path: Path
    episodes: int  # in all
    unlabelled: Failures  # by prefix, episodes without labels, and why
    unreadable: list[UnreadableRows]  # columns of the source that the copy could not take over

    @property
    def complete(self) -> bool:
        return not (self.unlabelled or self.unreadable)

    def report(self) -> str:
        """Return in one line what has labels, and why the rest has none."""
        gaps = {index: why for part in reversed(self.unlabelled.values()) for index, why in part.items()}
        text = "all episodes labelled"
        if gaps:
            text = f"{self.episodes - len(gaps)} of {counted(self.episodes, 'episode')} labelled"
            index, why = min(gaps.items())
            more = f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
            text += f"; not episode {index} ({why}){more}: codes -1, not valid"
        if self.unreadable:
            part, more = self.unreadable[0], len(self.unreadable) - 1
            text += f"; `{part.column}` in rows {part.first} to {part.last - 1} of {part.file} is damaged and null"
            text += f", and {more} more" if more else ""
        return text if self.complete else f"{text}. See meta/lattok.json; repair, and the same command fills the gaps."


def annotate(
    dataset: RobotDataset | str | os.PathLike[str],
    models: Any,
    out: str | os.PathLike[str],
    *,
    embedding: bool = True,
    quantized: bool = False,
    fill: bool = False,
    action_key: str = "action",
    cameras: Sequence[str] | None = None,
    threads: int = 1,
    any_rate: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Path:
    """Label `dataset` with `models` into the new folder `out`. Paths and Hub ids also work.

    `models` is one model, whose prefix is then `latent`, or several by column prefix: {"latent": lam, "tok": "my-tok"}.
    A LeRobot dataset becomes a copy with further columns whose videos are hard links; for other formats `out` is a
    sidecar: labels/*.parquet by episode_index and frame_index. Columns per prefix: `.codes` int64 [P], `.valid` bool,
    `.embedding` float32 [P * d] (latents before quantization), `.quantized` on request, `.env.*` for an environment
    stream. `meta/lattok.json` says how they were made. A model that infers actions writes `.action` float32 [m], in
    their units, and `.confidence` float32 in (0, 1]. With `fill` they also go into the column `action_key` where the
    true action is unknown (in episodes where it is NaN, or everywhere if there is no such column), and `.filled` bool
    marks these rows. Measured actions stay as they are. A dataset at another frame rate than a model's is refused
    unless `any_rate` is set.

    The source is only read. After an interruption the same call continues. Episodes that cannot be read
    have codes -1 and are not valid: a warning says so. The result depends on torch's `threads`, not on `engine`.
    `progress(frames done, frames in all)` is called after every unit.
    """
    asked = None if cameras is None else tuple(cameras)
    written = {"embedding": embedding, "quantized": quantized, "fill": fill}
    options = Options(**written, action_key=action_key, cameras=asked, threads=threads, any_rate=any_rate)
    given = models if not fill or isinstance(models, Mapping) else {INFERRED: models}
    result = label(Work(as_dataset(dataset), given, options), out, engine=engine, progress=progress)
    if not result.complete:
        warn(result.report(), stacklevel=2)
    return result.path


def label(
    work: Work, out: str | os.PathLike[str], *, engine: Engine | None = None, progress: Progress | None = None
) -> AnnotationResult:
    """Label as `annotate` does, from its arguments as one value; return what could not be labelled."""
    given = by_prefix(work.models).items()  # which opens paths, and checks that all of them label
    work = work._replace(models={prefix: for_dataset(model, work.dataset.name) for prefix, model in given})
    out = Path(out).expanduser()
    Output(out).check_outside(work.dataset.root)
    engine = engine or LocalEngine()
    identities = identities_of(work.models, engine.device)
    staging = Staging(Path(os.path.abspath(out)), request_hash(work, identities))
    job = Job(work, identities, staging, dataset_fingerprint(work.dataset))
    try:
        with staging:
            return _run(job, engine, progress)
    except Busy:
        raise
    except KeyboardInterrupt as stop:
        wait = f"Finished labels wait in {staging.work}. " if staging.holds_labels() else ""
        raise restate(stop, f"annotation interrupted. {wait}Run the same command to continue.") from None
    except LattokError:
        if staging.is_new():
            staging.remove()
        raise
    except (OSError, pa.ArrowException) as error:  # a full or read-only disk: finished labels stay
        staging.remove(but=() if staging.is_new() else (UNITS,))
        why = getattr(error, "strerror", None) or first_line(error)
        left = f"finished labels wait in {staging.work}" if staging.holds_labels() else "nothing half-written is left"
        what = f"cannot write {staging.place}: {why}. The source is untouched and {left}."
        way_out = f"{make_room(error)} and run the same command, or choose another `out`."
        raise LattokError(f"{what} {way_out}") from None


def _run(job: Job, engine: Engine, progress: Progress | None) -> AnnotationResult:
    work, staging = job.work, job.staging
    before = staging.published()
    if before is not None and before["complete"]:
        staging.remove()  # a run was killed when all was done
        return AnnotationResult(staging.place, len(work.dataset.episodes), {}, [])
    check_models(work)
    for model in (each for each in work.models.values() if each.label_source == "actions"):
        note_reach(cast(ActionTokenizer, model), work.dataset, work.options.action_key)
    if before is None:
        staging.check_absent()
    if tables_of(work.dataset) is not None:
        work.dataset.files.fetch_all()  # the copy holds all of it
    check_readable(work)
    units = plan_units(work.dataset, UNIT_FRAMES)
    keys = unit_keys(work.dataset, units)
    failures = _label_missing(job, units, keys, engine, progress)
    if before is not None:  # a run that fills gaps opens no others: labels that are there are not to be lost
        known = {(prefix, index) for prefix, index in before["failed"]}
        for prefix, index in ((p, i) for p, part in failures.items() for i in part if (p, i) not in known):
            what = f"{staging.place} has labels of episode {index}, which cannot be read any more"
            raise LattokError(f"{what} ({failures[prefix][index]}). It stays as it is: repair that first.")
    damaged = {damage.episode_index: damage.reason for damage in work.dataset.damaged}  # which were never listed
    found = {prefix: damaged | failures.get(prefix, {}) for prefix in work.models}
    unlabelled = {prefix: dict(sorted(part.items())) for prefix, part in found.items() if part}
    episodes = len(work.dataset.episodes) + len(damaged)
    state = hashlib.sha256("\n".join([job.fingerprint, *keys, repr(unlabelled)]).encode()).hexdigest()
    if before is not None and before["state"] == state:
        return AnnotationResult(staging.place, episodes, unlabelled, [UnreadableRows(*u) for u in before["unreadable"]])
    if staging.made.exists():  # what an interrupted run put together, which takes no time beside the labels
        shutil.rmtree(staging.made)
    unreadable = assemble(job, units, keys, unlabelled)
    result = AnnotationResult(staging.place, episodes, unlabelled, unreadable)
    if dataset_fingerprint(work.dataset) != job.fingerprint:  # what was labelled must be what was copied
        raise LattokError(f"{work.dataset.root} changed while it was annotated. Run the same command again.")
    failed = [[prefix, index] for prefix, part in unlabelled.items() for index in part]
    staging.publish_as({"state": state, "complete": result.complete, "failed": failed, "unreadable": unreadable})
    staging.remove(but=() if result.complete else (UNITS,))
    return result


def _label_missing(
    job: Job, units: Sequence[Unit], keys: Sequence[str], engine: Engine, progress: Progress | None
) -> Failures:
    """Label the units that are not there yet; returns what failed by prefix and episode, with reasons."""
    staging, in_a_row = job.staging, 0
    missing = [unit for unit in units if not staging.has(keys[unit.number])]
    total = sum(unit.last - unit.first for unit in units)
    done = total - sum(unit.last - unit.first for unit in missing)
    for unit, labelled in engine.label(job.work, missing):
        in_a_row = 0 if labelled.rows else in_a_row + labelled.strange
        if in_a_row >= MAX_FAILURES_IN_A_ROW:
            why = next(iter(next(iter(labelled.failures.values())).values()))
            raise LattokError(f"{why} ({in_a_row} times in a row: this is not about the data; run the command again)")
        before = staging.failures(keys[unit.number])
        gaps, old = (sum(map(len, (f or {}).values())) for f in (labelled.failures, before))
        if before is None or gaps <= old:  # otherwise what is there of it has fewer
            staging.store(keys[unit.number], labelled.rows, labelled.failures)
        done += unit.last - unit.first
        if progress is not None:
            progress(done, total)
    failures: Failures = {}
    for key in keys:
        for prefix, part in (staging.failures(key) or {}).items():
            failures.setdefault(prefix, {}).update(part)
    if hopeless := [p for p in job.work.models if len(failures.get(p, {})) == len(job.work.dataset.episodes)]:
        index, why = min(failures[hopeless[0]].items())
        if len(hopeless) == len(job.work.models):
            shutil.rmtree(staging.units, ignore_errors=True)  # there is no label in them
        raise LattokError(f"{why} (episode {index}; no episode could be labelled by `{hopeless[0]}`)")
    return failures
