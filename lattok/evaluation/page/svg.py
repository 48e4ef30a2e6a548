"""Small charts as inline SVG, about as wide as a phone, coloured by classes of the page (light, dark).

Written by hand: a panel is a few hundred bytes to a few kilobytes, and text stays text.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

from lattok.evaluation.wording import Interval, printed

WIDTH = 300
BAR, GAP, TOP = 20, 6, 26
NAME, LETTER = 18, 7.0  # letters of a name that are shown, and the width of one in a wide font
PARETO, CURVES = 240, 190  # heights
TICKS = 4  # on an axis, or a few less
NOT_RUN = "not run"
Point = tuple[str, str, float, float, Interval | None]  # name, class, x, y, interval of y


def bars(title: str, rows: Sequence[tuple[str, str, float | None]], digits: str) -> str:
    """Draw horizontal bars, one per (name, class, value); negative values grow to the left of zero."""
    values = [value for _, _, value in rows if value is not None and math.isfinite(value)]
    low, high = min([0.0, *values]), max([1e-12, *values])
    if any(value > 0 for value in values):
        low = max(low, -0.5 * high)  # a control far below zero must not flatten all others
    left = 16 + LETTER * max(len(_short(name)) for name, _, _ in rows)
    room = WIDTH - left - 48
    zero = left + room * -low / (high - low)
    parts, said = [_text(0, 14, title, "t")], []
    for i, (name, kind, value) in enumerate(rows):
        y = TOP + i * (BAR + GAP)
        parts.append(_text(left - 8, y + 14, _short(name), "n", "end"))
        if value is None or not math.isfinite(value):
            parts.append(_text(zero + 4, y + 14, NOT_RUN, "m"))
            said.append(f"{name} {NOT_RUN}")
            continue
        said.append(f"{name} {value:{digits}}")
        end = left + room * (min(max(value, low), high) - low) / (high - low)
        x, width = min(zero, end), max(abs(end - zero), 1.0)
        parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>')
        parts.append(_text(max(zero, end) + 5, y + 14, printed(value, digits), "v"))
    height = TOP + len(rows) * (BAR + GAP)
    parts.append(f'<path class="axis" d="M{zero:.1f} {TOP - 4}V{height - 2}"/>')
    return _svg(parts, height, f"{title}: {', '.join(said)}")


def intervals(title: str, rows: Sequence[tuple[str, float, Interval | None]]) -> str:
    """Draw differences as points with their intervals, one per (name, value, interval), and the line of zero."""
    bounds = [end for _, value, span in rows for end in (value, *(span or ())) if math.isfinite(end)]
    frame = _Frame(min(0.0, *bounds), max(0.0, *bounds), 0, 1, TOP)
    height = TOP + len(rows) * 2 * BAR + BAR
    parts, said = [_text(0, 14, title, "t")], []
    for tick in ticks(frame.low_x, frame.high_x):
        if frame.low_x <= tick <= frame.high_x:
            kind = "grid" if tick else "axis"
            parts.append(f'<path class="{kind}" d="M{frame.x(tick):.1f} {TOP}V{height - BAR}"/>')
            parts.append(_text(frame.x(tick), height - 4, _number(tick), "m", "middle"))
    for i, (name, value, span) in enumerate(rows):
        y = TOP + i * 2 * BAR + BAR * 1.4
        parts.append(_text(frame.left, y - 9, name, "m"))
        if span is not None:
            low, high = (frame.x(min(max(end, frame.low_x), frame.high_x)) for end in span)
            parts.append(f'<path class="model line" d="M{low:.1f} {y:.1f}H{high:.1f}"/>')
        parts.append(f'<circle class="model" cx="{frame.x(value):.1f}" cy="{y:.1f}" r="4"/>')
        said.append(f"{name} {value:.3g}")
    return _svg(parts, height, f"{title}: {', '.join(said)}")


def plot(title: str, series: Sequence[tuple[str, Sequence[float]]], unit: str = "", height: int = 150) -> str:
    """Draw curves over a common index, in the order given: (class, values)."""
    values = [value for _, curve in series for value in curve if math.isfinite(value)]
    frame = _Frame(0, max(len(curve) for _, curve in series) - 1, min(values), max(values), height)
    parts = [_text(0, 14, title, "t"), *frame.axes(unit)]
    for kind, curve in series:
        points = " ".join(f"{frame.x(i):.1f},{frame.y(value):.1f}" for i, value in enumerate(curve))
        parts.append(f'<polyline class="{kind} line" points="{points}"/>')
    return _svg(parts, height, title)


def growth(
    title: str,
    sizes: Sequence[int],
    lines: Sequence[tuple[str, str, Mapping[int, tuple[float, Interval | None]], bool]],
    flat: int,
    level: tuple[str, float | None] | None = None,
) -> str:
    """Draw how values grow with `sizes`, each twice as far as half of it: (name, class, value and interval by size,
    whether it is dashed). `flat`: size from which the first line is; `level`: name and value of a dashed control."""
    known = [value for _, _, values, _ in lines for value, _ in values.values()]
    ends = [end for _, span in lines[0][2].values() for end in span or ()]
    top = max(*known, *ends, *([level[1]] if level and level[1] is not None else []))
    low = max(min(0.0, *known), -0.3 * max(top, 1e-12))  # what is far below nothing must not flatten the rest
    frame = _Frame(0, math.log2(sizes[-1]), low, top, CURVES)
    parts, said = [_text(0, 14, title, "t"), *frame.axes("")], []
    for i, size in enumerate(sizes):
        if i != len(sizes) - 2 or math.log2(sizes[-1] / size) > 0.5:  # numbers do not overlap
            parts.append(_text(frame.x(math.log2(size)), frame.bottom + 15, f"{size}", "m", "middle"))
    at = frame.x(math.log2(flat))
    parts.append(f'<path class="axis" stroke-dasharray="1 3" d="M{at:.1f} {frame.top}V{frame.bottom}"/>')
    shown = [*lines]
    if level is not None and level[1] is not None:
        shown.append((level[0], "rival", dict.fromkeys(sizes, (level[1], None)), True))
    for i, (name, kind, values, dashed) in enumerate(shown):
        dashes = ' stroke-dasharray="5 3"' * dashed
        points = " ".join(f"{frame.x(math.log2(k)):.1f},{frame.y(max(v, low)):.1f}" for k, (v, _) in values.items())
        parts.append(f'<polyline class="{kind} line"{dashes} points="{points}"/>')
        for size, (_, span) in values.items() if i == 0 else ():
            if span is not None:
                first, last = (frame.y(max(end, low)) for end in span)
                x = frame.x(math.log2(size))
                parts.append(f'<path class="{kind} line faint" d="M{x:.1f} {first:.1f}V{last:.1f}"/>')
        y = CURVES + 10 + 16 * i
        parts.append(f'<path class="{kind} line"{dashes} d="M{frame.left} {y - 4}h24"/>')
        parts.append(_text(frame.left + 32, y, name, "n"))
        said.append(f"{name} " + ", ".join(f"{k}: {v:.2f}" for k, (v, _) in values.items()))
    return _svg(parts, CURVES + 16 * len(shown), f"{title}: {'; '.join(said)}")


def pareto(title: str, points: Sequence[Point], names: tuple[str, str]) -> str:
    """Draw points with names, and the line of models that none beats in both."""
    ends = [end for *_, y, span in points for end in (y, *(span or ()))]
    xs = [x for _, _, x, _, _ in points]
    room = 0.08 * (max(xs) - min(xs)) or 1.0
    frame = _Frame(min(xs) - room, max(xs) + 2 * room, max(min(ends), -1.0), max(ends), PARETO)
    parts = [_text(0, 14, title, "t"), *frame.axes(f"{names[0]} →", x_ticks=True)]
    parts.append(_text(WIDTH - 6, 14, f"↑ {names[1]}", "m", "end"))
    best, line = -math.inf, []
    for _, kind, x, y, _ in sorted(points, key=lambda point: (point[2], -point[3])):
        if kind == "model" and y > best:
            line += [f"H{frame.x(x):.1f}", f"V{frame.y(y):.1f}"] if line else []
            line = line or [f"M{frame.x(x):.1f} {frame.y(y):.1f}"]
            best = y
    if line:
        parts.append(f'<path class="model line faint" d="{"".join(line)}H{frame.right:.1f}"/>')
    taken: list[tuple[float, float, float]] = []  # from, to, baseline of each name
    for name, kind, x, y, span in sorted(points, key=lambda point: -point[3]):
        level = frame.y(max(y, frame.low_y))
        at = frame.x(x)
        if span is not None:
            low, high = (frame.y(max(end, frame.low_y)) for end in span)
            parts.append(f'<path class="{kind} line faint" d="M{at:.1f} {low:.1f}V{high:.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{at:.1f}" cy="{level:.1f}" r="{4 if kind == "model" else 3}"/>')
        shown = _short(name)
        width, left = LETTER * len(shown), at + LETTER * len(shown) < WIDTH - 10
        start, base = (at + 7 if left else at - 7 - width), level - 5  # above lines
        while any(start < to and start + width > since and abs(base - other) < 12 for since, to, other in taken):
            base += 3
        taken.append((start, start + width, base))
        parts.append(_text(at + 7 if left else at - 7, base, shown, "n", "start" if left else "end"))
    said = ", ".join(f"{name} {x:.3g}, {y:.2f}" for name, _, x, y, _ in points)
    return _svg(parts, max(PARETO, max((base for *_, base in taken), default=0) + 6), f"{title}: {said}")


class _Frame:
    """A plotting area with rounded ranges."""

    def __init__(self, low_x: float, high_x: float, low_y: float, high_y: float, height: int):
        self.low_x, self.high_x = low_x, high_x if high_x > low_x else low_x + 1
        self.ticks = ticks(low_y, high_y)
        step = self.ticks[1] - self.ticks[0]
        self.low_y, self.high_y = min(low_y, self.ticks[0]), max(high_y, self.ticks[-1])
        if self.high_y <= self.low_y:
            self.high_y = self.low_y + step
        self.left, self.right, self.top, self.bottom = 42, WIDTH - 6, TOP, height - 22

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * (value - self.low_x) / (self.high_x - self.low_x)

    def y(self, value: float) -> float:
        value = value if math.isfinite(value) else self.low_y
        return self.bottom - (self.bottom - self.top) * (value - self.low_y) / (self.high_y - self.low_y)

    def axes(self, unit: str, x_ticks: bool = False) -> list[str]:
        """Draw grid lines with their values, and write what runs along the bottom."""
        parts = []
        for tick in self.ticks:
            y = self.y(tick)
            parts.append(f'<path class="grid" d="M{self.left} {y:.1f}H{self.right}"/>')
            parts.append(_text(self.left - 6, y + 4, _number(tick), "m", "end"))
        for tick in ticks(self.low_x, self.high_x)[:-1] if x_ticks else ():
            if self.low_x <= tick:
                parts.append(_text(self.x(tick), self.bottom + 15, _number(tick), "m", "middle"))
        parts.append(_text(self.right, self.bottom + 15, unit, "m", "end"))
        return parts


def ticks(low: float, high: float) -> list[float]:
    """Choose at least two round numbers that lie in or next to the range.

    >>> ticks(0.0, 1.0)
    [0.0, 0.5, 1.0]
    """
    raw = (high - low if high > low else max(abs(low), 1.0)) / TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    found = [round((first + i) * step, 12) + 0.0 for i in range(TICKS + 2) if (first + i) * step <= high + step * 1e-9]
    return found if len(found) > 1 else [round(first * step, 12) + 0.0, round((first + 1) * step, 12)]


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(tick: float) -> str:
    return f"{tick:.10g}" if abs(tick) < 1e5 else f"{tick:.3g}"  # longer ones do not fit beside an axis


def _short(name: str) -> str:
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    opening = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label, quote=True)}">'
    return f"{opening}{''.join(parts)}</svg>"
