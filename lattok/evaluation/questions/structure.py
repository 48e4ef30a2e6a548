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

from lattok.evaluation.evidence.latent_evidence import LatentEvidence, Target
from lattok.evaluation.evidence.pair_set import (
    BATCH,
    PairSet,
    derangement,
    exchange,
    pair_targets,
    pool,
    pooled_side,
    take_rows,
    to_cpu,
)
from lattok.evaluation.evidence.probes import pca
from lattok.evaluation.evidence.split import evenly
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Outcome, Section, Table, TableRow, Verdict, explained_share, printed
from lattok.image_lam import TrainedPairModel
from lattok.types import LatentActions, join

MOST = 500  # held-out pairs, whose features are computed again
WIDTH = 128  # components of the raw frame change
HOLDS = 0.5  # share of variance that a law has to explain
ADDITIVE = Criterion(
    "additive",
    "Do not add up latents of consecutive gaps; to make them additive train with loss_additivity and extra_strides.",
    elsewhere="Do not add up latents of consecutive gaps.",
)
REVERSIBLE = Criterion(
    "reversible", "Do not negate latents to undo a motion; relabel the reversed video instead.", use=True
)
TRANSFERS = Criterion(
    "transfers",
    "A latent means different things in different scenes: do not replay latents of one clip in another.",
    use=True,
)
LAW_REFERENCES = (
    "Rybkin et al. 2019, Learning what you can do before doing anything (composable latents)",
    "Schmidt & Jiang 2024, LAPO: learning to act without actions",
)
TRANSFER_REFERENCES = (
    "Chen et al. 2024, IGOR: image-goal representations",
    "Gao et al. 2025, AdaWorld: learning adaptable world models with latent actions",
    "Zhu et al. 2017, CycleGAN (cycle consistency)",
)
LAWS = {  # title of the table; what a verdict says, with its words for False and True; what it is about
    "additivity": (
        "Additivity: z(a→c) from z(a→b) + z(b→c)",
        "Latents of two half strides {} the latent of the whole one: the sum explains {} of its variance",
        ("do not add up to", "add up to"),
        ADDITIVE,
    ),
    "reversal": (
        "Reversal: z(c→a) from −z(a→c)",
        "Latents of reversed pairs {} the negative ones, which explain {} of their variance",
        ("are not", "are"),
        REVERSIBLE,
    ),
}
LAW_ROWS = {
    "model": "latents before quantization",
    "random": "latents of other clips (random pairing)",
    "untrained": "untrained model",
    "raw_change": "raw frame change (exact by definition)",
}
TRANSFER_ROWS = {
    "model": "A's latent in B, encoded again",
    "own": "B's own latent, nothing transferred",
    "random": "latent of a third pair",
    "same_scene": "A's latent in A, encoded again",  # how far a cycle gets at all
}


class Match(NamedTuple):
    """How well one set of vectors predicts another."""

    explained: float  # share of variance; 1 is exact, 0 as good as the mean, below 0 worse
    scaled: float  # the same with the best factor
    factor: float

    @property
    def relative_error(self) -> float:
        """|left - right| / |left|."""
        return max(0.0, 1 - self.explained) ** 0.5


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
def structure(evidence: LatentEvidence) -> dict[str, dict[str, Match]]:
    """Test both laws on held-out pairs, one `Match` per row; a stride of one frame has no middle to add up at."""
    half = evidence.held_out.frames.stride // 2
    rows = evenly(len(evidence.held_out.rows), MOST)
    triples = _triples(evidence, rows, half)
    partner = derangement(np.zeros(len(rows)), torch.Generator().manual_seed(evidence.seed))

    def law(left: list[Tensor], right: list[Tensor]) -> dict[str, Match]:
        own, untrained, raw = map(match, left, right)
        random = match(left[0], right[0][partner])
        return {"model": own, "random": random, "untrained": untrained, "raw_change": raw}

    laws = {"additivity": law([t.whole for t in triples], [t.first + t.second for t in triples])} if half else {}
    return laws | {"reversal": law([t.back for t in triples], [-t.whole for t in triples])}


def _triples(evidence: LatentEvidence, rows: Tensor, half: int) -> list[Triples]:
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
    return [*(Triples(*map(torch.cat, zip(*parts, strict=True))) for parts in (own, fresh)), raw]


def _vectors(model: TrainedPairModel, features: list[Tensor]) -> Triples:
    """Encode the four pairs; latents before quantization."""
    a, b, c = features
    pairs = [torch.stack(pair, 1) for pair in ((a, c), (a, b), (b, c), (c, a))]
    return Triples(*(model.encode_features(pair).latents.flatten(1).float().cpu() for pair in pairs))


@question("structure", of=("pairs",), criteria=(ADDITIVE, REVERSIBLE), place=60)
def structure_outcome(evidence: LatentEvidence) -> Outcome:
    """Test additivity and reversal on held-out pairs."""
    laws = structure(evidence)
    figures: dict[str, float] = {}
    for name, law in laws.items():
        figures |= {f"{name}/{key}": match.explained for key, match in law.items()}
        figures |= {f"{name}_scaled/{key}": match.scaled for key, match in law.items()}
    verdicts = [_law_verdict(name, law) for name, law in laws.items()]
    stride = evidence.held_out.frames.stride
    text = (
        f"Additivity: a and c are one stride apart ({stride} frames), b is halfway; half strides are shorter than what "
        "the model was trained on, but no motion is larger than it has seen. Reversal: the same two frames in the "
        "other order. Each kind of latent is centred by its own mean, so that a constant offset is forgiven; "
        "“best factor” also forgives a wrong size. Neither law is needed to supervise a policy with codes; both are "
        "needed to add latents up, to interpolate, or to undo."
    )
    if "additivity" not in laws:
        text += " Additivity is not applicable: a stride of one frame has no middle."
    tables = tuple(_law_table(name, law) for name, law in laws.items())
    reading = " ".join(f"{verdict.text}." for verdict in verdicts)
    section = Section("Do latents add up and reverse?", text, tables, (), reading, LAW_REFERENCES)
    return Outcome((section,), figures, verdicts)


