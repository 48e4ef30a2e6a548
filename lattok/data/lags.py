"""How many steps after an action the robot moves: the lag at which actions best explain the change of states, or,
without states, how much the pictures change, by linear regression over all episodes.

For a lag of L steps, the action of row t belongs to the change from state t + L - 1 to t + L. A controller answers
after one step or some more, which is no flaw. A robot that moves before its action is one, and so is an episode whose
lag is another than that of the others. The interval is the middle 95 % of the lags of datasets whose episodes are drawn
again (Efron, 1979).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.problems import Rows
from lattok.utils.findings import Finding

LONGEST_S, MOST_STEPS = 0.5, 20  # lags that are tried
LEAST_EXPLAINED = 0.2  # of the variance, below which no lag is told
CLEARER = 0.1  # of the variance, that another lag explains more of an episode
OTHER_STEPS = 2  # from which an episode's lag is another one
LEAST_ROWS, ROWS_EACH, ROWS_OF_EPISODE = 100, 10, 16  # in all, for each dimension of actions, and of an episode alone
DRAWS = 40
MOST_NUMBERS = 2**24  # rows by lags by dimensions, and episodes by lags by pairs of dimensions
BEYOND = 4.0  # standard deviations, at which steps are cut: angles that wrap would decide all
LATE_S = 0.3  # seconds from which an answer is too late for a controller
LATENCY_S = 0.15  # the same of a camera
PICTURES_EXPLAINED = 0.3  # as LEAST_EXPLAINED


class Lag(NamedTuple):
    steps: int
    low: int  # interval
    high: int
    explained: float  # share of the variance
    by_dimension: tuple[int | None, ...]  # of each column of the response; None where actions explain little
    position: bool  # changes of actions explain more than actions: they are where to go, not how fast
    others: Mapping[int, int]  # episodes with another lag

    def as_json(self) -> dict[str, Any]:
        return {key: each for key, each in self._asdict().items() if key != "others"}

    def interval(self) -> str:
        return f"{self.steps}" if self.low == self.high else f"{self.steps} ({self.low} to {self.high})"


def estimate_lag(
    actions: Sequence[np.ndarray], moves: Sequence[np.ndarray], fps: float, sizes: bool = False
) -> Lag | None:
    """Estimate it from actions [T, m] and moves [T - 1, n] of episodes; None where no lag explains much.

    A move is what changes from one row to the next. Of large datasets evenly spread episodes are taken.
    With `sizes` moves have no direction, such as those of pictures.
    """
    lengths = np.array([len(each) for each in actions])
    if not len(lengths):
        return None
    most = int(min(round(fps * LONGEST_S), MOST_STEPS, np.quantile(lengths, 0.2) // 4))
    chosen = [i for i, length in enumerate(lengths.tolist()) if length >= 2 * most + 6]
    if most < 1 or not chosen:
        return None
    n, both = moves[0].shape[1], moves[0].shape[1] * actions[0].shape[1]
    rows_in_all, most_rows = sum(lengths[i] for i in chosen), MOST_NUMBERS // ((2 * most + 1) * n)
    shares = rows_in_all / most_rows, len(chosen) * both * (2 * most + 1) / MOST_NUMBERS
    chosen = chosen[:: max(1, int(np.ceil(max(shares))))]
    if sum(lengths[i] - 2 * most - 2 for i in chosen) < max(LEAST_ROWS, ROWS_EACH * actions[0].shape[1]):
        return None
    lags = np.arange(-most, most + 1)
    changes = [np.diff(each, axis=0, prepend=each[:1]) for each in actions]
    rows = {i: np.arange(most + 1, lengths[i] - 1 - most) for i in chosen}
    answers, kept = _scaled([np.stack([moves[i][rows[i] + lag] for lag in lags], axis=1) for i in chosen])
    forms = list[_Form]()
    for given in (actions, changes):
        inputs, _ = _scaled([np.abs(given[i][rows[i]]) if sizes else given[i][rows[i]] for i in chosen])
        if not inputs[0].shape[1] or not kept.any():
            return None
        forms.append(_Form(inputs, answers))
    shares, solved = zip(*(form.explained(np.ones(len(chosen))) for form in forms), strict=True)
    form_of = np.stack(shares).max(1).argmax(0)  # [n]: whether an action or its change explains more of a dimension
    columns = np.flatnonzero(np.stack(shares).max((0, 1)) >= LEAST_EXPLAINED)
    if not len(columns):
        return None
    curves = np.where(form_of == 0, *shares)
    middle = curves[:, columns].mean(1)
    at = int(middle.argmax())
    again, rng = list[int](), np.random.default_rng(0)
    for _ in range(DRAWS):
        draw = np.bincount(rng.integers(0, len(chosen), len(chosen)), minlength=len(chosen)).astype(float)
        drawn = np.where(form_of == 0, *(form.explained(draw)[0] for form in forms))
        again.append(int(drawn[:, columns].mean(1).argmax()))
    low, high = np.quantile(lags[again], [0.025, 0.975], method="nearest").tolist()
    by_dimension: list[int | None] = [None] * len(kept)
    for place, column in enumerate(np.flatnonzero(kept).tolist()):
        by_dimension[column] = int(lags[curves[:, place].argmax()]) + 1 if place in columns else None
    others = dict[int, int]()
    for place, index in enumerate(chosen):
        if len(rows[index]) < ROWS_OF_EPISODE:
            continue
        expected = np.where(form_of == 0, *(f.inputs[place] @ b[:, at] for f, b in zip(forms, solved, strict=True)))
        expected, seen = expected[:, columns], answers[place][..., columns]
        fit = (expected[:, None] * seen).sum((0, 2)) / np.sqrt((expected**2).sum() * (seen**2).sum((0, 2)) + 1e-12)
        fit = np.clip(fit, 0, None) ** 2
        mine = int(fit.argmax())
        if abs(mine - at) >= OTHER_STEPS and fit[mine] >= LEAST_EXPLAINED and fit[mine] - fit[at] >= CLEARER:
            others[index] = int(lags[mine]) + 1
    interval = int(low) + 1, int(high) + 1
    position = bool(form_of[columns].mean() > 0.5)
    return Lag(int(lags[at]) + 1, *interval, float(middle[at]), tuple(by_dimension), position, others)


class _Form:
    """Regression of answers [t, lags, n] on inputs [t, m] of several episodes, which may be weighted."""

    def __init__(self, inputs: Sequence[np.ndarray], answers: Sequence[np.ndarray]):
        self.inputs = inputs
        self.xx = np.stack([x.T @ x for x in inputs])
        self.xy = np.stack([x.T @ y.reshape(len(y), -1) for x, y in zip(inputs, answers, strict=True)])
        self.yy = np.stack([(y**2).sum(0) for y in answers])  # [episodes, lags, n]

    def explained(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of the variance [lags, n] and the coefficients [m, lags, n]."""
        a, b, total = (np.tensordot(weights, each, 1) for each in (self.xx, self.xy, self.yy))
        solved = np.linalg.solve(a + 1e-6 * np.trace(a) / len(a) * np.eye(len(a)), b)
        return (solved * b).sum(0).reshape(total.shape) / np.maximum(total, 1e-12), solved.reshape(len(a), *total.shape)


