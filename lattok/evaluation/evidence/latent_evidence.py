"""What every question about an image latent action model needs: pairs of both splits, their latents, and controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lattok.data import dimension_names
from lattok.evaluation.evidence.controls import (
    PCA_SIZES,
    CodeStream,
    Coordinates,
    Target,
    kmeans_codes,
    untrained_codes,
    untrained_model,
)
from lattok.evaluation.evidence.pair_set import MOST_PAIRS, PairSet, PairSource, read_pair_set
from lattok.evaluation.evidence.probes import Bootstrap, one_hot
from lattok.evaluation.evidence.split import Split, TaskFolds, task_folds
from lattok.evaluation.evidence.trained_controls import ControlTraining, LabelsOnly, labels_only
from lattok.evaluation.report import Progress
from lattok.image_lam import ImageLAM


@dataclass(frozen=True)
class LatentEvidence:
    """Pairs, latents and controls that the questions about one model share."""

    model: ImageLAM
    untrained: ImageLAM
    source: PairSource
    train: PairSet
    held_out: PairSet
    target: Target | None  # None without actions
    names: tuple[str, ...]  # action dimensions
    folds: TaskFolds
    bootstrap: Bootstrap
    change: Coordinates  # of the raw frame change
    flow: Coordinates  # of the motion that block matching finds
    codes: dict[str, CodeStream]  # that were not learned, at the model's bits; none for a model without codes
    labels_only: LabelsOnly | None  # None: not run
    training: ControlTraining | None  # of the controls; None: not run
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

    @property
    def streams(self) -> list[CodeStream]:
        """The model's streams of codes, then the controls; none for a model without codes."""
        if not self.codes:
            return []
        train, held_out = self.train.latents, self.held_out.latents
        found = [CodeStream("model", "latent actions", train.codes, held_out.codes, self.size, False)]
        if train.env is not None and held_out.env is not None:
            codes = (train.env.codes, held_out.env.codes)
            found.append(CodeStream("env", "environment stream", *codes, self.env_size, False))
        return [*found, self.codes["residual_kmeans"], self.codes["untrained"]]

    @property
    def inputs(self) -> dict[str, Callable[[Any], Tensor]]:
        """What probes read from latent actions of the model, [n, d] each; only what it has."""
        found: dict[str, Callable[[Any], Tensor]] = {"latents": lambda x: x.latents.flatten(1)}
        if self.codes:
            found["codes"] = lambda x: one_hot(x.codes, self.size)
            found["quantized"] = lambda x: x.quantized.flatten(1)
        if self.held_out.latents.env is not None:
            found["env_latents"] = lambda x: x.env.latents.flatten(1)
        if self.held_out.latents.env is not None and self.codes:
            found["env_codes"] = lambda x: one_hot(x.env.codes, self.env_size)
        return found

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the evidence comes from, for the report."""
        model, train, held_out = self.model, self.train, self.held_out
        full = model.features.side
        side = round((train.features.shape[1] / (len(model.cameras) * model.features.dim)) ** 0.5)
        seen = "all patch features" if side == full else f"patch features averaged from {full}x{full} to {side}x{side}"
        return {
            "stride_frames": self.source.stride,
            "cameras": list(self.source.cameras),
            "held_out_pairs": held_out.text,
            "training_pairs": train.text,
            "frame_controls_see": seen,
            "held_out_tasks": self.folds.text,
        }


def latent_evidence(
    model: ImageLAM,
    source: PairSource,
    split: Split,
    training: ControlTraining | None,
    seed: int,
    progress: Progress,
) -> LatentEvidence:
    """Read the pairs of both splits and make the controls; with `training` also those that need a training run."""
    fresh = untrained_model(model, seed + 1)

    def read(name: str, episodes: list[int], most: int) -> PairSet:
        return read_pair_set(source, model, fresh, episodes, most, lambda done, total: progress(name, done, total))

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
    flow, codes = Coordinates.fit(train.flow, held_out.flow), []
    if train.latents.codes.shape[1]:
        codes = [
            kmeans_codes("residual_kmeans", "the frame change", change, target, model.config, seed),
            kmeans_codes("flow_kmeans", "block flow", flow, target, model.config, seed),
            untrained_codes(train.untrained, held_out.untrained, model.config, seed),
        ]
    progress("controls", 2, 3)
    alone = None
    if training is not None and target is not None:
        alone = labels_only(model, source.dataset, train, held_out, training)
    progress("controls", 3, 3)
    return LatentEvidence(
        model=model,
        untrained=fresh,
        source=source,
        train=train,
        held_out=held_out,
        target=target,
        names=names,
        folds=task_folds(source.dataset.episodes, train.episode_of, held_out.episode_of),
        bootstrap=Bootstrap(held_out.episode_of, seed),
        change=change,
        flow=flow,
        codes={stream.key: stream for stream in codes},
        labels_only=alone,
        training=training,
        seed=seed,
    )
