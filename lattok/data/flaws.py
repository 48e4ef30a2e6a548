"""What is wrong inside episodes, told from their numbers: times, stillness, angles."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.problems import Rows
from lattok.utils.findings import Finding

TOLERANCE = 0.25  # of a frame interval, between a time and its frame's
RATE_TOLERANCE = 0.01
COARSE = 0.25  # of the times, that are as the one before where they are rounded
LOST = 1.5  # frame intervals between two frames of which one was lost
STILL_S = 1.0  # seconds without motion that count
STILL_SHARE, MUCH = 0.05, 0.25  # of all frames
STILL_STEP = 1e-3  # of a column's usual range
LEAST_CHANGES = 30  # that tell a rate
HELD_FOR, IN_TURN = 1.3, 0.95  # rows from one to the next, and share that keeps to the rate
OF_UNIT = 0.1  # that a rate may be off and still tell it
TURNS = (2 * np.pi, 360.0)
WHOLE_TURN = (0.9, 1.02)  # of a turn: how far an angle jumps that wraps, and how wide its range is
UNIT = 0.02  # how far the length of a quaternion may be from 1
NEARLY_ALL = 0.99  # of the rows
NEAR_POSE, FEWEST = 0.7, 4  # how alike poses begin that a sign is told of (cosine), and of how many episodes
WHOLE = 0.9  # of the changed signs of a quaternion: all its numbers change theirs at once


class TimeUnit(NamedTuple):
    name: str
    by: int  # in a second


SECONDS = TimeUnit("seconds", 1)
UNITS = (TimeUnit("milliseconds", 10**3), TimeUnit("microseconds", 10**6), TimeUnit("nanoseconds", 10**9))


def unit_of(rate: float, fps: float) -> TimeUnit:
    """Return the unit of times that say `rate` frames a second where there are `fps`; seconds where none explains
    it."""
    return next((unit for unit in UNITS if abs(rate * unit.by / fps - 1) <= OF_UNIT), SECONDS)


def check_times(rows: Rows, fps: float) -> Iterator[Finding]:
    """Find times [T] that are not those of frames at `fps`, and say why: they go back, run at another rate, leave
    frames out, or stray."""
    times = rows.columns["timestamp"].astype(np.float64)
    units = {int(rows.episodes[span.start]): unit_of(_rate(times[span]), fps) for span in rows.spans()}
    if in_units := {episode: unit for episode, unit in units.items() if unit != SECONDS}:
        for unit in dict.fromkeys(in_units.values()):
            episodes = [episode for episode, own in in_units.items() if own == unit]
            yield problems.TIMES_UNIT.finding(episodes, unit=unit.name, by=unit.by)
        rest = ~np.isin(rows.episodes, list(in_units))
        rows, times = Rows(rows.episodes[rest], rows.frames[rest], {"timestamp": times[rest]}), times[rest]
    stray = np.abs(times - rows.frames / fps)  # [n] seconds
    wrong = np.unique(rows.episodes[~(stray <= TOLERANCE / fps)])
    if not len(wrong):
        return
    steps, inside = np.diff(times), (np.diff(rows.episodes) == 0) & np.isin(rows.episodes[1:], wrong)
    steady = np.isin(rows.episodes, rows.episodes[~(stray < problems.STRAYED / fps)], invert=True)  # [n], none lost
    same = {episode: float((steps[inside & (rows.episodes[1:] == episode)] == 0).mean()) for episode in wrong.tolist()}
    if coarse := [episode for episode, share in same.items() if share > COARSE]:
        yield problems.TIMES_COARSE.finding(coarse, same=same[coarse[0]])
        return
    if (back := inside & (steps <= 0) & ~steady[1:]).any():
        places = rows.places(np.flatnonzero(back) + 1)
        yield problems.TIMES_GO_BACK.finding((), places, frame=places[0][1])
        return
    begins = np.repeat(times[rows.frames == 0], [span.stop - span.start for span in rows.spans()])
    if not steady.all() and (np.abs(times - begins - rows.frames / fps) <= TOLERANCE / fps).all():
        late = rows.episodes[(rows.frames == 0) & ~steady]
        yield problems.TIMES_BEGIN.finding(late, seconds=begins[rows.episodes == late[0]][0])
        return
    middle = float(np.median(steps[inside])) if inside.any() else np.nan
    lost = ~steady[1:] & lost_steps(steps, inside)
    whole = [_rate(times[rows.episodes == episode]) for episode in wrong.tolist()]
    measured = 1 / middle if lost.any() else float(np.median(whole))
    if not abs(measured / fps - 1) <= RATE_TOLERANCE:
        told = f"{measured:.4g}" if np.isfinite(measured) else "unknown"
        yield problems.OTHER_RATE.finding(wrong, fps=fps, measured=told)
    elif lost.any():
        at = int(np.flatnonzero(lost)[0]) + 1
        facts = {"count": int(lost.sum()), "frame": rows.frames[at], "seconds": float(steps[at - 1])}
        yield problems.TIMES_JUMP.finding((), rows.places(np.flatnonzero(lost) + 1), **facts)
    else:
        yield problems.TIMES_STRAY.finding(wrong, fps=fps, stray=1000 * float(np.nanmax(stray)))


def lost_steps(steps: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Tell which of the steps [n] between times are so long that frames were lost, of those `inside` [n] episodes."""
    inside = np.ones(len(steps), dtype=bool) if inside is None else inside
    middle = float(np.median(steps[inside])) if inside.any() else 0.0
    after = np.where(np.append(inside[1:], False), np.append(steps[1:], 0.0), middle)  # short after one that strayed
    return inside & (middle > 0) & (steps > LOST * middle) & (steps + after > (LOST + 1) * middle)


