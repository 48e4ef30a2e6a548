"""The datasets that a policy learns from: what teaches in each of them, and what those lack that have no actions or no
labels."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, cast

from lattok.data import RobotDataset, camera_keys
from lattok.data.alike import check_actions, note_rate, note_rates, same_actions, same_states
from lattok.data.completed import Completed
from lattok.data.episodes import unmeasured
from lattok.data.opening import Source, has_actions, same_cameras
from lattok.data.schema import Feature, short_name, vector_key
from lattok.data.side_by_side import lacks_column, side_by_side
from lattok.labels import LatentSpec, latent_spec, only_prefix, tokenizer_spec
from lattok.labels.spec import provenance_of, targets_of
from lattok.loading import load
from lattok.nn.normalize import for_dataset
from lattok.recipes.policy_options import PolicyOptions
from lattok.samples.policy import camera_sizes
from lattok.samples.reach import note_reach
from lattok.types import ActionTokenizer, Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.vla import VLAConfig
from lattok.vla.config import UNKNOWN

STATELESS = "Without the robot's state: proprio=False."


class PolicySource(NamedTuple):
    """A dataset and the latent actions in it that a strategy learns from, if it does."""

    dataset: RobotDataset
    episodes: Sequence[Episode]  # that teach
    spec: LatentSpec | None = None
    tokenizer: ActionTokenizer | None = None  # labels the batches, in place of columns
    cameras: tuple[str, ...] | None = None  # of this dataset of a mixture; none: as the options say
    weight: float = 1.0  # of a mixture
    acts: bool = True  # its actions teach
    labelled: bool = True  # its labels teach, where the strategy learns from any
    shown: Mapping[str, str | None] = {}  # by camera of the policy: its own in that place; None: black pictures
    own: RobotDataset | None = None  # as a policy of this dataset alone sees it, where each has a head
    blocks: Mapping[str, slice] = {}  # by column: its own numbers among those of all, where each has a head
    lacks: tuple[str, ...] = ()  # what others of a mixture have, in words


def labelled(data: PolicyOptions, model: VLAConfig, dataset: RobotDataset, episodes: Sequence[Episode]) -> PolicySource:
    """Return what the strategy learns from in a dataset with its labels."""
    plan = data.plan
    if not has_actions(dataset, data.action_key):
        if not plan.acts and plan.learns_labels and not data.labels_by_tokenizer:
            return _films(data, model, dataset, episodes)
        refuse_without_actions(data, dataset)
    if data.tokenizer is not None and plan.labels != "chunk" and model.head.name != "tokens":
        reason = f"`tokenizer` {data.tokenizer} was given, but {plan.name} learns nothing from tokens of actions."
        raise LattokError(f"{reason} Leave it out, or choose la_tok, or head=tokens.")
    if plan.labels is None:
        return PolicySource(dataset, episodes)
    if data.tokenizer is not None and data.labels_by_tokenizer:
        tokenizer = cast(ActionTokenizer, for_dataset(load(data.tokenizer), dataset.name))  # which is checked
        check_tokenizer(data, tokenizer, dataset)
        return PolicySource(dataset, episodes, tokenizer_spec(tokenizer, model.horizon, plan.needs), tokenizer)
    return PolicySource(dataset, episodes, _spec(data, model, dataset))


def refuse_without_actions(data: PolicyOptions, dataset: RobotDataset) -> NoReturn:
    """Say what teaches a policy to act where a dataset has no actions."""
    mix = [f"{dataset.address or dataset.name}:1.0", "ROBOT:1.0"]
    words = shlex.join(["lattok", "train", "vla", "--mix", *mix, "--strategy", "la_direct"])
    alone = "Or learn from its labels alone, with strategy=la_direct and stages=pretrain, and train that further."
    hint = f"Mix it with a dataset that has some: {words}. {alone}"
    checks.fail("dataset", f"`{data.action_key}`, from which a policy learns to act", f"{dataset.name} without", hint)


def _films(data: PolicyOptions, model: VLAConfig, dataset: RobotDataset, episodes: Sequence[Episode]) -> PolicySource:
    """Return films alone, whose labels are all that there is to learn: with an action that nobody knows, and in the
    places of the cameras that were asked for."""
    asked = [camera_called(dataset, name) for name in data.cameras or ()]
    shown = cameras_for(dataset, asked) if asked else {}
    columns = {data.action_key: (Feature("float32", (1,), (UNKNOWN,)), math.nan)}
    source = PolicySource(dataset, episodes, _spec(data, model, dataset), acts=False, shown=shown, lacks=("actions",))
    checks.note(_said_of(source, shown, source.lacks).removeprefix("mix: "))
    return source._replace(dataset=Completed(dataset, columns, shown), cameras=tuple(shown) if shown else data.cameras)


def camera_called(dataset: RobotDataset, name: str) -> str:
    """Return a dataset's own camera of that name, or the name as it is: that of a robot's camera."""
    return next((key for key in dataset.cameras if name in (key, short_name(key))), name)


def _spec(data: PolicyOptions, model: VLAConfig, dataset: RobotDataset) -> LatentSpec:
    """Return what the labels of a dataset are that the strategy learns from."""
    plan, given = data.plan, data.latent_stride
    target = cast(str, plan.labels)
    prefix = data.prefix or only_prefix(dataset, target, plan.name)
    stride = None if given is None else checks.stride_in_frames(given, dataset.fps, "latent_stride")
    return latent_spec(dataset, prefix, target, model.horizon, stride, needs=plan.needs)


def check_tokenizer(data: PolicyOptions, tokenizer: ActionTokenizer, dataset: RobotDataset) -> None:
    """Require that a tokenizer is of actions like the dataset's; say where its rate or its reach are others."""
    check_actions(tokenizer, dataset, data.action_key)
    note_rate(tokenizer, dataset, data.any_rate, data.action_key)
    note_reach(tokenizer, dataset, data.action_key)


