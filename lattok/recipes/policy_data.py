"""What policies learn from: a dataset with its labels, read once, and batches that are a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch

from lattok.data import RobotDataset, camera_keys, select_episodes, split_by_task
from lattok.data.schema import vector_key
from lattok.labels import LatentSpec, latent_spec, only_prefix, tokenizer_spec, with_labels
from lattok.labels.provenance import provenance_of
from lattok.loading import load
from lattok.nn.flow import draw_flow
from lattok.nn.normalize import for_dataset
from lattok.recipes.common import Recipe
from lattok.recipes.frame_memory import keep_or_stream
from lattok.samples.augment import augment_alike, draw
from lattok.samples.batches import same_actions, same_cameras
from lattok.samples.lanes import StreamedBatches, lanes_of
from lattok.samples.order import MixedBatches, SeededBatches
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows, camera_sizes
from lattok.samples.stream import FrameStream
from lattok.training.feed import BatchSource
from lattok.types import ActionTokenizer, FlowDraws, PairIndex, PolicyBatch
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.seeds import derive_seed


class PolicySource(NamedTuple):
    """A dataset and the latent actions in it that a strategy learns from, if it does."""

    dataset: RobotDataset
    spec: LatentSpec | None = None
    tokenizer: Any = None  # labels the batches, in place of columns
    cameras: tuple[str, ...] | None = None  # of this dataset of a mixture; none: as the recipe says


def with_its_labels(recipe: Recipe[Any], dataset: RobotDataset) -> RobotDataset:
    """Return the recipe's dataset, with the labels in their own folder as columns."""
    return dataset if recipe.data.labels is None else with_labels(dataset, recipe.data.labels)


def find_labels(recipe: Recipe[Any], dataset: RobotDataset) -> PolicySource:
    """Return what the recipe's strategy learns from in a dataset with its labels."""
    data, plan = recipe.data, recipe.data.plan
    horizon = recipe.model.horizon
    if data.tokenizer is not None and plan.labels != "chunk":
        reason = f"`tokenizer` {data.tokenizer} was given, but {plan.name} learns nothing from tokens of actions."
        raise LattokError(f"{reason} Leave it out, or choose la_tok.")
    if plan.labels is None:
        return PolicySource(dataset)
    if data.tokenizer is not None:
        tokenizer = cast(ActionTokenizer, for_dataset(load(data.tokenizer), dataset.name))  # which is checked
        return PolicySource(dataset, tokenizer_spec(tokenizer, horizon, plan.needs), tokenizer)
    prefix = data.prefix or only_prefix(dataset, plan.labels, plan.name)
    given = data.latent_stride
    stride = None if given is None else checks.stride_in_frames(given, dataset.fps, "latent_stride")
    return PolicySource(dataset, latent_spec(dataset, prefix, plan.labels, horizon, stride, needs=plan.needs))


STATELESS = "Without the robot's state: lattok train vla --no-proprio, or proprio=False."


def find_sources(recipe: Recipe[Any], datasets: Sequence[RobotDataset]) -> list[PolicySource]:
    """Return what the recipe's strategy learns from in one dataset, or in each of several, which must be alike.

    Alike are dimensions of actions and proprio, names and sizes of cameras, and what labels are and who made them.
    """
    data = recipe.data
    if len(datasets) == 1:
        return [find_labels(recipe, with_its_labels(recipe, datasets[0]))]
    if data.labels is not None:
        raise LattokError(
            "`labels` are of one dataset, not of a mixture. Mix datasets that hold theirs, as annotate writes them."
        )
    if data.acted_share:
        raise LattokError("`acted_share` is of one dataset. In a mixture the weights say how often each is drawn.")
    cameras = () if data.cameras == () else camera_keys(datasets[0], data.cameras)
    same_actions(datasets, data.action_key)
    found = [
        find_labels(recipe, dataset)._replace(cameras=same_cameras(dataset, cameras) if cameras else ())
        for dataset in datasets
    ]
    facts = [_facts(recipe, source) for source in found]
    for source, mine in zip(found, facts, strict=True):
        for what, value in mine.items():
            if value != facts[0][what]:
                expected = f"the {what} of {found[0].dataset.name} ({facts[0][what]}) in every dataset"
                checks.fail("mix", expected, f"{value} in {source.dataset.name}")
    return found


