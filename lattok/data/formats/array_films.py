"""Films beside files of arrays, which show a frame for each row, as EgoDex's 0.mp4 beside 0.hdf5."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from lattok.data.formats.array_listing import CAMERA
from lattok.data.formats.video_times import VideoTimes, read_times
from lattok.data.video import EXACT_FPS, SUFFIXES, decode_at
from lattok.utils.checks import LattokError, counted, is_frame_rate, refuse
from lattok.utils.untrusted import safe_path

FILM = f"{CAMERA}video"  # the camera, as of a folder of videos
FEW = 3  # films that are looked at, as the first may be damaged
MOST_KNOWN = 256  # films whose times are kept in memory
OTHERS = "Rows and frames have to be as many: leave the episode out, or read the films alone (`format`: video)."


def film_of_file(root: Path, file: Path) -> Path | None:
    """Return the film that has the name of a file of arrays, None where there is none."""
    film = next((path for path in map(file.with_suffix, SUFFIXES) if path.is_file()), None)
    return None if film is None else safe_path(root, film, str(film))


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


def shown(film: Path, rows: int, indices: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the frames of ascending rows in blocks uint8 [n, H, W, 3]."""
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
