"""Signals that ask a process to stop: Ctrl-C, SIGTERM as schedulers send it, SIGHUP when a terminal closes.

All are treated as Ctrl-C is: what is running saves and says how to go on. Exit codes are 128 and the signal's number.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
INTERRUPTED = "\nlattok: interrupted; run the same command again\n"
GRACE_S = 1.0  # launchers pass on what their processes got already: only what comes later is a second request


_raised: list[int] = []  # within `raising`: waiting in Ray ends with a KeyboardInterrupt of its own, without the number


class Interrupted(KeyboardInterrupt):
    """Asked to stop, after the state was saved where there is one; the text says how to go on."""

    def __init__(self, text: str = "", number: int = signal.SIGINT):
        super().__init__(text)
        self.number = int(number)  # of the signal


def restate(stop: KeyboardInterrupt, text: str) -> Interrupted:
    return Interrupted(text, number_of(stop))


def number_of(stop: KeyboardInterrupt) -> int:
    return getattr(stop, "number", _raised[-1] if _raised else int(signal.SIGINT))


@contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Let requests to stop wait until somebody asks: yields a function that gives the signal, 0 while there was none.

    A second request, more than a second later, does what it would have done without this. Outside the main thread,
    where Python hears no signals, nothing changes.
    """
    asked: list[tuple[float, int]] = []  # when, and by which signal

    def ask(got: int, frame: FrameType | None) -> None:
        asked.append((time.monotonic(), got))
        if asked[-1][0] - asked[0][0] > GRACE_S:
            _put_back(previous)
            os.kill(os.getpid(), got)

    with _handled(ask, ASKING) as previous:
        yield lambda: asked[0][1] if asked else 0


@contextmanager
def raising(numbers: tuple[int, ...] = ASKING[1:]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Interrupted`, as Ctrl-C raises KeyboardInterrupt; the second ends the process."""
    begun: list[float] = []

    def stop(got: int, frame: FrameType | None) -> None:
        begun.append(time.monotonic())
        if len(begun) == 1:
            _raised.append(got)
            raise Interrupted(number=got)
        if begun[-1] - begun[0] > GRACE_S:
            signal.signal(got, signal.SIG_DFL)
            os.kill(os.getpid(), got)

    with _handled(stop, numbers):
        try:
            yield
        except KeyboardInterrupt as request:
            raise restate(request, str(request)) from None
        finally:
            _raised.clear()


def check() -> None:
    """Raise `Interrupted` where it was raised and somebody made another error of it, or none."""
    if _raised:
        raise Interrupted(number=_raised[-1])


@contextmanager
def kept() -> Iterator[None]:
    """Put all handlers back afterwards: some libraries install others, in C too, where Python does not see them."""
    main = threading.current_thread() is threading.main_thread()
    found = {number: signal.getsignal(number) for number in ASKING if main}
    try:
        yield
    finally:
        _put_back({number: handler for number, handler in found.items() if handler is not None})


@contextmanager
def ending(text: str) -> Iterator[None]:
    """Let any request end the process at once with `text`: for what neither raises nor waits well, such as imports."""

    def end(got: int, frame: FrameType | None) -> None:
        os.write(2, text.encode())
        os._exit(128 + got)

    with _handled(end, ASKING):
        yield


@contextmanager
def _handled(handler: Callable[[int, Any], None], numbers: tuple[int, ...]) -> Iterator[dict[int, Any]]:
    """Install `handler` for the duration; yields what was there before. Who ignores one of them (nohup) means it."""
    heard = numbers if threading.current_thread() is threading.main_thread() else ()
    found = {number: signal.getsignal(number) for number in heard}
    ignored = {number for number, before in found.items() if before is signal.SIG_IGN and number != signal.SIGINT}
    previous = {number: before for number, before in found.items() if before is not None and number not in ignored}
    for number in previous:
        signal.signal(number, handler)
    try:
        yield previous
    finally:
        _put_back(previous)


def _put_back(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