def mixture(
    data: PolicyOptions, model: VLAConfig, sources: Sequence[Source], chosen: Sequence[Sequence[Episode]]
) -> list[PolicySource]:
    """Return what the strategy learns from in each of several datasets. Those with actions must be alike: in dimensions
    of actions and proprio, in names and sizes of cameras; unless each has a head. Others, which teach by labels alone,
    get from the first of these what they lack. Labels are of one kind and one model in all."""
    data.check_latents_only([source.dataset.name for source in sources])
    acts = [_acts(data, source.dataset, episodes) for source, episodes in zip(sources, chosen, strict=True)]
    acting = [source.dataset for source, known in zip(sources, acts, strict=True) if known]
    if not acting:
        names = checks.listed(source.dataset.name for source in sources)
        checks.fail("mix", "a dataset with actions, from which a policy learns to act", f"{names} without")
    if not all(acts):
        _check_plan(data, next(source.dataset for source, known in zip(sources, acts, strict=True) if not known))
    robots = dict[str, _Robot]()
    if data.heads == "each":
        robots = {robot.own.name: robot for robot in _with_heads(data, acting)}
        acting = [robot.seen for robot in robots.values()]
        sources = [Source(robots[s.dataset.name].seen, s.weight) if s.dataset.name in robots else s for s in sources]
    lead = acting[0]
    cameras = () if data.cameras == () else camera_keys(lead, data.cameras)
    same_actions(acting, data.action_key, "Or give each robot a head: heads=each.")
    if data.proprio:
        same_states(acting, data.state_key, STATELESS)
    note_rates([source.dataset for source in sources], model.horizon)
    has = [_has_labels(data, source.dataset) for source in sources]
    found = list[PolicySource]()
    for source, episodes, known, own in zip(sources, chosen, acts, has, strict=True):
        dataset, view = source.dataset, same_cameras(source.dataset, cameras) if known and cameras else ()
        robot = robots.get(dataset.name)
        if not known or (any(has) and not own and data.plan.learns_labels and not data.labels_by_tokenizer):
            found.append(PolicySource(dataset, episodes, cameras=view, acts=known, labelled=not known))
        else:
            learned = labelled(data, model, dataset if robot is None else robot.own, episodes)
            found.append(learned._replace(dataset=dataset, cameras=view))
        found[-1] = found[-1]._replace(weight=source.weight)
        if robot is not None:
            found[-1] = found[-1]._replace(own=robot.own, shown=robot.shown, blocks=robot.blocks)
    found = _with_specs(data, model, found)
    first = dict[str, tuple[str, Any]]()  # who says it, and what
    for source in found:
        for what, value in _facts(source).items():
            name, expected = first.setdefault(what, (source.dataset.name, value))
            if value != expected:
                checks.fail(
                    "mix", f"the {what} of {name} ({expected}) in every dataset", f"{value} in {source.dataset.name}"
                )
    return [_completed(data, source, lead, cameras) for source in found]


