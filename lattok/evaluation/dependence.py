"""Whether the decoder uses the latent actions: its prediction loss with true ones, wrong ones and none.

Shuffled and zero latents are weak baselines, since the decoder never met them in training. The honest one is a
decoder of the same architecture trained without latents; it costs a training run, so it is optional and cached.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok import files
from lattok.evaluation.pairs import PairSet, batches, chosen_rows
from lattok.evaluation.trained import Training
from lattok.image_lam import ImageLAM
from lattok.image_lam.parts import Decoder
from lattok.training import SeededBatches
from lattok.types import LatentActions, LossTerms

BLIND = "without_latents"
Predictor = Callable[[Tensor, Tensor], Tensor]  # current features [B, N, D] and pair rows [B] to later features


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


def losses(model: ImageLAM, held_out: PairSet, seed: int) -> dict[str, float]:
    """Mean squared error of predicted features over all held-out pairs, per variant of the latents.

    Of the control stream: `true`, `shuffled` (another pair of the split), `shuffled_in_episode` (another pair of the
    same episode where it has one), `zero`; of the environment stream, where there is one, `env_shuffled_in_episode`
    and `env_zero`; and `copy`: the first frame's features as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(len(held_out.rows))
    everyone = derangement(np.zeros(len(order), dtype=np.int64), generator)
    neighbours = derangement(held_out.episode_of, generator)
    latents = held_out.latents

    def variant(control: Tensor, keep: float = 1.0, env: Tensor = order, keep_env: float = 1.0) -> Predictor:
        def predict(features: Tensor, rows: Tensor) -> Tensor:
            return model.predict(
                features, exchanged(latents, control[rows], env[rows], keep, keep_env, features.device)
            )

        return predict

    predictors = {
        "true": variant(order),
        "shuffled": variant(everyone),
        "shuffled_in_episode": variant(neighbours),
        "zero": variant(order, keep=0.0),
    }
    if latents.env is not None:
        predictors["env_shuffled_in_episode"] = variant(order, env=neighbours)
        predictors["env_zero"] = variant(order, keep_env=0.0)
    predictors["copy"] = lambda features, rows: features
    return mean_losses(model, held_out, predictors)


@torch.no_grad()
def mean_losses(model: ImageLAM, pairs: PairSet, predictors: dict[str, Predictor]) -> dict[str, float]:
    """Loss of each predictor."""
    totals = dict.fromkeys(predictors, 0.0)
    for rows, features in batches(model, pairs, torch.arange(len(pairs.rows))):
        now, later = features.unbind(1)
        for name, predict in predictors.items():
            totals[name] += float((predict(now, rows) - later).square().mean()) * len(rows)
    return {name: total / len(pairs.rows) for name, total in totals.items()}


def exchanged(
    latents: LatentActions, control: Tensor, env: Tensor, keep: float, keep_env: float, device: torch.device
) -> LatentActions:
    """Quantized vectors of the control stream of rows `control`, times `keep`; the environment's of rows `env`."""
    chosen = chosen_rows(latents, control)
    other = None if latents.env is None else chosen_rows(latents.env, env)
    if other is not None:
        other = other._replace(quantized=other.quantized.to(device) * keep_env)
    return chosen._replace(quantized=chosen.quantized.to(device) * keep, env=other)


def derangement(groups: np.ndarray, generator: torch.Generator) -> Tensor:
    """For each row [n] another row of its group, at random; a row that is alone in its group keeps itself."""
    partner = torch.arange(len(groups))
    for group in np.unique(groups):
        members = torch.from_numpy(np.flatnonzero(groups == group))
        members = members[torch.randperm(len(members), generator=generator)]
        partner[members] = members.roll(1)
    return partner


def loss_without_latents(model: ImageLAM, train: PairSet, held_out: PairSet, training: Training) -> float:
    """Held-out loss of a decoder trained without latents; read from the folder when it is there already."""
    key = training.key(BLIND, model, train, held_out)
    path = training.path(key, ".json")
    if path is not None and path.is_file():
        return float(files.read_json(path)["loss"])
    blind = train_blind(model, train, training)
    loss = mean_losses(model, held_out, {BLIND: lambda features, rows: blind.predict(features)})[BLIND]
    if path is not None:
        files.write_json(path, {"loss": loss, "key": key})
    return loss


def train_blind(model: ImageLAM, train: PairSet, training: Training) -> BlindDecoder:
    """A decoder trained with zero vectors in place of latents, on all pairs of the training episodes."""
    options = training.options
    blind = BlindDecoder(model, options.seed)
    draw = SeededBatches(len(train.frames), options.batch_size, options.seed)

    def pick(step: int, process: int, processes: int) -> tuple[Tensor, Tensor]:
        now, later = model.frame_features(train.frames.batch(draw(step)[process::processes]).frames).unbind(1)
        return now, later

    training.fit("decoder without latents", blind, pick, {"prediction": 1.0}, model)
    return blind
