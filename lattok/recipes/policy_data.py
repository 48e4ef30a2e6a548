"""What policies learn from: datasets with their labels, read once, batches that are a function of the step, and the
configuration that follows from both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, cast

from torch import Tensor
from typing_extensions import Self

from lattok.data import RobotDataset, camera_keys, dimension_names, select_episodes
from lattok.data.alike import check_actions, note_rate, note_rates, note_start, same_actions, same_states
from lattok.data.episodes import EpisodeSpec, check_horizon
from lattok.data.opening import Source, same_cameras
from lattok.data.schema import vector_key
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.labels import LatentSpec, latent_spec, only_prefix, tokenizer_spec, with_labels
from lattok.labels.spec import provenance_of
from lattok.loading import load
from lattok.nn.normalize import for_dataset
from lattok.recipes.common import ImageOptions
from lattok.recipes.policy_options import PolicyOptions
from lattok.samples.batches import BatchOptions, PolicyBatches
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows, WindowOptions, camera_sizes
from lattok.samples.reach import note_reach
from lattok.samples.stream import keep_frames
from lattok.training import LoopOptions
from lattok.types import ActionTokenizer, Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.options import replaced
from lattok.vla import LatentVLA, VLAConfig
from lattok.vla.config import MOST_INSTRUCTIONS, TokenSpec

STATELESS = "Without the robot's state: lattok train vla --no-proprio, or proprio=False."
GRIPPER_REACH = 0.9  # of -1 and 1, by grippers that learn by cross-entropy


class PolicySource(NamedTuple):
    """A dataset and the latent actions in it that a strategy learns from, if it does."""

    dataset: RobotDataset
    episodes: Sequence[Episode]  # that teach
    spec: LatentSpec | None = None
    tokenizer: ActionTokenizer | None = None  # labels the batches, in place of columns
    cameras: tuple[str, ...] | None = None  # of this dataset of a mixture; none: as the options say
    weight: float = 1.0  # of a mixture


@dataclass(frozen=True)
class PolicyData:
    """What a policy learns from, and all that follows from it: its configuration, samples, normalisers and batches.

    Owns the sources: one dataset, or several that are alike. `options`, `model` (which does not know the data yet) and
    `loop` are the recipe's.
    """

    options: PolicyOptions
    model: VLAConfig
    loop: LoopOptions
    sources: tuple[PolicySource, ...]

    @classmethod
    def read(cls, options: PolicyOptions, model: VLAConfig, loop: LoopOptions, sources: Sequence[Source]) -> Self:
        """Find the labels that the strategy learns from; raises `LattokError` where they or the datasets do not fit."""
        chosen = [select_episodes(source.dataset, options.episodes) for source in sources]
        check_horizon(model.horizon, [episode for episodes in chosen for episode in episodes])
        if len(sources) > 1:
            return cls(options, model, loop, tuple(_mixture(options, model, sources, chosen)))
        dataset = sources[0].dataset
        dataset = dataset if options.labels is None else with_labels(dataset, options.labels)
        return cls(options, model, loop, (_labelled(options, model, dataset, chosen[0]),))

    @property
    def datasets(self) -> list[RobotDataset]:
        return [source.dataset for source in self.sources]

    @cached_property
    def decoder(self) -> InverseDynamics | None:
        """The inverse dynamics model whose latents are the labels, if the policy is to predict them."""
        if self.options.decoder is None:
            return None
        decoder, source = InverseDynamics.from_pretrained(self.options.decoder), self.sources[0]
        entry = {} if source.spec is None else provenance_of(source.dataset).get(source.spec.prefix, {})
        made = entry.get("model", {})
        if made.get("weights_sha256") != decoder.describe()["weights_sha256"]:
            expected = f"the model that made the labels of {source.dataset.name}"
            checks.fail("decoder", expected, "labels of another model" if made else "no labels", "Annotate with it.")
        return decoder

    @cached_property
    def tokenizer(self) -> ActionTokenizer | None:
        """The tokenizer whose codes the head is to predict, if it is to."""
        data, dataset = self.options, self.sources[0].dataset
        if self.model.head.name != "tokens":
            return None
        if data.tokenizer is None:
            checks.fail("tokenizer", "an action tokenizer, whose codes head=tokens predicts", "none")
        found = for_dataset(load(data.tokenizer), dataset.name)
        if not isinstance(found, ActionTokenizer):
            checks.fail("tokenizer", "an action tokenizer", type(found).__name__)
        hint = "Leave out horizon: it is the tokenizer's."
        checks.size("tokenizer", "steps of a chunk (horizon)", found.horizon, self.model.horizon, hint)
        _check_tokenizer(data, found, dataset)
        return found

    def check_start(self, before: LatentVLA) -> None:
        """Require that a policy which is trained further learned actions and proprio like these."""
        data = self.options
        for dataset in self.datasets:
            note_start(before, dataset, data.action_key, data.state_key if data.proprio else None)

    def config(
        self, decoder: InverseDynamicsConfig | None = None, tokenizer: ActionTokenizer | None = None
    ) -> VLAConfig:
        """Return the configuration of a policy for this data; `decoder` is of one that predicts latents, `tokenizer`
        of one that acts by tokens."""
        data, source, dataset = self.options, self.sources[0], self.sources[0].dataset
        actions = dimension_names(vector_key(dataset, "action_key", data.action_key))
        if tokenizer is not None:
            checks.size("tokenizer", "action dimensions, as the dataset has", tokenizer.action_dim, len(actions))
        states = ()
        if data.proprio:
            states = dimension_names(vector_key(dataset, "state_key", data.state_key, STATELESS))
        episodes = [episode for each in self.sources for episode in each.episodes]
        instructions = tuple(sorted({text for episode in episodes for text in episode.tasks}))
        cameras = () if data.cameras == () else camera_keys(dataset, data.cameras)
        rates = {float(each.fps) for each in self.datasets}
        absent = tuple(tuple(each.absent.get(data.action_key, ())) for each in self.datasets)  # of each robot
        return replaced(
            self.model,
            action_dim=len(actions),
            action_names=actions,
            action_key=data.action_key,
            proprio_dim=len(states),
            proprio_names=states,
            state_key=data.state_key,
            cameras=cameras,
            camera_sizes=camera_sizes(dataset, dataset.episodes[0], cameras),
            strategy=data.plan,
            latent=source.spec,
            decoder=decoder,
            tokens=None if tokenizer is None else TokenSpec.of(tokenizer),
            fps=rates.pop() if len(rates) == 1 else None,
            normalizers=tuple(each.name for each in self.datasets) if len(self.sources) > 1 else (),
            absent=absent if any(absent) else (),
            instructions=instructions if len(instructions) <= MOST_INSTRUCTIONS else (),
        )

    def windows(
        self,
        source: PolicySource,
        episodes: EpisodeSpec = None,
        gaps: Sequence[int] = (),
        subtasks: bool = False,
    ) -> PolicyWindows:
        """Return every frame of a source's episodes (or of other `episodes`, all of whose actions are known), decoded
        later, with the actions and labels that follow it."""
        data, model = self.options, self.model
        learns = data.plan.learns_labels and source.tokenizer is None
        options = WindowOptions(
            model.horizon,
            model.image_size,
            cameras=data.cameras if source.cameras is None else source.cameras,
            interpolation=model.interpolation,
            action_key=data.action_key,
            state_key=data.state_key if data.proprio else None,
            episodes=data.episodes if episodes is None else episodes,
            action_episodes=data.action_episodes if episodes is None else None,
            confident_share=data.confident_share,
            extra_keys=() if data.eval_key is None else (data.eval_key,),
            gaps=gaps,
            subtasks=subtasks,
            latent=source.spec if learns else None,
            parts=data.plan.needs,
            tokenizer=source.tokenizer,
        )
        windows = PolicyWindows(source.dataset, options)
        windows.check_share(data.acted_share if episodes is None else 0.0)
        return windows

    def parts(self, gaps: Callable[[float], Sequence[int]], subtasks: bool) -> list[PolicyWindows]:
        """Return the windows of each source; `gaps`: frames ahead that they look too, at a rate."""
        return [self.windows(each, gaps=gaps(each.dataset.fps), subtasks=subtasks) for each in self.sources]

    def inputs(self, parts: Sequence[PolicyWindows]) -> dict[str, str]:
        """Return hashes of the labels that were read, and of the tokenizers that label, by name."""
        found: dict[str, str | None] = {}
        for source, part in zip(self.sources, parts, strict=True):
            of = f" of {source.dataset.name}" if len(self.sources) > 1 else ""
            found[f"labels{of}"] = part.labels_hash
            if source.tokenizer is not None:
                found[f"tokenizer{of}"] = source.tokenizer.describe()["weights_sha256"]
        return {name: value for name, value in found.items() if value is not None}

    def normalised(self, policy: LatentVLA, parts: Sequence[PolicyWindows]) -> PolicyWindows | MixedPolicyWindows:
        """Fit the policy's normalisers, and return all samples. Those of a mixture come normalised, and the policy's
        own normalisers do nothing while it trains."""
        config, alone = policy.config, {"action": policy.action_normalizer, "proprio": policy.proprio_normalizer}
        each: Any = policy.normalizers if policy.datasets else [alone]
        for part, maps in zip(parts, each, strict=True):
            maps["action"].fit(part.known_actions, config.action_kinds)
            if config.decoder is not None:
                policy.latent_normalizer.fit(part.known_latents, "mean_std")
            _check_grippers(config, maps["action"](part.known_actions))
            if part.states is not None:
                maps["proprio"].fit(part.states, config.normalize)
        if not policy.datasets:
            return parts[0]
        policy.use_normalizers(policy.normalizers.fresh())
        return MixedPolicyWindows(parts, [source.weight for source in self.sources], each)

    def batches(self, samples: PolicyWindows | MixedPolicyWindows, policy: LatentVLA) -> PolicyBatches:
        """Return the batches that a policy learns from, with what can be made ahead of its steps."""
        head = self.model.head.name
        drawn = batch_options(self.options, self.loop, samples, self.model.image_size)
        drawn = replace(drawn, acted_share=self.options.acted_share, flows=head == "flow", codes=head == "tokens")
        return PolicyBatches(samples, drawn, prepared=policy.prepared, encoded=policy.with_tokens)


def batch_options(
    data: ImageOptions, loop: LoopOptions, samples: PolicyWindows | MixedPolicyWindows, image_size: int
) -> BatchOptions:
    """Return how a run draws its samples, whose frames are kept from now on where they fit."""
    window = data.window(image_size, samples.parts[0].cameras)
    memory = keep_frames(samples.parts, window, data.memory_gb, loop.device)
    return BatchOptions(loop.batch_size, loop.seed, window, memory, changes=data)


def _labelled(
    data: PolicyOptions, model: VLAConfig, dataset: RobotDataset, episodes: Sequence[Episode]
) -> PolicySource:
    """Return what the strategy learns from in a dataset with its labels."""
    plan = data.plan
    if data.tokenizer is not None and plan.labels != "chunk" and model.head.name != "tokens":
        reason = f"`tokenizer` {data.tokenizer} was given, but {plan.name} learns nothing from tokens of actions."
        raise LattokError(f"{reason} Leave it out, or choose la_tok, or head=tokens.")
    if plan.labels is None:
        return PolicySource(dataset, episodes)
    if data.tokenizer is not None and plan.labels == "chunk":
        tokenizer = cast(ActionTokenizer, for_dataset(load(data.tokenizer), dataset.name))  # which is checked
        _check_tokenizer(data, tokenizer, dataset)
        return PolicySource(dataset, episodes, tokenizer_spec(tokenizer, model.horizon, plan.needs), tokenizer)
    prefix = data.prefix or only_prefix(dataset, plan.labels, plan.name)
    given = data.latent_stride
    stride = None if given is None else checks.stride_in_frames(given, dataset.fps, "latent_stride")
    spec = latent_spec(dataset, prefix, plan.labels, model.horizon, stride, needs=plan.needs)
    return PolicySource(dataset, episodes, spec)


def _check_tokenizer(data: PolicyOptions, tokenizer: ActionTokenizer, dataset: RobotDataset) -> None:
    """Require that a tokenizer is of actions like the dataset's; say where its rate or its reach are others."""
    check_actions(tokenizer, dataset, data.action_key)
    note_rate(tokenizer, dataset, data.any_rate, data.action_key)
    note_reach(tokenizer, dataset, data.action_key)


