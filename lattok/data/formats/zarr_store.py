"""Demonstrations in zarr stores, such as Diffusion Policy's and UMI's replay buffers. Needs the extra zarr."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lattok.data.formats.array_listing import Store
from lattok.data.formats.array_reader import ArrayDataset
from lattok.utils.checks import LattokError, first_line
from lattok.utils.untrusted import JSON_BYTES, parse_json, walk
from lattok.version import install_extra

MARKS = (".zgroup", ".zarray", "zarr.json")
# what may unpack numbers: others, such as `pickle`, may run what is in the store
CODECS = frozenset(
    [
        "blosc",
        "bytes",
        "zlib",
        "gzip",
        "zstd",
        "lz4",
        "bz2",
        "lzma",
        "delta",
        "fixedscaleoffset",
        "quantize",
        "shuffle",
        "packbits",
        "astype",
        "bitround",
        "crc32",
        "crc32c",
        "adler32",
        "transpose",
        "sharding_indexed",
        "vlen-utf8",
        "vlen-bytes",
    ]
)
IMAGE_CODECS = "imagecodecs_"  # of UMI: need a package that registers them


def _zarr() -> Any:
    try:
        return import_module("zarr")  # which only this format needs
    except ImportError:
        raise LattokError(f"reading zarr stores needs zarr. Install it: {install_extra('zarr')}") from None


@contextmanager
def _reading(path: Path, where: str = "") -> Iterator[None]:
    """Whatever zarr raises over a damaged store becomes one line that names it, and the demonstration."""
    try:
        yield
    except LattokError:
        raise
    except Exception as error:  # codecs of many packages raise errors of many kinds
        text = first_line(error)
        way_out = "Copy the store again."
        if IMAGE_CODECS in text or "codec not available" in text.lower():
            way_out = "Install the package of that codec, or write the store again without it."
        raise LattokError(f"cannot read {path}{where} ({text}). {way_out}") from None


class ZarrArray:
    """An array of zarr: `shape`, `dtype`, `chunks`, and rows by a slice or ascending indices."""

    def __init__(self, array: Any, stored: int):
        self.shape, self.dtype, self.chunks, self.stored = array.shape, array.dtype, array.chunks, stored
        self._array = array

    def __getitem__(self, rows: Any) -> Any:
        return self._array.oindex[rows] if isinstance(rows, np.ndarray) else self._array[rows]


class ZarrStore(Store):
    """An open group of zarr, format 2 or 3. `nodes` has the metadata of its arrays and groups by path."""

    def __init__(self, path: Path, top: Any, nodes: Mapping[str, "Node"]):
        self.path, self._top, self._nodes = path, top, nodes

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".zip").removesuffix(".zarr")

    def members(self, group: str) -> list[str]:
        start = f"{group}/" if group else ""
        below = (path.removeprefix(start) for path in self._nodes if path.startswith(start) and path != group)
        return list(dict.fromkeys(path.split("/")[0] for path in below))

    def is_group(self, path: str) -> bool:
        if path in self._nodes:
            return not self._nodes[path].is_array
        return any(each.startswith(f"{path}/" if path else "") for each in self._nodes)

    def arrays(self, group: str) -> dict[str, Any]:
        start = f"{group}/" if group else ""
        paths = (path for path, node in self._nodes.items() if node.is_array and path.startswith(start))
        return {path.removeprefix(start): self.array(path) for path in paths}

    def array(self, path: str) -> Any:
        if path not in self._nodes or not self._nodes[path].is_array:
            raise LattokError(f"{self.path}: expected an array `{path}`, got none. Open the dataset again.")
        node = self._nodes[path]
        for name in sorted(_codecs(node.about) - CODECS):
            if not name.startswith(IMAGE_CODECS):
                raise LattokError(f"{self.path}, `{path}`: expected codecs that only unpack numbers, got {name!a:.60}.")
        return ZarrArray(self._top[path], node.stored)

    def attributes(self, path: str) -> Mapping[str, Any]:
        return self._nodes[path].attributes if path in self._nodes else {}

    def stored_bytes(self, array: Any, where: str) -> int:
        return array.stored

    @contextmanager
    def reading(self, where: str) -> Iterator[None]:
        with _reading(self.path, where):
            yield


class Node(NamedTuple):  # an array or a group
    about: Mapping[str, Any]
    attributes: Mapping[str, Any]
    stored: int  # bytes of its chunks

    @property
    def is_array(self) -> bool:
        return self.about.get("node_type", "array" if "shape" in self.about else "group") == "array"


class Files:
    """The files of a store, in a folder or a .zip file, by path."""

    def __init__(self, path: Path):
        self.path = path
        self._zip = zipfile.ZipFile(path) if path.is_file() else None
        if self._zip is not None:
            self.sizes = {each.filename: each.compress_size for each in self._zip.infolist() if not each.is_dir()}
        else:
            self.sizes = {each.as_posix(): (path / each).stat().st_size for each in walk(path, lambda each: False)}

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON object, {} where there is none."""
        if name not in self.sizes:
            return {}
        if self._zip is not None and self._zip.getinfo(name).file_size > JSON_BYTES:
            raise LattokError(f"{self.path}: expected at most {JSON_BYTES >> 20} MB as {name}. Is this the right file?")
        data = self._zip.read(name) if self._zip is not None else (self.path / name).read_bytes()
        value = parse_json(data, f"{self.path}: {name}", nan=True)
        return value if isinstance(value, dict) else {}

    def nodes(self) -> dict[str, Node]:
        """Return arrays and groups by path, "" the top."""
        found: dict[str, Node] = {}
        for name in self.sizes:
            folder, _, last = name.rpartition("/")
            if last in MARKS:
                about = self.json(name)
                beside = self.json(f"{folder}/.zattrs".lstrip("/"))
                attributes = about.get("attributes", beside)
                found[folder] = Node(about, attributes if isinstance(attributes, dict) else {}, 0)
        arrays = sorted((path for path, node in found.items() if node.is_array), key=len, reverse=True)
        stored = dict.fromkeys(arrays, 0)
        for name, size in self.sizes.items():
            parts = name.split("/")
            owner = next((path for n in range(len(parts) - 1, -1, -1) if (path := "/".join(parts[:n])) in stored), None)
            if owner is not None:
                stored[owner] += size
        return {path: node._replace(stored=stored.get(path, 0)) for path, node in sorted(found.items())}