def _scaled(parts: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Centre and scale the last axis over all parts, without columns that never change; return which were kept."""
    rows = np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
    spread = rows.std(0)
    kept = spread > 1e-9
    middle = rows.mean(0)[kept]
    scaled = (np.clip((part[..., kept] - middle) / spread[kept], -BEYOND, BEYOND) for part in parts)
    return [part.astype(np.float32) for part in scaled], kept


def check_lag(rows: Rows, action: str, state: str, fps: float) -> tuple[Lag | None, list[Finding]]:
    """Estimate the lag between two columns, and find what no controller does."""
    acts, states = rows.table(action), rows.table(state)
    known = [span for span in rows.spans() if np.isfinite(acts[span]).all() and np.isfinite(states[span]).all()]
    told = np.isin(rows.episodes, [rows.episodes[span.start] for span in known])
    told_acts = acts[told].T
    copied = [any(np.array_equal(column, each) for each in told_acts) for column in states[told].T]
    states = np.where(copied, 0.0, states)  # a gripper whose state is its command answers nothing
    lag = estimate_lag([acts[span] for span in known], [np.diff(states[span], axis=0) for span in known], fps)
    episodes = [int(rows.episodes[span.start]) for span in known]
    return lag, [] if lag is None else [*lag_findings(lag, episodes, action, state, fps)]


def lag_findings(lag: Lag, episodes: Sequence[int], action: str, response: str, fps: float) -> Iterator[Finding]:
    """Say what is wrong with a lag: it is that of no controller, or another one in some of the episodes."""
    facts = {"column": action, "response": response, "steps": lag.steps, "low": lag.low, "high": lag.high}
    if lag.high < 0 or (lag.high <= 0 and not lag.position):  # a state may be written as the action of its row
        yield problems.LATE_ACTIONS.finding(**facts, late=1 - lag.steps, told=lag.interval())
    elif lag.low / fps > LATE_S and lag.low > OTHER_STEPS:
        yield problems.EARLY_ACTIONS.finding(**facts, told=lag.interval(), ms=1000 * lag.steps / fps)
    if lag.others and len(lag.others) < len(episodes) / 2:
        shifts = {episodes[place]: lag.steps - other for place, other in lag.others.items()}
        middle = int(np.median(list(shifts.values())))
        word = "late" if middle > 0 else "early"
        yield problems.SHIFTED_EPISODES.finding(shifts, **facts, all=len(episodes), by=abs(middle), word=word)


def check_picture_lag(
    moves: Mapping[int, np.ndarray], rows: Rows, key: str, camera: str, by_action: bool, fps: float
) -> Iterator[Finding]:
    """Find that pictures, of which `moves` [T - 1] tell how much changes in the first T frames of some episodes, belong
    to other rows: of states, which they show at once, or, without these, of actions."""
    table, inputs, changes = rows.table(key), list[np.ndarray](), list[np.ndarray]()
    for span in rows.spans():
        if (moved := moves.get(int(rows.episodes[span.start]))) is not None and np.isfinite(table[span]).all():
            values = table[span][: len(moved) + 1]
            inputs.append(values if by_action else np.diff(values, axis=0, append=values[-1:]))
            changes.append(moved[:, None])
    lag = estimate_lag(inputs, changes, fps, sizes=True)
    if lag is None or lag.explained < PICTURES_EXPLAINED:
        return
    at_once = 0 if by_action else 1
    low, high, steps = lag.low - at_once, lag.high - at_once, lag.steps - at_once
    facts = {
        "camera": camera,
        "column": key,
        "steps": abs(steps),
        "low": low,
        "high": high,
        "ms": 1000 * abs(steps) / fps,
    }
    if high <= -OTHER_STEPS or (by_action and high < 0):
        yield problems.EARLY_PICTURES.finding(**facts)
    elif low >= OTHER_STEPS and low / fps >= (LATE_S if by_action else LATENCY_S):
        yield problems.LATE_PICTURES.finding(**facts)
