"""Ways in which somebody might make a dataset to harm who opens it, drawn with a seed. See `attack_one`.

`outside` is a folder beside the dataset with files that are worth reading or overwriting.
"""

import json
import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.damage import edit_json

MARKER = "a secret that nobody publishes"
CAMERA = "observation.images.front"
DEEP = 100_000
Attack = Callable[[Path, random.Random, Path], str]


def paths(outside: Path) -> list[str]:
    """Names that lead out of the dataset, or nowhere."""
    up = f"../{outside.name}"
    out = [f"{up}/victim.parquet", f"data/../{up}/victim.parquet", str(outside / "victim.parquet"), f"{up}/secret.json"]
    devices = "/dev/zero /dev/stdin /proc/self/mem .. . / ~/x C:\\x //host/x data meta/info.json file:///etc/passwd"
    odd = ["", "a\0b", "half \ud800", "x" * 5000, "d/" * 1500 + "x"]
    return [*out, f"data\\..\\{up}\\victim.parquet", *devices.split(), *odd]


FORMATS = ["{chunk_index:09000000000d}", "{video_key:9999999999}", "{chunk_index:{file_index}d}", "{file_index!r}"]
NAMED = ["{chunk_index.__class__}", "{0}", "{", "}", "{other}", "{{}}"]
TEMPLATES = (*FORMATS, *NAMED, "data/{chunk_index}.parquet", "data/x.parquet", "{chunk_index}" * 1000)
WHOLE, REAL = (-1, 0, 2**31, 2**33, 2**62, 2**63, 2**64, 10**30), (1e308, 1e-308, -0.5, float("nan"))
NUMBERS = (*WHOLE, *REAL, "9" * 5000, "999999999999")
ODD = (None, True, "", [], {}, [[]], [[1]], {"a": {"b": []}}, ["a", None], "\ud800", "a\0b", "\u202e\x1b[31m<script>")


def value(rng: random.Random, outside: Path) -> Any:
    """Something that a JSON file should not hold."""
    deep: list[Any] = []
    for _ in range(rng.choice((200, 900))):
        deep = [deep]
    large = [deep, "x" * 2**20, list(range(10_000)), {str(i): i for i in range(5_000)}]
    return rng.choice(rng.choice((paths(outside), TEMPLATES, NUMBERS, ODD, large)))


def attack_one(root: Path, rng: random.Random, outside: Path) -> str:
    """Attack a dataset once or twice. Returns what was done."""
    own = [attack for ending, attack in OWN if any(root.rglob(ending))]
    done: list[str] = []
    wanted = 1 + (rng.random() < 0.15)
    while len(done) < wanted:
        attack = rng.choice([*ANY, *own * 2])
        try:
            done.append(attack(root, rng, outside))
        except (OSError, ValueError, LookupError, TypeError, StopIteration, RecursionError, pa.ArrowException) as error:
            done.append(f"half of {attack.__name__} ({type(error).__name__})")  # the first one left nothing to change
        if attack in (pipe, sparse, link_more):  # which the next one would run into
            break
    return ", ".join(done)


def _pick(root: Path, rng: random.Random, pattern: str = "*") -> Path:
    return rng.choice(sorted(path for path in root.rglob(pattern) if path.is_file() and not path.is_symlink()))


def link_file(root: Path, rng: random.Random, outside: Path) -> str:
    """A file, or a folder, lies elsewhere, and a link leads to it."""
    path = _pick(root, rng)
    if rng.random() < 0.4 and path.parent != root:
        path = path.parent
    target = outside / f"moved-{rng.randrange(10**6)}-{path.name}"
    shutil.move(path, target)
    path.symlink_to(target if rng.random() < 0.5 else os.path.relpath(target, path.parent))
    return f"{path.relative_to(root)} is a link out"


