"""TFRecord files: values equal those of protobuf, only what is asked for is read, and damage is always told."""

import io
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattok.data.formats import tfrecord
from lattok.data.formats.tfrecord import RecordFile
from lattok.utils.checks import LattokError
from tests.data.rlds_sample import episode, example, masked_crc, message, record, varint
from tests.errors import refused
from tests.real import BRIDGE, needs_real

SHARD = BRIDGE / "1.0.0" / "bridge_dataset-train.tfrecord-00000-of-00001"
VALUES = {"numbers": np.array([1.5, -2, 3e38], dtype="f4"), "counts": np.array([0, -1, 300, 2**63 - 1, -(2**63)])}
VALUES |= {"texts": [b"", b"a\0", b"\xff" * 200], "nothing": np.empty(0, dtype=int)}


def file_of(folder: Path, *records: bytes) -> RecordFile:
    path = folder / "file"
    path.write_bytes(b"".join(records))
    return RecordFile(path)


def reads(file: RecordFile, number: int = 0) -> dict:
    """Everything in a record."""
    with file.example(number) as found:
        readers = {"bytes": found.blobs, "float": found.floats, "int64": found.integers}
        return {name: readers[kind or "bytes"](name) for name, (kind, _) in found.places.items()}


def test_checksums_equal_a_bitwise_crc(rng):
    for size in (0, 1, 8, 1000):
        data = rng.bytes(size)
        assert struct.pack("<I", tfrecord.masked_crc(data)) == masked_crc(data)


def test_values_come_back(tmp_path):
    file = file_of(tmp_path, record(example(VALUES)), record(example({})))
    assert len(file) == 2
    assert file.damage is None
    got = reads(file)
    np.testing.assert_array_equal(got["numbers"], VALUES["numbers"])
    np.testing.assert_array_equal(got["counts"], VALUES["counts"])
    assert got["texts"] == VALUES["texts"]
    assert got["nothing"].shape == (0,)
    assert reads(file, 1) == {}
    with file.example(0) as found:
        assert [found.count(name) for name in VALUES] == [3, 5, 3, 0]
        assert found.blobs("texts", [2, 1]) == [b"\xff" * 200, b"a\0"]


