"""What policies learn from: a dataset with its labels, read once, batches that are a function of the step, and the
configuration that follows from both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from lattok.data import RobotDataset, camera_keys, dimension_names, select_episodes, split_by_task
from lattok.data.alike import check_actions, note_rate, note_rates, same_actions, same_states
from lattok.data.copies import with_copies
from lattok.data.episodes import EpisodeSpec
from lattok.data.opening import same_cameras
from lattok.data.schema import vector_key
from lattok.image_lam.inverse import InverseDynamicsConfig
from lattok.labels import LatentSpec, latent_spec, only_prefix, tokenizer_spec, with_labels
from lattok.labels.spec import measured_episodes, provenance_of
from lattok.loading import load
from lattok.nn.normalize import for_dataset
from lattok.recipes.common import ImageOptions, MixOptions, Recipe
from lattok.samples.batches import PolicyBatches
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows, camera_sizes
from lattok.samples.reach import note_reach
from lattok.samples.stream import keep_frames
from lattok.types import ActionTokenizer
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.vla import VLAConfig
from lattok.vla.config import MOST_INSTRUCTIONS, TokenSpec

STATELESS = "Without the robot's state: lattok train vla --no-proprio, or proprio=False."


@dataclass(frozen=True)
class ActedOptions(ImageOptions, MixOptions):
    """What is read where some episodes may lack actions.

    Attributes:
        action_episodes: episodes whose actions are known; others teach by labels, or by frames alone (default: all)
        acted_share: share of a batch that comes from episodes with known, measured actions; 0: as in the data
        confident_share: share of inferred actions that teach, the most confident first; 1: all
    """

    action_episodes: str | None = None
    acted_share: float = 0.0
    confident_share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.acted_share < 1:
            checks.fail("acted_share", "a share from 0 to below 1", self.acted_share)
        if not 0 < self.confident_share <= 1:
            checks.fail("confident_share", "a share above 0, up to 1", self.confident_share)
        if self.acted_share and len(self.mix) > 1:
            raise LattokError("`acted_share` is of one dataset. In a mixture the weights say how often each is drawn.")


class PolicySource(NamedTuple):
    """A dataset and the latent actions in it that a strategy learns from, if it does."""

    dataset: RobotDataset
    spec: LatentSpec | None = None
    tokenizer: Any = None  # labels the batches, in place of columns
    cameras: tuple[str, ...] | None = None  # of this dataset of a mixture; none: as the recipe says


def find_labels(recipe: Recipe[Any], dataset: RobotDataset) -> PolicySource:
    """Return what the recipe's strategy learns from in a dataset with its labels."""
    data, plan, horizon = recipe.data, recipe.data.plan, recipe.model.horizon
    if data.tokenizer is not None and plan.labels != "chunk" and recipe.model.head.name != "tokens":
        reason = f"`tokenizer` {data.tokenizer} was given, but {plan.name} learns nothing from tokens of actions."
        raise LattokError(f"{reason} Leave it out, or choose la_tok, or head=tokens.")
    if plan.labels is None:
        return PolicySource(dataset)
    if data.tokenizer is not None and plan.labels == "chunk":
        tokenizer = cast(ActionTokenizer, for_dataset(load(data.tokenizer), dataset.name))  # which is checked
        check_actions(tokenizer, dataset, data.action_key)
        note_rate(tokenizer, dataset, data.any_rate, data.action_key)
        note_reach(tokenizer, dataset, data.action_key)
        return PolicySource(dataset, tokenizer_spec(tokenizer, horizon, plan.needs), tokenizer)
    prefix = data.prefix or only_prefix(dataset, plan.labels, plan.name)
    given = data.latent_stride
    stride = None if given is None else checks.stride_in_frames(given, dataset.fps, "latent_stride")
    return PolicySource(dataset, latent_spec(dataset, prefix, plan.labels, horizon, stride, needs=plan.needs))


