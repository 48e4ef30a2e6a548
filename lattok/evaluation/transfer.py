"""Does a latent action mean the same in another scene? Cycle consistency of transfer.

    predicted = Decoder(features_B, latent_A)        B does what A did
    again     = Encoder(features_B, predicted)        what does the model say B did?

A latent that carries over comes back as A's. The control is B's own latent: what the model would say had it ignored
the transfer. Agreement is 1 - |again - A|^2 / |A - mean|^2, with latents before quantization.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.evaluation.controls import Target
from lattok.evaluation.dependence import derangement, exchanged
from lattok.evaluation.latent import Evidence
from lattok.evaluation.pairs import batches, chosen_rows, to_cpu
from lattok.evaluation.split import evenly
from lattok.types import LatentActions, join

MOST = 500  # held-out pairs: their features are computed anew


class Agreement(NamedTuple):
    """How much of A there is in some latents."""

    latents: float  # 1 is exact, 0 as good as the mean
    codes: float | None  # share of positions with A's code; None without codes
    action: float | None  # R^2 of A's action, read by the probe that was fitted on true latents


class Transfer(NamedTuple):
    """Of the latents that come back, and of the controls."""

    transferred: Agreement  # A's latent in B, encoded again
    same_scene: Agreement  # A's latent in A, encoded again: how far a cycle gets at all
    own: Agreement  # B's own latents, as if nothing had been transferred
    random: Agreement  # latents of a third pair
    own_action: float | None  # R^2 of B's action from the latents that come back: low when A's has replaced it


@torch.no_grad()
def transfer(evidence: Evidence) -> Transfer:
    """Over held-out pairs B, each with another pair A of the split."""
    rows = torch.tensor(evenly(list(range(len(evidence.held_out.rows))), MOST))
    generator = torch.Generator().manual_seed(evidence.seed + 1)
    other, third = (rows[derangement(np.zeros(len(rows), dtype=int), generator)] for _ in range(2))
    again, same = _again(evidence, rows, other), _again(evidence, rows, rows)
    latents = evidence.held_out.latents
    source = chosen_rows(latents, other)
    return Transfer(
        _agreement(evidence, again, source, other),
        _agreement(evidence, same, chosen_rows(latents, rows), rows),
        _agreement(evidence, chosen_rows(latents, rows), source, other),
        _agreement(evidence, chosen_rows(latents, third), source, other),
        _action(evidence, again, rows),
    )


def _again(evidence: Evidence, rows: Tensor, source: Tensor) -> LatentActions:
    """Latents of (B's frame, what the decoder makes of it with A's latents)."""
    model, latents, found = evidence.model, evidence.held_out.latents, []
    place = dict(zip(rows.tolist(), source.tolist(), strict=True))
    for part, features in batches(model, evidence.held_out, rows):
        given = torch.tensor([place[row] for row in part.tolist()])
        now = features[:, 0]
        predicted = model.predict(now, exchanged(latents, given, part, 1.0, 1.0, now.device))
        found.append(to_cpu(model.encode_features(torch.stack([now, predicted], 1))))
    return join(found)


def _agreement(evidence: Evidence, latents: LatentActions, source: LatentActions, source_rows: Tensor) -> Agreement:
    mean = evidence.train.latents.latents.double().mean(0)
    wanted, got = source.latents.double(), latents.latents.double()
    error, total = (wanted - got).square().sum(), (wanted - mean).square().sum().clamp_min(1e-12)
    codes = float((latents.codes == source.codes).double().mean()) if source.codes.shape[1] else None
    return Agreement(1 - float(error / total), codes, _action(evidence, latents, source_rows))


def _action(evidence: Evidence, latents: LatentActions, rows: Tensor) -> float | None:
    """R^2 of the actions of held-out pairs `rows` from `latents`."""
    if evidence.target is None:
        return None
    full = evidence.target
    target = Target(full.train, full.episodes, full.held_out[rows])
    return float(target.probe(evidence.train.latents.latents.flatten(1), latents.latents.flatten(1)).r2.nanmean())