def _facts(recipe: Recipe[Any], source: PolicySource) -> dict[str, Any]:
    """Return what has to be the same in all datasets of a mixture."""
    data, dataset, spec = recipe.data, source.dataset, source.spec
    sizes = camera_sizes(dataset, dataset.episodes[0], source.cameras or ())
    facts: dict[str, Any] = {"sizes of images": ", ".join(f"{height}x{width}" for height, width in sizes)}
    if data.proprio:
        facts["numbers of proprio"] = vector_key(dataset, "state_key", data.state_key, STATELESS).shape[0]
    if spec is None:
        return facts
    labels = {name: value for name, value in spec.to_json().items() if name != "stride"}  # which may be a time
    facts |= {f"`{name}` of labels": value for name, value in labels.items()}
    if spec.target == "steps":  # an action tokenizer may be one, with normalisers of each dataset
        entry = provenance_of(dataset).get(spec.prefix, {})
        facts["model of labels"] = str(entry.get("model", {}).get("weights_sha256"))[:12]
    return facts


def held_out_episodes(dataset: RobotDataset, episodes: str | Sequence[int]) -> list[int]:
    """What a policy that is trained on `episodes` is judged on: the dataset's test episodes that are not among them;
    where none is left, all others.

    So that runs on different shares of the training episodes are judged on the same ones.
    """
    chosen = {episode.index for episode in select_episodes(dataset, episodes)}
    test = [index for index in split_by_task(dataset)[1] if index not in chosen]
    return test or [episode.index for episode in dataset.episodes if episode.index not in chosen]


def read_windows(
    recipe: Recipe[Any],
    source: PolicySource,
    episodes: str | Sequence[int] | None = None,
    gaps: Sequence[int] = (),
    subtasks: bool = False,
) -> PolicyWindows:
    """Return every frame of the recipe's episodes (or of others), decoded later, with the actions and labels that
    follow it. `gaps`: so many frames later batches look again; `subtasks`: they have the texts of sub-tasks."""
    data, config = recipe.data, recipe.model
    learns = bool(data.plan.losses)
    return PolicyWindows(
        source.dataset,
        config.horizon,
        cameras=data.cameras if source.cameras is None else source.cameras,
        size=config.image_size,
        interpolation=config.interpolation,
        action_key=data.action_key,
        state_key=data.state_key if data.proprio else None,
        episodes=data.episodes if episodes is None else episodes,
        action_episodes=data.action_episodes if episodes is None else None,
        gaps=gaps,
        subtasks=subtasks,
        latent=source.spec if learns and source.tokenizer is None else None,
        labeller=source.tokenizer,
        parts=data.plan.needs,
        extra_keys=() if data.eval_key is None else (data.eval_key,),
        pixels=False,
    )