def _law_table(name: str, law: dict[str, Match]) -> Table:
    columns = ("explained variance", "relative error", "explained, best factor", "best factor")
    rows = []
    for key, found in law.items():
        values = (found.explained, found.relative_error, found.scaled, found.factor)
        rows.append(TableRow(key, LAW_ROWS[key], values, key != "model", key == "raw_change"))
    return Table(LAWS[name][0], columns, tuple(rows), digits=".2f")


def _law_verdict(name: str, law: dict[str, Match]) -> Verdict:
    _, text, words, about = LAWS[name]
    holds = law["model"].explained >= HOLDS
    own, other = (explained_share(law[row].explained) for row in ("model", "random"))
    scaled = explained_share(law["model"].scaled)
    found = f"{text.format(words[holds], own)} (with latents of other clips {other}; scaled to fit best {scaled})"
    return Verdict(found, holds, about)


class Agreement(NamedTuple):
    """How much of A there is in some latents."""

    latents: float  # 1 is exact, 0 as good as the mean
    codes: float | None  # share of positions with A's code; None without codes
    action: float | None  # R^2 of A's action, read by the probe that was fitted on true latents


@torch.no_grad()
def transfer(evidence: LatentEvidence) -> tuple[dict[str, Agreement], float | None]:
    """Give held-out pairs B the latents of other pairs A of the split; find what comes back, and the controls.

    The last is R^2 of B's action from what comes back: low when A's has replaced it.
    """
    rows = evenly(len(evidence.held_out.rows), MOST)
    generator = torch.Generator().manual_seed(evidence.seed + 1)
    other, third = (rows[derangement(np.zeros(len(rows)), generator)] for _ in range(2))
    latents = evidence.held_out.latents
    given, own, again = (
        take_rows(latents, other),
        take_rows(latents, rows),
        reencode(evidence.model, evidence.held_out, rows, other),
    )
    found = {
        "model": _agreement(evidence, again, given, other),
        "own": _agreement(evidence, own, given, other),
        "random": _agreement(evidence, take_rows(latents, third), given, other),
        "same_scene": _agreement(evidence, reencode(evidence.model, evidence.held_out, rows, rows), own, rows),
    }
    return found, _action(evidence, again, rows)


def reencode(model: TrainedPairModel, pairs: PairSet, rows: Tensor, source: Tensor) -> LatentActions:
    """Encode (frame of pair B, what the decoder makes of it with the latents of pair A); B is `rows`, A `source`."""
    latents, found = pairs.latents, []
    for part, given in zip(rows.split(BATCH), source.split(BATCH), strict=True):
        now = pair_targets(model, pairs, part)[:, 0]
        predicted = model.predict(now, exchange(latents, given, part, 1.0, 1.0, now.device))
        both = torch.stack([model.features_of(each) for each in (now, predicted)], 1)
        found.append(to_cpu(model.encode_features(both)))
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


@question("transfer", of=("pairs",), criteria=(TRANSFERS,), place=70)
def transfer_outcome(evidence: LatentEvidence) -> Outcome:
    """Apply latents of one clip to another."""
    found, own_action = transfer(evidence)
    measured = {key: each._asdict() for key, each in found.items()}
    figures = {
        f"transfer_{name}/{key}": value
        for key, each in measured.items()
        for name, value in each.items()
        if value is not None
    }
    note = ""
    if own_action is not None:
        figures["transfer_action/of_b"] = own_action
        note = f"R² of B's action from what comes back: {printed(own_action, '.2f')}."
    titles = {
        "latents": "explained variance of A's latent",
        "codes": "codes equal to A's",
        "action": "R² of A's action",
    }
    shown = [name for name in titles if measured["model"][name] is not None]
    rows = tuple(
        TableRow(key, TRANSFER_ROWS[key], tuple(each[name] for name in shown), key != "model", key == "same_scene")
        for key, each in measured.items()
    )
    columns = tuple(titles[name] for name in shown)
    table = Table("Cycle consistency", columns, rows, better="higher", digits=".2f", note=note)
    verdict = _transfer_verdict(found)
    text = (
        "The decoder applies the latent action of pair A to the current frame of pair B, and the encoder reads the "
        "result. If latents mean the same everywhere, A's latent comes back. Also shown: what B's own latent and that "
        "of a third pair have in common with A's, and, for scale, the same cycle within A. The environment stream, "
        "where there is one, stays B's. An encoder and a decoder can agree on a private language, so A's action is "
        "also read from what comes back, by the probe fitted on true latents."
    )
    title, reading = "Does a latent mean the same in another scene?", f"{verdict.text}."
    return Outcome((Section(title, text, (table,), (), reading, TRANSFER_REFERENCES),), figures, [verdict])


def _transfer_verdict(found: dict[str, Agreement]) -> Verdict:
    back, own = found["model"].latents, found["own"].latents
    holds = back >= HOLDS and back > own
    word = "comes back" if holds else "comes back only in part" if back > max(own, 0) else "does not come back"
    shares = [explained_share(value) for value in (back, own, found["same_scene"].latents)]
    text = (
        f"A latent applied to another clip {word}: {shares[0]} of its variance (of the other clip's own latent "
        f"{shares[1]}, in the same clip {shares[2]})"
    )
    if found["model"].action is not None:
        text += f"; R² of its action {printed(found['model'].action, '.2f')}"
    return Verdict(text, holds, TRANSFERS)
