"""Frames that all training processes of a machine have in common: each decodes a part, and they take memory once.

The memory has no name in any folder, and ends with the last process, however that ends (Linux's memfd).
"""

from __future__ import annotations

import math
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist

from lattok.utils.checks import LattokError

CAN_SHARE = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


class Together(NamedTuple):
    """An array of which each of `count` processes fills a part."""

    array: np.ndarray
    index: int  # of this process, among those of the machine
    count: int


class _Offer(NamedTuple):
    """What a process says of itself and of its memory."""

    host: str
    pid: int
    file: int
    name: str


def told(mine: Any) -> Sequence[Any]:
    """Return what every process says, in their order."""
    if not dist.is_initialized():
        return [mine]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


@contextmanager
def together(shape: tuple[int, ...]) -> Iterator[Together]:
    """Yield an array uint8 of `shape` for all training processes of this machine; at the end they wait for each other.

    Where memory cannot be shared each process has an array of its own. A `LattokError` in one process is one in all.
    """
    file, name = -1, f"lattok-{secrets.token_hex(8)}"
    if CAN_SHARE and dist.is_initialized():
        file = os.memfd_create(name)
        os.ftruncate(file, math.prod(shape))  # takes no memory yet
    try:
        offers = told(_Offer(socket.gethostname(), os.getpid(), file, name))
        here = [offer for offer in offers if offer.host == socket.gethostname()]
        shared = _mapped(here[0], shape) if len(here) > 1 else None
        if not all(told(shared is not None)):
            shared, here = None, [offer for offer in here if offer.pid == os.getpid()]
    finally:
        if file >= 0:
            os.close(file)
    array = np.empty(shape, dtype=np.uint8) if shared is None else shared
    error = None
    try:
        yield Together(array, [offer.pid for offer in here].index(os.getpid()), len(here))
    except LattokError as mine:
        error = mine
    for one in told(error and str(error)):
        if one is not None:
            raise error or LattokError(one)


def _mapped(offer: _Offer, shape: tuple[int, ...]) -> np.ndarray | None:
    """Map the memory of a process, which may be this one; None where it is out of reach."""
    path = f"/proc/{offer.pid}/fd/{offer.file}"
    with suppress(OSError):
        if offer.name in os.readlink(path):  # in a container of its own the number may be that of another process
            with open(path, "r+b") as file:
                return np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
    return None
