"""How many known actions are enough: to read them from labels, or from video with an inverse model?

    k episodes       a linear map that is fitted to k training episodes: mean of R^2 over draws of them
    scattered pairs  the same number of pairs, drawn from all training episodes

Of labels the map is the probe of `readout`. Of an inverse model it is a new head: it reads the latents of the trained
encoder, which has learned from all actions that the model knew. What a map of state changes and block motion say of as
many episodes is beside it, and trained controls train the whole network anew on a quarter and half of them.
The curve is flat from the least k on from which all keep `ENOUGH` of the R^2 of all episodes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lattok.evaluation.evidence.action_evidence import ActionEvidence
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.probes import Bootstrap, Probe, linear_probe, score
from lattok.evaluation.evidence.unlearned import Target
from lattok.evaluation.page import svg
from lattok.evaluation.questions import question
from lattok.evaluation.report import Interval, Outcome, Pictures, Section, Table, TableRow
from lattok.evaluation.wording import printed
from lattok.utils import checks
from lattok.utils.seeds import derive_seed

DRAWS, ENOUGH = 3, 0.95
NOTHING_LEFT = 0.99  # R^2 of all episodes, beyond which no more are needed
LEAST_PAIRS = 4  # of an episode, so that some choose the ridge
PARTS = (4, 2)  # all episodes, divided by these, train the network anew
TITLE = "How many known actions are enough?"

Read = tuple[float, Interval | None]
Inputs = tuple[Tensor, Tensor]  # what a map reads of training pairs [n, d] and of those that judge [N, d]


class SizeCurve(NamedTuple):
    """R^2 by the number of known episodes."""

    key: str  # of figures
    name: str
    kind: str  # class of the line
    values: Mapping[int, Read]
    dashed: bool = False


class Fitted(NamedTuple):
    """Maps from inputs to actions that are fitted to a part of the training pairs."""

    target: Target
    bootstrap: Bootstrap
    deviations: Tensor  # [N, m] squared, from the mean of all training actions, whichever are fitted to

    @classmethod
    def of(cls, target: Target, bootstrap: Bootstrap) -> "Fitted":
        return cls(
            target, bootstrap, score(target.held_out.double(), target.held_out, target.train.double()).deviations
        )

    def read(self, inputs: Inputs, parts: Sequence[Tensor]) -> Read:
        """Average R^2 over maps that are each fitted to some of the training pairs, with its interval."""
        (x, x_test), known, found = inputs, self.target, list[Probe]()
        for rows in parts:
            probe = linear_probe(x[rows], known.train[rows], known.episodes[rows.numpy()], x_test, known.held_out)
            found.append(probe._replace(deviations=self.deviations))
        return self.mean(found)

    def mean(self, probes: Sequence[Probe]) -> Read:
        draws = torch.stack([self.bootstrap.r2(probe).nanmean(1) for probe in probes]).nanmean(0)
        return sum(float(probe.r2.nanmean()) for probe in probes) / len(probes), self.bootstrap.interval(draws)

    def curves(self, inputs: Inputs, others: Mapping[str, Inputs], seed: int) -> tuple[list[SizeCurve], dict[int, int]]:
        """Fit to more and more episodes, and as many scattered pairs; `others` by name to the same episodes. Also how
        many pairs that is, by the number of episodes."""
        episodes = torch.from_numpy(self.target.episodes)
        numbers, count = (found := episodes.unique()), len(found)
        generator = torch.Generator().manual_seed(derive_seed(seed, 13))
        whole, scattered, pairs = dict[int, Read](), dict[int, Read](), dict[int, int]()
        beside: dict[str, dict[int, Read]] = {name: {} for name in others}
        for size in [*(2**i for i in range(count.bit_length()) if 2**i < count), count]:
            draws = range(DRAWS if size < count else 1)
            chosen = [numbers[torch.randperm(count, generator=generator)[:size]] for _ in draws]
            parts = [torch.isin(episodes, each).nonzero().flatten() for each in chosen]
            spread = [torch.randperm(len(episodes), generator=generator)[: len(each)].sort().values for each in parts]
            whole[size], scattered[size] = self.read(inputs, parts), self.read(inputs, spread)
            pairs[size] = round(sum(map(len, parts)) / len(parts))
            for name, theirs in others.items():
                beside[name][size] = self.read(theirs, parts)
        found = [SizeCurve("episodes", "whole episodes", "model", whole)]
        found.append(SizeCurve("scattered_pairs", "as many scattered pairs", "model", scattered, dashed=True))
        for name, kind in zip(others, ("control", "rival"), strict=False):
            found.append(SizeCurve(name.replace(" ", "_"), f"{name}, whole episodes", kind, beside[name]))
        return found, pairs


@question("enough", of=("labels",), place=35)
def enough_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Fit the probe to more and more episodes; None without actions that change, or with episodes of hardly any
    pair."""
    if evidence.target is None or evidence.judged is None or (best := evidence.judged[1]) is None:
        return None
    kind = "codes" if "codes" in evidence.inputs else "latents"
    text = (
        f"The action is read from the {kind} with a probe that is fitted to a part of the training episodes, drawn "
        f"{DRAWS} times, or to as many pairs of all of them. Intervals draw held-out episodes."
    )
    fitted = Fitted.of(evidence.target, evidence.bootstrap)
    level = f"best control: {best.plain}", best.value("linear", 0)
    return _outcome(fitted, evidence.labels, {}, evidence.seed, text, "A linear map reads", level)


