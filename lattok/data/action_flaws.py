"""What is wrong between actions and states: signs that are turned in some episodes, answers among the observations,
states that stand still or jump, and values that are cut off."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from lattok.data import problems
from lattok.data.problems import Rows
from lattok.utils.findings import Finding

FIRM = 0.6  # correlation from which two columns belong together, or against each other
MOST_AGREE, NEARLY_ALL = 0.6, 0.9  # of the episodes: that agree, and that do or are against it
UNIT_FACTOR = 20.0  # times as large as usual, from which an episode is in another unit
FEW_VALUES = 20  # of which a column is a switch
CUT_SHARE, MUCH_CUT = 0.03, 0.15  # of the rows at one end of a column, which may be a limit of what is normalised
CUT_STEP = 0.5  # of a usual step, that a column has where it gets to its end: one that comes to rest slows down
CUT_TIMES = 3  # that it does so
NOISY = 0.2  # of its range, that a dimension moves in a step which cannot jump
JUMP = 4.0  # times the step that 95 % of rows keep below, in most dimensions at once
FEWEST, MOST_EPISODES = 4, 5000  # episodes that tell a sign, and that are asked
MOVED = 0.3  # of the range of a dimension, that it moves in an episode that tells anything
SHORTEST = 12  # rows that a correlation is taken of
PROFILE = 16  # points of a course of an episode
GRIPPER = "gripper"


def _changing(rows: Rows, key: str) -> set[bytes]:
    """Return the dimensions of a column that change, as what can be compared."""
    values = rows.columns[key].reshape(len(rows.frames), -1).astype(np.float32)
    return {column.tobytes() for column in values[:, (values != values[:1]).any(0)].T}


def leaked(rows: Rows, action: str, keys: Iterable[str]) -> list[str]:
    """Return the columns among `keys` that hold all changing dimensions of the action, row by row."""
    acts = _changing(rows, action)
    return [key for key in keys if acts and acts <= _changing(rows, key)]


def only_actions(rows: Rows, actions: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Return the columns among `keys` of which all changing dimensions are some of actions, row by row."""
    acts = {column for key in actions for column in _changing(rows, key)}
    return [key for key in keys if acts and (seen := _changing(rows, key)) and seen <= acts]


