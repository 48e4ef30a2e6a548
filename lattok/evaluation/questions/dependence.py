"""What does the decoder make of latent actions: does it need them, and do they mean the same in another scene?

Its prediction loss is compared with true ones, wrong ones and none. Shuffled and zero latents are weak baselines, since
the decoder never met them in training. The honest one is a decoder of the same architecture trained without latents; it
costs a training run, so it is optional and cached.

transfer     Encoder(o_B, Decoder(o_B, z_A)) ~ z_A        B does what A did: does the model say so?

Explained variance is 1 - |left - right|^2 / |left - mean|^2. The control is B's own latent, as without a transfer.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok.evaluation.evidence import evenly
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.pair_set import BATCH, PairSet, derangement, exchange, to_cpu
from lattok.evaluation.evidence.trained_controls import ControlTraining, sizes_of
from lattok.evaluation.evidence.unlearned import Target
from lattok.evaluation.page import svg
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Outcome, Pictures, Section, Table, TableRow, Verdict
from lattok.evaluation.wording import NEEDS_TRAINING, explained_share, printed
from lattok.image_lam import TrainedPairModel
from lattok.samples.order import BatchSampler, Passes
from lattok.types import EncodesPredictions, LatentActions, LossTerms, PredictsFrames, join
from lattok.utils.commands import advise

BLIND = "without_latents"
Predictor = Callable[[Tensor, Tensor], Tensor]  # what there is now [B, N, D] and pair rows [B] to what there is later
Losses = dict[str, float]  # by `VARIANTS`
DEPENDS, HARDLY = 0.9, 0.98  # share of the loss with wrong latents: below the first it depends, above the second hardly
VARIANTS = {  # name in the table, name next to a bar
    "true": ("true latents", "true latents"),
    "without_latents": ("decoder trained without latents", "trained without"),
    "shuffled_in_episode": ("latents of another pair of the episode", "other, episode"),
    "shuffled": ("latents of another pair of the split", "other, split"),
    "zero": ("zero vectors", "zero vectors"),
    "env_shuffled_in_episode": ("environment stream of another pair of the episode", "other env"),
    "env_zero": ("environment stream of zero vectors", "zero env"),
    "copy": ("copy of the first frame", "copy of frame"),
}
DEPENDENCE = Criterion(
    "decoder_depends",
    advise(
        "The decoder predicts from the current frame alone: a stride long enough for something to happen helps{change}."
    ),
    undecided=advise(
        "The decoder hardly uses the latents: a stride long enough for something to happen helps{change}."
    ),
    caveat="the decoder hardly uses the latents",
    weight=1,
)
AGAINST_BLIND = Criterion(
    "prediction_against_blind",
    advise(
        "What the latents carry does not help prediction: train longer, or see whether the scene moves by itself "
        "within the stride."
    ),
    undecided=advise("What the latents carry hardly helps prediction: train longer."),
)
TRAINED_CONTROLS = Criterion("trained_controls")
REFERENCES = (
    "Schmidt & Jiang 2024, LAPO: learning to act without actions",
    "Bruce et al. 2024, Genie (controllability: quality lost with other latent actions)",
)
MAX_PAIRS = 500  # of a split, whose features are computed again
ROUNDING = 1e-12  # a variance below it is none
MIN_EXPLAINED = 0.5  # share of variance that has to come back
TRANSFERS = Criterion(
    "transfers",
    advise("A latent means different things in different scenes: do not replay latents of one clip in another."),
    use=True,
)
TRANSFER_REFERENCES = (
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


class BlindDecoder(nn.Module):
    """The model's decoder architecture, fed zero vectors, from scratch."""

    def __init__(self, model: TrainedPairModel, seed: int):
        super().__init__()
        config = model.config
        self.streams = 1 if model.env is None else 2
        self.shape = (config.positions, config.latent_dim)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.decoder = model.new_decoder()

    def predict(self, features: Tensor) -> Tensor:
        """Predict what there is later [B, N, D] from what there is now."""
        return self.decoder(features, *[features.new_zeros(len(features), *self.shape)] * self.streams)

    def forward(self, batch: tuple[Tensor, Tensor]) -> LossTerms:
        return {"prediction": F.mse_loss(self.predict(batch[0]), batch[1])}