def _codecs(about: Mapping[str, Any]) -> set[str]:
    """Return the names of all that acts on the bytes of an array, of either format, at any depth."""
    found: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, list):
            for each in value:
                look(each)
        elif isinstance(value, dict):
            name = value.get("id", value.get("name"))
            if isinstance(name, str):
                found.add(name)
            for key in ("codecs", "index_codecs", "configuration"):
                look(value.get(key))

    for key in ("filters", "codecs"):
        look(about.get(key))
    look([about.get("compressor")])
    return found


class ZarrDataset(ArrayDataset):
    """Zarr stores, folders `*.zarr` or files `*.zarr.zip`, or a folder of such stores.

    A store of Diffusion Policy's or UMI's kind has all episodes one after the other, and `meta/episode_ends` counts the
    steps so far at the end of each.
    """

    kind = "zarr"
    text = "zarr (.zarr folders or .zarr.zip files, such as Diffusion Policy's and UMI's)"
    suffixes = (".zip",)

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if cls.is_file(folder) or cls.files_in(folder) else ()

    @classmethod
    def files_in(cls, folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and cls.is_file(path))

    @classmethod
    def is_file(cls, path: Path) -> bool:
        return path.name.endswith(".zarr.zip") or any((path / mark).is_file() for mark in MARKS)

    @classmethod
    def require(cls) -> None:
        _zarr()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, where: str = "") -> Iterator[Store]:
        zarr = _zarr()
        if not path.exists():
            raise LattokError(f"missing store {path}. Download or copy it again.")
        with _reading(path, where):
            nodes = Files(path).nodes()
            archive = zarr.storage.ZipStore(str(path), mode="r") if path.is_file() else None
            # metadata of another time hide rows that were appended since
            options = {"use_consolidated": False} if int(zarr.__version__.split(".")[0]) >= 3 else {}
            try:
                yield ZarrStore(path, zarr.open_group(archive or str(path), mode="r", **options), nodes)
            finally:
                if archive is not None:
                    archive.close()