class _Robot(NamedTuple):
    """A dataset whose actions and states have a head of their own."""

    own: RobotDataset  # as it is
    seen: RobotDataset  # its numbers in blocks of wider ones, its cameras in the places of all
    shown: Mapping[str, str | None]  # its own camera in each of these places
    blocks: Mapping[str, slice]  # by column: its own numbers among those of all


def _with_heads(data: PolicyOptions, acting: Sequence[RobotDataset]) -> list[_Robot]:
    """Put the numbers of each dataset beside those of the others, and its cameras in the places of the one with most.
    One without the robot's state is said, and has no number there."""
    lead = max(acting, key=lambda dataset: len(dataset.cameras))
    cameras = () if data.cameras == () else camera_keys(lead, data.cameras)
    optional = (data.state_key,) if data.proprio else ()
    lacking = [dataset for dataset in acting if lacks_column(dataset, data.state_key, optional)]
    if len(lacking) == len(acting):
        vector_key(lead, "state_key", data.state_key, STATELESS)  # which it has not
    found = list[_Robot]()
    for own, wide in zip(acting, side_by_side(acting, data.own_columns, optional), strict=True):
        shown = cameras_for(own, cameras) if cameras else {}
        said = [f"acts without `{data.state_key}`, which it has not"] if own in lacking else []
        said += _said_of_cameras(own, shown)
        if said:
            checks.note(f"mix: {own.name}: {', '.join(said)}")
        found.append(_Robot(own, Completed(wide, {}, shown), shown, wide.blocks_of))
    return found


def _acts(data: PolicyOptions, dataset: RobotDataset, episodes: Sequence[Episode]) -> bool:
    """Return whether a dataset of a mixture has actions that are known, and are to teach."""
    if dataset.name in data.latents_only or not has_actions(dataset, data.action_key):
        return False
    return any(not unmeasured(dataset, data.action_key, {episode.index}) for episode in episodes)


def _check_plan(data: PolicyOptions, dataset: RobotDataset) -> None:
    """Require a strategy that can learn from a dataset without actions."""
    plan, hint = data.plan, "Leave it out, or choose a strategy that learns from labels, such as la_direct."
    if not plan.learns_labels:
        got = f"{plan.name}, which learns from actions alone, and {dataset.name} has none"
        checks.fail("strategy", "one that learns from labels", got, hint)
    if data.labels_by_tokenizer:
        got = f"{dataset.name}, whose actions are unknown"
        checks.fail("tokenizer", "datasets with actions, of which it makes the labels", got, "Leave one of them out.")
    if data.decoder is not None and data.proprio:
        got = f"proprio, which {dataset.name} may lack"
        checks.fail(
            "decoder",
            "no decoder if a dataset has no actions, or a policy without proprio",
            got,
            "Leave proprio out: proprio=False.",
        )


def _has_labels(data: PolicyOptions, dataset: RobotDataset) -> bool:
    prefixes = [prefix for prefix, kind in targets_of(dataset).items() if kind == data.plan.labels]
    return bool(prefixes) if data.prefix is None else f"{data.prefix}.valid" in dataset.features


def _with_specs(data: PolicyOptions, model: VLAConfig, found: list[PolicySource]) -> list[PolicySource]:
    """Say what the labels are in sources without actions, and what they would be in those without labels."""
    if all(source.acts and source.labelled for source in found):
        return found
    silent = [source for source in found if not source.acts]
    specs = {id(source): _spec(data, model, source.dataset) for source in silent}
    known = [source.spec or specs.get(id(source)) for source in found]
    given = next((spec for spec in known if spec is not None), None)
    return [source._replace(spec=spec or given) for source, spec in zip(found, known, strict=True)]


