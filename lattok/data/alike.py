"""Whether a dataset has what another one has, or what a model learned from: the same actions, states and rate.

Columns hold the same quantities where they are equally wide and of one kind of numbers (floats or whole numbers), and
of the same action space, if both declare one, or else with the same names of dimensions, if both have names. What one
of them does not say is noted.

Chunks of actions and what an action does in a step depend on the rate: such models are for the rate that they learned
from. Models of frames that lie apart are for every rate at which these frames are as far apart in seconds.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from lattok.data.actions.space import ActionSpace
from lattok.data.schema import RobotDataset, described_by, dimension_names, short_name, vector_key
from lattok.data.views import action_spaces, part_names, trained_space, unwrap
from lattok.types import Acts, InfersActions, lacks
from lattok.utils import checks

RATES_DIFFER = 0.01  # of a rate: 29.97 is 30
GAPS_DIFFER = 0.25  # of a gap in seconds: by so much frames of another rate may miss it
INCREMENTS = ("delta", "increment")  # modes of parts that say what happens within a step
DECLARED = "Give the description file that the model was trained with, or one that converts the actions."


class Quantities(NamedTuple):
    """What the numbers of a column are, as far as anybody says."""

    width: int
    names: tuple[str, ...] | None = None
    space: ActionSpace | None = None
    dtype: str | None = None

    @classmethod
    def of(cls, dataset: RobotDataset, key: str) -> "Quantities":
        feature = dataset.features[key]
        return cls(feature.shape[0], named(dataset, key), action_spaces(dataset).get(key), feature.dtype)

    @property
    def text(self) -> str:
        return checks.listed(self.names or map(str, range(self.width)))

    def told(self, by: str) -> str:
        """Return what is said of it where it differs `by` this from others."""
        return {"space": self.space.text if self.space else "", "numbers": str(self.dtype)}.get(by, self.text)

    def difference(self, other: "Quantities") -> str | None:
        """Return by what they differ: width, numbers, space or names; None where nothing says so."""
        if self.width != other.width:
            return "width"
        if None not in (self.dtype, other.dtype) and ("float" in str(self.dtype)) != ("float" in str(other.dtype)):
            return "numbers"
        if self.space is not None and other.space is not None:
            return None if self.space == other.space else "space"
        return "names" if self.names and other.names and self.names != other.names else None


def said(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return names of dimensions; None where they are only their numbers, as `dimension_names` counts them."""
    return tuple(names) if names and [*names] != [str(i) for i in range(len(names))] else None


def named(dataset: RobotDataset, key: str) -> tuple[str, ...] | None:
    """Return names of the dimensions of a column, if it has any: those of joined columns may be made of theirs."""
    names, there = dataset.features[key].names, unwrap(dataset).features
    parts = [there[part] for part in dataset.joined.get(key, ()) if part in there]
    made = [name for part in dataset.joined.get(key, ()) for name in part_names(part, there.get(part))]
    return None if [*(names or ())] == made and not all(part.names for part in parts) else said(names)


def same_actions(datasets: Iterable[RobotDataset], key: str, otherwise: str = "") -> tuple[str, ...]:
    """Names of the action dimensions that all datasets have; others are an error with the way out, and with what can be
    done `otherwise`."""
    known = [(d, Quantities.of(d, key)) for d in datasets if vector_key(d, "action_key", key)]
    return _same(known, key, "actions", otherwise)


def spaces_of(datasets: Sequence[RobotDataset], key: str) -> tuple[tuple[str, ...], ...]:
    """Return the names of each dataset's actions where these are not the same, which a note says; nothing where they
    are."""
    try:
        same_actions(datasets, key)
        return ()
    except checks.LattokError:
        found = tuple(dimension_names(vector_key(dataset, "action_key", key)) for dataset in datasets)
        if len({*found}) == 1:  # they differ in what their names do not say
            raise
    each = ", ".join(
        f"{checks.counted(len(own), 'number')} in {d.name}" for own, d in zip(found, datasets, strict=True)
    )
    checks.note(f"mix: actions differ, and each dataset keeps its own: {each}")
    return found


