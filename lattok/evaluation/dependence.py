"""Whether the decoder uses the latent actions: its prediction loss with true ones, wrong ones and none.

Shuffled and zero latents are weak baselines, since the decoder never met them in training. The honest one is a
decoder of the same architecture trained without latents; it costs a training run, so it is optional and cached.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok import files
from lattok.evaluation.pairs import BATCH, PairSet
from lattok.image_lam import ImageLAM
from lattok.image_lam.parts import Decoder
from lattok.training import Interrupted, LoopOptions, SeededBatches, fit
from lattok.types import LatentActions, LossTerms

CONTROL_LOOP = LoopOptions(
    steps=1200, batch_size=40, lr=1e-3, schedule="one_cycle", optimizer="adamw", weight_decay=0.01, save_every=100_000
)
BLIND = "without_latents"


def control_loop(model: ImageLAM) -> LoopOptions:
    """As many steps and samples as the model itself had, where it says so; otherwise `CONTROL_LOOP`."""
    if model.trained_on is None:
        return CONTROL_LOOP
    known = {
        f.name: model.trained_on["loop"][f.name] for f in fields(LoopOptions) if f.name in model.trained_on["loop"]
    }
    known["batch_size"] = model.trained_on["samples_per_step"]
    return LoopOptions(**known)


class BlindDecoder(nn.Module):
    """The model's decoder architecture, fed zero vectors, from scratch."""

    def __init__(self, model: ImageLAM, seed: int):
        super().__init__()
        config = model.config
        self.streams = 1 if model.env is None else 2
        self.shape = (config.positions, config.latent_dim)
        places = len(config.cameras) * model.features.count
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.decoder = Decoder(config, self.streams, model.features.dim, places)

    def predict(self, features: Tensor) -> Tensor:
        """Features of the later frame [B, N, D] from current ones."""
        return self.decoder(features, *[features.new_zeros(len(features), *self.shape)] * self.streams)

    def forward(self, batch: tuple[Tensor, Tensor]) -> LossTerms:
        return {"prediction": F.mse_loss(self.predict(batch[0]), batch[1])}


@dataclass(frozen=True)
class Trained:
    """How the decoder without latents is trained, and where its result is kept."""

    options: LoopOptions
    folder: Path | None
    identity: dict[str, Any]  # dataset, episodes: beside model and options, what the result depends on


def losses(model: ImageLAM, held_out: PairSet, seed: int) -> dict[str, float]:
    """Mean squared error of predicted features over all held-out pairs, per variant of the control stream's latents.

    `true`, `shuffled` (another pair of the split), `shuffled_in_episode` (another pair of the same episode where it
    has one), `zero`, and `copy`: the first frame's features as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(held_out.rows)
    everyone = derangement(np.zeros(count, dtype=np.int64), generator)
    neighbours = derangement(held_out.episode_of, generator)
    latents, order = held_out.latents, torch.arange(count)

    def variant(partner: Tensor, keep: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda features, rows: model.predict(features, exchanged(latents, rows, partner, keep, features.device))

    return mean_losses(
        model,
        held_out,
        {
            "true": variant(order, 1.0),
            "shuffled": variant(everyone, 1.0),
            "shuffled_in_episode": variant(neighbours, 1.0),
            "zero": variant(order, 0.0),
            "copy": lambda features, rows: features,
        },
    )


@torch.no_grad()
def mean_losses(
    model: ImageLAM, pairs: PairSet, predictors: dict[str, Callable[[Tensor, Tensor], Tensor]]
) -> dict[str, float]:
    """Loss of each predictor: current features [B, N, D] and pair rows [B] to the later frame's features."""
    totals = dict.fromkeys(predictors, 0.0)
    for rows in torch.arange(len(pairs.rows)).split(BATCH):
        now, later = pair_features(model, pairs, rows).unbind(1)
        for name, predict in predictors.items():
            totals[name] += float((predict(now, rows) - later).square().mean()) * len(rows)
    return {name: total / len(pairs.rows) for name, total in totals.items()}


def pair_features(model: ImageLAM, pairs: PairSet, rows: Tensor) -> Tensor:
    """Full features [B, 2, N, D] of pairs `rows` [B], computed anew: they are too large to keep."""
    chosen = torch.from_numpy(pairs.rows)[rows]
    return model.frame_features(pairs.frames.batch(chosen).frames)


def exchanged(
    latents: LatentActions, rows: Tensor, partner: Tensor, keep: float, device: torch.device
) -> LatentActions:
    """Latent actions of `rows` whose control vectors are their partners', times `keep`; the environment's are true."""
    quantized = latents.quantized[partner[rows]].to(device) * keep
    env = latents.env
    if env is not None:
        env = LatentActions(env.codes[rows], env.latents[rows], env.quantized[rows].to(device))
    return LatentActions(latents.codes[partner[rows]], quantized, quantized, env)


def derangement(groups: np.ndarray, generator: torch.Generator) -> Tensor:
    """For each row [n] another row of its group, at random; a row that is alone in its group keeps itself."""
    partner = torch.arange(len(groups))
    for group in np.unique(groups):
        members = torch.from_numpy(np.flatnonzero(groups == group))
        members = members[torch.randperm(len(members), generator=generator)]
        partner[members] = members.roll(1)
    return partner


def loss_without_latents(model: ImageLAM, train: PairSet, held_out: PairSet, how: Trained) -> float:
    """Held-out loss of a decoder trained without latents; read from `how.folder` when it is there already."""
    described = model.describe()
    key = {
        "control": BLIND,
        "model": [described["config_sha256"], described["weights_sha256"]],
        "pairs": [len(train.rows), len(held_out.rows)],
        "loop": asdict(how.options),
        **how.identity,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = None if how.folder is None else how.folder / f"{name}.json"
    if path is not None and path.is_file():
        return float(files.read_json(path)["loss"])
    blind = train_blind(model, train, how.options)
    loss = mean_losses(model, held_out, {BLIND: lambda features, rows: blind.predict(features)})[BLIND]
    if path is not None:
        files.write_json(path, {"loss": loss, "key": key})
    return loss


def train_blind(model: ImageLAM, train: PairSet, options: LoopOptions) -> BlindDecoder:
    """A decoder trained on the training pairs with zero vectors in place of latents."""
    device = model.features.mean.device
    blind = BlindDecoder(model, options.seed)
    draw = SeededBatches(len(train.rows), options.batch_size, options.seed)

    def batches(step: int, process: int, processes: int) -> tuple[Tensor, Tensor]:
        now, later = pair_features(model, train, draw(step)[process::processes]).unbind(1)
        return now, later

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "decoder without latents"  # the progress bar shows this name
        options = replace(options, device=device.type)
        try:
            fit(blind, batches, options, folder, loss_weights={"prediction": 1.0})
        except Interrupted:
            raise KeyboardInterrupt("interrupted while training the control; nothing of it is kept") from None
    return blind.to(device).eval()
