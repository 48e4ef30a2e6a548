"""Heaps of HDF5 files, which hold strings and encoded pictures: of damaged ones HDF5 2.0 reads one entry forever.

A heap is `GCOL`, version, size [8 bytes], and entries: number [2], references [2], 4 bytes of nothing, size [8], data
to the next multiple of 8. Entry 0 is what is free; its size counts its own header.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("entry", "<u4")])
HEAD = 16  # bytes, of a heap and of an entry


def endless_heap(path: Path, array: Any) -> int | None:
    """Return where in the file a heap begins that HDF5 cannot leave; None where the `h5py.Dataset` has none, or is
    compressed."""
    if not array.dtype.hasobject or "ref" in (array.dtype.metadata or {}):  # references are addresses of other things
        return None
    if array.file.id.get_create_plist().get_sizes()[0] != 8:  # bytes of an address
        return None
    base = array.file.userblock_size
    with path.open("rb") as file:
        heaps = {address for place, size in _stored(array) for address in _heaps(file, place, size)}
        return next((place for place in sorted(heaps) if _is_endless(file, base + place)), None)


def _stored(array: Any) -> list[tuple[int, int]]:
    """Return place and size of what a dataset has in its file, as far as it is as in memory."""
    if array.chunks is None:
        place = array.id.get_offset()
        return [] if place is None else [(place, array.id.get_storage_size())]
    if array.id.get_create_plist().get_nfilters():
        return []
    chunks = map(array.id.get_chunk_info, range(array.id.get_num_chunks()))
    return [(chunk.byte_offset, chunk.size) for chunk in chunks]


def _heaps(file: BinaryIO, place: int, size: int) -> set[int]:
    file.seek(place)
    data = file.read(size // REFERENCE.itemsize * REFERENCE.itemsize)
    found = np.frombuffer(data[: len(data) // REFERENCE.itemsize * REFERENCE.itemsize], REFERENCE)
    return set(found["heap"][found["length"] > 0].tolist())


def _is_endless(file: BinaryIO, place: int) -> bool:
    if place >= 2**63:
        return False  # HDF5 refuses it, as it does what follows here
    file.seek(place)
    head = file.read(HEAD)
    if len(head) < HEAD or head[:4] != b"GCOL":
        return False
    end, place = place + struct.unpack("<Q", head[8:])[0], place + HEAD
    while end - place >= HEAD:
        file.seek(place)
        head = file.read(HEAD)
        if len(head) < HEAD:
            return False
        number, _, size = struct.unpack("<HH4xQ", head)
        if number == 0:
            return size == 0
        place += HEAD + -(-size // 8) * 8
    return False
