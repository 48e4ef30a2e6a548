"""TFRecord files and the `tf.train.Example`s in them, without TensorFlow: what is asked for is read, all is checked.

A record is the size of its data (uint64), a checksum of those 8 bytes, the data, and a checksum of the data; checksums
are masked CRC-32C, everything is little-endian. The data is a protobuf message, walked here by the lengths in it.
"""

import os
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import google_crc32c
import numpy as np

from lattok.utils.checks import LattokError

HEAD, TAIL = 12, 4  # bytes around the data
BLOCK = 2**20  # bytes per step of a checksum
NAME_BYTES = 2**12  # the longest name of a feature
VARINT, SIZED, FOUR = 0, 2, 5  # wire types: how the end of a value is told
Span = tuple[int, int]  # bytes [start, stop) of the file
Place = tuple[str, Span]  # of the list of a feature: what it holds, bytes, float, int64 or "" for nothing, and where
KINDS = {1: "bytes", 2: "float", 3: "int64"}  # field of tf.train.Feature to what its list holds
BITS = np.arange(10, dtype=np.uint64) * np.uint64(7)  # of the bytes of a varint


def masked_crc(data: bytes) -> int:
    """Return the checksum of `data` as TFRecord files store it."""
    return _mask(google_crc32c.value(data))


