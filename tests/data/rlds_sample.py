"""RLDS datasets for tests, written byte by byte by code that shares nothing with lattok: TFRecord framing with its own
CRC-32C, `tf.train.Example` messages, and the two JSON files as TFDS 4.9 writes them."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from lattok.data import open_dataset
from lattok.data.formats.rlds import RLDS
from tests.data.memory import encode_image

NAME = "toy_arm"
CLASSES = "tensorflow_datasets.core.features."
TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def masked_crc(data: bytes) -> bytes:
    """CRC-32C (Castagnoli) bit by bit, rotated and shifted as TFRecord wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) % 2**32)


def record(data: bytes) -> bytes:
    """`data` framed as a record."""
    size = struct.pack("<Q", len(data))
    return size + masked_crc(size) + data + masked_crc(data)


def varint(value: int) -> bytes:
    value %= 2**64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(field: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def feature(values: Any) -> bytes:
    """A `tf.train.Feature`: bytes, float or int64 list by the kind of the values."""
    if isinstance(values, list):
        return message(1, b"".join(message(1, item) for item in values))
    flat = np.asarray(values).reshape(-1)
    if flat.dtype.kind == "f":
        return message(2, message(1, flat.astype("<f4").tobytes()))
    return message(3, message(1, b"".join(varint(int(value)) for value in flat)))


def example(features: Mapping[str, Any]) -> bytes:
    """A `tf.train.Example` of lists of bytes and of numeric arrays."""
    entries = (message(1, message(1, name.encode()) + message(2, feature(v))) for name, v in features.items())
    return message(1, b"".join(entries))


def node(kind: str, **content: Any) -> dict[str, Any]:
    return {"pythonClassName": CLASSES + kind, **content}


def shape(*sizes: int) -> dict[str, Any]:
    return {"dimensions": [str(size) for size in sizes]} if sizes else {}


def tensor(dtype: str, *sizes: int, encoding: str = "none") -> dict[str, Any]:
    kind = "tensor_feature.Tensor" if sizes else "scalar.Scalar"
    return node(kind, tensor={"shape": shape(*sizes), "dtype": dtype, "encoding": encoding})


def image(*sizes: int, dtype: str = "uint8", encoding: str = "jpeg") -> dict[str, Any]:
    return node("image_feature.Image", image={"shape": shape(*sizes), "dtype": dtype, "encodingFormat": encoding})


def text() -> dict[str, Any]:
    return node("text_feature.Text", text={})


def features_dict(features: Mapping[str, Any]) -> dict[str, Any]:
    return node("features_dict.FeaturesDict", featuresDict={"features": dict(features)})


def sequence(inner: Mapping[str, Any], kind: str = "dataset_feature.Dataset") -> dict[str, Any]:
    return node(kind, sequence={"feature": dict(inner)})


STEPS = {
    "action": tensor("float32", 3),
    "is_first": tensor("bool"),
    "is_last": tensor("bool"),
    "reward": tensor("float32"),
    "language_instruction": text(),
    "tags": sequence(tensor("int64"), "sequence_feature.Sequence"),
    "observation": features_dict(
        {
            "image": image(24, 32, 3),
            "wrist": image(-1, -1, 3, encoding="png"),
            "depth": image(24, 32, 1, dtype="uint16", encoding="png"),
            "state": tensor("float64", 2),
            "joints": features_dict({"left": tensor("int32", 2, 2)}),
            "packed": tensor("float32", 4, encoding="jpeg"),
        }
    ),
}
METADATA = {"file_path": text(), "episode_id": tensor("int32")}


def episode(index: int, length: int) -> dict[str, Any]:
    """What the record of an episode holds, by the names in the file."""
    rng = np.random.default_rng(index)
    step = np.arange(length)
    instruction = [b"lift the cup", "öffne die Tür".encode()][index % 2]
    return {
        "steps/action": rng.standard_normal((length, 3)).astype("f4"),
        "steps/is_first": (step == 0).astype(int),
        "steps/is_last": (step == length - 1).astype(int),
        "steps/reward": rng.standard_normal(length).astype("f4"),
        "steps/language_instruction": [instruction] * length,
        "steps/tags/ragged_flat_values": np.arange(2 * length),
        "steps/tags/ragged_row_lengths_0": np.full(length, 2),
        "steps/observation/image": [encode_image(rng.integers(0, 255, (24, 32, 3), "u1"), "JPEG") for _ in step],
        "steps/observation/wrist": [encode_image(rng.integers(0, 255, (8, 10, 3), "u1"), "PNG") for _ in step],
        "steps/observation/depth": [encode_image(rng.integers(0, 9999, (24, 32), "u2"), "PNG") for _ in step],
        "steps/observation/state": rng.standard_normal((length, 2)).astype("f4"),
        "steps/observation/joints/left": rng.integers(-(2**31), 2**31, (length, 2, 2)),
        "steps/observation/packed": [b"zlib"] * length,
        "episode_metadata/file_path": [b"/data/%d.npy" % index],
        "episode_metadata/episode_id": np.array([index]),
    }


def describe(root: Path, shards: Sequence[int], steps: Mapping[str, Any] = STEPS, **changes: Any) -> None:
    """Write dataset_info.json and features.json; `changes` replace entries of the former."""
    split = {"name": "train", "numBytes": "1", "shardLengths": [str(count) for count in shards]}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": NAME, "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]} | changes
    top = features_dict({"steps": sequence(features_dict(steps)), "episode_metadata": features_dict(METADATA)})
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_info.json").write_text(json.dumps(info))
    (root / "features.json").write_text(json.dumps(top))


def shard_path(root: Path, number: int, count: int) -> Path:
    return root / f"{NAME}-train.tfrecord-{number:05d}-of-{count:05d}"


def write_rlds(root: Path, lengths: Sequence[int] = (4, 6, 5), shards: Sequence[int] | None = None) -> Path:
    """A dataset of `episode(i, lengths[i])`; `shards` are the numbers of episodes in its files."""
    shards = shards or [len(lengths)]
    describe(root, shards)
    first = 0
    for number, count in enumerate(shards):
        records = [record(example(episode(i, lengths[i]))) for i in range(first, first + count)]
        shard_path(root, number, len(shards)).write_bytes(b"".join(records))
        first += count
    return root


def open_rlds(root: Path, **options: Any) -> RLDS:
    """The dataset at 5 fps."""
    return cast(RLDS, open_dataset(root, **{"fps": 5, **options}))
