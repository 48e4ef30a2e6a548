"""Do latents behave like actions: do they add up and reverse, mean the same in another scene, can they be used as such?

additivity   z(a, c) ~ z(a, b) + z(b, c)        b halfway between a and c, which are one stride apart
reversal     z(c, a) ~ -z(a, c)
transfer     Encoder(o_B, Decoder(o_B, z_A)) ~ z_A        B does what A did: does the model say so?
probes       fitted on latents of true transitions (o_t, o_{t+H}) and of decoded ones (o_t, Decoder(o_t, z)), each
             judged on both: R^2 of the action, 2 x 2
identity     |z(a, a)|^2 / |z(a, c)|^2, means over pairs
calibration  slope, against the motion there was, of what a probe fitted on whole gaps reads from half of one

A latent may carry a constant offset, so in both laws each kind is centred by its own mean over the pairs. Explained
variance is 1 - |left - right|^2 / |left|^2; a free factor in front of the right side tells wrong size from wrong
direction. The control of a transfer is B's own latent: what the model would say had it ignored the transfer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.evaluation.evidence import evenly
from lattok.evaluation.evidence.latent_evidence import LatentEvidence, Target
from lattok.evaluation.evidence.pair_set import BATCH, PairSet, derangement, exchange, pool, take_rows, to_cpu
from lattok.evaluation.evidence.probes import linear_probe, pca, spread_of
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Outcome, Section, Table, TableRow, Verdict, explained_share, printed
from lattok.image_lam import TrainedPairModel
from lattok.types import LatentActions, join

MAX_PAIRS = 500  # of a split, whose features are computed again
CHANGE_COMPONENTS = 128  # components of the raw frame change
ROUNDING = 1e-12  # a variance below it is none
MIN_EXPLAINED = 0.5  # share of variance that a law has to explain
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
CONTROL_REFERENCES = ("Bruce et al. 2024, Genie (controllability)", "Gao et al. 2025, AdaWorld")
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
TRANSITIONS = {"true": "true transitions", "decoded": "decoded transitions"}
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


def match(left: Tensor, right: Tensor) -> Match:
    """Measure how well `right` [n, d] predicts `left` [n, d], both centred."""
    left, right = (x.double() - x.double().mean(0) for x in (left, right))
    total, size = float(left.square().sum()), float(right.square().sum())
    if total <= 1e-12 or size <= 1e-12:
        return Match(0.0, 0.0, 0.0)
    factor = float((left * right).sum()) / size
    explained, scaled = (1 - float((left - scale * right).square().sum()) / total for scale in (1.0, factor))
    return Match(explained, scaled, factor)


@torch.no_grad()
def law_matches(evidence: LatentEvidence) -> dict[str, dict[str, Match]]:
    """Test both laws on held-out pairs, one `Match` per row; a stride of one frame has no middle to add up at."""
    half = evidence.source.stride // 2
    rows = evenly(len(evidence.held_out.rows), MAX_PAIRS)
    whole, first, second, back = _changes(evidence, rows, half)
    partner = derangement(np.zeros(len(rows)), torch.Generator().manual_seed(evidence.seed))

    def law(left: Sequence[Tensor], right: Sequence[Tensor]) -> dict[str, Match]:
        own, untrained, raw = map(match, left, right)
        random = match(left[0], right[0][partner])
        return {"model": own, "random": random, "untrained": untrained, "raw_change": raw}

    laws = {"additivity": law(whole, [a + b for a, b in zip(first, second, strict=True)])} if half else {}
    return laws | {"reversal": law(back, [-each for each in whole])}


def _changes(evidence: LatentEvidence, rows: Tensor, half: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Compute what lies between frames a, b and c of every triple: from a to c, a to b, b to c and c to a.

    Each is latents [n, d] of the model and of the untrained one, and components of the raw frame change.
    """
    side = evidence.held_out.side(evidence.model)
    own, fresh, frames = [], [], []
    for part in rows.split(BATCH):
        a, b, c = features = _moments(evidence, part, 0, half, evidence.source.stride)
        for model, found in ((evidence.model, own), (evidence.untrained, fresh)):
            found.append([_latents(model, *pair) for pair in ((a, c), (a, b), (b, c), (c, a))])
        frames.append(torch.stack([pool(each, evidence.model, side) for each in features], 1))
    a, b, c = torch.cat(frames).unbind(1)
    basis = pca(c - a, CHANGE_COMPONENTS).basis
    latents = (map(torch.cat, zip(*parts, strict=True)) for parts in (own, fresh))
    return zip(*latents, [change @ basis for change in (c - a, b - a, c - b, a - c)], strict=True)


