"""What is written otherwise in some episodes than in most, as where recordings were merged: the zero of a joint, deltas
for positions, the order of numbers, the values of a switch."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.action_flaws import FEWEST, FIRM, GRIPPER, MOST_EPISODES, NEARLY_ALL, SHORTEST, correlations
from lattok.data.problems import Rows
from lattok.utils.findings import Finding

FOLLOWS = 0.9  # correlation from which a number is where another one sends it
NEAR = 0.15  # of its range, that a number is usually away from where it is sent
OFFSET = 0.2  # of its range, from which its zero is another one
LEAST = 1e-6  # range of a joint that moves
OTHERS = 0.4  # of the episodes, at most, that are the odd ones
LARGER = 4.0  # times as far as usual that a gripper goes, whose numbers are others then
ALIKE = 2.0  # times as far that one of these goes as another one: a gripper that is hardly used goes as it comes


def check_odd(
    rows: Rows,
    columns: Mapping[str, Sequence[str]],
    action: str | None,
    state: str | None,
    steps: int,
    apart: Collection[int],
) -> Iterator[Finding]:
    """Find episodes whose numbers are others than in most. States follow by `steps`; episodes that stay `apart` are not
    looked at."""
    spans = [span for span in rows.spans() if rows.episodes[span.start] not in apart]
    spans = spans[:: 1 + len(spans) // MOST_EPISODES]
    if len(spans) < FEWEST:
        return
    number = [int(rows.episodes[span.start]) for span in spans]
    for key in filter(None, (action, state)):
        table = rows.table(key)
        for i, name in enumerate(columns[key]):
            odd = _other_values([table[span, i] for span in spans], GRIPPER in name.lower())
            if found := [index for index, one in zip(number, odd, strict=True) if one]:
                yield problems.OTHER_VALUES.finding(found, column=key, dimension=name, all=len(spans))
    if not action or not state:
        return
    long = [span for span in spans if span.stop - span.start >= SHORTEST + steps]
    acts, states = rows.table(action), rows.table(state)
    if len(long) < FEWEST or not (np.isfinite(acts).all() and np.isfinite(states).all()):
        return
    pairs = _pairs(np.stack([_correlated(acts[span], states[span], steps) for span in long]))
    acts, states = (table[:, place] for table, place in zip((acts, states), pairs.T, strict=True))
    ranges = np.ptp(np.quantile(states, [0.02, 0.98], axis=0), axis=0)
    if (moves := ranges > LEAST).sum() < 2:
        return
    acts, states, ranges = acts[:, moves], states[:, moves], ranges[moves]
    told = _compared([acts[span] for span in long], [states[span] for span in long], steps, ranges)
    number = [int(rows.episodes[span.start]) for span in long]
    names = [columns[state][place] for place in pairs[moves, 1]]
    facts = {"column": action, "response": state, "all": len(long)}
    few, words = _of_other_kind(told)
    if _some(few):
        yield problems.OTHER_KIND.finding(_chosen(number, few), **facts, **words)
    if _some((off := _of_other_zero(told)).any(1)):
        dimension = names[int(off.sum(0).argmax())]
        yield problems.OFFSET.finding(_chosen(number, off.any(1)), **facts, dimension=dimension)
    if _some(order := _of_other_order(told)):
        yield problems.OTHER_ORDER.finding(_chosen(number, order), **facts)


def _some(which: Any) -> bool:
    return 0 < which.mean() <= OTHERS


def _pairs(firm: np.ndarray) -> np.ndarray:
    """Return [k, 2] which number of the actions moves which one of the states in most episodes, from correlations
    [E, 2, m, n]."""
    usual = np.median(firm.max(1), axis=0)  # [m, n]
    best = usual.argmax(1)
    known = [place for place in np.argsort(-usual.max(1)).tolist() if usual[place, best[place]] >= FIRM]
    _, first = np.unique(best[known], return_index=True)
    chosen = np.sort(np.array(known, dtype=np.int64)[first])
    return np.stack([chosen, best[chosen]], axis=1)


class _Compared(NamedTuple):
    """Actions of E episodes beside the states of the same m joints, in parts of each joint's range."""

    firm: np.ndarray  # [E, 2, m, m] correlations of actions with states, and with their changes
    away: np.ndarray  # [E, m] usually between an action and its state
    spread: np.ndarray  # [E, m] of that

    @property
    def own(self) -> np.ndarray:
        """Correlations [E, 2, m] of each joint with itself."""
        return np.diagonal(self.firm, axis1=2, axis2=3)

    @property
    def positions(self) -> np.ndarray:
        """Episodes [E] whose actions are where to go."""
        return (np.median(self.own[:, 0], axis=1) >= FOLLOWS) & (np.median(self.spread, axis=1) <= NEAR)


