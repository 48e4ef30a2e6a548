"""DROID as it was recorded, and what its robots record since: an HDF5 file and a folder of films for each episode.

Needs the extra hdf5.

IRIS/success/2023-12-04/Mon_Dec__4_12:15:02_2023/trajectory.h5                  action/* and observation/*
IRIS/success/2023-12-04/Mon_Dec__4_12:15:02_2023/metadata_IRIS+....json         serial numbers of the cameras
IRIS/success/2023-12-04/Mon_Dec__4_12:15:02_2023/recordings/MP4/18026681.mp4    a film of each camera
aggregated-annotations-030724.json                                              instructions, by the name of the episode
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

from lattok.data.formats.array_layouts import DROID
from lattok.data.formats.array_listing import CAMERA, natural
from lattok.data.formats.hdf5 import HDF5Dataset
from lattok.data.schema import readable
from lattok.utils.files import read_json
from lattok.utils.untrusted import is_file_name, safe_path

NUMBERS = "trajectory.h5"
OUTCOMES = ("success", "failure")
# where episodes may be, from an episode's own folder to the folder of all laboratories
DEEP = tuple(f"{above}{outcome}/*/*/" for above in ("", "*/", "*/*/") for outcome in OUTCOMES)
PLACES = ("", "*/", "*/*/", *DEEP)
CAMERAS = ("wrist", "ext1", "ext2")  # as the metadata call them
TEXTS = ("language_instruction1", "language_instruction2", "language_instruction3")
NO_FILMS = {  # why there is no camera
    "MP4": "neither metadata_*.json nor observation/camera_type says which film is of which camera",
    "SVO": "recordings of the ZED cameras, which droid's scripts turn into films (recordings/MP4)",
}
TYPES, WRIST = "observation/camera_type", 0  # of a camera, by its serial number


class Droid(HDF5Dataset):
    """Recordings of DROID's kind; see `lattok.data.RobotDataset` for what a dataset offers.

    Columns are `action.joint_velocity`, `observation.state.gripper_position` and so on; `parts_of` says how to join
    them. Cameras are `wrist`, `ext1` and `ext2`, by the serial numbers in the metadata, or without these by their types
    in the HDF5 file, and in the order of the numbers. A film shows a frame for each
    row, whatever rate it says, and often none for the last one: so the last row is not offered. The instruction is the
    first one in aggregated-annotations-*.json, else what the operator was told. Episodes below `failure`, or said to
    have failed, are found by `inspect`; one without the films that most have is in `damaged`.
    """

    kind = "droid"
    text = "DROID's recordings (trajectory.h5, metadata_*.json and recordings/)"
    marked = True
    rate = 15.0
    suffixes = ()
    options = MappingProxyType({"fps": float})

    def __init__(self, path: str | Path, name: str | None = None, *, fps: float | None = None):
        super().__init__(path, name, fps=fps, layout=DROID)
        for kind, reason in NO_FILMS.items() if not self.cameras else ():
            if any((demo.file.parent / "recordings" / kind).is_dir() for demo in self._demos.values()):
                self.left_out = {**self.left_out, f"recordings/{kind}": reason}
        said = dict(self._annotated())
        self._instruct({i: said.get(i) or demo.instructions[0] for i, demo in self._demos.items()})

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if next(_recordings(folder), None) else ()

    @classmethod
    def files_in(cls, folder: Path) -> list[Path]:
        return sorted(_recordings(folder), key=lambda path: natural(path.as_posix()))

    def _find_films(self) -> dict[int, dict[str, Path]]:
        self._demos = {i: demo._replace(length=max(demo.length - 1, 1)) for i, demo in self._demos.items()}
        return super()._find_films()

    def _films_beside(self, file: Path) -> dict[str, Path]:
        about, films = _metadata(file), dict[str, Path]()
        if about is None:
            serials = self._serials(file)
        else:
            told = read_json(safe_path(self.root, about, str(about)))
            serials = {camera: str(told.get(f"{camera}_cam_serial", "")) for camera in CAMERAS}
        for camera, serial in serials.items():
            film = file.parent / "recordings" / "MP4" / f"{serial}.mp4"
            if is_file_name(serial) and film.is_file():
                films[CAMERA + camera] = safe_path(self.root, film, str(film))
        return films

    def _serials(self, file: Path) -> dict[str, str]:
        """Return the serial numbers of cameras by their types in the HDF5 file."""
        with self.opened(file) as store:
            types = {
                path.rpartition("/")[2]: int(array[0])
                for path, array in store.arrays("").items()
                if path.startswith(f"{TYPES}/") and array.shape[:1] > (0,)
            }
        wrist = [serial for serial, kind in sorted(types.items()) if kind == WRIST]
        others = [serial for serial, kind in sorted(types.items()) if kind != WRIST]
        return dict(zip(CAMERAS, (*(wrist[:1] or [""]), *others), strict=False))

    def _annotated(self) -> Iterator[tuple[int, str]]:
        """Yield the first instruction of each episode that people wrote afterwards."""
        path = next(iter(sorted(self.root.glob("aggregated-annotations-*.json"))), None)
        if path is None:
            return
        written = read_json(safe_path(self.root, path, str(path)))
        for index, demo in self._demos.items():
            about = _metadata(demo.file)
            entry = None if about is None else written.get(about.stem.partition("_")[2])
            texts = [entry.get(name) for name in TEXTS] if isinstance(entry, dict) else []
            said = next((readable(text).strip() for text in texts if isinstance(text, str) and text.strip()), "")
            if said:
                yield index, said


def _metadata(file: Path) -> Path | None:
    """Return what lies beside a file of numbers: metadata_LABORATORY+PERSON+TIME.json."""
    return next(iter(sorted(file.parent.glob("metadata_*.json"))), None)


def _recordings(folder: Path) -> Iterator[Path]:
    """Yield the files of numbers below a folder that have recordings beside them."""
    for place in PLACES:
        yield from (path for path in folder.glob(place + NUMBERS) if (path.parent / "recordings").is_dir())
