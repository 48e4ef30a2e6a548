"""Whether the frames of a run stay in memory or are streamed, decided when it begins: run/frames.json."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lattok.recipes.common import Recipe
from lattok.recipes.run_folder import FRAMES, first_process
from lattok.samples import FramePairs, PolicyWindows
from lattok.samples.shared import CAN_SHARE, told
from lattok.samples.stream import FrameStream, window_sizes
from lattok.training import RUN, meet
from lattok.utils import checks, files
from lattok.utils.devices import memory_bytes
from lattok.utils.progress import bar

SHARE = 0.5  # of the machine's memory, unless `memory_gb` says how much


def keep_or_stream(
    recipe: Recipe[Any],
    parts: Sequence[FramePairs] | Sequence[PolicyWindows],
    weights: Sequence[float],
    resume: bool,
    streams: int = 1,
    keep: Callable[[], None] | None = None,
) -> list[int] | None:
    """Decode the frames of all parts into memory, if they fit; otherwise return how many samples windows have.

    `keep` does something else where they fit.

    A run that goes on does what it did before: the order of samples depends on it. `streams`: so many times samples are
    drawn from each part. Raises `LattokError` where not even small windows fit.
    """
    meet(recipe.loop.device)
    path, different = Path(recipe.out) / RUN / FRAMES, list(dict.fromkeys(parts))
    here = 1 if CAN_SHARE else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes, each of which would keep all
    size = sum(part.reader.bytes for part in different)
    memory = min(told(recipe.data.memory_gb * 1e9 or SHARE * memory_bytes()))  # of the smallest machine
    windows = None
    if resume and path.is_file():
        windows = _stored(path, len(parts))
    elif size * here > memory:
        windows = window_sizes(parts, weights, memory, streams)
    windows = told(windows)[0]
    if first_process():
        files.write_json(path, {"windows": windows})
        reader = parts[0].reader
        how = reader.kept if windows is None else f"streamed through {_amount(memory)} of it"
        print(f"{reader.what} take {_amount(size)} of memory: {how}", file=sys.stderr)
    if windows is None and keep is not None:
        keep()
    elif windows is None:
        for part in different:
            with bar("decode") as progress:
                part.read_pixels(progress=progress, shared=True)
    return windows


def _amount(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _stored(path: Path, parts: int) -> list[int] | None:
    """Read what the run did before."""
    windows = files.read_json(path).get("windows", "nothing")
    fits = isinstance(windows, list) and len(windows) == parts and all(type(n) is int and n > 0 for n in windows)
    if windows is not None and not fits:
        checks.fail(f"windows` in `{path}", f"null, or {parts} numbers of samples", f"{windows!r:.60}")
    return windows


def left_out(stream: FrameStream | None) -> dict[str, Any]:
    """Return what a run says of episodes that could not be read, in any process: dataset and index of each."""
    if stream is None:
        return {}
    found = sorted({one for each in told(list(stream.left_out)) for one in each})
    return {"left_out": [list(one) for one in found]} if found else {}