def _compared(acts: Sequence[np.ndarray], states: Sequence[np.ndarray], steps: int, ranges: np.ndarray) -> _Compared:
    """Compare actions [T, m] of each episode with the states [T, m] of the same joints so many steps later, which have
    these ranges [m]."""
    between = [one[:-steps] - other[steps:] for one, other in zip(acts, states, strict=True)]
    away = [np.median(each, axis=0) for each in between]
    spread = [np.median(np.abs(each - middle), axis=0) for each, middle in zip(between, away, strict=True)]
    firm = np.stack([_correlated(one, other, steps) for one, other in zip(acts, states, strict=True)])
    return _Compared(firm, np.stack(away) / ranges, np.stack(spread) / ranges)


def _of_other_kind(told: _Compared) -> tuple[np.ndarray, dict[str, str]]:
    """Return the few episodes [E] whose actions are changes where others are positions, or the other way round."""
    changes = (np.median(told.own[:, 1], axis=1) >= FIRM) & (np.median(told.own[:, 0], axis=1) < FIRM)
    clear = (told.positions | changes).mean() >= NEARLY_ALL
    if changes.sum() <= told.positions.sum():
        return changes & clear, {"kind": "changes", "usual": "positions"}
    return told.positions & clear, {"kind": "positions", "usual": "changes"}


def _of_other_zero(told: _Compared) -> np.ndarray:
    """Return in which episodes which joints [E, m] are sent elsewhere than they go, by as much all the time."""
    positions = told.positions
    if positions.sum() < FEWEST:
        return np.zeros_like(told.away, dtype=bool)
    off = np.abs(told.away - np.median(told.away[positions], axis=0))
    steady = np.median(off[positions], axis=0) <= OFFSET / 4
    constant = told.spread <= off / 4  # fingers that are held up by what they hold are off by more and less
    return positions[:, None] & (told.own[:, 0] >= FOLLOWS) & (off >= OFFSET) & steady & constant


def _of_other_order(told: _Compared) -> np.ndarray:
    """Return the episodes [E] in which most joints follow what moves another one elsewhere."""
    strongest = told.firm.max(1)  # [E, m, m]
    best, clear = strongest.argmax(2), strongest.max(2) >= FOLLOWS
    itself = best == np.arange(best.shape[1])
    others = clear & ~itself & (np.diagonal(strongest, axis1=1, axis2=2) < FIRM)
    usual = ((clear & itself).mean(1) >= 0.5).mean() >= 0.5
    return usual & (others.sum(1) >= 2) & (others.mean(1) >= 0.5)


def _chosen(number: Sequence[int], which: Any) -> list[int]:
    return [index for index, one in zip(number, which, strict=True) if one]


def _correlated(acts: np.ndarray, states: np.ndarray, steps: int) -> np.ndarray:
    """Correlate actions [T, m] with states [T, n] so many steps later and with their changes: [2, m, n]."""
    return correlations(acts, states, steps).reshape(acts.shape[1], 2, -1).swapaxes(0, 1)


def _other_values(episodes: Sequence[np.ndarray], gripper: bool) -> np.ndarray:
    """Return in which episodes [E] a switch has other values than in most, or a gripper goes several times as far."""
    none = np.zeros(len(episodes), dtype=bool)
    if not all(np.isfinite(each).all() for each in episodes):
        return none
    sets = list[frozenset[float]]()
    for each in episodes:
        sets.append(frozenset(np.unique(each[:5000]).tolist()))
        if len(sets[-1]) > 2:
            break
    two = [each for each in sets if len(each) == 2]
    if len(two) >= len(episodes) / 2 and all(len(each) <= 2 for each in sets):
        (usual, count), *_ = Counter(two).most_common()
        odd = np.array([len(each) == 2 and not each <= usual for each in sets])
        between = {value for each in sets for value in each} - {min(usual), max(usual)}
        three = len(between | usual) == 3 and all(sorted(between | usual)[1] in each for each in two)
        return odd if count >= len(two) / 2 and odd.any() and not three else none
    if not gripper:
        return none
    ends = np.array([[each.min(), each.max()] for each in episodes])
    far, reach = np.ptp(ends, axis=1), np.abs(ends).max(1)
    if not np.median(far) > 0:
        return none
    odd = (far > LARGER * np.quantile(far, 0.6)) & (reach > LARGER * np.quantile(reach, 0.6))
    alike = not odd.any() or reach[odd].max() <= ALIKE * reach[odd].min()  # as ends of another unit are
    return odd if alike and odd.mean() <= OTHERS else none
