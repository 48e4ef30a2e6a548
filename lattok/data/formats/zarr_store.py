"""Demonstrations in zarr stores, such as Diffusion Policy's and UMI's replay buffers. Needs the extra zarr."""

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lattok.data.formats.array_reader import ArrayDataset
from lattok.data.formats.array_store import FlatStore, Store
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.untrusted import FETCH, JSON_BYTES, copy_again, parse_json, safe_path, walk
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
SMALLEST = 200  # bytes: a pointer of Git LFS has less
IMAGE_CODECS = "imagecodecs_"  # of UMI, in a package of that name


def _zarr() -> Any:
    try:
        return import_module("zarr")  # which only this format needs
    except ImportError:
        raise LattokError(f"reading zarr stores needs zarr. Install it: {install_extra('zarr')}") from None


def _register_image_codecs(where: str, name: str) -> None:
    """Make the codecs of imagecodecs known to zarr, which that package does only when asked to."""
    try:
        import_module("imagecodecs.numcodecs").register_codecs(verbose=False)
    except ImportError:
        way_out = "Install what unpacks it: pip install imagecodecs"
        raise LattokError(f"{where}: pictures are packed by {name.removeprefix(IMAGE_CODECS)}. {way_out}") from None


class ZarrArray:
    """An array of zarr: `shape`, `dtype`, `chunks`, and rows by a slice or ascending indices."""

    def __init__(self, path: str, array: Any):
        self.path, self._array = path, array
        self.shape, self.dtype, self.chunks = array.shape, array.dtype, array.chunks

    def __getitem__(self, rows: Any) -> Any:
        chosen = rows if isinstance(rows, tuple) else (rows,)
        return (self._array.oindex if any(isinstance(each, np.ndarray) for each in chosen) else self._array)[rows]


