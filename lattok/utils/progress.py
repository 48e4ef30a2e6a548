"""Progress of work that is counted in frames, steps or stages: a bar, or without a terminal a line now and then."""

import sys
import time

from tqdm.auto import tqdm

from lattok.utils import log

EVERY_S = 30.0  # between two lines
ALIKE = 10  # a few units are of different kinds: the next one may take much longer


class ProgressBar:
    """Progress as a callable, (done, total) or (stage, done, total), with the time left; silent if `quiet`."""

    def __init__(self, title: str, quiet: bool = False):
        terminal, quiet = sys.stderr.isatty(), quiet or not log.said()
        self._bar = tqdm(total=0, desc=title, dynamic_ncols=True, disable=quiet or not terminal)
        self._lines, self._title, self._first = not (quiet or terminal), title, -1
        self._begun = self._said = time.monotonic()

    def __enter__(self) -> "ProgressBar":
        return self

    def stage(self, stage: str, done: int, total: int) -> None:
        if stage != self._title:
            self._bar.set_description_str(stage, refresh=False)
            self._title, self._first = stage, -1
        self(done, total)

    def __call__(self, done: int, total: int) -> None:
        self._bar.total, self._bar.n = total, done
        self._bar.refresh()
        now = time.monotonic()
        if self._first < 0:  # what an interrupted run had done took no time now
            self._first, self._begun = done, now
        if self._lines and now - self._said >= EVERY_S:
            self._said = now
            left = (now - self._begun) / max(1, done - self._first) * (total - done)
            known = f", {left:.0f} s left" if done > self._first and total >= ALIKE else ""
            log.say(f"{self._title}: {done}/{total}{known}")

    def __exit__(self, *_: object) -> None:
        self._bar.close()