def test_numbers_need_not_be_packed(tmp_path):
    floats = message(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", v) for v in (1, 2)) + message(1, b"\0" * 8))
    whole = message(3, b"".join(varint(1 << 3) + varint(v) for v in (7, -7)))
    entries = b"".join(message(1, message(1, n) + message(2, v)) for n, v in ((b"f", floats), (b"i", whole)))
    got = reads(file_of(tmp_path, record(message(1, entries))))
    assert got["f"].tolist() == [1, 2, 0, 0]
    assert got["i"].tolist() == [7, -7]


@needs_real
def test_the_real_sample_equals_protobuf():
    protobuf = pytest.importorskip("tfrecord")
    file = RecordFile(SHARD)
    raw = list(map(bytes, protobuf.tfrecord_iterator(str(SHARD))))
    assert len(file) == len(raw) == 25
    for number, data in enumerate(raw):
        expected, got = protobuf.example_pb2.Example.FromString(data).features.feature, reads(file, number)
        assert set(got) == set(expected)
        for name, value in expected.items():
            kind = value.WhichOneof("kind")
            np.testing.assert_array_equal(got[name], list(getattr(value, kind).value), err_msg=name)


@given(st.dictionaries(st.text(max_size=9), st.lists(st.integers(-(2**63), 2**63 - 1)) | st.lists(st.binary())))
def test_any_example_equals_protobuf(tmp_path_factory, values):
    protobuf = pytest.importorskip("tfrecord").example_pb2
    theirs, typed = protobuf.Example(), {}
    for name, items in values.items():
        kind = theirs.features.feature[name]
        whole = all(isinstance(item, int) for item in items)
        (kind.int64_list if whole else kind.bytes_list).value.extend(items)
        typed[name] = np.array(items, dtype=np.int64) if whole else items
    data = theirs.SerializeToString()
    got = reads(file_of(tmp_path_factory.getbasetemp(), record(data)))
    assert {name: list(items) for name, items in got.items()} == values
    ours = protobuf.Example.FromString(example(typed)).features.feature  # the writer of these tests is right, too
    assert {name: list(kind.int64_list.value or kind.bytes_list.value) for name, kind in ours.items()} == values


class CountingFile(io.FileIO):
    """Counts the bytes that are read."""

    read_bytes = 0

    def readinto(self, buffer) -> int:
        count = super().readinto(buffer)
        CountingFile.read_bytes += count
        return count

    def readall(self) -> bytes:
        raise AssertionError("a whole file is read")


def test_images_are_not_read_for_numbers(tmp_path, monkeypatch):
    image = b"x" * 80_000
    values = {f"image_{i}": [image] * 10 for i in range(3)} | {"action": np.zeros(70, dtype="f4")}
    path = tmp_path / "file"
    path.write_bytes(record(example(values)))

    def counting_open(path: Path, mode: str) -> io.BufferedReader:
        return io.BufferedReader(CountingFile(path, mode))

    monkeypatch.setattr(tfrecord, "open", counting_open, raising=False)
    CountingFile.read_bytes = 0
    file = RecordFile(path)
    with file.example(0, check=False) as found:
        assert found.count("action") == 70
    assert CountingFile.read_bytes < 100_000  # of 2.4 MB
    reads_all = file.sizes[0]
    for least, most in ((reads_all, reads_all + 100_000), (0, 50_000)):  # the checksum takes it all, once
        CountingFile.read_bytes = 0
        with file.example(0) as found:
            found.floats("action")
        assert least <= CountingFile.read_bytes <= most
    CountingFile.read_bytes = 0
    with file.example(0) as found:
        found.blobs("image_1", [4])
    assert len(image) <= CountingFile.read_bytes < len(image) + 300_000


def test_damage_is_told(tmp_path):
    one, two = record(example(VALUES)), record(example({"a": np.arange(9)}))
    for at, says in ((3, "checksum of its length"), (10, "checksum of its length"), (20, None), (len(two) - 1, None)):
        broken = bytearray(two)
        broken[at] ^= 4
        file = file_of(tmp_path, one, bytes(broken), one)
        reads(file, 0)
        if says:
            assert len(file) == 1
            assert says in str(file.damage)
        else:
            assert len(file) == 3
            reads(file, 2)
            refused(r"file: record 1: the checksum of its data is wrong\. Copy the file", reads, file, 1)


@pytest.mark.parametrize(("cut", "says"), [(1, "ends early"), (5, "ends early"), (-5, "in the middle of a header")])
def test_truncated_files(tmp_path, cut, says):
    one = record(example(VALUES))
    file = file_of(tmp_path, one, one[: len(one) - cut] if cut > 0 else one[:-cut])
    assert len(file) == 1
    assert says in str(file.damage)
    reads(file, 0)


def test_a_file_that_shrank_or_went(tmp_path):
    file = file_of(tmp_path, record(example(VALUES)))
    file.path.write_bytes(file.path.read_bytes()[:40])
    refused(r"the file is shorter than it was", reads, file)
    file.path.unlink()
    refused(r"cannot read .*file: No such file or directory", reads, file)
    refused(r"cannot read", RecordFile, tmp_path)


HOSTILE = {  # messages with right checksums
    "a length beyond the record": varint(1 << 3 | 2) + varint(2**40) + b"x",
    "a length beyond everything": message(1, varint(1 << 3 | 2) + varint(2**64 - 1)),
    "a number without an end": b"\xff" * 30,
    "nothing but continued bytes": message(1, b"\x80" * 5),
    "a group": varint(1 << 3 | 3),
    "another field": message(9, b""),
    "a number where a message is due": varint(1 << 3) + varint(4),
    "no name": message(1, message(1, message(2, feature := b""))),
    "a name of a megabyte": message(1, message(1, message(1, b"n" * 2**20))),
    "the same name twice": message(1, message(1, message(1, b"n")) * 2),
    "two lists": message(1, message(1, message(1, b"n") + message(2, message(1, b"") + message(2, b"")))),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_structure(tmp_path, what):
    refused(r"file: record 0: .* Copy the file again\.", lambda: reads(file_of(tmp_path, record(HOSTILE[what]))))


@pytest.mark.parametrize(
    "packed",
    [message(2, message(1, b"123")), message(3, message(1, b"\x80")), message(3, message(1, b"\x80" * 12 + b"\0"))],
)
def test_broken_numbers(tmp_path, packed):
    file = file_of(tmp_path, record(message(1, message(1, message(1, b"n") + message(2, packed)))))
    refused(r"record 0: `n` (holds a broken|ends in the middle of a) number", reads, file)


def test_a_wrong_kind_and_a_wrong_name(tmp_path):
    with file_of(tmp_path, record(example(VALUES))).example(0, "episode 7") as found:
        refused(r"record 0 \(episode 7\): `texts`: expected float values, got bytes", found.floats, "texts")
        refused("it has no `more`", found.count, "more")


def test_flipped_bits_of_an_example_are_refused_or_read_as_protobuf_reads_them(tmp_path, rng):
    protobuf = pytest.importorskip("tfrecord").example_pb2
    data, refused = example(VALUES), 0
    for _ in range(300):
        broken = bytearray(data)
        broken[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        file = file_of(tmp_path, record(bytes(broken)))  # the checksum is right: the structure alone must hold
        try:
            got = reads(file)
        except LattokError:
            refused += 1
            continue
        expected = protobuf.Example.FromString(bytes(broken)).features.feature
        assert set(got) == set(expected)
        for name, value in expected.items():
            kind = value.WhichOneof("kind")
            np.testing.assert_array_equal(got[name], list(getattr(value, kind).value) if kind else [])
    assert refused > 30


def test_threads_and_pickles(tmp_path):
    file = file_of(tmp_path, *(record(example(episode(i, 3))) for i in range(8)))
    expected = [reads(file, i)["steps/action"] for i in range(8)]
    copy = pickle.loads(pickle.dumps(file))
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: reads(copy, i % 8)["steps/action"], range(64)))
    for i, values in enumerate(got):
        np.testing.assert_array_equal(values, expected[i % 8])