def check_signs(
    rows: Rows, action: str, state: str | None, names: Sequence[str], steps: int, apart: Collection[int]
) -> Iterator[Finding]:
    """Find dimensions that are turned in some episodes: those of actions against the states that they move, where no
    other state says that they are right, and grippers against the course that they take in most episodes. States
    follow by `steps`. Episodes that stay `apart` are not looked at, and of many only some thousands, evenly spread."""
    spans = [span for span in rows.spans() if rows.episodes[span.start] not in apart]
    spans = spans[:: 1 + len(spans) // MOST_EPISODES]
    if len(spans) < FEWEST:
        return
    acts = rows.table(action)
    states = rows.table(state) if state else np.zeros((len(acts), 0))
    firm = np.stack([correlations(acts[span], states[span], max(steps, 1)) for span in spans])  # [episodes, m, 2 n]
    moved, reach = (np.stack([np.ptp(each[span], axis=0) for span in spans]) for each in (acts, states))
    acted = moved >= MOVED * np.ptp(acts, axis=0)
    told = acted[:, :, None] & np.tile(reach >= MOVED * np.ptp(states, axis=0), 2)[:, None]  # as `firm`
    heard = acted[:, :, None] & np.tile((reach > 0) & (reach >= MOVED * np.median(reach, axis=0)), 2)[:, None]
    turned = dict[str, np.ndarray]()
    for i, name in enumerate(names):
        known = [j for j in range(firm.shape[2]) if told[:, i, j].sum() >= FEWEST]
        if known:
            middle = [abs(float(np.median(firm[told[:, i, j], i, j]))) for j in known]
            best = known[int(np.argmax(middle))]
            turned[name] = told[:, i, best] & (_agreement(firm[:, i, best], told[:, i, best]) <= -FIRM)
            if turned[name].any():  # of cosine and sine one turns by itself
                others = [_agreement(one, there) for one, there in zip(firm[:, i].T, heard[:, i].T, strict=True)]
                turned[name] &= ~(np.stack(others) >= FIRM).any(0)
        if GRIPPER in name.lower() and not turned.get(name, np.zeros(0)).any():
            course = _courses([acts[span, i] for span in spans])
            turned[name] = _agreement(course, np.ones(len(spans), dtype=bool)) <= -FIRM
    for name, which in turned.items():
        if which.any():
            episodes = [int(rows.episodes[span.start]) for span, wrong in zip(spans, which, strict=True) if wrong]
            yield problems.INVERTED.finding(episodes, column=action, dimension=name, all=len(spans))


def correlations(acts: np.ndarray, states: np.ndarray, steps: int = 1) -> np.ndarray:
    """Correlate actions [T, m] with states [T, n] so many steps later and their changes: [m, 2 n], 0 of a constant."""
    if len(acts) < steps + SHORTEST:
        return np.zeros((acts.shape[1], 2 * states.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        other = np.concatenate([states[steps:], np.diff(states, axis=0)[steps - 1 :]], axis=1)
        one, other = (each - each.mean(0) for each in (acts[: len(acts) - steps], other))
        length = np.sqrt(np.multiply.outer((one**2).sum(0), (other**2).sum(0)))
        return np.where(length > 1e-9, one.T @ other / length, 0.0)


def _courses(episodes: Sequence[np.ndarray]) -> np.ndarray:
    """Correlate the course of a column in each episode with the usual one."""
    at = np.linspace(0, 1, PROFILE)
    each = np.stack([np.interp(at, np.linspace(0, 1, len(values)), values) for values in episodes])
    usual = np.median(each, axis=0)
    return np.array([correlations(np.r_[one, 0.0][:, None], np.r_[0.0, usual][:, None])[0, 0] for one in each])


def _agreement(firm: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Return how episodes [E] correlate, below 0 against most; 0 unless nearly all that are `told` [E] do firmly."""
    if not told.any():
        return np.zeros(len(firm))
    sign = np.sign(np.median(firm[told]))
    agree, against = told & (sign * firm >= FIRM), told & (sign * firm <= -FIRM)
    clear = agree.sum() >= MOST_AGREE * told.sum() and (agree | against).sum() >= NEARLY_ALL * told.sum()
    return sign * firm if clear else np.zeros(len(firm))


def check_stuck(rows: Rows, action: str, state: str) -> Iterator[Finding]:
    """Find episodes in which no state changes, though the actions do, or the other way round."""
    acts, states = rows.table(action), rows.table(state)
    moved = [(np.ptp(acts[span], axis=0).any(), np.ptp(states[span], axis=0).any()) for span in rows.spans()]
    for stays, key, other in ((1, state, action), (0, action, state)):
        stuck = [span for span, each in zip(rows.spans(), moved, strict=True) if each[1 - stays] and not each[stays]]
        if stuck and len(stuck) < len(moved):
            episodes = [int(rows.episodes[span.start]) for span in stuck]
            yield problems.STUCK.finding(episodes, column=key, other=other, all=len(moved))


def check_units(rows: Rows, action: str | None, state: str | None) -> Iterator[Finding]:
    """Find episodes in another unit: in most dimensions their numbers are far larger in range and in size than those
    of most episodes, or in all far smaller (states only: actions also are at rest), or a thousand times as large or
    small in some, as the place of an arm whose angles are as they should be. Of many, some thousands are looked at."""
    spans, far = rows.spans(), np.log(UNIT_FACTOR)
    spans = spans[:: 1 + len(spans) // MOST_EPISODES]
    for key in filter(None, (action, state)):
        values = rows.table(key)
        known = [span for span in spans if np.isfinite(values[span]).all()]
        if len(known) < FEWEST:
            continue
        ends = np.stack([np.quantile(values[span], [0.05, 0.95], axis=0) for span in known])  # [episodes, 2, m]
        sizes = np.stack([ends[:, 1] - ends[:, 0], np.abs(ends).max(1)], axis=1)
        usual = np.sort(sizes, axis=0)[(len(known) - 1) // 2]
        if (moves := usual[0] > 0).sum() < 2:
            continue
        times = np.log(np.maximum(sizes[..., moves] / usual[:, moves], 1e-9))
        larger, smaller = times.min(1), times.max(1)  # [episodes, m]: both in range and in size
        shrunk = (smaller.max(1) < -far) & (key == state)
        for sign, each, whole in ((1, larger, np.median(larger, 1) > far), (-1, smaller, shrunk)):
            thousand = np.abs(sign * each - np.log(1000)) < far / 3
            wrong = whole | (thousand.sum(1) >= 3)
            if wrong.any() and wrong.mean() < 0.5:
                episodes = [int(rows.episodes[span.start]) for span, one in zip(known, wrong, strict=True) if one]
                factor = np.exp(np.median(each[wrong][np.abs(each[wrong]) > far]))
                yield problems.OTHER_UNIT.finding(episodes, column=key, all=len(spans), factor=f"{factor:.2g}")


def check_jumps(
    rows: Rows, key: str, skipped: Sequence[tuple[int, int]], apart: Collection[int] = ()
) -> Iterator[Finding]:
    """Find rows before which most dimensions of a state jump at once, other than at `skipped` places and in episodes
    that stay `apart`."""
    values = rows.table(key)
    values = values[:, [len(np.unique(column[:5000])) > FEW_VALUES for column in values.T]]
    values = values[:, np.isfinite(values).all(0)]
    if len(values) < 2 or values.shape[1] < 2:
        return
    inside = (np.diff(rows.episodes) == 0) & ~np.isin(rows.episodes[1:], [*apart])
    if not inside.any():
        return
    steps = np.abs(np.diff(values, axis=0))
    usual = np.quantile(steps[inside], 0.95, axis=0)
    smooth = (usual > 0) & (usual < NOISY * np.ptp(values, axis=0))
    if smooth.sum() < 2:
        return
    far = np.flatnonzero((np.median(steps[:, smooth] / usual[smooth], axis=1) > JUMP) & inside) + 1
    places = [place for place in rows.places(far) if place not in {*skipped}]
    if places:
        yield problems.STATE_JUMPS.finding((), places, column=key, count=len(places), frame=places[0][1])


def check_cut(rows: Rows, columns: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Find dimensions that run into the same value again and again and stay there: what was beyond is cut off."""
    inside = np.diff(rows.episodes) == 0
    for key, names in columns.items():
        cut = dict[str, float]()
        for name, column in zip(names, rows.table(key).T, strict=True):
            if not np.isfinite(column).all() or len(np.unique(column[:5000])) <= FEW_VALUES:
                continue
            steps = np.abs(np.diff(column))
            usual = np.median(steps[(steps > 0) & inside]) if ((steps > 0) & inside).any() else 0.0
            for end in (column.min(), column.max()):
                at = column == end
                gets_there = inside & at[1:] & ~at[:-1] & (steps >= CUT_STEP * usual)
                stays = np.flatnonzero(gets_there[:-1] & at[2:] & inside[1:])
                normal = end in (-1, 0, 1)  # limits of what is normalised, where grippers and hands often are
                speed = end in (-1, 1) and key.startswith("action") and GRIPPER not in name.lower()
                often = at.mean() >= (MUCH_CUT if normal else CUT_SHARE)
                if often and len(stays) >= CUT_TIMES and (speed or not normal):
                    cut[name] = max(cut.get(name, 0.0), float(at.mean()))
        if cut:
            worst = max(cut, key=lambda name: cut[name])
            shown = ", ".join([*cut][: problems.NAMED])
            yield problems.CUT.finding(
                column=key, count=len(cut), all=len(names), names=shown, worst=worst, share=cut[worst]
            )