def find_sources(recipe: Recipe[Any], datasets: Sequence[RobotDataset]) -> list[PolicySource]:
    """Return what the recipe's strategy learns from in one dataset, or in each of several, which must be alike. Alike
    are dimensions of actions and proprio, names and sizes of cameras, and what labels are and who made them."""
    data = recipe.data
    if len(datasets) == 1:
        return [find_labels(recipe, datasets[0] if data.labels is None else with_labels(datasets[0], data.labels))]
    if data.labels is not None:
        hint = "Mix datasets that hold theirs, as annotate writes them."
        raise LattokError(f"`labels` are of one dataset, not of a mixture. {hint}")
    cameras = () if data.cameras == () else camera_keys(datasets[0], data.cameras)
    same_actions(datasets, data.action_key)
    if data.proprio:
        same_states(datasets, data.state_key, STATELESS)
    note_rates(datasets, recipe.model.horizon)
    alike = [same_cameras(dataset, cameras) if cameras else () for dataset in datasets]
    found = [find_labels(recipe, dataset)._replace(cameras=own) for dataset, own in zip(datasets, alike, strict=True)]
    facts = [_facts(source) for source in found]
    for source, mine in zip(found, facts, strict=True):
        for what, value in mine.items():
            if value != facts[0][what]:
                expected = f"the {what} of {found[0].dataset.name} ({facts[0][what]}) in every dataset"
                checks.fail("mix", expected, f"{value} in {source.dataset.name}")
    return found


def _facts(source: PolicySource) -> dict[str, Any]:
    """Return what has to be the same in all datasets of a mixture."""
    dataset, spec = source.dataset, source.spec
    sizes = camera_sizes(dataset, dataset.episodes[0], source.cameras or ())
    facts: dict[str, Any] = {"sizes of images": ", ".join(f"{height}x{width}" for height, width in sizes)}
    if spec is None:
        return facts
    labels = {name: value for name, value in spec.to_json().items() if name != "stride"}  # which may be a time
    facts |= {f"`{name}` of labels": value for name, value in labels.items()}
    if spec.target == "steps":  # an action tokenizer may be one, with normalisers of each dataset
        entry = provenance_of(dataset).get(spec.prefix, {})
        facts["model of labels"] = str(entry.get("model", {}).get("weights_sha256"))[:12]
    return facts


def policy_config(
    recipe: Recipe[Any],
    sources: Sequence[PolicySource],
    decoder: InverseDynamicsConfig | None = None,
    tokenizer: ActionTokenizer | None = None,
) -> VLAConfig:
    """Return the recipe's policy for this data; a decoder is of one that predicts latents, a tokenizer of tokens."""
    if tokenizer is None and recipe.model.head.name == "tokens":
        hint = "Policies of lattok train vla act by tokens."
        checks.fail("head", f"regression or flow in lattok train {recipe.kind}", "tokens", hint)
    source, dataset, data = sources[0], sources[0].dataset, recipe.data
    actions = dimension_names(vector_key(dataset, "action_key", data.action_key))
    states = dimension_names(vector_key(dataset, "state_key", data.state_key, STATELESS)) if data.proprio else ()
    episodes = [episode for each in sources for episode in select_episodes(each.dataset, data.episodes)]
    rates = {float(each.dataset.fps) for each in sources}
    instructions = tuple(sorted({text for episode in episodes for text in episode.tasks}))
    cameras = () if data.cameras == () else camera_keys(dataset, data.cameras)
    if tokenizer is not None:
        checks.size("tokenizer", "action dimensions, as the dataset has", tokenizer.action_dim, len(actions))
    absent = tuple(tuple(each.dataset.absent.get(data.action_key, ())) for each in sources)  # of each robot
    known: dict[str, Any] = {"action_dim": len(actions), "action_names": actions, "action_key": data.action_key}
    known |= {"proprio_dim": len(states), "proprio_names": states, "state_key": data.state_key}
    known |= {"cameras": cameras, "camera_sizes": camera_sizes(dataset, dataset.episodes[0], cameras)}
    known |= {"strategy": data.plan, "latent": source.spec, "decoder": decoder}
    known["tokens"] = None if tokenizer is None else TokenSpec.of(tokenizer)
    known["fps"] = rates.pop() if len(rates) == 1 else None
    known["normalizers"] = tuple(each.dataset.name for each in sources) if len(sources) > 1 else ()
    known["absent"] = absent if any(absent) else ()
    known["instructions"] = instructions if len(instructions) <= MOST_INSTRUCTIONS else ()
    return recipe.config(**known)