def _moments(evidence: LatentEvidence, rows: Tensor, *steps: int) -> list[Tensor]:
    """Compute features [B, N, D] of the frames so many steps after those where held-out pairs `rows` [B] begin."""
    pairs = evidence.held_out
    first = pairs.frames.first[pairs.rows[rows.numpy()]]
    return [evidence.model.frame_features(torch.from_numpy(pairs.frames.frames[first + step])) for step in steps]


def _latents(model: TrainedPairModel, now: Tensor, later: Tensor) -> Tensor:
    """Encode pairs of features [B, N, D] to latents before quantization, [B, d] on the CPU."""
    return model.encode_features(torch.stack([now, later], 1)).latents.flatten(1).float().cpu()


@question("structure", of=("pairs",), criteria=(ADDITIVE, REVERSIBLE), place=60)
def structure_outcome(evidence: LatentEvidence) -> Outcome:
    """Test additivity and reversal on held-out pairs."""
    laws = law_matches(evidence)
    figures: dict[str, float] = {}
    for name, law in laws.items():
        figures |= {f"{name}/{key}": match.explained for key, match in law.items()}
        figures |= {f"{name}_scaled/{key}": match.scaled for key, match in law.items()}
        figures |= {f"{name}_factor/{key}": match.factor for key, match in law.items()}
    verdicts = [_law_verdict(name, law) for name, law in laws.items()] if vary(evidence) else []
    stride = evidence.source.stride
    text = (
        f"Additivity: a and c are one stride apart ({stride} frames), b is halfway; half strides are shorter than what "
        "the model was trained on, but no motion is larger than it has seen. Reversal: the same two frames in the "
        "other order. Each kind of latent is centred by its own mean, so that a constant offset is forgiven; "
        "“best factor” also forgives a wrong size. Neither law is needed to supervise a policy with codes; both are "
        "needed to add latents up, to interpolate, or to undo."
    )
    if "additivity" not in laws:
        text += " Additivity is not applicable: a stride of one frame has no middle."
    titles = ("explained variance", "explained, best factor", "best factor")
    columns = {name: dict(zip((name, f"{name}_scaled", f"{name}_factor"), titles, strict=True)) for name in laws}
    tables = tuple(Table.of(LAWS[name][0], figures, columns[name], LAW_ROWS, reference="raw_change") for name in laws)
    reading = " ".join(f"{verdict.text}." for verdict in verdicts)
    section = Section("Do latents add up and reverse?", text, tables, (), reading, LAW_REFERENCES)
    return Outcome((section,), figures, verdicts)


def vary(evidence: LatentEvidence) -> bool:
    """Tell whether latents vary at all: what never changes obeys and breaks no law."""
    return float(evidence.held_out.latents.latents.flatten(1).double().var(0).sum()) > ROUNDING


def _law_verdict(name: str, law: dict[str, Match]) -> Verdict:
    _, text, words, about = LAWS[name]
    holds = law["model"].explained >= MIN_EXPLAINED
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
    shown = {f"transfer_{name}": title for name, title in zip(Agreement._fields, columns, strict=True)}
    options: dict[str, str] = {"reference": "same_scene", "better": "higher", "note": note}
    table = Table.of("Cycle consistency", figures, shown, TRANSFER_ROWS, **options)
    verdict = _transfer_verdict(found)
    text = (
        "The decoder applies the latent action of pair A to the current frame of pair B, and the encoder reads the "
        "result. If latents mean the same everywhere, A's latent comes back. Also shown: what B's own latent and that "
        "of a third pair have in common with A's, and, for scale, the same cycle within A. The environment stream, "
        "where there is one, stays B's. An encoder and a decoder can agree on a private language, so A's action is "
        "also read from what comes back, by the probe fitted on true latents."
    )
    title, verdicts = "Does a latent mean the same in another scene?", [verdict] if vary(evidence) else []
    section = Section(title, text, (table,), (), f"{verdict.text}." * bool(verdicts), TRANSFER_REFERENCES)
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