def _rate(times: np.ndarray) -> float:
    """Frames a second between the first and the last of an episode."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else float("nan")


def still_rows(rows: Rows, keys: Sequence[str]) -> np.ndarray | None:
    """Tell in which rows [n] no number of the columns differs from the row before by more than a thousandth of its
    usual range; None where no number ever changes."""
    if len(rows.frames) < 2:
        return None
    still: np.ndarray | None = None
    for key in keys:
        for column in rows.columns[key].reshape(len(rows.frames), -1).T:  # one at a time: they may be gigabytes
            values = column.astype(np.float64)
            if not np.isfinite(values).any():  # all are unknown
                continue
            low, high = np.nanquantile(values[:: len(values) // 100_000 + 1], [0.01, 0.99])
            if high > low:
                stays = np.abs(np.diff(values)) <= STILL_STEP * (high - low)
                still = stays if still is None else still & stays
    return None if still is None else np.r_[False, still] & (rows.frames > 0)


def check_still(rows: Rows, still: np.ndarray, fps: float) -> Iterator[Finding]:
    """Find stretches of a second or more of rows that are `still` [n]."""
    ends = np.flatnonzero(np.diff(np.r_[False, still, False].astype(int)))
    starts, stops = ends[::2], ends[1::2]
    long = stops - starts >= STILL_S * fps
    counted = np.zeros(len(still), dtype=bool)
    for start, stop in zip(starts[long], stops[long], strict=True):
        counted[start:stop] = True
    share = counted.mean()
    if share < STILL_SHARE:
        return
    episodes, members = np.unique(rows.episodes, return_inverse=True)
    shares = np.bincount(members, counted) / np.bincount(members)
    worst = int(shares.argmax())
    problem = problems.MUCH_STILL if share >= MUCH else problems.STILL
    facts = {"share": share, "worst": episodes[worst], "most": shares[worst]}
    yield problem.finding((), rows.places(starts[long]), **facts)


def rows_between(changes: np.ndarray, breaks: np.ndarray) -> np.ndarray | None:
    """Return how many rows apart changes [T] (bool) are, in stretches without `breaks` [T], where they keep to a rate
    that is lower than that of the rows: whole multiples of a number of rows, or two lengths next to each other."""
    at, crossed = np.flatnonzero(changes), np.cumsum(breaks)
    gaps = np.diff(at)[crossed[at[1:]] == crossed[at[:-1]]]
    if len(gaps) < LEAST_CHANGES or gaps.mean() < HELD_FOR:
        return None
    usual, low = int(np.bincount(gaps).argmax()), int(gaps.mean())
    if usual > 1 and (gaps % usual == 0).mean() >= IN_TURN:
        return np.full(len(gaps), usual)
    return gaps if np.isin(gaps, [low, low + 1]).mean() >= IN_TURN else None


def held(gaps: np.ndarray) -> str:
    """Say how long numbers or pictures stay, "3" or "1 to 2"."""
    low, high = int(gaps.min()), int(np.quantile(gaps, IN_TURN))
    return f"{low}" if low == high else f"{low} to {high}"


def check_held(rows: Rows, key: str, still: np.ndarray, fps: float) -> Finding | None:
    """Find that a column of actions keeps each value for some rows while other numbers move, as of a slower command."""
    if not key.startswith("action"):
        return None
    values = rows.table(key)
    changes = np.append(True, (np.diff(values, axis=0) != 0).any(1)) | (rows.frames == 0)
    gaps = rows_between(changes, (rows.frames == 0) | still)
    if gaps is None:
        return None
    return problems.HELD.finding(column=key, rate=fps / gaps.mean(), held=held(gaps))


def check_angles(rows: Rows, columns: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Find angles that wrap around, and quaternions that change their sign."""
    inside = np.diff(rows.episodes) == 0
    for key, names in columns.items():
        values = rows.columns[key].reshape(len(rows.frames), -1).astype(np.float64)
        for name, angle in zip(names, values.T, strict=True):
            if (at := _wraps(angle, inside)) is not None and len(at):
                facts = {"column": key, "dimension": name, "count": len(at), "place": rows.place(int(at[0]) + 1)}
                yield problems.WRAPS.finding((), rows.places(at + 1), **facts)
        for first in range(values.shape[1] - 3):
            four = values[:, first : first + 4]
            if not _are_quaternions(four) or any("grip" in name.lower() for name in names[first : first + 4]):
                continue
            yield from _other_signs(rows, key, names[first], names[first + 3], four)
            flips = np.flatnonzero(((four[1:] * four[:-1]).sum(1) < -0.5) & inside)
            if len(flips) and _turn_whole(four, flips):
                facts = {"column": key, "first": names[first], "last": names[first + 3], "count": len(flips)}
                yield problems.FLIPS.finding((), rows.places(flips + 1), **facts, place=rows.place(int(flips[0]) + 1))


