"""Proves that labels are what their provenance says: `verify(dataset, {"latent": model})` makes some of them again."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lattok.annotation.assembly import provenance
from lattok.annotation.fills import compare_fill
from lattok.annotation.labels import Work, check_model, identities_of, label_episode, versions
from lattok.annotation.units import Labels, Shapes
from lattok.data import RobotDataset, as_dataset
from lattok.data.alike import check_rate
from lattok.data.schema import PROVENANCE
from lattok.hub import parse_config
from lattok.labels.spec import LatentSpec, Options, provenance_of
from lattok.loading import by_prefix
from lattok.nn.blocks import torch_threads
from lattok.nn.normalize import for_dataset
from lattok.types import Episode, InfersActions, lacks
from lattok.utils import checks
from lattok.utils.runs import run_of

REQUIRED_FACTS = ("spec", "dataset", "columns", "options", "versions")  # of every entry
TOOLS = "LeRobot's own tools drop it, and a few codes may differ where they encoded videos again"
RESTORED = f"no {PROVENANCE}: {TOOLS}. What meta/info.json says is compared"
AT_SOURCE = "Verify them with what was labelled: lattok verify DATASET --labels LABELS --model MODEL"
UNPROVEN = "Not compared: statistics, other columns, and what the model does not read. The record itself is not signed."
MAX_GAPS = 20  # episodes without labels that are looked at
MAX_RELATIVE_DEVIATION = 1e-4  # of a vector from the largest number in it: what other versions may explain


class Verification(NamedTuple):
    """What was verified, with the result."""

    holds: bool
    lines: tuple[str, ...]  # "+ ..." holds, "- ..." does not, "? ..." is unclear; others only tell

    def render(self) -> str:
        return "\n".join(self.lines)


def verify(
    dataset: RobotDataset | str | os.PathLike[str], models: Any, *, episodes: int | Sequence[int] = 20, seed: int = 0
) -> Verification:
    """Compare model, preprocessing and columns; then make the labels of some episodes again and compare them.

    `models` as given to `annotate`; paths and Hub ids work too. `episodes`: how many are drawn (by `seed`), or which.
    Codes and validity must be equal, vectors up to rounding. A sidecar is verified as `with_labels(source, sidecar)`.
    """
    checks.whole(seed=seed)
    dataset, models = as_dataset(dataset), by_prefix(models)
    described = known_labels(dataset)
    lines: list[str] = []
    for prefix, given in models.items():
        if prefix not in described:
            hint = "What nothing describes cannot be verified: annotate again."
            checks.fail("prefix", f"one of the labels of {dataset.name} ({', '.join(described)})", repr(prefix), hint)
        entry = described[prefix]
        model = for_dataset(given, entry["dataset"]["name"])  # a copy may have another name
        said = [f"? {RESTORED}"] if entry.get("restored") else []
        found = _verify_one(dataset, prefix, model, entry, episodes, seed)
        lines += [f"{prefix}:", *(f"  {line}" for line in (*said, *found))]
    return Verification(not any(line.startswith("  -") for line in lines), tuple(lines))


def known_labels(dataset: RobotDataset) -> dict[str, Any]:
    """Return what an annotated dataset says about its labels, by prefix: entries with all that `verify` compares."""
    found = {prefix: entry for prefix, entry in provenance_of(dataset).items() if "model" in entry}
    if not found:
        hint = "Labels in a folder of their own: lattok verify DATASET --labels LABELS --model MODEL."
        what = f"{dataset.name} was not annotated, or what described its labels was lost"
        raise checks.LattokError(f"{what}. Run lattok annotate, if need be again. {hint}")
    for prefix, entry in found.items():
        if missing := [key for key in REQUIRED_FACTS if key not in entry]:
            hint = "Annotate again: an older lattok wrote less, or the file was edited."
            raise checks.LattokError(f"{PROVENANCE} of {dataset.name}: `{prefix}` has no {', '.join(missing)}. {hint}")
    return found


def _verify_one(
    dataset: RobotDataset, prefix: str, model: Any, entry: Mapping[str, Any], episodes: int | Sequence[int], seed: int
) -> Iterator[str]:
    made = yield from _check_identity(entry, prefix, model)
    where = f"{PROVENANCE} of {dataset.name}"
    spec = LatentSpec.from_json(entry["spec"], prefix, where)
    if spec.source != model.label_source:
        yield f"- labels were made from {spec.source}, this model looks at {model.label_source}"
        return
    yield from _check_columns(dataset, entry, prefix)
    yield from _check_episodes(dataset, entry)
    if "fills" in entry:
        yield from compare_fill(dataset, prefix, entry["fills"])
    options = parse_config(Options, entry["options"], where)
    key = options.action_key
    if model.label_source == "actions" and entry.get("actions_as") != dataset.actions_as.get(key):
        yield f"- `{key}` was converted to another action space: open the dataset as it was labelled"
    if model.label_source == "video":
        name, now, unit = "stride", model.stride_frames(dataset.fps), f"frames at {dataset.fps:g} fps"
    else:
        name, now, unit = "horizon", model.horizon, "steps"
    was = getattr(spec, name)
    yield f"+ {name}: {now} {unit}" if was == now else f"- {name} was {was}, here {now}"
    if (rate := entry["dataset"].get("fps", dataset.fps)) != dataset.fps:
        yield f"- the dataset had {rate:g} frames a second, here {dataset.fps:g}"
    if options.any_rate and (told := check_rate(model, dataset, True, key)):
        yield f"? {told}: any rate was asked for"
    if entry.get("frames", "same") != "same" and model.label_source == "video":
        yield f"- not checked: labels were made from frames that were encoded again since. {AT_SOURCE}"
        return
    work = Work(dataset, {prefix: model}, options)
    try:
        check_model(work, prefix, model)
    except checks.LattokError as error:
        yield f"- the model does not fit the dataset: {error}"
        return
    missing = set[int]()
    for part in entry.get("unlabelled", ()):
        missing.update(part["episodes"])
        count = checks.counted(len(part["episodes"]), "episode")
        yield f"? {count} without labels, first {part['episodes'][0]}: {part['reason']}"
    columns = [name for name in entry["columns"] if name in dataset.features]
    for episode in _sample([e for e in dataset.episodes if e.index in missing], MAX_GAPS, seed):
        for name, values in dataset.columns(episode.index, columns).items():  # which say so in every row
            if (values != (-1 if name.endswith(".codes") else 0)).any():
                yield f"- {name}: episode {episode.index} counts as unlabelled, but holds labels"
    chosen = _sample([e for e in dataset.episodes if e.index not in missing], episodes, seed)
    yield from _compare(work, entry, chosen, made)


def _check_identity(entry: Mapping[str, Any], prefix: str, model: Any) -> Iterator[str]:
    """Compare hashes of configuration and weights; return what else may explain a difference."""
    stored, now = entry["model"], identities_of({prefix: model})[prefix]
    explanations = []
    for name in sorted(stored if entry.get("restored") else {*stored, *now}):
        was, is_ = stored.get(name), now.get(name)
        if was == is_ or (None in (was, is_) and stored.get("type") != now.get("type")):  # not every kind has them all
            continue
        if name in ("model", "revision"):
            yield f"? {name} was {was!s:.200}, here {is_!s:.200}"
        elif name in ("device", "backend"):
            explanations.append(f"{name} {was!s:.60}, here {is_!s:.60}")
        else:
            yield f"- {name} was {str(was)[:16]}, here {str(is_)[:16]}: another model made these labels"
    if hashes := [name for name in stored if name.endswith("sha256") and stored[name] == now.get(name)]:
        yield f"+ model: {', '.join(hashes)} as when the labels were made"
    for name, version in versions().items():
        if entry.get("versions", {}).get(name, version) != version:
            explanations.append(f"{name} {entry['versions'][name]}, here {version}")
    if explanations:
        yield f"? made with {'; '.join(explanations)}"
    return explanations


def _check_columns(dataset: RobotDataset, entry: Mapping[str, Any], prefix: str) -> Iterator[str]:
    longer = tuple(f"{other}." for other in provenance_of(dataset) if other.startswith(f"{prefix}."))
    own = [name for name in dataset.features if name.startswith(f"{prefix}.") and not name.startswith(longer)]
    wrong = [f"{name} is not declared" for name in own if name not in entry["columns"]]
    for name, facts in entry["columns"].items():
        feature, width = dataset.features.get(name), int(np.prod(facts["shape"]))
        if feature is None:
            wrong.append(f"{name} is missing")
        elif (feature.dtype, feature.shape) != (facts["dtype"], (width,)):
            wrong.append(f"{name} is {feature.dtype} {list(feature.shape)}, not {facts['dtype']} [{width}]")
    yield from (f"- column {what}" for what in wrong)
    if not wrong:
        yield f"+ columns: {', '.join(entry['columns'])}"


def _check_episodes(dataset: RobotDataset, entry: Mapping[str, Any]) -> Iterator[str]:
    """Count what was labelled, where the whole of it should be here: an export may be a part, and tools make parts."""
    now = {"episodes": len(dataset.episodes), "frames": sum(episode.length for episode in dataset.episodes)}
    was = {name: entry["dataset"].get(name) for name in now}
    if None not in was.values() and was != now and "frames" not in entry and not dataset.damaged:
        told = [
            f"{checks.counted(each['episodes'], 'episode')} of {checks.counted(each['frames'], 'frame')}"
            for each in (was, now)
        ]
        yield f"- labels are of {told[0]}, here: {told[1]}"


def _sample(candidates: Sequence[Episode], episodes: int | Sequence[int], seed: int) -> list[Episode]:
    if not isinstance(episodes, int):
        if unknown := set(episodes) - {episode.index for episode in candidates}:
            checks.fail("episodes", "episodes with labels", min(unknown))
        return [e for e in candidates if e.index in set(episodes)]
    checks.counts(episodes=episodes)
    drawn = np.random.default_rng(seed).choice(len(candidates), min(episodes, len(candidates)), replace=False)
    return [candidates[i] for i in sorted(drawn.tolist())]


def _compare(work: Work, entry: Mapping[str, Any], chosen: Sequence[Episode], made: list[str]) -> Iterator[str]:
    if not chosen:
        yield "- no episode could be chosen: all of them are without labels"
    (prefix,) = work.models
    columns = [name for name in entry["columns"] if name in work.dataset.features]
    fills = entry.get("fills", {})
    key, parts = fills.get("column"), fills.get("parts", ())
    parts = [key] if not parts or key in work.dataset.joined else [*parts]  # joined, or as they are stored
    infers = not lacks(work.models[prefix], InfersActions)  # who edits the record need not ask for it
    columns += (parts := parts if infers and {*parts}.issubset(work.dataset.features) else [])
    tally, frames, done, again = {name: _Tally() for name in columns}, 0, 0, Labels()
    for episode in chosen:
        try:
            stored = work.dataset.columns(episode.index, columns)
            with torch.no_grad(), torch_threads(work.options.threads):
                again = label_episode(work, prefix, episode.index, episode.length)
        except Exception as error:
            yield f"- episode {episode.index} cannot be labelled again: {checks.reason(error)}"
            continue
        if "filled" in fills:
            again[f"{prefix}.filled"] = np.full(episode.length, run_of(episode.index, fills["filled"]) is not None)
        if parts:  # measured rows are nobody's label
            filled, read = (again[f"{prefix}.{name}"].reshape(episode.length, -1) for name in ("filled", "action"))
            own = [stored[part].reshape(episode.length, -1) for part in parts]
            ends = np.cumsum([values.shape[1] for values in own])
            for part, was, is_ in zip(parts, own, np.split(read, ends[:-1], axis=1), strict=True):
                again[part] = np.where(filled, is_, was) if is_.shape == was.shape else is_
        frames, done = frames + episode.length, done + 1
        for name, seen in tally.items():
            seen.count(stored[name], again.get(name), episode.index)
    yield from _check_given(work, entry, again) if again else ()
    for name, seen in tally.items() if done else ():  # of what was not compared nothing can be said
        yield seen.line(name, frames, made)
    yield UNPROVEN
    yield f"{frames} frames of {done} of {checks.counted(len(work.dataset.episodes), 'episode')} were labelled again"


def _check_given(work: Work, entry: Mapping[str, Any], again: Labels) -> Iterator[str]:
    """Check that what a model gives is declared, with these sizes; stride and horizon were compared before."""
    (prefix,) = work.models
    shapes: Shapes = {name: (str(values.dtype), values.shape[1:]) for name, values in again.items()}
    now = provenance(work, {prefix: {}}, shapes)[prefix]
    for name in now["columns"]:
        if name not in entry["columns"] and name not in work.dataset.features:
            yield f"- column {name} is neither there nor declared, but the model gives it"
    for name, value in LatentSpec.from_json(entry["spec"], prefix, str(PROVENANCE)).to_json().items():
        if name not in ("stride", "horizon") and value != now["spec"][name]:
            yield f"- {name} of the labels was {value}, here {now['spec'][name]}"


class _Tally:
    wrong, deviation, scale, absent = 0, 0.0, 0.0, False
    first: tuple[int, int, list[Any], list[Any]] | None = None

    def count(self, stored: np.ndarray, again: np.ndarray | None, episode: int) -> None:
        was, is_ = (None if values is None else values.reshape(len(values), -1) for values in (stored, again))
        if is_ is None or was is None or is_.shape != was.shape:
            self.absent = True
        elif is_.dtype.kind == "f":
            self.scale = max(self.scale, float(np.abs(is_).max(initial=0)))
            deviation = np.abs(is_.astype(np.float64) - was)
            deviation = np.where(np.isfinite(deviation), deviation, np.inf)
            self.deviation = max(self.deviation, float(deviation.max(initial=0)))
        else:
            rows = np.flatnonzero((is_ != was).any(1))
            self.wrong += len(rows)
            if len(rows) and self.first is None:
                self.first = (episode, int(rows[0]), was[rows[0]].tolist(), is_[rows[0]].tolist())

    def line(self, name: str, frames: int, made: list[str]) -> str:
        """Say whether the column is equal, close or different, and where first."""
        if self.absent:
            return f"- {name}: the model gives no such column now, or of another width"
        if self.first is not None:
            episode, frame, was, is_ = self.first
            place = f"first in episode {episode}, frame {frame}: {was} stored, {is_} now"
            why = f"Perhaps because of {'; '.join(made)}." if made else "Data, labels or model have changed."
            return f"- {name}: {self.wrong} of {checks.counted(frames, 'row')} differ, {place}. {why}"
        if self.deviation == 0:
            return f"+ {name}: {checks.counted(frames, 'row')} equal"
        sign = "+" if self.deviation <= MAX_RELATIVE_DEVIATION * self.scale else "-"
        return f"{sign} {name}: largest deviation {self.deviation:.2g} (largest value {self.scale:.2g})"