class PolicyBatches(BatchSource):
    """Random windows of step t with augmented images; sample i of a step is the same for any number of processes."""

    def __init__(
        self,
        samples: PolicyWindows | MixedPolicyWindows,
        recipe: Recipe[Any],
        windows: Sequence[int] | None = None,
        prepared: Callable[[PolicyBatch], PolicyBatch] = lambda batch: batch,
        flows: bool | None = None,
    ):
        """`windows`: images are streamed, with so many samples in a window of each dataset (see `samples.lanes`).

        `prepared` does what else can be done ahead of a step. `flows`: batches carry the draws of flow matching; left
        out: as the recipe's head needs them.
        """
        self._prepared = prepared
        self.windows, self.loop, self.data = samples, recipe.loop, recipe.data
        size, seed, share = recipe.loop.batch_size, recipe.loop.seed, recipe.data.acted_share
        self._draw: Callable[[int], torch.Tensor] = SeededBatches(len(samples), size, seed)
        self._order = torch.arange(len(samples))
        if isinstance(samples, MixedPolicyWindows):
            parts, weights, chosen = samples.parts, samples.weights, None
            self._draw = MixedBatches(samples.sizes, weights, size, seed)
        elif share:
            each = [samples.acted.nonzero().flatten(), (~samples.acted).nonzero().flatten()]
            parts, weights, chosen = [samples, samples], [share, 1 - share], [part.numpy() for part in each]
            self._draw = MixedBatches([len(part) for part in each], weights, size, seed)
            self._order = torch.cat(each)
        else:
            parts, weights, chosen = [samples], [1.0], None
        self._flows = recipe.model.head == "flow" if flows is None else flows
        self.stream = None
        if windows is not None:
            lanes = lanes_of(parts, chosen, windows, seed)
            self.stream = FrameStream(parts, [StreamedBatches(lanes, weights, size)])

    def started(self, first: int, last: int, own: Sequence[int], shares: int) -> AbstractContextManager[None]:
        """Stream images, where they are streamed, as long as this lasts."""
        return nullcontext() if self.stream is None else self.stream.started(first, last, own, shares)

    def gather(self, step: int, share: int, shares: int) -> PolicyBatch:
        """Return samples of a step, and how many of an average share teach."""
        samples = self.windows
        if self.stream is None:
            rows = self._order[self._draw(step)]
            own, frames = rows[share::shares], None
        else:
            rows = self.stream.samples(step)
            own, frames = self.stream.take(step, share, shares)
        batch = samples.batch(own, frames)
        if samples.labelled is not None:
            batch = batch._replace(labelled=samples.labelled[rows].sum() / shares)
        if samples.told is not None:
            batch = batch._replace(told=samples.told[rows].sum() / shares)
        if not samples.acted.all():
            batch = batch._replace(acted=samples.acted[rows].sum() / shares)
        if samples.reach.shape[1]:
            there = samples.reach[rows]
            counts = [count / shares for count in (there.sum(), there.any(1).sum(), there.all(1).sum())]
            batch = batch._replace(pairs=PairIndex(samples.reach[own].nonzero(), *counts))
        if self._flows:  # for all samples, so that any number of processes learns from the same
            generator = torch.Generator().manual_seed(derive_seed(self.loop.seed, step, 2))
            drawn = draw_flow((self.loop.batch_size, *batch.actions.shape[1:]), generator)
            batch = batch._replace(draws=FlowDraws(*(part[share::shares] for part in drawn)))
        return batch

    def change(self, batch: PolicyBatch, step: int, share: int, shares: int) -> PolicyBatch:
        """Return the samples with their images, if they have any, changed."""
        if not batch.images.shape[1]:
            return self._prepared(batch)
        size, options = self.loop.batch_size, self.data.augmentation
        changes = draw(options, size, batch.images.shape[1], self.loop.seed, step)[share::shares]
        frames = batch.images[:, None] if batch.later is None else torch.cat([batch.images[:, None], batch.later], 1)
        frames = augment_alike(frames, changes)  # what differs between them is what moved
        later = None if batch.later is None else frames[:, 1:]
        return self._prepared(batch._replace(images=frames[:, 0], later=later))


def policy_batches(
    recipe: Recipe[Any],
    samples: PolicyWindows | MixedPolicyWindows,
    parts: Sequence[PolicyWindows],
    weights: Sequence[float],
    resume: bool,
    prepared: Callable[[PolicyBatch], PolicyBatch],
    flows: bool | None = None,
) -> PolicyBatches:
    """Return the batches of a run (see `PolicyBatches`), with images in memory or streamed."""
    windows = None
    if parts[0].cameras:
        if share := recipe.data.acted_share:  # samples with known actions, and the others of the same dataset
            parts, weights = [*parts, *parts], [share, 1 - share]
        windows = keep_or_stream(recipe, parts, weights, resume)
    return PolicyBatches(samples, recipe, windows, prepared, flows)