def _mixture(
    data: PolicyOptions, model: VLAConfig, sources: Sequence[Source], chosen: Sequence[Sequence[Episode]]
) -> list[PolicySource]:
    """Return what the strategy learns from in each of several datasets, which must be alike: in dimensions of actions
    and proprio, in names and sizes of cameras, and in what labels are and who made them."""
    if data.labels is not None:
        hint = "Mix datasets that hold theirs, as annotate writes them."
        raise LattokError(f"`labels` are of one dataset, not of a mixture. {hint}")
    datasets = [source.dataset for source in sources]
    cameras = () if data.cameras == () else camera_keys(datasets[0], data.cameras)
    same_actions(datasets, data.action_key)
    if data.proprio:
        same_states(datasets, data.state_key, STATELESS)
    note_rates(datasets, model.horizon)
    views = [same_cameras(dataset, cameras) if cameras else () for dataset in datasets]
    found = [
        _labelled(data, model, source.dataset, episodes)._replace(cameras=view, weight=source.weight)
        for source, episodes, view in zip(sources, chosen, views, strict=True)
    ]
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
    facts.update((f"`{name}` of labels", value) for name, value in labels.items())
    if spec.target == "steps":  # an action tokenizer may be one, with normalisers of each dataset
        entry = provenance_of(dataset).get(spec.prefix, {})
        facts["model of labels"] = str(entry.get("model", {}).get("weights_sha256"))[:12]
    return facts


def _check_grippers(config: VLAConfig, actions: Tensor) -> None:
    """Require of grippers that learn by cross-entropy that they reach -1 and 1, or never move."""
    for dim in config.gripper:
        low, high = (float(value) for value in actions[:, dim].aminmax())
        if low < high and not (low <= -GRIPPER_REACH and high >= GRIPPER_REACH):
            hint = "Set normalize_exceptions='*gripper*=min_max'."
            got = f"`{config.action_names[dim]}` from {low:.2g} to {high:.2g}, normalised by {config.action_kinds[dim]}"
            checks.fail("action_loss", f"grippers from -1 to 1 with {config.action_loss}", got, hint)
