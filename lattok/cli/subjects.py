"""Findings about one model, dataset or folder of labels, by what the argument turns out to be."""

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lattok import hub
from lattok.data import RobotDataset, inspect_dataset, open_dataset
from lattok.data.opening import holds_labels_alone
from lattok.data.schema import LABELS, PROVENANCE, SOURCE
from lattok.data.tables import open_table
from lattok.evaluation.questions import Subject, criteria
from lattok.evaluation.questions.history import training_entries
from lattok.evaluation.report import Criterion, tally
from lattok.hub.client import HUB_ID, download, find_local
from lattok.hub.records import EvaluationRecord, TrainingRecord, read_record
from lattok.labels.spec import check_records
from lattok.loading import load
from lattok.recipes.run_folder import key_flags, read_recipe
from lattok.recipes.study import RESULTS
from lattok.training.runlog import METRICS, read_metrics
from lattok.utils import checks, files
from lattok.utils.commands import DATASET, MODEL, command
from lattok.utils.findings import Finding, Found, Problem, error, note, warning
from lattok.utils.run_files import RECIPE, RUN, recorded

MUCH_WAITING = 0.1  # share of the time
MAX_NAMED = 8  # episodes or columns, in a finding

NOT_LOADED = error("{error}", "Copy or download it again.")
NO_FEATURES = error(
    "{error}", "Its image features cannot be reached: check the network, HF_HUB_OFFLINE, or the folder it names."
)
UNKNOWN_TRAINING = note("It does not say what it was trained on.", "Evaluate it on episodes it cannot have seen.")
NOT_EVALUATED = note("It was never evaluated.", "Run", command("evaluate", "{model}", "{dataset}"))
NO_VERDICTS = NOT_EVALUATED._replace(what="This evaluation holds no verdicts.")
FALLS_SHORT = warning("Falls short: {verdict}.", "{advice}")
OPEN = note("Unclear: {verdict}.", "{advice}")
WAITS_FOR_DATA = note(
    "Its steps waited for data {share:.0%} of the time.",
    "Give it more cores, or smaller or fewer images (image_size, cameras); frames that fit into memory (memory_gb) are "
    "decoded only once.",
)
UNFINISHED = note(
    "This run is not finished.",
    "Continue it, if it does not run now",
    command("train", "{kind}", "--out", "{out}", "--resume"),
)
NO_LABELS = error("{folder} holds no parquet file.", "Annotate again.")
NO_DECLARATION = error("{file}: `{prefix}` declares no model and columns.", "Annotate again.")
NO_COLUMNS = error(
    "{file} declares columns that do not exist: {columns}.", "Annotate again, or copy the dataset again."
)
OTHER_DATASET = warning(
    "`{prefix}` was made for {labelled:episode|episodes}, the dataset has {episodes}.",
    "Check it",
    command("verify", "{dataset}", "--model", MODEL),
)
UNLABELLED = warning(
    "`{prefix}`: {count:episode has|episodes have} no labels ({episodes}): {reason}",
    "Repair the source and annotate again: existing labels are kept.",
)
NOT_COPIED = warning(
    "`{column}` of {file} could not be copied for rows {first} to {last}: those cells are empty.",
    "Repair the source, annotate it.",
)


def probes_of(subject: str) -> list[Callable[[str, str | None], Found]]:
    """Choose what to look at: `subject` is a folder, a file, or a Hub id, which may name a model or a dataset."""
    place = find_local(subject) or Path(subject).expanduser()
    if holds_labels_alone(place):
        return [sidecar]
    if place.is_dir() and (place / hub.CONFIG).is_file():
        return [model, evaluation, waiting]
    begun, logged = ((place / RUN / name).is_file() for name in (RECIPE, METRICS))
    if begun or logged:
        return [*([unfinished] if begun else []), waiting]
    if not place.exists() and HUB_ID.fullmatch(subject):
        with suppress(checks.LattokError):
            if (download("model", subject, None, [hub.CONFIG]) / hub.CONFIG).is_file():
                return [model, evaluation]
    return [dataset]


def model(subject: str, revision: str | None) -> Found:
    """Check that a model loads, strictly, with the features it names."""
    config = hub.read_config(hub.resolve(subject, revision).folder)
    yield "model", f"{config['type']}, saved by lattok {config.get('lattok_version', 'unknown')}"
    if isinstance(config.get("features"), str):
        yield "features", f"{config['features']} {config.get('features_revision') or ''}"
    try:
        loaded = load(subject, revision)
    except checks.LattokError as error:
        yield (NO_FEATURES if str(error).startswith("`features`") else NOT_LOADED).finding(error=error)
        return
    yield "weights", f"{sum(p.numel() for p in loaded.parameters()):,} parameters, all there"
    if loaded.trained_on is None:
        yield UNKNOWN_TRAINING.finding()
    for entry in training_entries(loaded.trained_on):
        split = f", split {entry['split']}" if "split" in entry else ""
        runs = [f"{first}-{last}" if first != last else f"{first}" for first, last in entry.get("episodes") or ()]
        yield "training", f"{entry['dataset']}{split}" + f", episodes {_some(runs)}" * bool(runs)


def _some(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:MAX_NAMED])) + (" …" if len(names) > MAX_NAMED else "")


