"""Do latents add up over time, change sign when time runs backwards, and mean the same in another scene?

additivity   z(a, c) ~ z(a, b) + z(b, c)        b halfway between a and c, which are one stride apart
reversal     z(c, a) ~ -z(a, c)
transfer     Encoder(o_B, Decoder(o_B, z_A)) ~ z_A        B does what A did: does the model say so?

A latent may carry a constant offset, so each kind is centred by its own mean over the pairs. Explained variance is
1 - |left - right|^2 / |left|^2; a free factor in front of the right side tells wrong size from wrong direction. The
control of a transfer is B's own latent: what the model would say had it ignored the transfer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.evaluation.evidence.controls import Target
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.pair_set import (
    BATCH,
    batches,
    chosen_rows,
    derangement,
    exchanged,
    pool,
    pooled_side,
    to_cpu,
)
from lattok.evaluation.evidence.probes import pca
from lattok.evaluation.evidence.split import evenly
from lattok.evaluation.report import Outcome, Section, Table, TableRow, Verdict, explained_share, printed
from lattok.image_lam import ImageLAM
from lattok.types import LatentActions, join

MOST = 500  # held-out pairs, whose features are computed again
WIDTH = 128  # components of the raw frame change
HOLDS = 0.5  # share of variance that a law has to explain
LAW_REFERENCES = (
    "Rybkin et al. 2019, Learning what you can do before doing anything (composable latents)",
    "Schmidt & Jiang 2024, LAPO: learning to act without actions",
)
TRANSFER_REFERENCES = (
    "Chen et al. 2024, IGOR: image-goal representations",
    "Gao et al. 2025, AdaWorld: learning adaptable world models with latent actions",
    "Zhu et al. 2017, CycleGAN (cycle consistency)",
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
    section = Section("Do latents add up and reverse?", text.strip(), tuple(tables), (), reading, LAW_REFERENCES)
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


class Agreement(NamedTuple):
    """How much of A there is in some latents."""

    latents: float  # 1 is exact, 0 as good as the mean
    codes: float | None  # share of positions with A's code; None without codes
    action: float | None  # R^2 of A's action, read by the probe that was fitted on true latents


class Transfer(NamedTuple):
    """How much of A there is in the latents that come back, and in the controls."""

    transferred: Agreement  # A's latent in B, encoded again
    same_scene: Agreement  # A's latent in A, encoded again: how far a cycle gets at all
    own: Agreement  # B's own latents, as if nothing had been transferred
    random: Agreement  # latents of a third pair
    own_action: float | None  # R^2 of B's action from the latents that come back: low when A's has replaced it


@torch.no_grad()
def transfer(evidence: LatentEvidence) -> Transfer:
    """Give held-out pairs B the latents of other pairs A of the split."""
    rows = evenly(len(evidence.held_out.rows), MOST)
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


def _again(evidence: LatentEvidence, rows: Tensor, source: Tensor) -> LatentActions:
    """Encode (B's frame, what the decoder makes of it with A's latents)."""
    model, latents, found = evidence.model, evidence.held_out.latents, []
    place = dict(zip(rows.tolist(), source.tolist(), strict=True))
    for part, features in batches(model, evidence.held_out, rows):
        given = torch.tensor([place[row] for row in part.tolist()])
        now = features[:, 0]
        predicted = model.predict(now, exchanged(latents, given, part, 1.0, 1.0, now.device))
        found.append(to_cpu(model.encode_features(torch.stack([now, predicted], 1))))
    return join(found)


def _agreement(
    evidence: LatentEvidence, latents: LatentActions, source: LatentActions, source_rows: Tensor
) -> Agreement:
    mean = evidence.train.latents.latents.double().mean(0)
    wanted, got = source.latents.double(), latents.latents.double()
    error, total = (wanted - got).square().sum(), (wanted - mean).square().sum().clamp_min(1e-12)
    codes = float((latents.codes == source.codes).double().mean()) if source.codes.shape[1] else None
    return Agreement(1 - float(error / total), codes, _action(evidence, latents, source_rows))


def _action(evidence: LatentEvidence, latents: LatentActions, rows: Tensor) -> float | None:
    """Read the actions of held-out pairs `rows` from `latents`; R^2."""
    if evidence.target is None:
        return None
    full = evidence.target
    target = Target(full.train, full.episodes, full.held_out[rows])
    return float(target.probe(evidence.train.latents.latents.flatten(1), latents.latents.flatten(1)).r2.nanmean())


def _transfer_table(rows: dict[str, tuple[str, Agreement]], found: Transfer) -> Table:
    shown = [("explained variance of A's latent", "latents")]
    if found.transferred.codes is not None:
        shown.append(("codes equal to A's", "codes"))
    if found.transferred.action is not None:
        shown.append(("R² of A's action", "action"))
    lines = [
        TableRow(key, title, tuple(getattr(each, name) for _, name in shown), key != "model", key == "same_scene")
        for key, (title, each) in rows.items()
    ]
    note = (
        ""
        if found.own_action is None
        else f"R² of B's action from what comes back: {printed(found.own_action, '.2f')}."
    )
    columns = tuple(title for title, _ in shown)
    return Table("Cycle consistency", columns, tuple(lines), better="higher", digits=".2f", note=note)


def _transfer_verdict(found: Transfer) -> Verdict:
    back, own = found.transferred.latents, found.own.latents
    holds = back >= HOLDS and back > own
    word = "comes back" if holds else "comes back only in part" if back > max(own, 0) else "does not come back"
    shares = [explained_share(value) for value in (back, own, found.same_scene.latents)]
    text = (
        f"A latent applied to another clip {word}: {shares[0]} of its variance (of the other clip's own latent "
        f"{shares[1]}, in the same clip {shares[2]})"
    )
    if found.transferred.action is not None:
        text += f"; R² of its action {printed(found.transferred.action, '.2f')}"
    return Verdict(text, holds, "transfers")


def transfer_outcome(evidence: LatentEvidence) -> Outcome:
    """Apply latents of one clip to another."""
    found = transfer(evidence)
    rows = {
        "model": ("A's latent in B, encoded again", found.transferred),
        "own": ("B's own latent, nothing transferred", found.own),
        "random": ("latent of a third pair", found.random),
        "same_scene": ("A's latent in A, encoded again", found.same_scene),
    }
    figures: dict[str, float] = {}
    for key, (_, agreement) in rows.items():
        for name in ("latents", "codes", "action"):
            if (value := getattr(agreement, name)) is not None:
                figures[f"transfer_{name}/{key}"] = value
    if found.own_action is not None:
        figures["transfer_action/of_b"] = found.own_action
    verdict = _transfer_verdict(found)
    text = (
        "The decoder applies the latent action of pair A to the current frame of pair B, and the encoder reads the "
        "result. If latents mean the same everywhere, A's latent comes back. Also shown: what B's own latent and that "
        "of a third pair have in common with A's, and, for scale, the same cycle within A. The environment stream, "
        "where there is one, stays B's. An encoder and a decoder can agree on a private language, so A's action is "
        "also read from what comes back, by the probe fitted on true latents."
    )
    section = Section(
        "Does a latent mean the same in another scene?",
        text,
        (_transfer_table(rows, found),),
        (),
        f"{verdict.text}.",
        TRANSFER_REFERENCES,
    )
    return Outcome((section,), figures, [verdict])