def variant_losses(model: PredictsFrames, held_out: PairSet, seed: int) -> dict[str, float]:
    """Average the squared error of what is predicted over all held-out pairs, per variant of the latents."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(len(held_out.rows))
    everyone = derangement(np.zeros(len(order), dtype=np.int64), generator)
    neighbours = derangement(held_out.episode_of, generator)
    latents = held_out.latents

    def variant(control: Tensor = order, env: Tensor = order, **kept: float) -> Predictor:
        return lambda now, rows: model.predict(now, exchange(latents, control[rows], env[rows], now.device, **kept))

    predictors = {"true": variant(), "shuffled": variant(everyone)}
    predictors |= {"shuffled_in_episode": variant(neighbours), "zero": variant(keep=0.0)}
    if latents.env is not None:
        predictors |= {"env_shuffled_in_episode": variant(env=neighbours), "env_zero": variant(keep_env=0.0)}
    if bool((neighbours == order).all()):  # no episode has another pair
        predictors = {name: each for name, each in predictors.items() if "in_episode" not in name}
    return mean_losses(model, held_out, {**predictors, "copy": lambda now, rows: now})


@torch.no_grad()
def mean_losses(model: PredictsFrames, pairs: PairSet, predictors: dict[str, Predictor]) -> dict[str, float]:
    """Average the loss of each predictor over all pairs."""
    totals = dict.fromkeys(predictors, 0.0)
    for rows in torch.arange(len(pairs.rows)).split(BATCH):
        now, later = pairs.targets(model, rows).unbind(1)
        for name, predict in predictors.items():
            totals[name] += float((predict(now, rows) - later).square().mean()) * len(rows)
    return {name: total / len(pairs.rows) for name, total in totals.items()}


def loss_without_latents(evidence: LatentEvidence, training: ControlTraining) -> float:
    """Train a decoder without latents on all pairs of the training episodes, or read it; return its held-out loss."""
    model, train, held_out, options = evidence.model, evidence.train, evidence.held_out, training.options

    def pick(step: int, process: int, processes: int) -> tuple[Tensor, Tensor]:
        now, later = model.frame_targets(train.frames.batch(draw(step)[process::processes]).frames).unbind(1)
        return now, later

    def make() -> dict[str, Tensor]:
        blind = BlindDecoder(model, options.seed)
        training.fit("decoder without latents", blind, pick, {"prediction": 1.0}, model)
        losses = mean_losses(model, held_out, {BLIND: lambda features, rows: blind.predict(features)})
        return {"loss": torch.tensor(losses[BLIND], dtype=torch.float64)}

    draw = BatchSampler([Passes(len(train.frames), options.seed)], options.batch_size)
    return float(training.result(BLIND, model, sizes_of(train, held_out), make)["loss"])


@question("dependence", of=("labels",), needs=(PredictsFrames,), criteria=(DEPENDENCE, AGAINST_BLIND), place=20)
def dependence_outcome(evidence: LatentEvidence) -> Outcome:
    losses = variant_losses(evidence.model, evidence.held_out, evidence.seed)
    if evidence.training is not None:
        losses[BLIND] = loss_without_latents(evidence, evidence.training)
    figures = _figures(losses)
    text = (
        "If the decoder uses the latent actions, wrong ones must cost it something. Shuffled and zero latents are easy "
        "to beat, since the decoder never met them in training; the honest control is a decoder of the same "
        "architecture trained without latents: much of what happens next can be seen in the current frame."
    )
    table, bars = _table(evidence, losses)
    gained = " What the model gains over the orange bar is what its latents tell it." if BLIND in losses else ""
    panel, top = svg.bars("loss ÷ copying the first frame", bars, ".3f"), evidence.target is None
    picture = Pictures(f"Error of the decoder; shorter is better.{gained}", (panel,), wide=True, top=top)
    section = Section("Does the decoder need them?", text, (table,), (picture,), _reading(figures), REFERENCES)
    return Outcome((section,), figures, _verdicts(losses))


def _figures(losses: Losses) -> dict[str, float]:
    figures = {f"prediction_loss/{key}": loss for key, loss in losses.items()}
    copy, blind, true = (losses.get(key) for key in ("copy", BLIND, "true"))
    if not true or not copy:
        return figures
    figures["prediction_ratio/true_to_copy"] = true / copy
    if blind:
        figures["prediction_ratio/without_latents_to_copy"] = blind / copy
        figures["prediction_ratio/true_to_without_latents"] = true / blind
    wrong = {key: loss for key, loss in losses.items() if key not in ("true", BLIND)}
    return figures | {f"prediction_ratio/{key}_to_true": loss / true for key, loss in wrong.items()}


def _reading(figures: dict[str, float]) -> str:
    if (own := figures.get("prediction_ratio/true_to_copy")) is None:
        return ""
    text = f"The decoder's error is {own:.2f} of that of copying the frame"
    if (wrong := figures.get("prediction_ratio/shuffled_in_episode_to_true")) is not None:
        text += f"; with latents of another moment it is {wrong:.2f} times as large"
    if (ratio := figures.get("prediction_ratio/true_to_without_latents")) is not None:
        text += f"; a decoder that never saw latents errs {1 / ratio:.2f} times as much"
    return text + "."


def _table(evidence: LatentEvidence, losses: Losses) -> tuple[Table, list[tuple[str, str, float | None]]]:
    copy, true, blind = losses["copy"] or math.nan, losses["true"] or math.nan, losses.get(BLIND)
    rows, bars = [], []
    for key, (name, short) in VARIANTS.items():
        if (loss := losses.get(key)) is None and key != BLIND:
            continue
        values = () if loss is None else (loss, loss / copy, loss / true, *(() if blind is None else (loss / blind,)))
        rows.append(TableRow(key, name, values, key != "true", not_run="" if values else NEEDS_TRAINING))
        colour = {"true": "model", BLIND: "rival"}.get(key, "control")
        bars.append((short, colour, None if loss is None else loss / copy))
    target = getattr(getattr(evidence.model, "config", None), "target", "targets")  # "features" or "pixels" of ours
    note = f"Mean squared error of the later frame's {target}."
    if blind is not None and evidence.training is not None:
        note += f" The decoder without latents was trained with {evidence.training.text(evidence.train)}."
    if evidence.held_out.latents.env is not None:
        note += " Where one stream is exchanged, the other one stays true."
    columns = ("loss", "÷ copying", "÷ true latents", *(() if blind is None else ("÷ trained without latents",)))
    title, digits = "Prediction loss on held-out pairs", ("#.3g", ".3f", ".3f", ".3f")
    return Table(title, columns, tuple(rows), better="lower", decides=1, digits=digits, note=note), bars


def _verdicts(losses: Losses) -> list[Verdict]:
    true, wrong, lines = losses["true"], losses.get("shuffled_in_episode"), []
    if wrong:
        ratio = true / wrong
        holds = True if ratio < DEPENDS else False if ratio > HARDLY else None
        word = {True: "depends", False: "hardly depends", None: "depends only a little"}[holds]
        text = f"The decoder {word} on the latents: loss {ratio:.2f} × that with another pair's of the episode"
        lines.append(Verdict(text, holds, DEPENDENCE))
    if (blind := losses.get(BLIND)) is not None:
        holds = True if true < HARDLY * blind else False if blind < HARDLY * true else None
        word = {True: "below", False: "above", None: "about"}[holds]
        text = f"Prediction loss is {word} that of a decoder trained without latents: ratio {true / blind:.2f}"
        lines.append(Verdict(text, holds, AGAINST_BLIND))
    return lines


@question("trained_controls", of=("labels",), criteria=(TRAINED_CONTROLS,), place=99)
def trained_controls_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Name the controls that were left out, since they need a training run; None where they were run, or cannot be."""
    if evidence.training is not None or not isinstance(evidence.model, TrainedPairModel):
        return None
    text = f"The same encoder trained on labels alone, and a decoder trained without latents: {NEEDS_TRAINING}"
    return Outcome(verdicts=[Verdict(text, None, TRAINED_CONTROLS)])