def evaluation(subject: str, revision: str | None) -> Found:
    """Repeat the verdicts of the last evaluation. Nothing is computed: they lie with the weights."""
    place = hub.resolve(subject, revision)
    folder = place.folder
    stored = read_record(folder / hub.EVALUATION, EvaluationRecord)
    if stored is None:
        yield _judge(NOT_EVALUATED, subject, folder)
        return
    yield "evaluated", str(stored.get("headline", ""))
    if not (verdicts := stored.get("verdicts")):
        yield _judge(NO_VERDICTS, subject, folder)
        return
    config = hub.read_config(folder)
    record = read_record(folder / hub.TRAINING, TrainingRecord)
    dataset, key = _judged(folder)
    places, flags = {MODEL: subject, DATASET: dataset}, key_flags(key)
    of, known = Subject.of(config["type"], config, record, place.hub_id), criteria()
    for verdict in verdicts:
        if verdict["holds"]:
            yield "holds", str(verdict["text"])
            continue
        about = known.get(str(verdict.get("key", "")), Criterion(""))  # a later version may know others
        advice = of.advice(about, verdict["holds"], str(verdict["text"]))
        takes_key = ("evaluate", "train")
        commands = (each.filled(places, flags if each.verb in takes_key else ()) for each in advice.commands)
        problem = OPEN if verdict["holds"] is None else FALLS_SHORT
        found = problem.finding(verdict=verdict["text"], advice=replace(advice, commands=()).said(typed=True))
        yield found._replace(commands=tuple(commands))
    yield "verdicts", f"{tally([verdict['holds'] for verdict in verdicts])}."


def _judge(problem: Problem, subject: str, folder: Path) -> Finding:
    """Say how a model is judged, by the column of actions of its run."""
    dataset, key = _judged(folder)
    found = problem.finding(model=subject, dataset=dataset)
    return found._replace(commands=tuple(each.extended(*key_flags(key)) for each in found.commands))


def _judged(folder: Path) -> tuple[str, str | None]:
    """Return the dataset of a model's run, as far as it is known, and its column of actions."""
    return recorded(folder, "dataset") or DATASET, recorded(folder, "options", "action_key")


def unfinished(subject: str, revision: str | None) -> Found:
    """Say how a run goes on that has no model yet, or a study without results."""
    place = Path(subject).expanduser()
    found = read_recipe(place)
    yield "run", f"{found['kind']}, preset {found['preset']}, on {found['dataset'] or 'a mixture'}"
    if found["study"] and (place / RESULTS).is_file():
        return
    unfinished = UNFINISHED.finding(kind=found["kind"], out=subject)
    more = ["--study"] if found["study"] else []
    yield unfinished._replace(commands=tuple(each.extended(*more) for each in unfinished.commands))


def waiting(subject: str, revision: str | None) -> Found:
    """Return which part of its time a training run waited for data."""
    path = Path(subject).expanduser() / RUN / METRICS
    if not path.is_file() or not path.stat().st_size:  # stopped before the first entry
        return
    entries = read_metrics(path)
    known = [entry["data_wait"] for entry in entries if checks.is_number(entry.get("data_wait"))]
    if not known:
        return
    share = sum(known) / len(known)
    yield "data wait", f"{share:.1%} of the time until step {entries[-1]['step']}"
    if share > MUCH_WAITING:
        yield WAITS_FOR_DATA.finding(share=share)


def dataset(subject: str, revision: str | None) -> Found:
    """Say what `lattok inspect` finds, and what the labels in it say about themselves."""
    opened = open_dataset(subject, revision)
    found = inspect_dataset(opened)
    yield "dataset", f"{found.kind}, {found.headline().partition(': ')[2]}"
    yield from found.findings
    path = opened.root / PROVENANCE
    if path.is_file():
        yield from labels(path, list(opened.features), opened)


def sidecar(subject: str, revision: str | None) -> Found:
    """Examine a folder of labels for a dataset of another format."""
    root = Path(subject).expanduser()
    both = [subject] if (root / SOURCE).is_file() else ["DATASET", "--labels", subject]
    yield "labels", "of a dataset that is not LeRobot; make one of both:"
    yield "", shlex.join(["lattok", "export", *both, "--out", "joined"])
    tables = sorted(root.glob(LABELS))
    if not tables:
        yield NO_LABELS.finding(folder=root / "labels")
    columns = [set(open_table(path).schema_arrow.names) for path in tables]
    yield from labels(root / PROVENANCE, sorted(set.intersection(*columns)) if columns else [], None)


def labels(path: Path, columns: list[str], source: RobotDataset | None) -> Found:
    """Examine each set of labels: its model, the columns it declares, the episodes it has none for."""
    written = files.read_json(path)
    for prefix, entry in ({prefix: {} for prefix in written} | check_records(written, str(path))).items():
        if not {"columns", "model"} <= entry.keys():
            yield NO_DECLARATION.finding(file=path, prefix=prefix)
            continue
        identity, facts = entry["model"], entry.get("dataset", {})
        name = identity.get("model") or "a model without a name"
        yield "labels", f"{prefix}.*: {identity.get('type')} {name}, weights {str(identity.get('weights_sha256'))[:12]}"
        missing = [column for column in entry["columns"] if column not in columns]
        if missing:
            yield NO_COLUMNS.finding(file=path, columns=", ".join(missing[:MAX_NAMED]))
        if "versions" in entry:
            yield "", "made with " + ", ".join(f"{package} {found}" for package, found in entry["versions"].items())
        for group in entry.get("unlabelled", ()):
            episodes, reason = group["episodes"], group["reason"]
            yield UNLABELLED.finding(prefix=prefix, count=len(episodes), episodes=_some(episodes), reason=reason)
        for part in entry.get("unreadable", ()):
            yield NOT_COPIED.finding(**{key: part.get(key) for key in ("column", "file", "first", "last")})
        if source is not None and facts.get("episodes", len(source.episodes)) != len(source.episodes):
            counts = {"labelled": facts["episodes"], "episodes": len(source.episodes)}
            yield OTHER_DATASET.finding(prefix=prefix, dataset=str(source.root), **counts)
