"""Does a latent mean the same in another scene?

transfer     Encoder(o_B, Decoder(o_B, z_A)) ~ z_A        B does what A did: does the model say so?

Explained variance is 1 - |left - right|^2 / |left - mean|^2. The control is B's own latent: what the model would say
had it ignored the transfer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.evaluation.evidence import evenly
from lattok.evaluation.evidence.latent_evidence import LatentEvidence, Target
from lattok.evaluation.evidence.pair_set import BATCH, PairSet, derangement, exchange, take_rows, to_cpu
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Outcome, Section, Table, TableRow, Verdict, explained_share, printed
from lattok.image_lam import TrainedPairModel
from lattok.types import LatentActions, join

MAX_PAIRS = 500  # of a split, whose features are computed again
ROUNDING = 1e-12  # a variance below it is none
MIN_EXPLAINED = 0.5  # share of variance that has to come back
TRANSFERS = Criterion(
    "transfers",
    "A latent means different things in different scenes: do not replay latents of one clip in another.",
    use=True,
)
REFERENCES = (
    "Chen et al. 2024, IGOR: image-goal representations",
    "Gao et al. 2025, AdaWorld: learning adaptable world models with latent actions",
    "Zhu et al. 2017, CycleGAN (cycle consistency)",
)
ROWS = {
    "model": "A's latent in B, encoded again",
    "own": "B's own latent, nothing transferred",
    "random": "latent of a third pair",
    "same_scene": "A's latent in A, encoded again",  # how far a cycle gets at all
}


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
    model, held_out = evidence.model, evidence.held_out
    rows = evenly(len(held_out.rows), MAX_PAIRS)
    generator = torch.Generator().manual_seed(evidence.seed + 1)
    other, third = (rows[derangement(np.zeros(len(rows)), generator)] for _ in range(2))
    given, own = (take_rows(held_out.latents, each) for each in (other, rows))
    again = reencode(model, held_out, rows, other)
    found = {
        "model": _agreement(evidence, again, given, other),
        "own": _agreement(evidence, own, given, other),
        "random": _agreement(evidence, take_rows(held_out.latents, third), given, other),
        "same_scene": _agreement(evidence, reencode(model, held_out, rows, rows), own, rows),
    }
    return found, _action_r2(evidence, again, rows)


def reencode(model: TrainedPairModel, pairs: PairSet, rows: Tensor, source: Tensor) -> LatentActions:
    """Encode (frame of pair B, what the decoder makes of it with the latents of pair A); B is `rows`, A `source`."""
    latents, found = pairs.latents, []
    for part, given in zip(rows.split(BATCH), source.split(BATCH), strict=True):
        now = pairs.targets(model, part)[:, 0]
        predicted = model.predict(now, exchange(latents, given, part, now.device))
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
    return Agreement(1 - float(error / total), codes, _action_r2(evidence, latents, source_rows))


def _action_r2(evidence: LatentEvidence, latents: LatentActions, rows: Tensor) -> float | None:
    """Read the actions of held-out pairs `rows` from `latents`; None without actions."""
    if (full := evidence.target) is None:
        return None
    target = Target(full.train, full.episodes, full.held_out[rows])
    return float(target.probe(evidence.train.latents.latents.flatten(1), latents.latents.flatten(1)).r2.nanmean())


@question("transfer", of=("pairs",), criteria=(TRANSFERS,), place=70)
def transfer_outcome(evidence: LatentEvidence) -> Outcome:
    """Apply latents of one clip to another."""
    found, own_action = transfer(evidence)
    measured = {key: each._asdict() for key, each in found.items()}
    named = {f"transfer_{name}/{key}": value for key, each in measured.items() for name, value in each.items()}
    figures, note = {name: value for name, value in named.items() if value is not None}, ""
    if own_action is not None:
        figures["transfer_action/of_b"] = own_action
        note = f"R² of B's action from what comes back: {printed(own_action, '.2f')}."
    columns = ("explained variance of A's latent", "codes equal to A's", "R² of A's action")  # as in `Agreement`
    shown = [i for i, value in enumerate(found["model"]) if value is not None]
    rows = tuple(
        TableRow(key, name, tuple(found[key][i] for i in shown), key != "model", key == "same_scene")
        for key, name in ROWS.items()
    )
    table = Table("Cycle consistency", tuple(columns[i] for i in shown), rows, "higher", digits=".2f", note=note)
    verdict = _transfer_verdict(found)
    text = (
        "The decoder applies the latent action of pair A to the current frame of pair B, and the encoder reads the "
        "result. If latents mean the same everywhere, A's latent comes back. Also shown: what B's own latent and that "
        "of a third pair have in common with A's, and, for scale, the same cycle within A. The environment stream, "
        "where there is one, stays B's. An encoder and a decoder can agree on a private language, so A's action is "
        "also read from what comes back, by the probe fitted on true latents."
    )
    vary = float(evidence.held_out.latents.latents.flatten(1).double().var(0).sum()) > ROUNDING
    title, verdicts = "Does a latent mean the same in another scene?", [verdict] * vary
    section = Section(title, text, (table,), (), f"{verdict.text}." * vary, REFERENCES)
    return Outcome((section,), figures, verdicts)


def _transfer_verdict(found: dict[str, Agreement]) -> Verdict:
    back, own = found["model"].latents, found["own"].latents
    holds = back >= MIN_EXPLAINED and back > own
    word = "comes back" if holds else "comes back only in part" if back > max(own, 0) else "does not come back"
    shares = [explained_share(value) for value in (back, own, found["same_scene"].latents)]
    text = (
        f"A latent applied to another clip {word}: {shares[0]} of its variance (of the other clip's own latent "
        f"{shares[1]}, in the same clip {shares[2]})"
    )
    if found["model"].action is not None:
        text += f"; R² of its action {printed(found['model'].action, '.2f')}"
    return Verdict(text, holds, TRANSFERS)