def _other_signs(rows: Rows, key: str, first: str, last: str, four: np.ndarray) -> Iterator[Finding]:
    """Find episodes that begin near where the others do, with the other sign of the quaternions four [n, 4]."""
    spans = rows.spans()
    begins = four[[span.start for span in spans]]
    if len(spans) < FEWEST or not np.isfinite(begins).all():
        return
    near = begins @ np.linalg.eigh(begins.T @ begins)[1][:, -1]  # of the line along which most begin
    other = near * (np.median(near) or near[0]) < 0
    if other.any() and (np.abs(near) >= NEAR_POSE).mean() >= NEARLY_ALL:
        episodes = [int(rows.episodes[span.start]) for span, one in zip(spans, other, strict=True) if one]
        yield problems.OTHER_SIGN.finding(episodes, column=key, first=first, last=last, all=len(spans))


def _are_quaternions(four: np.ndarray) -> bool:
    """Tell whether four columns [n, 4] have the length 1, to which all of them add: beside small rotations a gripper of
    ±1 alone has it, too."""
    away, alone = np.abs(np.linalg.norm(four, axis=1) - 1), 1 - np.abs(four).max(1)  # [n] each
    return (away <= UNIT).mean() >= NEARLY_ALL and float(np.median(away)) < float(np.median(alone))


def _turn_whole(four: np.ndarray, flips: np.ndarray) -> bool:
    """Tell whether, at the rows of `flips`, the largest number takes the others along when its sign changes."""
    rest = np.where(np.arange(4) == np.abs(four[flips]).argmax(1)[:, None], 0.0, four[flips])  # [k, 4]
    return ((rest * four[flips + 1]).sum(1) < 0).mean() >= WHOLE


def _wraps(angle: np.ndarray, inside: np.ndarray) -> np.ndarray | None:
    """Return the rows before which an angle jumps by a whole turn, if its range is one."""
    known = angle[np.isfinite(angle)]
    if not len(known):
        return None
    span, steps = float(np.ptp(known)), np.abs(np.diff(angle))
    whole = np.array_equal(known, np.rint(known))  # choices among seven buttons are no radians
    for turn in (turn for turn in TURNS if not (whole and turn % 1)):
        low, high = (share * turn for share in WHOLE_TURN)
        if low <= span <= high:
            return np.flatnonzero(inside & (steps >= low) & (steps <= high))
    return None