@question("controllability", of=("pairs",), place=80)
@torch.no_grad()
def controllability_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Read actions from true and decoded transitions, and look at latents of less motion; None without actions."""
    if evidence.target is None:
        return None
    model, held_out, stride, figures = evidence.model, evidence.held_out, evidence.source.stride, {}
    train_rows, rows = (evenly(len(pairs.rows), MAX_PAIRS) for pairs in (evidence.train, held_out))
    chosen = ((evidence.train, train_rows), (held_out, rows))
    latents = {
        "true": [pairs.latents.latents[chosen].flatten(1) for pairs, chosen in chosen],
        "decoded": [reencode(model, pairs, chosen, chosen).latents.flatten(1) for pairs, chosen in chosen],
    }
    y, y_test = evidence.target.train[train_rows], evidence.target.held_out[rows]
    groups = evidence.target.episodes[train_rows.numpy()]
    for fitted in TRANSITIONS:
        for judged in TRANSITIONS:
            probe = linear_probe(latents[fitted][0], y, groups, latents[judged][1], y_test)
            figures[f"controllability_{fitted}/{judged}"] = float(probe.r2.nanmean())
    figures["identity/model"] = _identity(model, held_out.latents, held_out, rows)
    figures["identity/untrained"] = _identity(evidence.untrained, held_out.untrained, held_out, rows)
    if half := stride // 2:
        motion = evidence.source.chunks(held_out)[rows]
        halves = torch.cat([_latents(model, *_moments(evidence, part, 0, half)) for part in rows.split(BATCH)])
        for name, x, wanted in (
            ("whole", latents["true"][1], motion.mean(1)),
            ("half", halves, motion[:, :half].sum(1) / stride),
        ):
            probe = linear_probe(latents["true"][0], y, groups, x, wanted)
            figures[f"calibration/{name}"] = slope(probe.predicted, wanted, spread_of(y))
    return Outcome((_controllability_section(figures),), figures)


def slope(predicted: Tensor, actual: Tensor, scale: Tensor) -> float:
    """Fit predicted = slope * actual + offset [n, m] over all dimensions in units of `scale` [m]; 1 where sizes fit."""
    x, y = ((rows - rows.mean(0)).double() / scale.double() for rows in (actual, predicted))
    return float((x * y).sum() / x.square().sum().clamp_min(1e-12))


def _identity(model: TrainedPairModel, known: LatentActions, pairs: PairSet, rows: Tensor) -> float:
    """Compare latents of a frame and itself with those `known` of the pairs."""
    still = 0.0
    for part in rows.split(BATCH):
        features = pairs.full_features(model, part)
        same = features[:, :1].expand_as(features)
        still += float(model.encode_features(same).latents.double().square().sum())
    return still / max(float(known.latents[rows].double().square().sum()), 1e-12)


def _controllability_section(figures: dict[str, float]) -> Section:
    columns = {f"controllability_{kind}": f"fitted on {name}" for kind, name in TRANSITIONS.items()}
    rows = {kind: f"judged on {name}" for kind, name in TRANSITIONS.items()}
    probes = Table.of("R² of the action, 2 × 2", figures, columns, rows, own="true")
    names = {
        "identity/model": "size of the latent of no motion, against those of pairs (0: none)",
        "identity/untrained": "the same, untrained model",
        "calibration/whole": "slope of what is read from whole gaps",
        "calibration/half": "from half gaps",
    }
    lines = [TableRow(key, name, (figures[key],), "untrained" in key) for key, name in names.items() if key in figures]
    sizes = Table("Sizes", ("value",), tuple(lines), digits=".2f")
    text = (
        "A decoded transition is the current frame and what the decoder makes of it with the pair's own latent. Where "
        "a probe of one kind reads the other as well as its own, the decoder shows what the latent says, in the way "
        "the encoder means it. The latent of a frame and itself should be small. A probe that was fitted on whole gaps "
        "reads half of one as half the motion where its slope is the one that it has on whole gaps; below 1 both are "
        "as small as R² makes them."
    )
    own, other = (printed(figures[f"controllability_true/{kind}"], ".2f") for kind in TRANSITIONS)
    reading = f"A probe of true transitions reads true ones with R² {own}, decoded ones with {other}."
    return Section("Can latents be used as actions?", text, (probes, sizes), (), reading, CONTROL_REFERENCES)
