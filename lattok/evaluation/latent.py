"""Evidence about an image latent action model: its codes, probes and decoder losses, and those of its controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattok.data import dimension_names, fingerprint
from lattok.evaluation import dependence
from lattok.evaluation.controls import (
    CodeControl,
    Coordinates,
    Target,
    kmeans_codes,
    proprio,
    untrained_codes,
    untrained_model,
)
from lattok.evaluation.pairs import MOST_PAIRS, PairSet, Source, read_pairs
from lattok.evaluation.probes import Probe, one_hot
from lattok.evaluation.report import Progress
from lattok.evaluation.split import Split
from lattok.image_lam import ImageLAM
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


@dataclass(frozen=True)
class Evidence:
    """Everything that was computed; `latent_report` arranges it."""

    model: ImageLAM
    train: PairSet
    held_out: PairSet
    target: Target | None
    names: tuple[str, ...]  # action dimensions
    kmeans: CodeControl
    untrained: CodeControl
    losses: dict[str, float | None]  # by variant of the latents; None: not run
    change: Coordinates
    budget: str  # of the decoder trained without latents

    @property
    def size(self) -> int:
        """Codes per position, K."""
        return self.model.config.codebook_size

    @property
    def env_size(self) -> int:
        """Codes per position of the environment stream."""
        return self.model.config.env_codebook_size


def gather(model: ImageLAM, source: Source, split: Split, options: LatentOptions, progress: Progress) -> Evidence:
    """Read both splits and compute everything but the probes."""
    fresh = untrained_model(model, options.seed + 1)

    def read(name: str, episodes: list[int], most: int) -> PairSet:
        return read_pairs(source, model, fresh, episodes, most, lambda done, total: progress(name, done, total))

    train = read("training pairs", split.train, MOST_PAIRS[0])
    held_out = read("held-out pairs", split.held_out, MOST_PAIRS[1])
    target, names = None, ()
    if source.action_key is not None:
        target = Target(train.actions, train.episode_of, held_out.actions)
        names = dimension_names(source.dataset.features[source.action_key])
    progress("controls", 0, 2)
    change = Coordinates.fit(train.change, held_out.change)
    kmeans = kmeans_codes(change, target, model.config, options.seed)
    untrained = untrained_codes(train.untrained, held_out.untrained, target, model.config, options.seed)
    progress("controls", 1, 2)
    losses: dict[str, float | None] = {**dependence.losses(model, held_out, options.seed), dependence.BLIND: None}
    progress("controls", 2, 2)
    if options.trained:
        identity = {
            "dataset": fingerprint(source.dataset.root),
            "train": split.train,
            "held_out": split.held_out,
            "stride": source.stride,
            "cameras": source.cameras,
        }
        how = dependence.Trained(options.loop, options.controls_folder, identity)
        losses[dependence.BLIND] = dependence.loss_without_latents(model, train, held_out, how)
    budget = f"{options.loop.steps:,} steps of {options.loop.batch_size} of {len(train.rows):,} pairs"
    return Evidence(model, train, held_out, target, names, kmeans, untrained, losses, change, budget)


@dataclass(frozen=True)
class ProbeRow:
    """A probe under the name it has on the page."""

    key: str
    name: str
    probe: Probe | None
    control: bool = True
    reference: bool = False
    not_run: str = ""


class ProbeRows(NamedTuple):
    """All probes, the model's first; empty where the dataset has no actions."""

    discrete: list[ProbeRow]
    continuous: list[ProbeRow]


def probe_rows(evidence: Evidence) -> ProbeRows:
    """Fit the probes on the model's codes and latents, and those on the controls."""
    if evidence.target is None:
        return ProbeRows([], [])
    own, controls = _model_rows(evidence, evidence.target), _control_rows(evidence, evidence.target)
    return ProbeRows(own.discrete + controls.discrete, own.continuous + controls.continuous)


def _model_rows(evidence: Evidence, target: Target) -> ProbeRows:
    train, held_out, size = evidence.train.latents, evidence.held_out.latents, evidence.size

    def on(key: str, name: str, pick: Callable[[Any], Tensor]) -> ProbeRow:
        return ProbeRow(key, name, target.probe(pick(train), pick(held_out)), control=False)

    discrete = [
        on("codes", "one-hot codes", lambda x: one_hot(x.codes, size)),
        on("quantized", "quantized vectors", lambda x: x.quantized.flatten(1)),
    ]
    continuous = [on("latents", "latents before quantization", lambda x: x.latents.flatten(1))]
    if held_out.env is not None:
        discrete.append(
            on("env_codes", "environment codes, one-hot", lambda x: one_hot(x.env.codes, evidence.env_size))
        )
        continuous.append(on("env_latents", "environment latents", lambda x: x.env.latents.flatten(1)))
    return ProbeRows(discrete, continuous)


def _control_rows(evidence: Evidence, target: Target) -> ProbeRows:
    train, held_out = evidence.train, evidence.held_out
    width, change = evidence.change.best(target)
    scene_width, scene = Coordinates.fit(train.now, held_out.now).best(target)
    fresh = target.probe(train.untrained.latents.flatten(1), held_out.untrained.latents.flatten(1))
    mean = target.probe(torch.zeros(len(train.rows), 1), torch.zeros(len(held_out.rows), 1))
    unlimited = [
        ProbeRow("current_frame", f"current frame only (PCA {scene_width})", scene),
        ProbeRow("mean", "mean action", mean),
    ]
    discrete = [
        ProbeRow("residual_kmeans", evidence.kmeans.name, evidence.kmeans.probe),
        ProbeRow("untrained", "untrained model, codes by k-means", evidence.untrained.probe),
        *unlimited,
    ]
    continuous = [
        ProbeRow("pca_change", f"frame change (PCA {width})", change),
        ProbeRow("untrained", "untrained model, latents", fresh),
        *_proprio_rows(train, held_out, target),
        *unlimited,
    ]
    return ProbeRows(discrete, continuous)


def _proprio_rows(train: PairSet, held_out: PairSet, target: Target) -> list[ProbeRow]:
    states = proprio(train, held_out, target)
    if states is None:
        return [ProbeRow("proprio", "proprioception at t", None, not_run="not run: the dataset has no states")]
    name = "change of proprioception (reads the robot's own sensors)"
    return [
        ProbeRow("proprio", "proprioception at t", states[0]),
        ProbeRow("proprio_change", name, states[1], reference=True),
    ]