def same_states(datasets: Iterable[RobotDataset], key: str, hint: str = "") -> tuple[str, ...]:
    """Names of the dimensions of the states that all datasets have; `hint` is for those without."""
    return _same([(d, Quantities.of(d, key)) for d in datasets if vector_key(d, "state_key", key, hint)], key, "states")


def _same(
    known: Sequence[tuple[RobotDataset, Quantities]], key: str, called: str, otherwise: str = ""
) -> tuple[str, ...]:
    for (first, ours), (other, theirs) in combinations(known, 2):
        if (what := ours.difference(theirs)) is None:
            continue
        kind = {"space": " of another action space", "numbers": f" as {theirs.dtype}"}.get(what, "")
        expected = f"the {called} of {first.name} ({ours.text}) in every dataset"
        hint = 'In description files, say what they are ("action_space") and convert one ("actions": {"as": ...}).'
        hint = f"{hint} {otherwise}".strip() if called == "actions" else ""
        if what == "names" and sorted(ours.names or ()) != sorted(theirs.names or ()):
            hint = f"{hint} {_renamed(other, key, ours.names)}".strip()
        hint = _as_floats(first if "float" in str(theirs.dtype) else other, key) if what == "numbers" else hint
        checks.fail("mix", expected, f"{theirs.text}{kind} in {other.name}", hint)
    for (first, ours), (other, theirs) in combinations(known, 2):
        robots, told = (first.robot, other.robot), (ours.names, theirs.names, ours.space, theirs.space)
        if all(robots) and first.robot != other.robot and not any(told):
            who = f"{first.name} is of {first.robot:.60}, {other.name} of {other.robot:.60}"
            checks.note(f"mix: {who}, and neither says what the numbers of `{key}` are: they are taken for the same")
    named, bare = ([d.name for d, each in known if bool(each.names) is has] for has in (True, False))
    if named and bare and not all(each.space for _, each in known):
        told = f"{', '.join(bare)} does not name the numbers of `{key}`"
        checks.note(f"mix: {told}: they are taken for those of {named[0]}")
    return dimension_names(known[0][0].features[key])


def learned_actions(model: Any, name: str, width: int) -> Quantities:
    """Return the actions that a model learned from, as far as its configuration and training.json tell them; `name` is
    of the dataset that it meets, which has this many."""
    config = getattr(model, "config", None)  # another package's may have none
    spaces, trained = getattr(config, "spaces", ()), getattr(model, "trained_on", None) or {}
    names = spaces[0] if len(spaces) == 1 else getattr(config, "action_names", ())  # of the chosen dataset
    width = getattr(model, "action_dim", None) or getattr(config, "action_dim", 0) or width
    dtypes = {entry.get("action_dtype") for entry in trained.get("mixture", [trained])}
    dtype, space = dtypes.pop() if len(dtypes) == 1 else None, trained_space(trained, name)
    return Quantities(width, said(names), space, dtype)


def note_start(policy: Any, dataset: RobotDataset, key: str, state_key: str | None) -> None:
    """Note that a policy which is trained further learned other actions or states, or at another rate."""
    config, column = policy.config, Quantities.of(dataset, key)
    pairs = [("actions", learned_actions(policy, dataset.name, column.width), column)]
    if state_key is not None and config.proprio_dim:
        states = Quantities(config.proprio_dim, said(config.proprio_names))
        pairs.append(("states", states, Quantities.of(dataset, state_key)))
    for what, before, now in pairs:
        if (by := before.difference(now)) is not None:
            learned = f"{called(policy)} learned {what} {before.told(by)}"
            checks.note(f"init: {learned}, and {dataset.name} has {now.told(by)}")
    if told := check_rate(policy, dataset, True, key):
        checks.note(f"init: {told}")


