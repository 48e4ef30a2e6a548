"""Do labels that are there already belong to the frames where they are?

    R^2 at d     from the label of frame t to the mean action over t + d ... t + d + stride

Labels that were moved, or that repeat what was done before, say more about another moment than about their own. Both
figures are of the same pairs: those of which the other moment is in the episode, too.
"""

import torch

from lattok.evaluation.evidence.latent_evidence import GivenEvidence
from lattok.evaluation.evidence.pair_set import PairSet
from lattok.evaluation.evidence.probes import Bootstrap, linear_probe
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Decision, Outcome, Section, Table, TableRow, Verdict
from lattok.evaluation.wording import difference, lowered, printed
from lattok.utils import checks
from lattok.utils.commands import DATASET, advise, command

MATTERS = 0.05  # of R^2: what is read better by less may be the delay until an action is visible
MOMENT = Criterion(
    "own_moment",
    advise(
        "Move them by as many frames if they were made for another moment; if actions are visible only later, how much "
        "later is said by",
        command("inspect", DATASET),
    ),
    use=True,
)


@question("moment", of=("given",), criteria=(MOMENT,), place=36)
def moment_outcome(evidence: GivenEvidence) -> Outcome | None:
    """Read the action of earlier and later moments; None without actions that change, and where episodes are short."""
    stride = evidence.source.stride
    rows, better = list[TableRow](), dict[float, str]()  # by how much better
    for ahead in sorted(sign * far for far in {-(-stride // 2), stride, 2 * stride} for sign in (-1, 1)):
        if (found := _read(evidence, ahead)) is None:
            continue
        own, other, span = found
        said = f"{checks.counted(abs(ahead), 'frame')} {'later' if ahead > 0 else 'before'}"
        rows.append(TableRow(str(ahead), said, (other, own, other - own), False, intervals=(None, None, span)))
        if span is not None and span[0] > 0 and other - own > MATTERS:
            numbers = f"R² {printed(other, '.2f')} against {printed(own, '.2f')}"
            better[other - own] = f"{said} than about their own: {numbers}; {difference(span)}"
    if not rows:
        return None
    text, decision = "Labels say about as much about the action of their own moment as of any near it", None
    if better:
        text = f"Labels say more about the action {better[max(better)]}"
        said = f"With care: {lowered(text)}. Moved by as many frames they may be better."
        decision = Decision(30, None, said, by=MOMENT)
    verdict = Verdict(text, None if rows[0].intervals[2] is None else not better, MOMENT)
    about = "A linear map reads the mean action of an earlier or later moment from the labels, and that of their own "
    about += "moment from the same ones. Intervals are of the difference; less than "
    about += f"{MATTERS:g} counts as none, since an action may be visible only later."
    columns = ("R² of that moment", "R² of their own", "difference")
    table = Table("Action of another moment", columns, tuple(rows), digits=(".2f", ".2f", "+.2f"))
    section = Section("Do labels belong to their frames?", about, (table,), (), f"{text}.")
    return Outcome((section,), {}, [verdict], decision)


def _read(evidence: GivenEvidence, ahead: int) -> tuple[float, float, tuple[float, float] | None] | None:
    """Return R² of labels' own moment and of that `ahead`, on the same pairs, and the interval of the difference; None
    where too few episodes have such pairs, or nothing changes."""
    train, held_out = (_partners(pairs, ahead) for pairs in (evidence.train, evidence.held_out))
    groups, judged = evidence.train.episode_of[train[0]], evidence.held_out.episode_of[held_out[0]]
    if len(set(groups.tolist())) < 2 or not len(judged):
        return None
    x, x_test = (labels[chosen] for labels, (chosen, _) in zip(evidence.labels, (train, held_out), strict=True))
    actions = evidence.train.actions, evidence.held_out.actions
    own = linear_probe(x, actions[0][train[0]], groups, x_test, actions[1][held_out[0]])
    other = linear_probe(x, train[1], groups, x_test, held_out[1])
    both = [float(each.r2.nanmean()) for each in (own, other)]
    if any(value != value for value in both):
        return None
    bootstrap = Bootstrap(judged, evidence.seed)
    draws = [bootstrap.r2(each).nanmean(1) for each in (other, own)]
    return both[0], both[1], bootstrap.interval(draws[0] - draws[1])


def _partners(pairs: PairSet, ahead: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the pairs [k] of which that `ahead` is in the same episode, and the mean action [k, m] of the latter."""
    others = pairs.rows + ahead
    inside = (others >= 0) & (others < len(pairs.frames))
    there = others.clip(0, len(pairs.frames) - 1)
    chosen = inside & (pairs.frames.episode_of[there] == pairs.episode_of)
    return torch.from_numpy(chosen.nonzero()[0]), torch.from_numpy(pairs.frames.actions_of(there[chosen]))