class ZarrStore(FlatStore):
    """An open group of zarr, format 2 or 3, in a folder or a .zip file; codecs of many packages raise many errors."""

    def __init__(self, path: Path, top: Any, archive: zipfile.ZipFile | None, start: str = ""):
        """`start` is the folder in the archive that the store is in."""
        self.path, self._top, self._zip, self._start = path, top, archive, start

    @classmethod
    def way_out(cls, path: Path, text: str) -> str:
        if "codec not available" in text.lower():
            return "Install the package of that codec, or write the store again without it."
        return copy_again(path, "Copy the store again.")

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".zip").removesuffix(".zarr")

    def check(self) -> None:
        self.nodes()  # which walks through all files
        for name, size in self._sizes.items() if self._zip is None else ():
            if size < SMALLEST and copy_again(self.path / name) == FETCH:
                raise LattokError(f"{self.path / name}: {FETCH}")

    def nodes(self) -> Mapping[str, bool]:
        return self._nodes

    def array(self, path: str) -> Any:
        about = self._about(path)
        if not _is_array(about):
            raise LattokError(f"{self.path}: expected an array `{path}`, got none. Open the dataset again.")
        for name in sorted(_codecs(about) - CODECS):
            if name.startswith(IMAGE_CODECS):
                _register_image_codecs(f"{self.path}, `{path}`", name)
            else:
                raise LattokError(f"{self.path}, `{path}`: expected codecs that only unpack numbers, got {name!a:.60}.")
        return ZarrArray(path, self._top[path])

    def is_array(self, path: str) -> bool:
        """Return whether a node is an array."""
        return _is_array(self._about(path)) if self._about(path) else False

    def attributes(self, path: str) -> Mapping[str, Any]:
        found = self._about(path).get("attributes", self._json(f"{path}/.zattrs"))
        return found if isinstance(found, dict) else {}

    def chunks_not_stored(self, path: str) -> int:
        if not self.is_array(path):
            return 0
        array = self._top[path]
        stored, each = int(array.nchunks_initialized), getattr(array, "shards", None)
        if not each:
            return int(array.nchunks) - stored
        within = math.prod(whole // part for whole, part in zip(each, array.chunks, strict=True))  # chunks of a shard
        return math.prod(-(-size // part) for size, part in zip(array.shape, each, strict=True)) - stored // within

    def stored_bytes(self, array: Any, where: str) -> int:
        return sum(size for name, size in self._sizes.items() if name.startswith(f"{array.path}/"))

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Bytes of all files by path; they may not lead elsewhere. What reads rows does not ask for them."""
        if self._zip is not None:
            files = [each for each in self._zip.infolist() if not each.is_dir()]
            own = [each for each in files if each.filename.startswith(self._start)]
            return {each.filename.removeprefix(self._start): each.compress_size for each in own}
        return {each.as_posix(): (self.path / each).stat().st_size for each in walk(self.path, lambda each: False)}

    @cached_property
    def _nodes(self) -> dict[str, bool]:
        places = {folder for folder, _, last in (name.rpartition("/") for name in self._sizes) if last in MARKS}
        return {place: _is_array(self._about(place)) for place in sorted(places)}

    def _about(self, path: str) -> dict[str, Any]:
        """Return the metadata of a node, {} where there is none."""
        return next(filter(None, (self._json(f"{path}/{mark}") for mark in MARKS)), {})

    def _json(self, name: str) -> dict[str, Any]:
        """Return a JSON object, {} where there is no such file."""
        name = name.lstrip("/")
        if self._zip is None:
            file = safe_path(self.path, self.path / name, str(self.path / name))
            data = file.read_bytes() if file.is_file() else b"{}"
        elif (inner := self._start + name) not in self._zip.namelist():
            return {}
        elif self._zip.getinfo(inner).file_size > JSON_BYTES:
            raise LattokError(f"{self.path}: expected at most {JSON_BYTES >> 20} MB as {name}. Is this the right file?")
        else:
            data = self._zip.read(inner)
        value = parse_json(data, f"{self.path}: {name}", nan=True)
        return value if isinstance(value, dict) else {}


def _is_zipped_store(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return _start(archive) is not None
    except (OSError, zipfile.BadZipFile):
        return False


def _start(archive: zipfile.ZipFile) -> str | None:
    """Return the folder that a store is in, "" or such as "buffer.zarr/"; None where there is none."""
    names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    starts = ["", *(f"{top}/" for top in tops if len(tops) == 1)]
    return next((start for start in starts if any(f"{start}{mark}" in names for mark in MARKS)), None)


def _is_array(about: Mapping[str, Any]) -> bool:
    return about.get("node_type", "array" if "shape" in about else "group") == "array"


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
    endings = (".zarr", ".zarr.zip")

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if cls.is_file(folder) or cls.files_in(folder) else ()

    @classmethod
    def guess_below(cls, folder: Path) -> bool:
        return False  # a store is a folder

    @classmethod
    def files_in(cls, folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and cls.is_file(path))

    @classmethod
    def is_file(cls, path: Path) -> bool:
        zipped = path.name.endswith(".zarr.zip") or (path.suffix == ".zip" and _is_zipped_store(path))
        return zipped or any((path / mark).is_file() for mark in MARKS)

    @classmethod
    def require(cls) -> None:
        _zarr()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, where: str = "") -> Iterator[Store]:
        zarr = _zarr()
        if not path.exists():
            raise LattokError(f"missing store {path}. Download or copy it again.")
        with ZarrStore.guarded(path, where), ExitStack() as stack:
            place: Any = str(path)
            archive, start = None, ""
            if path.is_file():
                archive = stack.enter_context(zipfile.ZipFile(path))
                place = zarr.storage.ZipStore(str(path), mode="r")
                stack.callback(place.close)
                start = _start(archive) or ""
            elif ZarrStore(path, None, None).is_array(""):
                hint = "Put it into a group: data/action, data/img, meta/episode_ends."
                checks.refuse(path, "a group with arrays", "an array alone", hint)
            # metadata of another time hide rows that were appended since
            options = {"use_consolidated": False} if int(zarr.__version__.split(".")[0]) >= 3 else {}
            options |= {"path": start.rstrip("/")} if start else {}
            yield ZarrStore(path, zarr.open_group(place, mode="r", **options), archive, start)
