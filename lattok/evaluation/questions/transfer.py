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

from lattok.evaluation.evidence.controls import Target
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.pair_set import batches, chosen_rows, derangement, exchanged, to_cpu
from lattok.evaluation.evidence.split import evenly
from lattok.evaluation.report import Outcome, Section, Table, TableRow, Verdict, explained_share, printed
from lattok.types import LatentActions, join

MOST = 500  # held-out pairs, whose features are computed again
HOLDS = 0.5  # share of variance that a law has to explain
REFERENCES = (
    "Chen et al. 2024, IGOR: image-goal representations",
    "Gao et al. 2025, AdaWorld: learning adaptable world models with latent actions",
    "Zhu et al. 2017, CycleGAN (cycle consistency)",
)


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
        REFERENCES,
    )
    return Outcome((section,), figures, [verdict])