def _mask(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(data: bytes) -> tuple[bytes, ...]:
    """Return a record around `data`, in pieces."""
    size = struct.pack("<Q", len(data))
    return size, struct.pack("<I", masked_crc(size)), data, struct.pack("<I", masked_crc(data))


def encode_example(features: Mapping[str, Sequence[bytes] | np.ndarray]) -> bytes:
    """Write a `tf.train.Example`: byte strings, floats as float32, and whole numbers as int64."""
    entries = (_message(1, _message(1, name.encode()) + _message(2, _list(each))) for name, each in features.items())
    return _message(1, b"".join(entries))


def _list(values: Sequence[bytes] | np.ndarray) -> bytes:
    if not isinstance(values, np.ndarray):
        return _message(1, b"".join(_message(1, each) for each in values))
    flat = values.reshape(-1)
    if flat.dtype.kind == "f":
        return _message(2, _message(1, flat.astype("<f4").tobytes()))
    return _message(3, _message(1, _varints(flat)))


def _message(field: int, content: bytes) -> bytes:
    return _varints(np.array([field << 3 | SIZED, len(content)])) + content


def _varints(values: np.ndarray) -> bytes:
    left = values.astype(np.uint64 if values.dtype.kind == "u" else np.int64).view(np.uint64)[:, None] >> BITS
    used = left > 0
    used[:, 0] = True
    more = np.pad(used[:, 1:], ((0, 0), (0, 1)))
    return ((left & np.uint64(127)) | (more * np.uint64(128))).astype(np.uint8)[used].tobytes()


class RecordFile:
    """Where the records of a file are, and the examples in them. Threads may share it; it holds no open file. `starts`
    and `sizes` [n] are those of the records' data up to the first broken header; `damage` says what is wrong there."""

    def __init__(self, path: Path):
        self.path = path
        places, self.damage = _index(path)
        self.starts, self.sizes = np.array(places, dtype=np.int64).reshape(-1, 2).T
        self._sound: set[int] = set()  # records whose checksum was right

    def __len__(self) -> int:
        return len(self.starts)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sound": set()}  # the file may be another one where this is unpickled

    @contextmanager
    def example(self, number: int, label: str = "", check: bool = True) -> "Iterator[Example]":
        """Record `number` as an example; `label` stands in errors. The first time its checksum is checked. With `check`
        off what is read is a claim: fit for listing, not for values."""
        start, size = int(self.starts[number]), int(self.sizes[number])
        where = f"{self.path}: record {number}" + (f" ({label})" if label else "")
        with _opened(self.path) as file:
            if check and number not in self._sound:
                _check_data(file, start, size, where)
                self._sound.add(number)
            yield Example(file, start, start + size, where)


class Example:
    """A `tf.train.Example` in an open file. Values are read when they are asked for; see `RecordFile.example`."""

    def __init__(self, file: BinaryIO, start: int, stop: int, where: str):
        self._file, self._where = file, where
        self._known: dict[str, list[Span]] = {}
        self.places = self._walk(start, stop)  # feature name -> place

    def fail(self, reason: str) -> NoReturn:
        """Raise `LattokError` that names file and record."""
        raise LattokError(f"{self._where}: {reason}. Copy the file again.")

    def count(self, name: str) -> int:
        """Number of values of a feature; images and floats are not read for it."""
        kind, _ = self._place(name)
        if kind == "int64":
            return int(np.count_nonzero(self._packed(name, VARINT) < 128))
        spans = self._spans(name, SIZED if kind == "bytes" else FOUR)
        return len(spans) if kind == "bytes" else sum(stop - start for start, stop in spans) // 4

    def floats(self, name: str) -> np.ndarray:
        """Read the values of a feature, float32 [n]."""
        self._place(name, "float")
        packed = self._packed(name, FOUR)
        if len(packed) % 4:
            self.fail(f"`{name}` ends in the middle of a number")
        return packed.view("<f4")

    def integers(self, name: str) -> np.ndarray:
        """Read the values of a feature, int64 [n]."""
        self._place(name, "int64")
        packed = self._packed(name, VARINT)
        stops = np.flatnonzero(packed < 128) + 1
        sizes = np.diff(stops, prepend=0)
        if len(packed) != sizes.sum() or sizes.max(initial=0) > len(BITS):
            self.fail(f"`{name}` holds a broken number")
        starts = stops - sizes
        digit = np.arange(len(packed)) - np.repeat(starts, sizes)  # place of a byte in its number
        parts = (packed & 127).astype(np.uint64) << BITS[digit]
        return np.bitwise_or.reduceat(parts, starts).view(np.int64)

    def blobs(self, name: str, indices: Sequence[int] | None = None) -> list[bytes]:
        """Read byte strings of a feature: all, or those at `indices`."""
        self._place(name, "bytes")
        spans = self._spans(name, SIZED)
        return [self._read(*spans[i]) for i in (range(len(spans)) if indices is None else indices)]

    def _walk(self, start: int, stop: int) -> dict[str, Place]:
        """Walk through Example {1: Features {1: entry {1: name, 2: Feature {KINDS: list}}, ...}}."""
        places: dict[str, Place] = {}
        for _, features in self._parts((start, stop), (1,)):
            for _, entry in self._parts(features, (1,)):
                pieces = self._parts(entry, (1, 2))
                parts = dict(pieces)
                if len(parts) < len(pieces) or 1 not in parts:
                    self.fail(f"byte {entry[0]}: a feature has no name, or two")
                name = self._name(*parts[1])
                lists = self._parts(parts.get(2, (0, 0)), KINDS)
                if name in places or len(lists) > 1:
                    self.fail(f"`{name}` is there twice")
                places[name] = (KINDS[lists[0][0]], lists[0][1]) if lists else ("", (0, 0))
        return places

    def _name(self, start: int, stop: int) -> str:
        if stop - start > NAME_BYTES:
            self.fail(f"byte {start}: the name of a feature has {stop - start} bytes")
        try:
            return self._read(start, stop).decode()
        except UnicodeDecodeError:
            self.fail(f"byte {start}: the name of a feature is no UTF-8")

    def _parts(
        self, span: Span, known: Collection[int], wires: Collection[int] = (SIZED,), whole: str = "a tf.train.Example"
    ) -> list[tuple[int, Span]]:
        """List the fields of a message, with where their values lie; other fields or wire types are damage."""
        found, (start, stop) = list[tuple[int, Span]](), span
        while start < stop:
            head = self._read(start, min(start + 20, stop))
            tag, used = self._varint(head, 0, start)
            field, wire = tag >> 3, tag & 7
            if field not in known or wire not in wires:
                self.fail(f"byte {start}: field {field} of type {wire} is no part of {whole}")
            size = 4  # of a number of fixed size
            if wire == SIZED:
                size, used = self._varint(head, used, start)
            elif wire == VARINT:
                size = self._varint(head, used, start)[1] - used
            value = start + used
            if size > stop - value:
                self.fail(f"byte {start}: expected a field of {size} bytes, got {stop - value}")
            start = value + size
            found.append((field, (value, start)))
        return found

    def _spans(self, name: str, single: int) -> list[Span]:
        """Tell where the values of a list lie: packed, or one by one with wire type `single`."""
        _, place = self._place(name)
        if name not in self._known:
            self._known[name] = [span for _, span in self._parts(place, (1,), (SIZED, single), f"`{name}`")]
        return self._known[name]

    def _packed(self, name: str, single: int) -> np.ndarray:
        """Read the bytes of the numbers of a list, uint8 [n]."""
        return np.frombuffer(b"".join(self._read(*span) for span in self._spans(name, single)), dtype=np.uint8)

    def _varint(self, data: bytes, at: int, start: int) -> tuple[int, int]:
        """Return the number at `data[at:]` and where it ends; `start` of the data is for errors."""
        value = 0
        for i in range(at, min(at + len(BITS), len(data))):
            value |= (data[i] & 127) << 7 * (i - at)
            if data[i] < 128:
                return value, i + 1
        return self.fail(f"byte {start}: a number has no end")

    def _place(self, name: str, kind: str = "") -> Place:
        if name not in self.places:
            self.fail(f"it has no `{name}`")
        got, _ = self.places[name]
        if kind and got not in (kind, ""):
            self.fail(f"`{name}`: expected {kind} values, got {got}")
        return self.places[name]

    def _read(self, start: int, stop: int) -> bytes:
        self._file.seek(start)
        if len(data := self._file.read(stop - start)) != stop - start:
            self.fail("the file is shorter than it was")
        return data


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise LattokError(f"cannot read {path}: {error.strerror}. Copy the file again.") from None


def _index(path: Path) -> tuple[list[tuple[int, int]], str | None]:
    """Find start and size of the data of all records, going from header to header; what is wrong with the last one."""
    places, position = list[tuple[int, int]](), 0
    with _opened(path) as file:
        total = os.fstat(file.fileno()).st_size
        while position < total:
            file.seek(position)
            if len(head := file.read(HEAD)) < HEAD:
                return places, "the file ends in the middle of a header"
            size, crc = struct.unpack("<QI", head)
            if masked_crc(head[:8]) != crc:
                return places, "the checksum of its length is wrong"
            if size > total - position - HEAD - TAIL:
                return places, f"the file ends early, {size} bytes should follow"
            places.append((position + HEAD, size))
            position += HEAD + size + TAIL
    return places, None


def _check_data(file: BinaryIO, start: int, size: int, where: str) -> None:
    crc, left = 0, size
    file.seek(start)
    while left:
        if not (block := file.read(min(left, BLOCK))):
            raise LattokError(f"{where}: the file is shorter than it was. Copy the file again.")
        crc = google_crc32c.extend(crc, block)
        left -= len(block)
    if file.read(TAIL) != struct.pack("<I", _mask(crc)):
        raise LattokError(f"{where}: the checksum of its data is wrong. Copy the file again.")