class Agreement(NamedTuple):
    """How much of A there is in some latents."""

    latents: float  # 1 is exact, 0 as good as the mean
    codes: float | None  # share of positions with A's code; None without codes
    action: float | None  # R^2 of A's action, read by the probe that was fitted on true latents


@torch.no_grad()
def transfer(evidence: LatentEvidence) -> tuple[dict[str, Agreement], float | None]:
    """Give held-out pairs B the latents of other pairs A of the split; find what comes back, and the controls. The last
    is R^2 of B's action from what comes back: low when A's has replaced it."""
    model, held_out = evidence.model, evidence.held_out
    rows = evenly(len(held_out.rows), MAX_PAIRS)
    generator = torch.Generator().manual_seed(evidence.seed + 1)
    other, third = (rows[derangement(np.zeros(len(rows)), generator)] for _ in range(2))
    again = reencode(model, held_out, rows, other)
    found = {
        "model": _agreement(evidence, again, other),
        "own": _agreement(evidence, held_out.latents[rows], other),
        "random": _agreement(evidence, held_out.latents[third], other),
        "same_scene": _agreement(evidence, reencode(model, held_out, rows, rows), rows),
    }
    return found, _action_r2(evidence, again, rows)


def reencode(model: EncodesPredictions, pairs: PairSet, rows: Tensor, source: Tensor) -> LatentActions:
    """Encode (frame of pair B, what the decoder makes of it with the latents of pair A); B is `rows`, A `source`."""
    latents, found = pairs.latents, []
    for part, given in zip(rows.split(BATCH), source.split(BATCH), strict=True):
        now = pairs.targets(model, part)[:, 0]
        predicted = model.predict(now, exchange(latents, given, part, now.device))
        both = torch.stack([model.features_of(each) for each in (now, predicted)], 1)
        found.append(to_cpu(model.encode_features(both)))
    return join(found)


