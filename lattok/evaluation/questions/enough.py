"""How many known actions are enough to read them from labels?

    k episodes       the probe of `readout`, fitted to k training episodes: mean of R^2 over draws of them
    scattered pairs  the same number of pairs, drawn from all training episodes

The curve is flat from the least k on from which all keep `ENOUGH` of the R^2 of all episodes.
"""

import torch
from torch import Tensor

from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.probes import linear_probe
from lattok.evaluation.evidence.unlearned import Target
from lattok.evaluation.page import svg
from lattok.evaluation.questions import question
from lattok.evaluation.report import Interval, Outcome, Pictures, Section, Table, TableRow
from lattok.evaluation.wording import printed
from lattok.utils import checks
from lattok.utils.seeds import derive_seed

DRAWS, ENOUGH = 3, 0.95
LEAST_PAIRS = 4  # of an episode, so that some choose the ridge


@question("enough", of=("labels",), place=35)
def enough_outcome(evidence: LatentEvidence) -> Outcome | None:
    """Fit the probe to more and more episodes; None without actions that change, or with episodes of hardly any
    pair."""
    target = evidence.target
    episodes = torch.from_numpy(evidence.train.episode_of)
    numbers, pairs_of = episodes.unique(return_counts=True)
    if target is None or (count := len(numbers)) < 2 or int(pairs_of.min()) < LEAST_PAIRS:
        return None
    if evidence.judged is None or (best := evidence.judged[1]) is None:  # actions that never change
        return None
    sizes = [*(2**i for i in range(count.bit_length()) if 2**i < count), count]
    kind, rows, figures = "codes" if "codes" in evidence.inputs else "latents", list[TableRow](), dict[str, float]()
    generator = torch.Generator().manual_seed(derive_seed(evidence.seed, 13))
    for size in sizes:
        chosen = [
            numbers[torch.randperm(count, generator=generator)[:size]] for _ in range(DRAWS if size < count else 1)
        ]
        whole = [torch.isin(episodes, each).nonzero().flatten() for each in chosen]
        scattered = [torch.randperm(len(episodes), generator=generator)[: len(each)].sort().values for each in whole]
        pairs = round(sum(map(len, whole)) / len(whole))
        (value, span), (other, spread) = (_read(evidence, target, each) for each in (whole, scattered))
        figures |= {f"r2_of_episodes/{size}": value, f"r2_of_scattered_pairs/{size}": other}
        name = checks.counted(size, "episode")
        rows.append(TableRow(f"{size}", name, (value, other, float(pairs)), False, intervals=(span, spread, None)))
    values = [figures[f"r2_of_episodes/{size}"] for size in sizes]
    flat = next(i for i in range(len(sizes)) if min(values[i:]) >= ENOUGH * values[-1] or i == len(sizes) - 1)
    least, last = (printed(value, ".2f") for value in (values[flat], values[-1]))
    reading = f"With {checks.counted(sizes[flat], 'known episode')} R² is {least}, with all {count} {last}"
    reading += ": more would hardly help." if sizes[flat] <= count / 2 else ": more may still help."
    figures["known_episodes_enough"] = float(sizes[flat])
    control = best.value("linear", 0), None, float(len(episodes))
    rows.append(TableRow(best.key, f"best control: {best.plain}, all episodes", control))
    columns = ("whole episodes", "scattered pairs", "pairs")
    table = Table("R² by known training episodes", columns, tuple(rows), digits=(".2f", ".2f", ".0f"))
    bars = [(row.name, "control" if row.control else "model", row.values[0]) for row in rows]
    picture = Pictures("R² from so many whole episodes.", (svg.bars("R² of the action", bars, ".2f"),))
    text = (
        f"The action is read from the {kind} with a probe that is fitted to a part of the training episodes, drawn "
        f"{DRAWS} times, or to as many pairs of all of them. Intervals draw held-out episodes."
    )
    return Outcome((Section("How many known actions are enough?", text, (table,), (picture,), reading),), figures)


def _read(evidence: LatentEvidence, target: Target, parts: list[Tensor]) -> tuple[float, Interval | None]:
    """Average R^2 over probes that are each fitted to some of the training pairs, with its interval."""
    x, x_test = evidence.labels
    probes = [
        linear_probe(x[rows], target.train[rows], target.episodes[rows.numpy()], x_test, target.held_out)
        for rows in parts
    ]
    values = [float(probe.r2.nanmean()) for probe in probes]
    draws = torch.stack([evidence.bootstrap.r2(probe).nanmean(1) for probe in probes]).nanmean(0)
    return sum(values) / len(values), evidence.bootstrap.interval(draws)
