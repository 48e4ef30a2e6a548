"""Films beside files of arrays, which show a frame for each row, as EgoDex's 0.mp4 beside 0.hdf5."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from lattok.data.formats.array_listing import CAMERA
from lattok.data.formats.frame_plan import VideoFile, schedule
from lattok.data.formats.video_times import VideoTimes, read_times
from lattok.data.video import EXACT_FPS, SUFFIXES, decode_at
from lattok.utils.checks import LattokError, counted, is_frame_rate, refuse
from lattok.utils.untrusted import safe_path

FILM = f"{CAMERA}video"  # the camera, as of a folder of videos
LONGER, LONGER_S = 0.1, 1.0  # by which films may last longer than their rows: share, seconds
FEW = 3  # films that are looked at, as the first may be damaged
MOST_KNOWN = 256  # films whose times are kept in memory
OTHERS = "Rows and frames have to be as many: leave the episode out, or read the films alone (`format`: video)."


def film_of_file(root: Path, file: Path) -> Path | None:
    """Return the film that has the name of a file of arrays, None where there is none."""
    film = next((path for path in map(file.with_suffix, SUFFIXES) if path.is_file()), None)
    return None if film is None else safe_path(root, film, str(film))


def films_of_episodes(store: Path, rows: Mapping[int, int], fps: float | None) -> dict[int, dict[str, Path]]:
    """Return the films of the episodes of a store, by camera, as Diffusion Policy records them on a robot: those of
    episode 7 are videos/7/*.mp4 beside it. Nothing where they are of other episodes or cameras, or do not last as long
    as the `rows` of each."""
    folder = store.parent / "videos"
    places = {path.name: path for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else {}
    if places.keys() != {*map(str, rows)}:
        return {}
    found: dict[int, dict[str, Path]] = {}
    for index in rows:
        films = [path for path in sorted(places[str(index)].iterdir()) if path.suffix.lower() in SUFFIXES]
        found[index] = {CAMERA + path.stem: safe_path(store.parent, path, str(path)) for path in films}
    alike = len({tuple(films) for films in found.values()}) == 1
    with suppress(LattokError):
        if alike and all(lasts(film, rows[index], fps) for index, each in found.items() for film in each.values()):
            return found if found[next(iter(rows))] else {}
    return {}


@contextmanager
def film_of_bytes(data: bytes, where: str) -> Iterator[Path]:
    """Put a film that is in a file of arrays into a file of its own, for as long as it is read; errors say where it
    was."""
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"  # readers look at the bytes, not at the name
        film.write_bytes(data)
        try:
            yield film
        except LattokError as error:
            raise LattokError(str(error).replace(str(film), where)) from None


def lasts(film: Path, rows: int, fps: float | None) -> bool:
    """Return whether a film has a frame for each row, or lasts as long as so many rows at `fps`, or a little longer."""
    video = _times_of(film)
    if rows <= len(video.times) <= rows + 1:
        return True
    return fps is not None and rows <= schedule(video, fps).length <= rows * (1 + LONGER) + LONGER_S * fps


def frame_rate(films: Iterable[Path]) -> float | None:
    """Return the frames per second of the first film that tells them."""
    for film in islice(films, FEW):
        with suppress(LattokError):
            if is_frame_rate(rate := _times_of(film).rate):
                return rate
    return None


def picture_shape(rows: Mapping[Path, int], by_time: bool, most: int | None) -> tuple[int, ...]:
    """Return the shape [H, W, 3] of upright frames of the first film that shows its rows, of `most` that are looked at;
    with `by_time` it may have more frames than there are rows, or fewer.

    Raises:
        LattokError: none of these films does; says why of the first one.
    """
    reasons = list[LattokError]()
    for film, count in islice(rows.items(), most):
        try:
            times = _times_of(film).times if by_time else frame_times(film, count)
            return next(decode_at(film, times[:1], EXACT_FPS)).shape[1:]
        except LattokError as error:
            reasons.append(error)
    raise reasons[0]


def frame_times(film: Path, rows: int) -> np.ndarray:
    """Return when the frames of so many rows are shown, in seconds [rows].

    Raises:
        LattokError: the film has other frames, more than one behind the last row, or cannot be read.
    """
    times = _times_of(film).times
    if not rows <= len(times) <= rows + 1:
        refuse(film, f"a frame for each of {counted(rows, 'row')}", counted(len(times), "frame"), OTHERS)
    return times[:rows]


def shown(film: Path, rows: int, indices: np.ndarray, fps: float | None = None) -> Iterator[np.ndarray]:
    """Yield the frames of ascending rows in blocks uint8 [n, H, W, 3]: one for each row, else, where `fps` is given,
    those shown when the rows were recorded."""
    video = _times_of(film)
    if fps is not None and not rows <= len(video.times) <= rows + 1:
        yield from VideoFile(film, fps, schedule(video, fps)).blocks(indices)
        return
    yield from decode_at(film, frame_times(film, rows)[indices], EXACT_FPS)


def _times_of(film: Path) -> VideoTimes:
    try:
        stamp = film.stat()
    except OSError as error:
        raise LattokError(f"cannot read {film}: {error.strerror}.") from None
    return _known(film, (stamp.st_mtime_ns, stamp.st_size))


@lru_cache(maxsize=MOST_KNOWN)
def _known(film: Path, stamp: tuple[int, int]) -> VideoTimes:
    """Read a film; its `stamp` tells it from another one that was at its place."""
    return read_times(film)