def held_out_episodes(dataset: RobotDataset, episodes: EpisodeSpec, key: str) -> list[int]:
    """Return what a policy that is trained on `episodes` is judged on: the test episodes that are not among them, so
    that runs on different shares of the others are judged on the same ones; where none is left, all others. Only
    those in which the column `key` was measured: nobody knows what is right in the others. None that equals one of
    `episodes`."""
    chosen = with_copies(dataset, (episode.index for episode in select_episodes(dataset, episodes)))
    test = {*split_by_task(dataset)[1]}
    others = [episode for episode in dataset.episodes if episode.index not in chosen]
    left = [episode.index for episode in measured_episodes(dataset, key, others)]
    return [index for index in left if index in test] or left


def windows_of(recipe: Recipe[Any], config: Any, dataset: RobotDataset, horizon: int, **more: Any) -> PolicyWindows:
    """Return windows of a dataset that a recipe reads, as a model of this configuration sees it; `more` are options of
    `PolicyWindows`, which win over these."""
    data = recipe.data
    options = {"cameras": config.cameras, "size": config.image_size, "interpolation": config.interpolation}
    options |= {"action_key": data.action_key, "episodes": data.episodes, "action_episodes": data.action_episodes}
    return PolicyWindows(dataset, horizon, **{**options, **more})


def read_windows(recipe: Recipe[Any], source: PolicySource, episodes: EpisodeSpec = None, **more: Any) -> PolicyWindows:
    """Return every frame of the recipe's episodes (or of others), decoded later, with the actions and labels that
    follow it. `more` are other options of `PolicyWindows`: `gaps`, `subtasks`."""
    data = recipe.data
    options: dict[str, Any] = {} if episodes is None else {"episodes": episodes, "action_episodes": None}
    options["cameras"] = data.cameras if source.cameras is None else source.cameras
    options["state_key"] = data.state_key if data.proprio else None
    options["latent"] = source.spec if data.plan.learns_labels and source.tokenizer is None else None
    options |= {"tokenizer": source.tokenizer, "parts": data.plan.needs, "confident_share": data.confident_share}
    options["extra_keys"] = () if data.eval_key is None else (data.eval_key,)
    windows = windows_of(recipe, recipe.model, source.dataset, recipe.model.horizon, **options, **more)
    windows.check_share(data.acted_share if episodes is None else 0.0)
    return windows


def policy_batches(
    recipe: Recipe[Any], samples: PolicyWindows | MixedPolicyWindows, flows: bool | None = None, **more: Any
) -> PolicyBatches:
    """Return the batches of a run, whose frames are kept where they fit. `flows`: with draws of flow matching; left
    out: as the head needs them. `more` are other options of `PolicyBatches`."""
    data, loop = recipe.data, recipe.loop
    head = recipe.model.head.name if flows is None else ""
    options: dict[str, Any] = {"acted_share": data.acted_share, "changes": data, "codes": head == "tokens", **more}
    options["flows"] = head == "flow" if flows is None else flows
    window = data.window(recipe.model.image_size, samples.parts[0].cameras)
    memory = keep_frames(samples.parts, window, data.memory_gb, loop.device)
    return PolicyBatches(samples, loop.batch_size, loop.seed, window, memory, **options)
