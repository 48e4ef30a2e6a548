"""The control that asks what reconstruction is good for: the same encoder, trained on the labels alone.

Config and labelled pairs are the model's own, as far as it knows them; prediction has weight 0; there is one stream.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lattok import files
from lattok.data import RobotDataset
from lattok.data.windows import draw_labelled
from lattok.evaluation.pairs import PairSet, encode_pairs
from lattok.evaluation.trained import Training
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.training import SeededBatches, mix
from lattok.types import PairBatch

NAME = "labels_only"
USUAL = {"fraction": 0.05, "unit": "pairs", "per_batch": 8}  # where the model does not know, or had no labels


@dataclass(frozen=True)
class LabelsOnly:
    """Its codes and latents of both splits, [n, P], [N, P], [n, p*d], [N, p*d]."""

    train_codes: Tensor
    held_out_codes: Tensor
    train_latents: Tensor
    held_out_latents: Tensor
    text: str  # what it was trained on


def labels_of(model: ImageLAM) -> dict[str, Any]:
    """Which pairs supervised the model: fraction, unit, extra ones per batch, and the seed that drew them."""
    known = model.trained_on or {}
    return {**(_own(model) or USUAL), "seed": known.get("loop", {}).get("seed", 0)}


def _own(model: ImageLAM) -> dict[str, Any]:
    """The model's own labels; empty where it had none or does not know."""
    labels = (model.trained_on or {}).get("labels") or {}
    return labels if labels.get("fraction") else {}


def labels_only(
    model: ImageLAM, dataset: RobotDataset, train: PairSet, held_out: PairSet, training: Training
) -> LabelsOnly:
    """Train the control, or read it from the folder where it is there already."""
    labels = labels_of(model)
    labelled = _labelled(dataset, train, labels)
    key = training.key(NAME, model, train, held_out, labels=labels)
    path = training.path(key, ".safetensors")
    if path is None or not path.is_file():
        control = _trained(model, train, labelled, labels["per_batch"], training)
        sets = {"train": encode_pairs(control, train), "held_out": encode_pairs(control, held_out)}
        tensors = {f"{name}_codes": latents.codes for name, latents in sets.items()}
        tensors |= {f"{name}_latents": latents.latents.flatten(1) for name, latents in sets.items()}
        if path is not None:
            with files.whole_file(path) as temporary:
                safetensors.torch.save_file(tensors, temporary, {"key": json.dumps(key, sort_keys=True)})
    else:
        tensors = safetensors.torch.load_file(path)
    whose = "" if _own(model) else " (not the model's own)"
    text = f"{int(labelled.sum())} labelled of {len(labelled):,} pairs{whose}, {training.text(train)}"
    return LabelsOnly(**tensors, text=text)


def _labelled(dataset: RobotDataset, train: PairSet, labels: dict[str, Any]) -> Tensor:
    """Which pairs of the training episodes have labels, bool: the same ones as in a training on these episodes."""
    tasks, frames = {episode.index: episode.tasks for episode in dataset.episodes}, train.frames
    drawn = draw_labelled(frames.episode_of, frames.frame_of, tasks, labels["fraction"], labels["unit"], labels["seed"])
    return torch.from_numpy(drawn)


def _trained(model: ImageLAM, train: PairSet, labelled: Tensor, per_batch: int, training: Training) -> ImageLAM:
    """From all pairs of the training episodes, also where probes see fewer: the model itself had them."""
    known, frames = labelled.nonzero()[:, 0], train.frames
    seed, size = training.options.seed, max(2, training.options.batch_size)
    extra = min(max(per_batch, 1), size - 1)  # without any, many a batch would teach nothing
    draw = SeededBatches(len(frames), size - extra, seed)
    draw_known = SeededBatches(len(known), extra, mix(seed, 1))

    def batches(step: int, process: int, processes: int) -> PairBatch:
        chosen = torch.cat([draw(step), known[draw_known(step)]])[process::processes]
        return frames.batch(chosen)._replace(labelled=labelled[chosen])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        control = ImageLAM(control_config(model))
        control.attach_action_head(torch.from_numpy(frames.actions[known.numpy()]))
    control.features = model.features
    training.fit("encoder from labels alone", control, batches, control.config.loss_weights, model)
    return control.eval()


def control_config(model: ImageLAM) -> ImageLAMConfig:
    """The model's config without reconstruction and what belongs to it."""
    return replace(
        model.config,
        streams="control",
        prediction_weight=0.0,
        additivity_weight=0.0,
        flow_weight=0.0,
        extra_strides=(),
        action_weight=model.config.action_weight or 1.0,
        action_target="mean",
        action_steps=1,
    )
