"""What every question about an image latent action model needs: pairs of both splits, their latents, and controls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lattok.data import dimension_names
from lattok.data.content import content_of
from lattok.evaluation.controls import (
    PCA_SIZES,
    CodeControl,
    Coordinates,
    Target,
    kmeans_codes,
    untrained_codes,
    untrained_model,
)
from lattok.evaluation.intervals import Bootstrap
from lattok.evaluation.labels_only import LabelsOnly, labels_only
from lattok.evaluation.pairs import MOST_PAIRS, PairSet, Source, read_pairs
from lattok.evaluation.report import Progress
from lattok.evaluation.split import Split
from lattok.evaluation.tasks import TaskFolds, task_folds
from lattok.evaluation.trained import Training
from lattok.image_lam import ImageLAM
from lattok.image_lam.feature_cache import FeatureCache
from lattok.training import LoopOptions


@dataclass(frozen=True)
class LatentOptions:
    """What the caller may choose for a latent action model."""

    action_key: str | None
    state_key: str | None
    cameras: tuple[str, ...] | None
    stride: str | int | None
    trained: bool  # whether controls that need training are run
    loop: LoopOptions
    controls_folder: Path | None
    cache_dir: Path | None  # for decoded frames; None keeps them in memory
    seed: int
    feature_cache: FeatureCache | None = None


@dataclass(frozen=True)
class CodeControls:
    """Codes that nobody learned, at the model's bits."""

    kmeans: CodeControl
    flow: CodeControl
    untrained: CodeControl


@dataclass(frozen=True)
class Evidence:
    """What the questions share."""

    model: ImageLAM
    untrained: ImageLAM
    train: PairSet
    held_out: PairSet
    target: Target | None  # None without actions
    names: tuple[str, ...]  # action dimensions
    folds: TaskFolds
    bootstrap: Bootstrap
    change: Coordinates  # of the raw frame change
    flow: Coordinates  # of the motion that block matching finds
    codes: CodeControls | None  # None for a model without codes
    labels_only: LabelsOnly | None  # None: not run
    training: Training | None  # of the controls; None: not run
    seed: int

    @property
    def size(self) -> int:
        """Codes per position, K."""
        return self.model.config.codebook_size

    @property
    def env_size(self) -> int:
        """Codes per position of the environment stream."""
        return self.model.config.env_codebook_size

    @property
    def space(self) -> list[int]:
        """Dimensions called x, y, z; none unless all three are there."""
        lower = [name.lower() for name in self.names]
        return [lower.index(axis) for axis in "xyz"] if {"x", "y", "z"} <= set(lower) else []


def gather(model: ImageLAM, source: Source, split: Split, options: LatentOptions, progress: Progress) -> Evidence:
    """Read both splits and make the controls."""
    fresh = untrained_model(model, options.seed + 1)

    def read(name: str, episodes: list[int], most: int) -> PairSet:
        return read_pairs(source, model, fresh, episodes, most, lambda done, total: progress(name, done, total))

    train = read("training pairs", split.train, MOST_PAIRS[0])
    held_out = read("held-out pairs", split.held_out, MOST_PAIRS[1])
    target, names = None, ()
    if source.action_key is not None:
        target = Target(train.actions, train.episode_of, held_out.actions)
        names = dimension_names(source.dataset.features[source.action_key])
    progress("controls", 0, 3)
    width = train.latents.latents.flatten(1).shape[1]
    change = Coordinates.fit(train.change, held_out.change, max(*PCA_SIZES, width))
    progress("controls", 1, 3)
    flow, codes = Coordinates.fit(train.flow, held_out.flow), None
    if train.latents.codes.shape[1]:
        codes = CodeControls(
            kmeans_codes("the frame change", change, target, model.config, options.seed),
            kmeans_codes("block flow", flow, target, model.config, options.seed),
            untrained_codes(train.untrained, held_out.untrained, model.config, options.seed),
        )
    progress("controls", 2, 3)
    training = _training(source, split, options) if options.trained else None
    alone = None
    if training is not None and target is not None:
        alone = labels_only(model, source.dataset, train, held_out, training)
    progress("controls", 3, 3)
    folds = task_folds(source.dataset.episodes, train.episode_of, held_out.episode_of)
    bootstrap = Bootstrap(held_out.episode_of, options.seed)
    return Evidence(
        model,
        fresh,
        train,
        held_out,
        target,
        names,
        folds,
        bootstrap,
        change,
        flow,
        codes,
        alone,
        training,
        options.seed,
    )


def _training(source: Source, split: Split, options: LatentOptions) -> Training:
    dataset, chosen = source.dataset, {*split.train, *split.held_out}
    episodes = [episode for episode in dataset.episodes if episode.index in chosen]
    keys = [key for key in (source.action_key,) if key is not None]
    identity = {
        "dataset": content_of(dataset, episodes, keys, source.cameras).digest,
        "train": split.train,
        "held_out": split.held_out,
        "stride": source.stride,
        "cameras": source.cameras,
        "action_key": source.action_key,
    }
    return Training(options.loop, options.controls_folder, identity)