def _completed(data: PolicyOptions, source: PolicySource, lead: RobotDataset, cameras: tuple[str, ...]) -> PolicySource:
    """Return a source with what it lacks: unknown actions, proprio that nothing reads, labels that are not valid, and
    the policy's cameras. Says in a note what it teaches."""
    if source.acts and source.labelled:
        return source
    dataset, spec = source.dataset, source.spec
    columns, shown, lacks = dict[str, tuple[Feature, float]](), dict[str, str | None](), list[str]()
    if not source.acts:
        columns[data.action_key] = lead.features[data.action_key]._replace(dtype="float32"), math.nan
        lacks.append("actions")
        if data.proprio and data.state_key not in dataset.features:
            lacks.append("proprio")
        if data.proprio:
            columns[data.state_key] = lead.features[data.state_key]._replace(dtype="float32"), 0.0
        if cameras:
            shown = cameras_for(dataset, cameras)
        if not any(text for episode in source.episodes for text in episode.tasks):
            lacks.append("instructions")
    if not source.labelled and spec is not None:
        lacks.append("labels")
        dtypes = {"codes": "int64", "embedding": "float32", "valid": "bool"}
        columns |= {spec.column(part): (Feature(dtypes[part], (n,), None), 0) for part, n in spec.widths().items()}
    checks.note(_said_of(source, shown, lacks))
    made = Completed(dataset, columns, shown)
    seen_as = tuple(shown) if shown else source.cameras
    return source._replace(dataset=made, cameras=seen_as, shown=shown, lacks=tuple(lacks))


def _said_of(source: PolicySource, shown: Mapping[str, str | None], lacks: Sequence[str]) -> str:
    """Say what a source lacks and teaches by, and which of its cameras is seen in the place of another one."""
    said = f"mix: {source.dataset.name} has no {checks.listed(lacks)}"
    said += f": it teaches by {'actions' if source.acts else 'latents'} alone"
    others = _said_of_cameras(source.dataset, shown)
    return f"{said}; its cameras: {', '.join(others)}" if others else said


def _said_of_cameras(dataset: RobotDataset, shown: Mapping[str, str | None]) -> list[str]:
    """Say which cameras of a dataset are seen in the place of others, and which places are black."""
    others = [f"{short_name(key)} as {short_name(name)}" for name, key in shown.items() if key and key != name]
    others += [f"black as {short_name(name)}" for name, key in shown.items() if key is None]
    unseen = [short_name(key) for key in dataset.cameras if key not in shown.values()] if shown else []
    return [*others, f"unseen {checks.listed(unseen)}"] if unseen else others


def cameras_for(dataset: RobotDataset, cameras: Sequence[str]) -> dict[str, str | None]:
    """Return which cameras of a dataset are shown in the places of a policy's: those of the same names; where no name
    is the same, its own in their order. Places that are left stay black (None)."""
    by_name = {short_name(key): key for key in camera_keys(dataset)}
    named = {name: by_name.get(short_name(name)) for name in cameras}
    if any(named.values()):
        return named
    own = [*dataset.cameras, *[None] * len(cameras)]
    return dict(zip(cameras, own, strict=False))


def _facts(source: PolicySource) -> dict[str, Any]:
    """Return what has to be the same in all datasets of a mixture."""
    dataset, spec = source.dataset, source.spec
    facts = dict[str, Any]()
    if source.acts and source.own is None:
        sizes = camera_sizes(dataset, dataset.episodes[0], source.cameras or ())
        facts["sizes of images"] = ", ".join(f"{height}x{width}" for height, width in sizes)
    if spec is None or not source.labelled:
        return facts
    labels = {name: value for name, value in spec.to_json().items() if name != "stride"}  # which may be a time
    facts.update((f"`{name}` of labels", value) for name, value in labels.items())
    if spec.target == "steps":  # an action tokenizer may be one, with normalisers of each dataset
        entry = provenance_of(dataset).get(spec.prefix, {})
        facts["model of labels"] = str(entry.get("model", {}).get("weights_sha256"))[:12]
    return facts
