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

from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.pair_set import BATCH, derangement, pool, pooled_side
from lattok.evaluation.evidence.probes import pca
from lattok.evaluation.evidence.split import evenly
from lattok.evaluation.report import Outcome, Section, Table, TableRow, Verdict, explained_share
from lattok.image_lam import ImageLAM

MOST = 500  # held-out pairs, whose features are computed again
WIDTH = 128  # components of the raw frame change
HOLDS = 0.5  # share of variance that a law has to explain
REFERENCES = (
    "Rybkin et al. 2019, Learning what you can do before doing anything (composable latents)",
    "Schmidt & Jiang 2024, LAPO: learning to act without actions",
)


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
    """Measure how well `right` [n, d] predicts `left` [n, d], both centred."""
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
def structure(evidence: LatentEvidence) -> Structure:
    """Test both laws on held-out pairs."""
    half = evidence.held_out.frames.stride // 2
    rows = evenly(len(evidence.held_out.rows), MOST)
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


def _triples(evidence: LatentEvidence, rows: Tensor, half: int) -> tuple[Triples, Triples, Triples]:
    """Compute latents of the model and of the untrained one, and components of the raw frame change."""
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
    """Encode the four pairs; latents before quantization."""
    a, b, c = features

    def latents(now: Tensor, later: Tensor) -> Tensor:
        return model.encode_features(torch.stack([now, later], 1)).latents.flatten(1).float().cpu()

    return Triples(latents(a, c), latents(a, b), latents(b, c), latents(c, a))


def _joined(parts: list[Triples]) -> Triples:
    return Triples(*(torch.cat(vectors) for vectors in zip(*parts, strict=True)))


def structure_outcome(evidence: LatentEvidence) -> Outcome:
    """Test additivity and reversal on held-out pairs."""
    found = structure(evidence)
    laws = {"additivity": found.additivity, "reversal": found.reversal}
    figures: dict[str, float] = {}
    tables, verdicts = [], []
    for name, law in laws.items():
        if law is None:
            continue
        figures |= {f"{name}/{key}": match.explained for key, match in _rows(law)}
        figures |= {f"{name}_scaled/{key}": match.scaled for key, match in _rows(law)}
        tables.append(_law_table(name, law))
        verdicts.append(_law_verdict(name, law))
    stride = evidence.held_out.frames.stride
    text = (
        f"Additivity: a and c are one stride apart ({stride} frames), b is halfway; half strides are shorter than what "
        "the model was trained on, but no motion is larger than it has seen. Reversal: the same two frames in the "
        "other order. Each kind of latent is centred by its own mean, so that a constant offset is forgiven; "
        "“best factor” also forgives a wrong size. Neither law is needed to supervise a policy with codes; both are "
        "needed to add latents up, to interpolate, or to undo. "
    )
    if found.additivity is None:
        text += "Additivity is not applicable: a stride of one frame has no middle."
    reading = " ".join(f"{verdict.text}." for verdict in verdicts)
    section = Section("Do latents add up and reverse?", text.strip(), tuple(tables), (), reading, REFERENCES)
    return Outcome((section,), figures, verdicts)


def _rows(law: Law) -> list[tuple[str, Match]]:
    rows = [("model", law.model), ("random", law.random), ("untrained", law.untrained), ("raw_change", law.raw)]
    return [(key, match) for key, match in rows if match is not None]


def _law_table(name: str, law: Law) -> Table:
    titles = {
        "model": "latents before quantization",
        "random": "latents of other clips (random pairing)",
        "untrained": "untrained model",
        "raw_change": "raw frame change (exact by definition)",
    }
    rows = [
        TableRow(
            key,
            titles[key],
            (match.explained, match.relative_error, match.scaled, match.factor),
            key != "model",
            key == "raw_change",
        )
        for key, match in _rows(law)
    ]
    title = {
        "additivity": "Additivity: z(a→c) from z(a→b) + z(b→c)",
        "reversal": "Reversal: z(c→a) from −z(a→c)",
    }[name]
    columns = ("explained variance", "relative error", "explained, best factor", "best factor")
    return Table(title, columns, tuple(rows), digits=".2f")


def _law_verdict(name: str, law: Law) -> Verdict:
    holds = law.model.explained >= HOLDS
    law_text = {
        "additivity": "Latents of two half strides {} the latent of the whole one: the sum explains",
        "reversal": "Latents of reversed pairs {} the negative ones, which explain",
    }[name].format({"additivity": ("add up to", "do not add up to"), "reversal": ("are", "are not")}[name][not holds])
    own, other, scaled = map(explained_share, (law.model.explained, law.random.explained, law.model.scaled))
    text = f"{law_text} {own} of its variance (with latents of other clips {other}; scaled to fit best {scaled})"
    if name == "reversal":
        text = text.replace("of its variance", "of their variance")
    return Verdict(text, holds, {"additivity": "additive", "reversal": "reversible"}[name])
