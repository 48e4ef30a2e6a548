"""Demonstrations in HDF5 files: robomimic, LIBERO, ALOHA, RoboTwin, ManiSkill and others. Needs the extra hdf5."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from lattok.data.formats.array_reader import ArrayDataset
from lattok.data.formats.array_store import Store
from lattok.data.formats.hdf5_heaps import endless_heap
from lattok.utils.checks import LattokError
from lattok.utils.untrusted import MISSING, copy_again
from lattok.version import install_extra

ONE_FILE = "lattok reads every file by itself: write what it holds into one (h5copy)."
FILTER = "It is packed by a filter that h5py lacks: pip install hdf5plugin, or unpack it (h5repack -f NONE)."
WAYS_OUT = {  # by what HDF5's message says
    "is not registered": FILTER,
    "can't open directory": FILTER,  # that it looks for filters in
    "unable to lock": "Close what writes to it; on a drive without locks set HDF5_USE_FILE_LOCKING=FALSE.",
}


def _h5py() -> Any:
    try:
        with suppress(ImportError):
            import_module("hdf5plugin")  # filters, where they are installed
        return import_module("h5py")  # which only this format needs
    except ImportError:
        raise LattokError(f"reading hdf5 datasets needs h5py. Install it: {install_extra('hdf5')}") from None


class HDF5Store(Store):
    """An open `h5py.File`."""

    errors = (OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError)

    def __init__(self, path: Path, file: Any):
        self.path, self._file = path, file

    @classmethod
    def way_out(cls, path: Path, text: str) -> str:
        return next((hint for word, hint in WAYS_OUT.items() if word in text), copy_again(path))

    def check(self) -> None:
        external = _h5py().h5l.TYPE_EXTERNAL  # links by the mere look at which another file would be opened
        found = self._file.id.links.visit(lambda name, link: name if link.type >= external else None, info=True)
        if found is not None:
            name = found.decode(errors="replace")[:60]
            raise LattokError(f"{self.path}: `{name}` is a link into another file. {ONE_FILE}")

    def members(self, group: str) -> list[str]:
        return list(self._item(group))

    def is_group(self, path: str) -> bool:
        return isinstance(self._item(path), _h5py().Group)

    def single_arrays(self, group: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        kind = _h5py().Dataset  # a type that is stored by itself has a dtype, too
        self._item(group).visititems(lambda name, item: found.update({name: item}) if isinstance(item, kind) else None)
        for item in found.values():
            if (place := endless_heap(self.path, item)) is not None:
                raise LattokError(f"cannot read {self.path}, `{item.name}` (heap at {place}). {copy_again(self.path)}")
        return found

    def array(self, path: str) -> Any:
        return self._file[path]

    def attributes(self, path: str) -> Mapping[str, Any]:
        return self._item(path).attrs

    def stored_bytes(self, array: Any, where: str) -> int:
        if array.is_virtual or array.external:
            raise LattokError(f"{where}: its numbers are in other files. {ONE_FILE}")
        return array.id.get_storage_size()

    def _item(self, path: str) -> Any:
        return self._file.get(path) if path else self._file


class HDF5Dataset(ArrayDataset):
    """HDF5 files, or a folder of such files, as robomimic, LIBERO, ALOHA, RoboTwin, ManiSkill and others write them.

    Pictures come as they are stored. LIBERO stores them upside down (`macros_image_convention` is "opengl", rows from
    the bottom); what OpenVLA and others train on is turned by 180 degrees, which also swaps left and right.
    """

    kind = "hdf5"
    text = "HDF5 (.hdf5 or .h5 files of robomimic, LIBERO, ALOHA, RoboTwin, ManiSkill and others)"
    suffixes = (".hdf5", ".h5")

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if cls.files_in(folder) else ()  # also below, where videos may lie beside them

    @classmethod
    def require(cls) -> None:
        _h5py()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, where: str = "") -> Iterator[Store]:
        if not path.is_file():
            raise LattokError(f"missing data file {path}. {copy_again(path, MISSING)}")
        with HDF5Store.guarded(path, where), _h5py().File(path, "r") as file:
            yield HDF5Store(path, file)