def _agreement(evidence: LatentEvidence, latents: LatentActions, rows: Tensor) -> Agreement:
    """Compare latents with those of held-out pairs `rows`."""
    mean, source = evidence.train.latents.latents.double().mean(0), evidence.held_out.latents[rows]
    wanted, got = source.latents.double(), latents.latents.double()
    error, total = (wanted - got).square().sum(), (wanted - mean).square().sum().clamp_min(1e-12)
    codes = float((latents.codes == source.codes).double().mean()) if source.codes.shape[1] else None
    return Agreement(1 - float(error / total), codes, _action_r2(evidence, latents, rows))


def _action_r2(evidence: LatentEvidence, latents: LatentActions, rows: Tensor) -> float | None:
    """Read the actions of held-out pairs `rows` from `latents`; None without actions."""
    if (full := evidence.target) is None:
        return None
    target = Target(full.train, full.episodes, full.held_out[rows])
    return float(target.probe(evidence.train.latents.latents.flatten(1), latents.latents.flatten(1)).r2.nanmean())


@question("transfer", of=("labels",), needs=(EncodesPredictions,), criteria=(TRANSFERS,), place=70)
def transfer_outcome(evidence: LatentEvidence) -> Outcome:
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
    title, reading = "Does a latent mean the same in another scene?", f"{verdict.text}." if vary else ""
    section = Section(title, text, (table,), (), reading, TRANSFER_REFERENCES)
    return Outcome((section,), figures, [verdict] if vary else [])


def _transfer_verdict(found: dict[str, Agreement]) -> Verdict:
    back, own = found["model"].latents, found["own"].latents
    holds = back >= MIN_EXPLAINED and back > own
    word = "comes back" if holds else "comes back only in part" if back > max(own, 0) else "does not come back"
    shares = [explained_share(value) for value in (back, own, found["same_scene"].latents)]
    text = f"A latent applied to another clip {word}: {shares[0]} of its variance "
    text += f"(of the other clip's own latent {shares[1]}, in the same clip {shares[2]})"
    if found["model"].action is not None:
        text += f"; R² of its action {printed(found['model'].action, '.2f')}"
    return Verdict(text, holds, TRANSFERS)
