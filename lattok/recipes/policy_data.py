"""What policies learn from: datasets with their labels, read once, batches that are a function of the step, and the
configuration that follows from both."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor
from typing_extensions import Self

from lattok.data import RobotDataset, camera_keys, dimension_names, select_episodes
from lattok.data.alike import note_start
from lattok.data.episodes import EpisodeSpec, check_horizon
from lattok.data.opening import Source
from lattok.data.schema import vector_key
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.labels.spec import provenance_of
from lattok.loading import load
from lattok.nn.normalize import for_dataset
from lattok.recipes.common import ImageOptions
from lattok.recipes.policy_options import PolicyOptions
from lattok.recipes.policy_sources import STATELESS, PolicySource, check_tokenizer, labelled, mixture
from lattok.recipes.run_folder import key_flags
from lattok.samples.batches import BatchOptions, PolicyBatches
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows, WindowOptions, camera_sizes
from lattok.samples.stream import keep_frames
from lattok.training import LoopOptions
from lattok.types import ActionTokenizer, PolicyBatch
from lattok.utils import checks
from lattok.utils.commands import DATASET
from lattok.utils.options import replaced
from lattok.utils.output import unused
from lattok.vla import LatentVLA, VLAConfig
from lattok.vla.config import MOST_INSTRUCTIONS, TokenSpec
from lattok.vla.tokens import ActionCodec

SHOWN = 4  # episodes in a note
GRIPPER_REACH = 0.9  # of -1 and 1, by grippers that learn by cross-entropy


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
            found = mixture(options, model, sources, chosen)
            found = [source for source in found if source.acts] if options.stages == "finetune" else found
            return cls(options, model, loop, tuple(found))
        return cls(options, model, loop, (labelled(options, model, sources[0].dataset, chosen[0]),))

    @property
    def datasets(self) -> list[RobotDataset]:
        return [source.dataset for source in self.sources]

    @property
    def acting(self) -> list[PolicySource]:
        """The sources whose actions teach: the policy acts as in these."""
        return [source for source in self.sources if source.acts]

    @property
    def lead(self) -> PolicySource:
        """The source that says what actions, proprio, cameras and labels are; films where there is no other."""
        return (self.acting or self.sources)[0]

    @property
    def reads_states(self) -> bool:
        """Return whether the policy sees the robot's state: in films alone there is none."""
        return self.options.proprio and self.lead.acts

    @cached_property
    def decoder(self) -> InverseDynamics | None:
        """The inverse dynamics model whose latents are the labels, if the policy is to predict them."""
        if self.options.decoder is None:
            return None
        source = self.lead
        decoder = for_dataset(InverseDynamics.from_pretrained(self.options.decoder), source.dataset.name)
        entry = {} if source.spec is None else provenance_of(source.dataset).get(source.spec.prefix, {})
        made = entry.get("model", {})
        if made.get("weights_sha256") != decoder.describe()["weights_sha256"]:
            expected = f"the model that made the labels of {source.dataset.name}"
            checks.fail("decoder", expected, "labels of another model" if made else "no labels", "Annotate with it.")
        return decoder

    @cached_property
    def tokenizer(self) -> ActionTokenizer | None:
        """The tokenizer whose codes the head is to predict, if it is to."""
        data, dataset = self.options, self.lead.dataset
        if self.model.head.name != "tokens":
            return None
        if data.tokenizer is None:
            words = shlex.join(["lattok", "train", "beast", dataset.address or dataset.name, "--out", "my-tokenizer"])
            hint = f"Train one: {words}. Then add tokenizer=my-tokenizer."
            checks.fail("tokenizer", "an action tokenizer, whose codes head=tokens predicts", "none", hint)
        found = load(data.tokenizer)
        if not isinstance(found, ActionTokenizer):
            checks.fail("tokenizer", "an action tokenizer", type(found).__name__)
        hint = "Leave out horizon: it is the tokenizer's."
        checks.size("tokenizer", "steps of a chunk (horizon)", found.horizon, self.model.horizon, hint)
        for source in self.acting:
            check_tokenizer(data, for_dataset(found, source.dataset.name), source.own or source.dataset)
        return found if len(self.acting) > 1 else for_dataset(found, dataset.name)

    def check_start(self, before: LatentVLA) -> None:
        """Require that a policy which is trained further learned actions and proprio like these."""
        data = self.options
        for dataset in (source.dataset for source in self.acting):
            if not before.config.of_films:
                note_start(before, dataset, data.action_key, data.state_key if data.proprio else None)

    def config(
        self, decoder: InverseDynamicsConfig | None = None, tokenizer: ActionTokenizer | None = None
    ) -> VLAConfig:
        """Return the configuration of a policy for this data; `decoder` is of one that predicts latents, `tokenizer`
        of one that acts by tokens."""
        data, source, dataset = self.options, self.lead, self.lead.dataset
        actions = dimension_names(vector_key(dataset, "action_key", data.action_key))
        states = ()
        if self.reads_states:
            states = dimension_names(vector_key(dataset, "state_key", data.state_key, STATELESS))
        datasets = [each.dataset for each in self.acting]
        episodes = [episode for each in self.acting for episode in each.episodes]
        instructions = tuple(sorted({text for episode in episodes for text in episode.tasks}))
        asked = data.cameras if source.acts else source.cameras
        cameras = () if asked == () else camera_keys(dataset, asked)
        rates = {float(each.fps) for each in datasets}
        absent = tuple(tuple(each.absent.get(data.action_key, ())) for each in datasets)  # of each robot
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
            normalizers=tuple(each.name for each in datasets) if len(datasets) > 1 else (),
            absent=absent if any(absent) else (),
            action_widths=_widths(self.acting, data.action_key),
            proprio_widths=_widths(self.acting, data.state_key) if self.reads_states else (),
            **_robot_cameras(self.acting, cameras),
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
        stated = self.reads_states and (len(self.sources) == 1 or data.state_key in source.dataset.features)
        options = WindowOptions(
            model.horizon,
            model.image_size,
            cameras=data.cameras if source.cameras is None else source.cameras,
            interpolation=model.interpolation,
            action_key=data.action_key,
            state_key=data.state_key if stated else None,
            episodes=data.episodes if episodes is None else episodes,
            action_episodes=data.action_episodes if episodes is None and source.acts else None,
            acts=source.acts,
            labelled=source.labelled,
            confident_share=data.confident_share,
            extra_keys=() if data.eval_key is None else (data.eval_key,),
            gaps=gaps,
            subtasks=subtasks,
            latent=source.spec if learns else None,
            parts=data.plan.needs,
            tokenizer=source.tokenizer,
            tokenized=source.blocks.get(data.action_key),
        )
        windows = PolicyWindows(source.dataset, options)
        if episodes is None and source.acts and not learns and data.action_episodes is None:
            _note_unknown(source.dataset, windows, data.action_key)
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

    def record(self, parts: Sequence[PolicyWindows]) -> list[dict[str, Any]]:
        """Return what each source of a mixture gave: samples, and how many of them with actions and with latents; what
        it lacks; and which of its cameras was seen in the place of each of the policy's, where names differ."""
        found = []
        for source, part in zip(self.sources, parts, strict=True):
            labelled = 0 if part.labelled is None else int(part.labelled.sum())
            gave = {"samples": len(part), "actions": int(part.teaching.sum()), "latents": labelled}
            entry: dict[str, Any] = {"gave": gave}
            if source.lacks:
                entry["lacks"] = [*source.lacks]
            if any(name != key for name, key in source.shown.items()):
                entry["cameras"] = dict(source.shown)
            found.append(entry)
        return found

    def normalised(self, policy: LatentVLA, parts: Sequence[PolicyWindows]) -> PolicyWindows | MixedPolicyWindows:
        """Fit the policy's normalisers, and return all samples. Those of several datasets with actions come normalised,
        and the policy's own normalisers do nothing while it trains."""
        config, alone = policy.config, {"action": policy.action_normalizer, "proprio": policy.proprio_normalizer}
        each: Any = policy.normalizers if policy.datasets else [alone] * bool(self.acting)
        acting = [part for source, part in zip(self.sources, parts, strict=True) if source.acts]
        for part, maps in zip(acting, each, strict=True):
            maps["action"].fit(part.known_actions, config.action_kinds)
            if config.decoder is not None:
                policy.latent_normalizer.fit(part.known_latents, "mean_std")
            _check_grippers(config, maps["action"](part.known_actions))
            if (states := part.fitted_states) is not None:
                maps["proprio"].fit(states, config.normalize)
        if len(parts) == 1:
            return parts[0]
        own = iter(each if policy.datasets else [None])
        if policy.datasets:
            policy.use_normalizers(policy.normalizers.fresh())
        maps = [next(own) if source.acts else None for source in self.sources]
        return MixedPolicyWindows(parts, [source.weight for source in self.sources], maps, self._coders(policy))

    def _coders(self, policy: LatentVLA) -> list[Callable[[PolicyBatch], Tensor]]:
        """Return what makes codes of the actions of each source, in its own units, if the policy acts by codes and
        knows several datasets."""
        if policy.codec is None or not policy.datasets:
            return []
        codecs = {name: policy.codec.for_dataset(name) for name in policy.datasets}
        silent = next(iter(codecs.values()))  # of a source without actions, whose samples have no codes
        blocks = [source.blocks.get(self.options.action_key, slice(None)) for source in self.sources]
        each = zip(self.sources, blocks, strict=True)
        return [partial(_codes, codecs.get(source.dataset.name, silent), block) for source, block in each]

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