def check_actions(model: Any, dataset: RobotDataset, key: str) -> None:
    """Refuse actions other than those a model learned from, as far as its configuration and training.json tell them."""
    vector_key(dataset, "action_key", key)
    column = Quantities.of(dataset, key)
    own = learned_actions(model, dataset.name, column.width)
    what = own.difference(column)
    if own.space is not None and own.space != column.space:
        expected = f"{own.space.text} in `{key}` of {dataset.name}, as in training"
        checks.fail("action_space", expected, "no declaration" if column.space is None else column.space.text, DECLARED)
    if what == "width":
        hint = f"It learned from {own.text}." if own.names else "Select or add columns, or train on this dataset."
        checks.size(key, f"numbers in {dataset.name}, as the model's actions have", column.width, own.width, hint)
    if what == "numbers":
        checks.fail(key, f"{own.dtype}, as in training", column.dtype, _as_floats(dataset, key))
    if own.space is None:
        check_names(own.names, dataset, key)


def check_states(names: Sequence[str], width: int, dataset: RobotDataset, key: str) -> None:
    """Refuse states other than those that a model learned from, by how many numbers there are and their names."""
    found = vector_key(dataset, "state_key", key).shape[0]
    checks.size(key, "numbers, as the model's states have", found, width, checks.listed(said(names) or ()))
    check_names(names, dataset, key)


def check_cameras(given: Sequence[str], own: Sequence[str]) -> None:
    """Refuse cameras, which stand for a model's `own` in order, where one of its own names is at another's place."""
    names, wanted = _called(given), _called(own)
    if any(name in wanted and wanted.index(name) != place for place, name in enumerate(names)):
        known = set(wanted) <= set(names)
        hint = "Leave cameras out: it knows them by name." if known else "Its own names keep their places."
        checks.fail("cameras", f"{', '.join(wanted)} in this order, as the model looks at them", ", ".join(names), hint)


def stand_ins(dataset: RobotDataset, own: Sequence[str]) -> list[str]:
    """Propose cameras of a dataset for a model's `own`, in its order: those of the same names, else the next ones."""
    names, wanted = _called(dataset.cameras), _called(own)
    others = (name for name in names if name not in wanted)
    return [name if name in names else next(others) for name in wanted]


def _called(cameras: Sequence[str]) -> list[str]:
    """Return the names of cameras, short ones where these are different."""
    names = [short_name(key) for key in cameras]
    return names if len(set(names)) == len(names) else [*cameras]


def check_names(names: Sequence[str] | None, dataset: RobotDataset, key: str) -> None:
    """Refuse a column whose dimensions have other names than those that a model learned from."""
    ours, theirs = said(names), named(dataset, key)
    if ours == theirs:
        return
    if ours is None or theirs is None:
        who, whose = ("the model", dataset.name) if ours is None else (dataset.name, "the model")
        told = f"{who} does not name the numbers of `{key}`: they are taken for those of {whose}"
        checks.note(f"{told} ({checks.listed(theirs or ours or ())})")
        return
    turned = " in this order" if sorted(ours) == sorted(theirs) else ""
    hint = "Take one that was trained on this dataset." if turned else _renamed(dataset, key, ours)
    checks.fail(key, f"{checks.listed(ours)}{turned}, as in training", checks.listed(theirs), hint)


def _renamed(dataset: RobotDataset, key: str, names: Sequence[str] | None) -> str:
    entry = f'"dimensions": {json.dumps({key: list(names or ())})}'
    if len(entry) > checks.MOST_LISTED:
        entry = f'"dimensions": {{"{key}": ["NAME", "NAME"]}}'
    if dataset.joined and not dataset.address.endswith(".json"):
        entry = f'"columns": {json.dumps({name: list(parts) for name, parts in dataset.joined.items()})}, {entry}'
    return f"Only if they are the same by other names, {described_by(dataset, entry)}"


def _as_floats(dataset: RobotDataset, key: str) -> str:
    columns = json.dumps({**dataset.joined, key: [key]})
    return "To read whole numbers as float32, " + described_by(dataset, f'"columns": {columns}')


def trained_rates(model: Any, name: str | None = None) -> tuple[float, ...]:
    """Return the frames per second of what a model learned from, as far as it says: of dataset `name` if it is there,
    else of all."""
    trained: Mapping[str, Any] = getattr(model, "trained_on", None) or {}
    entries = trained.get("mixture", [trained])
    own = [entry for entry in entries if entry.get("dataset") == name and "fps" in entry]
    rates = {float(entry["fps"]) for entry in (own or entries) if "fps" in entry}
    if (policy := getattr(getattr(model, "config", None), "fps", None)) is not None:  # a policy's configuration says it
        rates.add(float(policy))
    return tuple(sorted(rates))