@question("enough_actions", of=("actions",), place=35)
def enough_actions_outcome(evidence: ActionEvidence) -> Outcome | None:
    """Fit a new head to more and more episodes, and train the network anew where that is asked for; None for a model
    that says nothing of frames but actions."""
    if (own := evidence.inputs.get("model")) is None:
        return None
    what = "the state's changes" if evidence.by_state else "what the model's encoder says of the frames"
    text = f"A linear map from {what} to the action is fitted to a part of the {evidence.known}, drawn {DRAWS} times, "
    text += "or to as many frames (pairs) of all of them. Intervals draw held-out episodes."
    if not evidence.by_state:
        text += (
            " So the curve is that of a new head on an encoder which is there already. This one has learned from all "
            "actions that the model knew: trained with fewer it would say less. "
        )
        text += "The lines of controls learn from the given episodes alone."
        whole = evidence.rows[0].value("linear", 0) or 0.0
        text += (
            " So does the network itself where it is trained anew, on a quarter and half of them (controls=trained); "
        )
        text += f"this model has R² {printed(whole, '.2f')}."
    who = "Fitted anew it has" if evidence.by_state else "A new head on its encoder has"
    others = {name: each for name, each in evidence.inputs.items() if name != "model"}
    fitted = Fitted.of(evidence.target, evidence.bootstrap)
    anew = partial(_trained_anew, evidence, fitted) if evidence.retrains else None
    return _outcome(fitted, own, others, evidence.case.options.seed, text, who, anew=anew)


def _trained_anew(evidence: ActionEvidence, fitted: Fitted, count: int) -> SizeCurve:
    """Train the network on evenly spaced episodes alone."""
    sizes = sorted({max(1, count // part) for part in PARTS})
    return SizeCurve(
        "episodes_trained_anew",
        "the network trained anew",
        "truth",
        {size: fitted.mean([evidence.trained_anew(size)]) for size in sizes},
    )


def _outcome(
    fitted: Fitted,
    inputs: Inputs,
    others: Mapping[str, Inputs],
    seed: int,
    text: str,
    who: str,
    level: tuple[str, float | None] | None = None,
    anew: Callable[[int], SizeCurve] | None = None,
) -> Outcome | None:
    """Draw the curves, and say where the first is flat, or that of networks trained anew."""
    pairs_of = torch.from_numpy(fitted.target.episodes).unique(return_counts=True)[1]
    if (count := len(pairs_of)) < 2 or int(pairs_of.min()) < LEAST_PAIRS:
        return None
    curves, pairs = fitted.curves(inputs, others, seed)
    if any(value != value for value, _ in curves[0].values.values()):  # actions that never change
        return None
    sizes, values = [*pairs], [value for value, _ in curves[0].values.values()]
    flat = next(i for i in range(len(sizes)) if min(values[i:]) >= ENOUGH * values[-1] or i == len(sizes) - 1)
    below = min(flat, max(len(sizes) - 2, 0))  # all beside all would say nothing
    less, last = (printed(value, ".2f") for value in (values[below], values[-1]))
    reading = f"{who} R² {less} from {checks.counted(sizes[below], 'known episode')}, {last} from all {count}"
    done = sizes[flat] <= count / 2 or values[-1] >= NOTHING_LEFT or less == last
    reading += ": more would hardly help." if done else ": more may still help."
    if anew is not None:
        curves.append(curve := anew(count))
        said = ", ".join(f"{printed(value, '.2f')} from {size}" for size, (value, _) in curve.values.items())
        reading += f" The network itself, trained anew on so many known episodes alone, has R² {said}."
    figures = {f"r2_of_{each.key}/{size}": value for each in curves for size, (value, _) in each.values.items()}
    figures["known_episodes_enough"] = float(sizes[flat])
    rows = []
    for size in sorted({size for each in curves for size in each.values}):
        cells = [each.values.get(size, (None, None)) for each in curves]
        found, spans = zip(*cells, strict=True)
        name = checks.counted(size, "episode")
        rows.append(TableRow(f"{size}", name, (pairs.get(size), *found), False, intervals=(None, *spans)))
    columns = ("pairs", *(each.name for each in curves))
    if level is not None:
        rows.append(
            TableRow("control", f"{level[0]}, all", (float(pairs[count]), level[1], *[None] * (len(curves) - 1)))
        )
    digits = (".0f", *[".2f"] * len(curves))
    table = Table("R² by known training episodes", columns, tuple(rows), digits=digits)
    caption = (
        "R² of held-out actions by how many known episodes were learned from; the dotted line: from there it is flat."
    )
    chart = svg.growth("R² by known episodes", sizes, [each[1:] for each in curves], sizes[flat], level)
    section = Section(TITLE, text, (table,), (Pictures(caption, (chart,)),), reading, lead=True)
    return Outcome((section,), figures)
