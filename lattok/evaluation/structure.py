"""Do latents add up over time, and change sign when time runs backwards?

additivity   z(a, c) ~ z(a, b) + z(b, c)        b halfway between a and c, which are one stride apart
reversal     z(c, a) ~ -z(a, c)

A latent may carry a constant offset, so each kind is centred by its own mean over the pairs. Explained variance is
1 - |left - right|^2 / |left|^2; a free factor in front of the right side tells wrong size from wrong direction.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lattok.evaluation.dependence import derangement
from lattok.evaluation.latent import Evidence
from lattok.evaluation.pairs import BATCH, pool, pooled_side
from lattok.evaluation.probes import pca
from lattok.evaluation.split import evenly
from lattok.image_lam import ImageLAM

MOST = 500  # held-out pairs: their features are computed anew
WIDTH = 128  # components of the raw frame change


class Match(NamedTuple):
    """How well one set of vectors predicts another."""

    explained: float  # share of variance; 1 is exact, 0 as good as the mean, below 0 worse
    scaled: float  # the same with the best factor
    factor: float

    @property
    def relative_error(self) -> float:
        """|left - right| / |left|."""
        return max(0.0, 1 - self.explained) ** 0.5


class Law(NamedTuple):
    """Additivity or reversal, of the model and its controls; `random` pairs vectors of different clips."""

    model: Match
    random: Match
    untrained: Match
    raw: Match | None  # of the raw frame change: exact by construction


class Structure(NamedTuple):
    """Both laws; additivity is None where a stride of one frame has no middle."""

    additivity: Law | None
    reversal: Law


class Triples(NamedTuple):
    """Vectors of every triple (a, b, c), [n, d] each."""

    whole: Tensor  # a to c
    first: Tensor  # a to b
    second: Tensor  # b to c
    back: Tensor  # c to a


def match(left: Tensor, right: Tensor) -> Match:
    """How well `right` [n, d] predicts `left` [n, d], both centred."""
    left, right = (x.double() - x.double().mean(0) for x in (left, right))
    total, size = float(left.square().sum()), float(right.square().sum())
    if total <= 1e-12 or size <= 1e-12:
        return Match(0.0, 0.0, 0.0)
    factor = float((left * right).sum()) / size
    return Match(
        1 - float((left - right).square().sum()) / total,
        1 - float((left - factor * right).square().sum()) / total,
        factor,
    )


@torch.no_grad()
def structure(evidence: Evidence) -> Structure:
    """Both laws on held-out pairs."""
    half = evidence.held_out.frames.stride // 2
    rows = torch.tensor(evenly(list(range(len(evidence.held_out.rows))), MOST))
    own, fresh, raw = _triples(evidence, rows, half)
    generator = torch.Generator().manual_seed(evidence.seed)
    partner = derangement(evidence.held_out.episode_of[rows.numpy()] * 0, generator)
    additivity = None
    if half:
        sums = [t.first + t.second for t in (own, fresh, raw)]
        additivity = Law(
            match(own.whole, sums[0]),
            match(own.whole, own.first[partner] + own.second[partner]),
            match(fresh.whole, sums[1]),
            match(raw.whole, sums[2]),
        )
    reversal = Law(
        match(own.back, -own.whole),
        match(own.back, -own.whole[partner]),
        match(fresh.back, -fresh.whole),
        match(raw.back, -raw.whole),
    )
    return Structure(additivity, reversal)


def _triples(evidence: Evidence, rows: Tensor, half: int) -> tuple[Triples, Triples, Triples]:
    """Latents of the model and of the untrained one, and components of the raw frame change."""
    pairs, model = evidence.held_out, evidence.model
    side = pooled_side(model, pairs.features.shape[1])
    own, fresh, frames = [], [], []
    for part in rows.split(BATCH):
        index = pairs.rows[part.numpy()]
        first, last = pairs.frames.first[index], pairs.frames.second[index]
        moments = [torch.from_numpy(pairs.frames.frames[at]) for at in (first, first + half, last)]
        features = [model.frame_features(moment) for moment in moments]
        own.append(_vectors(model, features))
        fresh.append(_vectors(evidence.untrained, features))
        frames.append(torch.stack([pool(feature, model, side) for feature in features], 1))
    a, b, c = torch.cat(frames).unbind(1)
    basis = pca(c - a, WIDTH).basis
    raw = Triples((c - a) @ basis, (b - a) @ basis, (c - b) @ basis, (a - c) @ basis)
    return _joined(own), _joined(fresh), raw


def _vectors(model: ImageLAM, features: list[Tensor]) -> Triples:
    """Latents before quantization of the four pairs."""
    a, b, c = features

    def latents(now: Tensor, later: Tensor) -> Tensor:
        return model.encode_features(torch.stack([now, later], 1)).latents.flatten(1).float().cpu()

    return Triples(latents(a, c), latents(a, b), latents(b, c), latents(c, a))


def _joined(parts: list[Triples]) -> Triples:
    return Triples(*(torch.cat(vectors) for vectors in zip(*parts, strict=True)))
