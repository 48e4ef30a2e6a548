"""Progress bars for work that is counted in frames or stages."""

from __future__ import annotations

import sys

from tqdm.auto import tqdm


class bar:
    """A progress bar as a callable, (done, total) or (stage, done, total); silent if `quiet` or without a terminal."""

    def __init__(self, title: str, quiet: bool = False):
        self._bar = tqdm(total=0, desc=title, dynamic_ncols=True, disable=quiet or not sys.stderr.isatty())

    def __enter__(self) -> bar:
        return self

    def stage(self, stage: str, done: int, total: int) -> None:
        """Show the progress of a named stage."""
        self._bar.set_description_str(stage, refresh=False)
        self(done, total)

    def __call__(self, done: int, total: int) -> None:
        self._bar.total, self._bar.n = total, done
        self._bar.refresh()

    def __exit__(self, *_: object) -> None:
        self._bar.close()
