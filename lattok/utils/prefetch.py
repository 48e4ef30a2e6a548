"""Work done ahead of its use by a few threads, in order and within a bound: decoding while a model labels."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, local
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from typing_extensions import Self

from lattok.utils.devices import cores

Value = TypeVar("Value")
Stopped = Callable[[], bool]  # asked now and then by long work, which then raises `Abandoned`

# Python lets a thread that computes keep the interpreter for 5 ms, for which decoders then wait at every frame: two of
# them gave 1,237 frames of 224 x 224 a second with it and 2,412 with this
TURN_S = 5e-4
MOST_THREADS = 4  # decode faster than one GPU labels


class Abandoned(Exception):
    """Work whose result is no longer wanted."""


_THREAD = local()


def check_wanted() -> None:
    """Raise `Abandoned` in a thread whose work ahead is no longer wanted: for what it calls and cannot tell."""
    if getattr(_THREAD, "stopped", bool)():
        raise Abandoned


class Request(NamedTuple):
    """Something to do ahead: `work(*arguments, stopped)`."""

    arguments: tuple[object, ...]
    size: int  # in the unit of the limit


class Ahead(Generic[Value]):
    """Results of `work(*arguments, stopped)`, asked for in the order of `jobs` and computed before they are.

    What was computed and not yet taken is at most `limit` in size, or one job. An error in the work appears where its
    result is taken. Leaving the `with` gives up what is still to do and waits for the threads.
    """

    def __init__(self, work: Callable[..., Value], jobs: Iterable[Request], limit: int, threads: int | None = None):
        self._work, self._limit = work, limit
        self._jobs = iter(jobs)
        self._next = next(self._jobs, None)
        self._begun: deque[tuple[Request, Future[Value]]] = deque()
        self._size = 0  # of what has begun
        self._stop = Event()
        spare = max(1, cores() - 1)
        self._pool = ThreadPoolExecutor(threads or min(MOST_THREADS, spare), thread_name_prefix="lattok-ahead")

    def __enter__(self) -> Self:
        self._turn = sys.getswitchinterval()
        sys.setswitchinterval(min(self._turn, TURN_S))
        self._fill()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        sys.setswitchinterval(self._turn)

    def __call__(self, *arguments: object) -> Value:
        """Return the result of the job with these arguments; those before it are given up."""
        while self._begun:
            job, future = self._begun.popleft()
            try:
                if job.arguments == arguments:
                    return future.result()
                future.cancel()
            finally:  # after an error the next job can still be asked for
                self._size -= job.size
                self._fill()
        raise RuntimeError(f"{arguments} are the arguments of no job that is left")

    def _fill(self) -> None:
        """Begin jobs while they fit."""
        while self._next is not None and (not self._begun or self._size + self._next.size <= self._limit):
            job, self._next = self._next, next(self._jobs, None)
            self._begun.append((job, self._pool.submit(self._run, *job.arguments)))
            self._size += job.size

    def _run(self, *arguments: object) -> Value:
        _THREAD.stopped = self._stop.is_set
        return self._work(*arguments, self._stop.is_set)
