"""A command that another process watches, for libraries that hear signals in C and die of them, as Ray does.

The command forks before anything else is imported. The child goes on with it; the parent keeps Python's handlers,
passes requests to stop on, and says what became of the child.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from lattok.utils import signals

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_held: int | None = None  # file of what the child said while it was hushed; the parent shows it if it died meanwhile


@contextmanager
def watched() -> Iterator[None]:
    """Do what follows in a fork, the only one that returns; requests to stop raise there as in `signals.raising`.

    Asked to stop, the parent ends with 128 and the signal's number however the child dies, and says so in one line,
    unless the child has ended with this number, and so has said it, or with 0: then all was done. Asked again, more
    than a second later, it kills the child, which may be deaf in C. Killed, it takes the child with it. Other systems
    than Linux and processes with threads, which forks can lock up, go on unwatched.
    """
    if sys.platform != "linux" or threading.active_count() > 1:
        with signals.raising():
            yield
        return
    global _held
    heard = tuple(number for number in signals.ASKING if signal.getsignal(number) != signal.SIG_IGN)
    held, parent = os.memfd_create("stderr"), os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    if child := os.fork():
        _watch(child, held, heard, mask)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)
    _held = held
    for number in heard:  # afterwards: what a terminal sends is passed on too, which must not break the end
        signal.signal(number, lambda *_: None)
    try:
        with signals.raising(heard):
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            yield
    finally:
        for number in heard:  # Python takes handlers away when it ends, but leaves this
            signal.signal(number, signal.SIG_IGN)


def _watch(child: int, held: int, heard: tuple[int, ...], mask: set[Any]) -> NoReturn:
    asked: list[tuple[float, int]] = []  # when, and by which signal

    def pass_on(got: int, frame: FrameType | None) -> None:
        asked.append((time.monotonic(), got))
        second = asked[-1][0] - asked[0][0] > signals.GRACE_S
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL if second else got)

    for number in heard:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0 and not asked:  # schedulers end processes one by one
        time.sleep(signals.GRACE_S)
    if asked and code not in (0, 128 + asked[0][1]):
        code = 128 + asked[0][1]
        _say(signals.INTERRUPTED.encode())
    elif code < 0:
        _show(held)
        _say(f"\nlattok: ended by {signal.Signals(-code).name}\n".encode())
        code = 128 - code
    os._exit(code)


@contextmanager
def hushed() -> Iterator[None]:
    """Hold back what a watched command writes to standard error, in C too; show it afterwards, unless interrupted."""
    if _held is None or sys.stderr is None:  # closed: 2 may be a file
        yield
        return
    sys.stderr.flush()
    shown = os.dup(2)
    os.dup2(_held, 2)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        os.ftruncate(_held, 0)
        raise
    finally:
        sys.stderr.flush()
        os.dup2(shown, 2)
        os.close(shown)
        _show(_held)


def _show(held: int) -> None:
    _say(os.pread(held, os.fstat(held).st_size, 0))
    os.lseek(held, 0, os.SEEK_SET)
    os.ftruncate(held, 0)


def _say(text: bytes) -> None:
    with suppress(OSError):  # the terminal may be gone
        os.write(2, text)