def _codes(codec: ActionCodec, block: slice, batch: PolicyBatch) -> Tensor:
    return codec.encode(batch._replace(actions=batch.actions[..., block]))


def _robot_cameras(sources: Sequence[PolicySource], cameras: Sequence[str]) -> dict[str, Any]:
    """Return which cameras each dataset has in the places of all, and their sizes, where each has a head."""
    owned = [
        (own, tuple(source.shown[name] or "" for name in cameras))
        for source in sources
        if cameras and (own := source.own) is not None
    ]
    sizes = [camera_sizes(own, own.episodes[0], [*filter(None, shown)]) for own, shown in owned]
    return {"robot_cameras": tuple(shown for _, shown in owned), "robot_camera_sizes": tuple(sizes)}


def _note_unknown(dataset: RobotDataset, windows: PolicyWindows, key: str) -> None:
    """Say which episodes teach nothing, as nobody knows their actions, and how these are inferred."""
    known = {*windows.episode_of[windows.acted.numpy()].tolist()}
    if unknown := [episode.index for episode in windows.episodes if episode.index not in known]:
        words = ["lattok", "train", "idm", dataset.address or DATASET, "--out", unused("my-idm"), *key_flags(key)]
        typed = shlex.join([*words, "--preset", "tiny"])
        few = f"{len(unknown)} of {checks.counted(len(windows.episodes), 'episode')} ({checks.few_of(unknown, SHOWN)})"
        checks.note(f"`{key}` is unknown in {few}, which teach nothing. Infer it first: {typed}")


def _widths(sources: Sequence[PolicySource], key: str) -> tuple[int, ...]:
    """Return how many numbers each dataset has of its own; nothing where all have the same."""
    blocks = [source.blocks[key] for source in sources if source.blocks]
    return tuple(block.stop - block.start for block in blocks)


def _check_grippers(config: VLAConfig, actions: Tensor) -> None:
    """Require of grippers that learn by cross-entropy that they reach -1 and 1, or never move."""
    for dim in config.gripper:
        low, high = (float(value) for value in actions[:, dim].aminmax())
        if low < high and not (low <= -GRIPPER_REACH and high >= GRIPPER_REACH):
            hint = "Set normalize_exceptions='*gripper*=min_max'."
            got = f"`{config.action_names[dim]}` from {low:.2g} to {high:.2g}, normalised by {config.action_kinds[dim]}"
            checks.fail("action_loss", f"grippers from -1 to 1 with {config.action_loss}", got, hint)