def link_more(root: Path, rng: random.Random, outside: Path) -> str:
    """Links that a copy would follow."""
    folder = _pick(root, rng).parent
    targets = [".", "..", "loop", "/", "/dev/zero", "/proc/self/fd/0", "nowhere"]
    targets += [str(outside), str(outside / "secret.json")]
    chosen = rng.sample(targets, rng.choice((1, 1, 2, 4)))
    for number, target in enumerate(chosen):
        name = "loop" if target == "loop" else f"extra{number}{rng.choice(('', '.json', '.mp4', '.parquet'))}"
        (folder / name).symlink_to(target)
    return f"links to {chosen} in {folder.name}"


def pipe(root: Path, rng: random.Random, outside: Path) -> str:
    path = _pick(root, rng)
    path.unlink()
    os.mkfifo(path)
    return f"{path.relative_to(root)} is a pipe"


def sparse(root: Path, rng: random.Random, outside: Path) -> str:
    """A file of a gigabyte that takes no room."""
    path = _pick(root, rng)
    path = path if rng.random() < 0.5 else path.with_name("extra" + path.suffix)
    with path.open("ab") as file:
        file.truncate(2**30)
    return f"{path.relative_to(root)} of 1 GB"


def odd_name(root: Path, rng: random.Random, outside: Path) -> str:
    path = _pick(root, rng)
    odd = [b"\xff\xfe", b"new\nline", b"<script>", b"-rf", b"\xe2\x80\xae", b"x" * 240, b"..  "]
    name = rng.choice(odd) + path.suffix.encode()
    shutil.copyfile(path, os.path.join(os.fsencode(path.parent), name))
    return f"{name!r:.40} beside {path.name}"


def json_text(root: Path, rng: random.Random, outside: Path) -> str:
    """The text of a JSON file as a whole."""
    path = _pick(root, rng, "*.json")
    text = path.read_text()
    key = json.dumps(rng.choice(list(json.loads(text)) or ["a"]))
    kinds = {
        "deep lists": "[" * DEEP + "]" * DEEP,
        "deep objects": '{"a":' * DEEP + "1" + "}" * DEEP,
        "never closed": "[" * DEEP,
        "a deep value": "{" + f"{key}: " + "[" * DEEP + "]" * DEEP + "," + text[1:],
        "a key twice": "{" + f"{key}: 1," + text[1:],
        "a huge number": "{" + f"{key}: " + "9" * 100_000 + "," + text[1:],
        "no object": "[1, 2]",
        "UTF-16": text.encode("utf-16").decode("latin-1"),
    }
    kind = rng.choice(list(kinds))
    path.write_text(kinds[kind])
    return f"{path.name}: {kind}"


def json_value(root: Path, rng: random.Random, outside: Path) -> str:
    """One value, or one name, somewhere in a JSON file."""
    path = _pick(root, rng, "*.json")
    return f"{path.name}: {edit_json(path, rng, lambda: value(rng, outside), [*paths(outside), 'a' * 10_000])}"


@contextmanager
def edited(path: Path) -> Iterator[dict[str, Any]]:
    """The object in a JSON file, which is written again with what was changed in it."""
    found = json.loads(path.read_text())
    yield found
    path.write_text(json.dumps(found))


def lerobot_path(root: Path, rng: random.Random, outside: Path) -> str:
    """The data or the videos lie elsewhere, and info.json says so."""
    with edited(root / "meta" / "info.json") as info:
        field = rng.choice(["data_path", "video_path"])
        target = outside / "all"
        folder = root / {"data_path": "data", "video_path": "videos"}[field]
        if folder.exists():
            shutil.move(folder, target)
        own = (info[field] or "data/x.parquet").split("/", 1)[1]
        info[field] = rng.choice([f"../{outside.name}/all/{own}", f"{target}/{own}", *paths(outside), *TEMPLATES])
    return f"{field} = {info[field]!r:.60}"


