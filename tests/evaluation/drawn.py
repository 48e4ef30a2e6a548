"""What the page of an episode draws, read back from it."""

import re

import numpy as np


def _episodes(page: str) -> list[str]:
    return page.split('<div class="tracks"')[1:]


def drawn_codes(page: str) -> list[list[list[int | None]]]:
    """Read the codes of each episode, a row of them for each frame; None: no label."""
    found = []
    for part in _episodes(page):
        columns = []
        for width, cells in re.findall(r'<div class="track codes">.*?viewBox="0 0 (\d+) 1"(.*?)</svg>', part):
            column: list[int | None] = [None] * int(width)
            for x, length, code in re.findall(r'<rect x="(\d+)" width="(\d+)"[^>]*data-code="(-?\d+)"', cells):
                column[int(x) : int(x) + int(length)] = [int(code)] * int(length)
            columns.append(column)
        found.append([list(row) for row in zip(*columns, strict=True)])
    return found


def drawn_curves(page: str) -> list[dict[str, dict[str, np.ndarray]]]:
    """Read the curves of each episode, by name and source: [T, 2], places and values."""
    found = []
    for part in _episodes(page):
        curves = dict[str, dict[str, np.ndarray]]()
        pattern = r'<div class="track curve"><span class="name" title="([^"]*)">.*?data-ends="([^"]*)">(.*?)</svg>'
        for name, ends, lines in re.findall(pattern, part):
            low, high = map(float, ends.split())
            curves[name] = {}
            for key, points in re.findall(r'<polyline class="(\w+) line" points="([^"]*)"', lines):
                x, y = np.array([list(map(float, point.split(","))) for point in points.split()]).T
                curves[name][key] = np.stack([np.floor(x), high - y / 100 * (high - low)], 1)
        found.append(curves)
    return found
