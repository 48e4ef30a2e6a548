"""Do latents say of decoded transitions what they say of true ones, is no motion no latent, do sizes fit?

probes       fitted on latents of true transitions (o_t, o_{t+H}) and of decoded ones (o_t, Decoder(o_t, z)), each
             judged on both: R^2 of the action, 2 x 2
identity     |z(a, a)|^2 / |z(a, c)|^2, means over pairs
calibration  slope, against the motion there was, of what a probe fitted on whole gaps reads from half of one
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.pair_set import BATCH, PairSet, batches
from lattok.evaluation.evidence.probes import linear_probe, spread_of
from lattok.evaluation.evidence.split import evenly
from lattok.evaluation.questions import question
from lattok.evaluation.questions.structure import reencode
from lattok.evaluation.report import Outcome, Section, Table, TableRow, printed

MOST = 500  # pairs of a split, whose features are computed again
KINDS = {"true": "true transitions", "decoded": "decoded transitions"}
REFERENCES = ("Bruce et al. 2024, Genie (controllability)", "Gao et al. 2025, AdaWorld")


@question("controllability", of=("pairs",), place=80)
@torch.no_grad()
def controllability_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Read actions from true and decoded transitions, and look at latents of less motion; None without actions."""
    if evidence.target is None:
        return None
    chosen = [(pairs, evenly(len(pairs.rows), MOST)) for pairs in (evidence.train, evidence.held_out)]
    found = {
        "true": [pairs.latents.latents[rows].flatten(1) for pairs, rows in chosen],
        "decoded": [reencode(evidence.model, *each, each[1]).latents.flatten(1) for each in chosen],
    }
    y, y_test = (
        values[rows]
        for values, (_, rows) in zip((evidence.target.train, evidence.target.held_out), chosen, strict=True)
    )
    groups = evidence.target.episodes[chosen[0][1].numpy()]
    figures = {}
    for fitted in KINDS:
        for judged in KINDS:
            probe = linear_probe(found[fitted][0], y, groups, found[judged][1], y_test)
            figures[f"controllability_{fitted}/{judged}"] = float(probe.r2.nanmean())
    figures |= {f"identity/{name}": _identity(model, *chosen[1]) for name, model in _models(evidence).items()}
    half = evidence.source.stride // 2
    if half:
        motion = evidence.source.chunks(chosen[1][0])[chosen[1][1]]
        wanted = {"whole": motion.mean(1), "half": motion[:, :half].sum(1) / evidence.source.stride}
        read = {"whole": found["true"][1], "half": _halves(evidence, *chosen[1], half)}
        for name in wanted:
            probe = linear_probe(found["true"][0], y, groups, read[name], wanted[name])
            figures[f"calibration/{name}"] = slope(probe.predicted, wanted[name], spread_of(y))
    return Outcome((_section(figures),), figures)


def slope(predicted: Tensor, actual: Tensor, scale: Tensor) -> float:
    """Fit predicted = slope * actual + offset [n, m] over all dimensions in units of `scale` [m]; 1 where sizes fit."""
    x, y = ((rows - rows.mean(0)).double() / scale.double() for rows in (actual, predicted))
    return float((x * y).sum() / x.square().sum().clamp_min(1e-12))


def _models(evidence: LatentEvidence) -> dict[str, Any]:
    return {"model": evidence.model, "untrained": evidence.untrained}


def _identity(model: Any, pairs: PairSet, rows: Tensor) -> float:
    """Compare latents of a frame and itself with those of the pairs."""
    still = moving = 0.0
    for _, features in batches(model, pairs, rows):
        same = features[:, :1].expand_as(features)
        still += float(model.encode_features(same).latents.double().square().sum())
        moving += float(model.encode_features(features).latents.double().square().sum())
    return still / max(moving, 1e-12)


def _halves(evidence: LatentEvidence, pairs: PairSet, rows: Tensor, half: int) -> Tensor:
    """Encode the first half of each gap, [n, d]."""
    model, found = evidence.model, []
    for part in rows.split(BATCH):
        first = pairs.frames.first[pairs.rows[part.numpy()]]
        moments = [torch.from_numpy(pairs.frames.frames[at]) for at in (first, first + half)]
        both = torch.stack([model.frame_features(moment) for moment in moments], 1)
        found.append(model.encode_features(both).latents.flatten(1).float().cpu())
    return torch.cat(found)


def _section(figures: dict[str, float]) -> Section:
    cells = [
        TableRow(f, f"fitted on {KINDS[f]}", tuple(figures[f"controllability_{f}/{j}"] for j in KINDS), f != "true")
        for f in KINDS
    ]
    probes = Table(
        "R² of the action, 2 × 2", tuple(f"judged on {k}" for k in KINDS.values()), tuple(cells), digits=".2f"
    )
    names = {"identity/model": "size of the latent of no motion, against those of pairs (0: none)"}
    names |= {"identity/untrained": "the same, untrained model"}
    names |= {"calibration/whole": "slope of what is read from whole gaps", "calibration/half": "from half gaps"}
    lines = [TableRow(key, name, (figures[key],), "untrained" in key) for key, name in names.items() if key in figures]
    sizes = Table("Sizes", ("value",), tuple(lines), digits=".2f")
    text = (
        "A decoded transition is the current frame and what the decoder makes of it with the pair's own latent. Where "
        "a probe of one kind reads the other as well as its own, the decoder shows what the latent says, in the way "
        "the encoder means it. The latent of a frame and itself should be small. A probe that was fitted on whole gaps "
        "reads half of one as half the motion where its slope is the one that it has on whole gaps; below 1 both are "
        "as small as R² makes them."
    )
    own, other = (printed(figures[f"controllability_true/{kind}"], ".2f") for kind in KINDS)
    reading = f"A probe of true transitions reads true ones with R² {own}, decoded ones with {other}."
    return Section("Can latents be used as actions?", text, (probes, sizes), (), reading, REFERENCES)