SHAPES = ([2**40], [2**20, 2**20], [2**30, 2**30, 2**30], [2**31 - 1], [0], [-1], [1], [1] * 70, [], "3", [3.0], None)
DTYPES = ("language", "object", "U999999999", "V99999999999", "f4,f4", "<f4", "float128", "O", "video", "", 3)
NAMES = (["\ud800"] * 3, ["a" * 10**6] * 3, {"motors": 3}, [[]] * 3, ["x", "x", "x"], {"a": {"b": "c"}})
CLAIMS: dict[str, tuple[Any, ...]] = {"shape": SHAPES, "dtype": (*DTYPES, "datetime64[ns]"), "names": NAMES}


def lerobot_feature(root: Path, rng: random.Random, outside: Path) -> str:
    with edited(root / "meta" / "info.json") as info:
        key, kind = rng.choice(list(info["features"])), rng.choice(list(CLAIMS))
        info["features"][key][kind] = rng.choice(CLAIMS[kind])
    return f"{key}: {kind} = {info['features'][key][kind]!r:.60}"


def numbers(root: Path, rng: random.Random, outside: Path) -> str:
    """Numbers in meta/episodes or in data that are too large."""
    path = _pick(root, rng, "*.parquet")
    table = pq.read_table(path)
    columns = [name for name in table.column_names if _is_number(table[name].type)]
    if not columns or not table.num_rows:
        return "nothing to change"
    for name in rng.sample(columns, min(len(columns), rng.choice((1, 1, 2)))):
        kind, wild = table[name].type, (1e9, 1e300, -1.0, float("nan"))
        if pa.types.is_integer(kind):
            kind, wild = pa.int64(), (2**31, 2**33, 2**62, -1, 0, 10**12, -(2**62))
        chosen = rng.choice(wild)
        values = [chosen if rng.random() < 0.5 else old for old in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), name, pa.array(values, kind))
    pq.write_table(table, path)
    if rng.random() < 0.5 and (root / "meta" / "info.json").is_file():
        with edited(root / "meta" / "info.json") as info:
            info.pop("total_frames", None)
    return f"{path.parent.parent.name}/{path.name}: wild numbers in {name}"


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with whatever its header claims."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0")
    side = min(width, 32)
    pixels = (b"IDAT", zlib.compress((b"\0" + b"\x80" * 3 * side) * side))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in (head, *chunks, pixels, (b"IEND", b"")))


def rlds_claim(root: Path, rng: random.Random, outside: Path) -> str:
    with edited(next(root.rglob("dataset_info.json"))) as info:
        split = rng.choice(info["splits"])
        kind = rng.choice(["lengths", "many", "template", "name"])
        if kind == "lengths":
            lengths = ["999999999999", "1000000", "50000", "-1", "1e9", 10**11]
            split["shardLengths"] = [rng.choice(lengths) for _ in split["shardLengths"]]
        elif kind == "many":
            split["shardLengths"] = [rng.choice(["0", "1"])] * rng.choice([10**5, 10**6])
        elif kind == "template":
            odd = ["{DATASET:0999999999d}", "{SHARD_X_OF_Y.x}", "{SHARD_INDEX}"]
            split["filepathTemplate"] = rng.choice([*paths(outside), *TEMPLATES, *odd])
        else:
            info["name"] = rng.choice(paths(outside))
    return f"RLDS {kind} {str(split.get('shardLengths'))[:30]} {split.get('filepathTemplate')!r:.40}"


def rlds_shape(root: Path, rng: random.Random, outside: Path) -> str:
    file = next(root.rglob("features.json"))
    text = file.read_text()
    places = [i for i in range(len(text)) if text.startswith('"dimensions": [', i)]
    if not places:
        return "nothing to change"
    start = rng.choice(places) + len('"dimensions": [')
    sizes = rng.choice(
        ['"999999999", "999999999", "3"', '"1", ' * 70 + '"1"', '"100000", "100000", "3"', '"-1", "-1", "3"', '"0"']
    )
    file.write_text(text[:start] + sizes + text[text.index("]", start) :])
    return f"RLDS shape {sizes[:40]}"


