"""What `lattok annotate` and `lattok verify` do with their flags."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lattok import checks
from lattok.annotation import Annotated, Engine, LocalEngine, Options, RayEngine, label, verify
from lattok.annotation.labels import Work
from lattok.annotation.verify import provenance_of
from lattok.checks import LattokError
from lattok.data import open_dataset
from lattok.data.sidecar import with_labels
from lattok.devices import moved
from lattok.loading import load
from lattok.recipes.progress import bar
from lattok.recipes.verbs import check_fixed


def annotate_verb(
    dataset_name: str,
    models: Sequence[str],
    out: str,
    prefixes: Sequence[str] = (),
    *,
    revision: str | None = None,
    options: Options | None = None,
    reading: dict[str, Any] | None = None,
    backend: str = "torch",
    precision: str = "float32",
    engine: Engine | None = None,
) -> Annotated:
    """Label a dataset with one or more models, and say what could not be labelled."""
    reading, engine, options = dict(reading or {}), engine or LocalEngine(), options or Options()
    if "episodes" in reading:
        raise LattokError("`episodes` cannot be chosen: a dataset is labelled as a whole.")
    names = _by_prefix(models, prefixes)
    dataset = open_dataset(dataset_name)
    chosen = {key: reading.pop(key) for key in ("action_key", "cameras") if key in reading}
    options, loaded = options._replace(**chosen), {}
    for prefix, name in names.items():
        model = load(name, revision)
        check_fixed(model, reading, dataset.fps)
        moved(model, (engine.device and "cpu") or reading.get("device", "auto"))  # workers move it themselves
        loaded[prefix] = compiled(model, backend, precision, options.threads)
    with bar("annotate") as progress:
        result = label(Work(dataset, loaded, options), out, engine=engine, progress=progress)
    if not result.complete:
        print(f"lattok: {result.report()}", file=sys.stderr)
    print(f"Annotated dataset: {result.path}")
    return result


def verify_verb(
    dataset_name: str,
    models: Sequence[str],
    prefixes: Sequence[str],
    labels: str | None,
    sample: int,
    seed: int,
    revision: str | None,
    device: str = "auto",
) -> bool:
    """Make a sample of labels anew; prints what holds and what does not, and returns whether all does."""
    names = _by_prefix(models, prefixes)
    dataset = open_dataset(dataset_name)
    if labels is not None:
        dataset = with_labels(dataset, labels)
    provenance = provenance_of(dataset)
    loaded = {}
    for prefix, name in names.items():
        entry = provenance.get(prefix, {})
        how = entry.get("model", {})
        backend, precision = how.get("backend", "torch").split()[0], how.get("precision", "float32")
        loaded[prefix] = compiled(moved(load(name, revision), device), backend, precision, entry.get("threads", 1))
    result = verify(dataset, loaded, episodes=sample, seed=seed)
    print(result.render())
    return result.holds


def make_engine(name: str, address: str | None, workers: int | None, cpus: float, gpus: float) -> Engine:
    """The engine of `--engine`."""
    checks.one_of("engine", name, ("local", "ray"))
    if name == "ray":
        return RayEngine(address, workers, cpus, gpus)
    given = {"address": address, "workers": workers, "gpus_per_worker": gpus or None}
    for option, value in given.items():
        if value is not None:
            raise LattokError(f"`{option}` is for the engine ray, got {value}. Set engine=ray.")
    return LocalEngine()


def compiled(model: Any, backend: str, precision: str, threads: int) -> Any:
    """A model of video for another backend or precision; the model itself where neither is asked for."""
    if (backend, precision) == ("torch", "float32"):
        return model
    if model.label_source != "video":
        hint = "Label with a model of video and with this one in two runs."
        got = f"{precision} and {backend}"
        checks.fail("precision, backend", "float32 and torch for a tokenizer of actions", got, hint)
    return model.compile(backend, precision, threads if backend == "onnxruntime" else 1)


def _by_prefix(models: Sequence[str], prefixes: Sequence[str]) -> dict[str, str]:
    prefixes = prefixes or (["latent"] if len(models) == 1 else [])
    checks.size("prefix", "prefixes, one per model", len(prefixes), len(models))
    checks.size("prefix", "different prefixes", len(set(prefixes)), len(models))
    return dict(zip(prefixes, models, strict=True))