def check_rate(model: Any, dataset: RobotDataset, any_rate: bool = False, key: str = "action") -> str | None:
    """Refuse a dataset of another rate than a model is for; with `any_rate` say how they differ instead.

    Returns None where the rates agree, or nobody knows that of the model, which is noted.
    """
    rates, stride = trained_rates(model, dataset.name), str(getattr(getattr(model, "config", None), "stride", ""))
    steps = _per_step(model, dataset, key)
    if not rates:
        if steps or not stride.endswith("s"):
            why = f"; {dataset.name} has {dataset.fps:g}, which is taken for the same"
            checks.note(f"{called(model)} does not say how many frames a second it learned from{why}")
        return None
    if steps is None:
        here = model.stride_frames(dataset.fps) / dataset.fps
        gaps = [model.stride_frames(rate) / rate for rate in rates]
        if any(abs(here - gap) <= GAPS_DIFFER * gap for gap in gaps):
            return None
        steps = f"frames {here:.3g} s apart would stand for {' or '.join(f'{gap:.3g}' for gap in gaps)} s"
    elif any(abs(dataset.fps - rate) <= RATES_DIFFER * rate for rate in rates):
        return None
    wanted = " or ".join(f"{rate:g}" for rate in rates)
    if any_rate:
        return f"{called(model)} learned from {wanted} frames a second, and {dataset.name} has {dataset.fps:g}"
    way_out = "Take a model or a dataset of the right rate, or say that it does not matter: any_rate=True."
    if (told := _rate_of_times(dataset)) is not None and abs(told / dataset.fps - 1) > RATES_DIFFER:
        way_out = f"Its `timestamp` says {told:.4g}: correct fps in meta/info.json."
    expected, got = f"{wanted} frames a second, as the model learned from", f"{dataset.fps:g} in {dataset.name}"
    return checks.fail("dataset", expected, got, f"At another rate {steps}. {way_out}")


def _rate_of_times(dataset: RobotDataset) -> float | None:
    """Return the frames per second of which the times of the first episode speak; None where there are none."""
    if "timestamp" not in dataset.features:
        return None
    times = dataset.columns(dataset.episodes[0].index, ["timestamp"])["timestamp"].astype(float).reshape(-1)
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return 1 / step if step > 0 else None


def note_rate(model: Any, dataset: RobotDataset, any_rate: bool = False, key: str = "action") -> None:
    """Refuse a dataset of another rate than a model is for; with `any_rate` note how they differ instead."""
    if told := check_rate(model, dataset, any_rate, key):
        checks.note(told)


def _per_step(model: Any, dataset: RobotDataset, key: str) -> str | None:
    """Say what a model of steps does wrong at another rate; None of a model of frames that are some seconds apart."""
    if getattr(model, "label_source", None) == "actions":
        return f"a chunk of {checks.counted(model.horizon, 'step')} lasts another time"
    if not lacks(model, Acts):
        return "its actions last another time"
    if not lacks(model, InfersActions):
        space = trained_space(model.trained_on) or action_spaces(dataset).get(key)
        if space is None or any(getattr(part, "mode", "") in INCREMENTS for part in space.parts):
            return "a step is another time, and so are increments"
    return None


def called(model: Any) -> str:
    """Return what messages call a model."""
    return str(getattr(model, "source", None) or getattr(model, "type", None) or "the model")


def note_rates(datasets: Sequence[RobotDataset], count: int, what: str = "step") -> None:
    """Note that chunks, or gaps in frames, of a mixture last so many seconds in one dataset and so many in another."""
    lasting = {dataset.name: count / dataset.fps for dataset in datasets}
    if max(lasting.values()) > (1 + RATES_DIFFER) * min(lasting.values()):
        each = ", ".join(f"{seconds:.3g} s in {name}" for name, seconds in lasting.items())
        checks.note(f"mix: rates differ: {checks.counted(count, f'{what} is', f'{what}s are')} {each}")