def hdf5_item(root: Path, rng: random.Random, outside: Path) -> str:
    """Links, virtual data, and claims in an HDF5 file."""
    import h5py

    path = rng.choice(sorted([*root.rglob("*.hdf5")]))
    other = outside / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.full((5, 7), 7.0)
        file["demo/actions"], file["demo/obs/x"] = np.zeros((5, 7)), np.zeros((5, 2))
        file.attrs["marker"] = MARKER
    with h5py.File(path, "a") as file:
        demo = file["data"][rng.choice(sorted(file["data"]))]
        length = len(demo["actions"])
        name = rng.choice(["actions", "rewards", "obs/ee_pos", "obs/agentview_rgb", "obs/new"])
        shape = demo[name].shape[1:] if name in demo else (3,)
        kinds = ["external", "virtual", "raw", "rows", "chunk", "soft", "object"]  # in place of what is there
        kind = rng.choice([*kinds, "external demo", "cycle", "name", "attribute"])
        if name in demo and kind in kinds:
            del demo[name]
        if kind == "external":
            targets = [str(other), f"../{outside.name}/other.h5", "/dev/zero", str(outside / "pipe")]
            demo[name] = h5py.ExternalLink(rng.choice(targets), "/x")
        elif kind == "external demo":
            file["data/demo_9"] = h5py.ExternalLink(str(other), "/demo")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((length, *shape), "f8")
            layout[:] = h5py.VirtualSource(str(other), "x", (length, *shape))
            demo.create_virtual_dataset(name, layout)
        elif kind == "raw":
            target = rng.choice([str(outside / "secret.json"), "/dev/zero"])
            demo.create_dataset(name, (length, *shape), "u1", external=[(target, 0, h5py.h5f.UNLIMITED)])
        elif kind == "rows":
            demo.create_dataset(name, (rng.choice([2**34, 2**62, 2**24]), *shape), "f8", chunks=(1024, *shape))
        elif kind == "chunk":
            chunks = (2**22, *(1 for _ in shape))
            demo.create_dataset(name, (length, *shape), "f4", chunks=chunks, maxshape=(None, *shape))
        elif kind == "cycle":
            demo["obs/loop"], demo["loop"] = demo, file["data"]
        elif kind == "soft":
            demo[name] = h5py.SoftLink(rng.choice(["/nowhere", demo.name, f"{demo.name}/{name}", "/data/../../x"]))
        elif kind == "object":
            demo[name] = np.array([b"text"] * length)
        elif kind == "name":
            new = rng.choice(["..", "a" * 2000, "\x1b[31m", "new\nline", "observation.state", "C:x"])
            demo.create_dataset(f"obs/{new}", data=np.zeros((length, 8, 8, 3), np.uint8))
        else:
            where = rng.choice([file["data"], demo])
            attribute = rng.choice(["env_args", "problem_info", "ep_meta", "num_samples", "macros_image_convention"])
            odd = ["[" * 60_000, "\0", np.zeros((3, 3)), "x" * 60_000, 2**62, "{}", '{"lang": [1]}']
            where.attrs[attribute] = rng.choice(odd)
    return f"HDF5 {kind} {name}"


ANY: list[Attack] = [link_file, link_more, pipe, sparse, odd_name]
OWN: list[tuple[str, Attack]] = [
    ("*.json", json_text),
    ("*.json", json_value),
    ("*.json", json_value),
    ("meta/info.json", lerobot_path),
    ("meta/info.json", lerobot_path),
    ("meta/info.json", lerobot_feature),
    ("*.parquet", numbers),
    ("dataset_info.json", rlds_claim),
    ("features.json", rlds_shape),
    ("*.hdf5", hdf5_item),
    ("*.hdf5", hdf5_item),
]
