"""The folder of a run: what lies in run/ while it trains, read back with care, and the artefacts that are its result.

run/recipe.json     all options, and hashes of what is learned from: written when the run begins
run/lock            held by the process that trains, and there only meanwhile
run/metrics.jsonl, run/tensorboard/, run/checkpoint.pt
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from lattok.hub import EVALUATION, WEIGHTS, HubModel
from lattok.hub.records import PICTURE, EvaluationRecord, read_picture, read_record
from lattok.hub.weights import read_tensors, weights_hash
from lattok.training import RECIPE, RUN
from lattok.training.distributed import PATIENCE
from lattok.training.runlog import BOARD, METRICS
from lattok.utils import checks, files

Model = TypeVar("Model", bound=HubModel)
LOCK = "lock"
NEW_RUN = "Put back the file as it was, or start a new run in another folder."
STORED = {"kind": str, "dataset": str | None, "preset": str, "options": dict, "inputs": dict, "study": bool}


def read_recipe(out: Path) -> dict[str, Any]:
    """Read run/recipe.json of a run folder, checked: `STORED`, and the hashes in `inputs`."""
    path = out / RUN / RECIPE
    value = {"study": False, **files.read_json(path)}  # which may be missing
    for name, kind in STORED.items():
        if name not in value or not isinstance(value[name], kind):
            got = f"{value[name]!r:.60}" if name in value else "none"
            checks.fail(f"{name}` in `{path}", "what a run of lattok writes there", got, NEW_RUN)
    for name, digest in value["inputs"].items():
        if not isinstance(digest, str):
            checks.fail(f"inputs.{name}` in `{path}", "a hash", f"{digest!r:.60}", NEW_RUN)
    return value


def never_saved(out: Path) -> bool:
    """Return whether a folder holds only what a run leaves that was stopped before its first checkpoint."""
    run = out / RUN
    present = (path for path in out.rglob("*") if path.is_symlink() or not path.is_dir())
    found = {path for path in present if not files.is_temporary(path)}
    own = {run / RECIPE, run / METRICS, run / LOCK, *(run / BOARD).glob("events.out.tfevents.*")}
    return out.is_dir() and own >= found and (run / RECIPE in found or found <= {run / LOCK})


def read_options(path: str | None, kind: str | None = None) -> tuple[dict[str, Any], str | None, str | None]:
    """Read options, preset and dataset from a JSON file: `{name: value}`, where the last two may be missing, or
    recipe.json of a run of this `kind`."""
    value = files.read_json(Path(path), 'Write {"steps": 1000, "lr": 0.001}.') if path is not None else {}
    if "options" in value and kind is not None and (found := value.get("kind", kind)) != kind:
        checks.fail(f"{path}", f"options of {kind}", f"those of a run of {found}", f"Use it with lattok train {found}.")
    preset, dataset = value.get("preset"), value.get("dataset")
    plain = {name: each for name, each in value.items() if name not in ("preset", "dataset")}
    options = value.get("options", plain)
    if not (isinstance(options, dict) and isinstance(preset, str | None) and isinstance(dataset, str | None)):
        checks.fail(f"{path}", '{"name": value, ...}, or a run/recipe.json', "entries of another kind")
    options = {name.replace("-", "_"): each for name, each in options.items()}
    for name in ("out", "preset", "dataset"):
        if name in options:
            checks.fail(f"{path}", "options of the model and its training", repr(name), "Type it.")
    return options, preset, dataset


def first_process() -> bool:
    """Return whether this is the first of the processes that torchrun started, also before they have met."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))) == 0


def wait_for_all() -> None:
    """Wait for all processes that torchrun started."""
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo", timeout=PATIENCE)
    if dist.is_initialized():
        dist.barrier()


def leave_others() -> None:
    """End the group of processes: a thread that still talks to others must not outlive the interpreter."""
    if dist.is_initialized():
        dist.destroy_process_group()


def broadcast_buffers(model: HubModel) -> None:
    """Give every process the saved buffers of the first one; statistics of batches are each one's own."""
    if dist.is_initialized():
        for name in sorted(dict(model.named_buffers()).keys() & model.saved_tensors().keys()):
            dist.broadcast(model.get_buffer(name), 0)


def finish(artefacts: Mapping[str, Model], out: Path) -> Mapping[str, Model]:
    """Save what a run has made (first process only) and return it in evaluation mode, in all processes. `artefacts` by
    folder of `out`, "" being `out` itself, which comes last: where its config.json is, all are whole."""
    for name, model in sorted(artefacts.items(), reverse=True):
        folder = out / name
        if first_process():
            if model.evaluation is None:  # of a run that is resumed without a step left: of the same weights
                with suppress(checks.LattokError):  # damaged files are written anew
                    found = read_record(folder / EVALUATION, EvaluationRecord)
                    if found and weights_hash(read_tensors(folder / WEIGHTS)) == weights_hash(model.saved_tensors()):
                        model.evaluation, model.picture = found, read_picture(folder / PICTURE)
            model.save_pretrained(folder)
        model.source = folder.name
        model.cpu().eval()
    wait_for_all()
    return artefacts


def judged_words(model: str, dataset: str, action_key: str | None = None) -> list[str]:
    """Return what `lattok evaluate` is given to judge a model on a dataset."""
    return [model, dataset, *key_flags(action_key)]


def key_flags(action_key: str | None) -> list[str]:
    """Return what is typed for a column of actions; nothing for the default one."""
    return [] if action_key in (None, "action") else ["--action-key", str(action_key)]
