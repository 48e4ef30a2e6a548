"""How recordings keep pictures in arrays: as pixels in either order, or encoded, padded with zeros or not."""

from contextlib import suppress
from io import BytesIO
from typing import Any, Literal

import numpy as np

from lattok.data.images import BEGINNINGS, decode_image
from lattok.utils.checks import LattokError

Storage = Literal["numbers", "pixels", "planes", "floats", "encoded", "film"]
STANDARD = b"XPL-RGB1"  # comment of JPEGs by a writer that used to swap red and blue
FILM_HEAD = 12  # bytes that tell a film
MOST_VIEWS = 8  # cameras whose pictures are in one array
LEAST_SIDE = 8  # pixels: [T, 3, 3, 3] are rotations


def storage(dtype: np.dtype[Any], shape: tuple[int, ...], camera: bool) -> Storage | None:
    """Tell how an array with rows of `shape` keeps what it has; None where these are neither numbers nor pictures.

    `camera` says that the layout expects pictures there: planes of numbers are then distances.
    """
    if camera and ((dtype.kind in "SO" and not shape) or (dtype == np.uint8 and len(shape) == 1)):
        return "encoded"
    if dtype.kind not in "fiub" or 0 in shape:
        return None
    if dtype == np.uint8 and len(shape) == 3 and shape[-1] == 3:
        return "pixels"
    if dtype == np.uint8 and len(shape) == 3 and shape[0] == 3 and min(shape[1:]) >= LEAST_SIDE:
        return "planes"
    if camera and dtype.kind == "f" and len(shape) == 3 and shape[-1] == 3:
        return "floats"
    flat = len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[-1]))
    return None if camera and flat else "numbers"


def of_views(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Storage | None:
    """Tell how each camera is kept where rows of `shape` hold pictures of a few cameras; None where they do not."""
    pictures = dtype == np.uint8 and len(shape) == 4 and shape[0] <= MOST_VIEWS and min(shape[1:3]) >= 3
    how = storage(dtype, shape[1:], False) if pictures and sorted(shape[1:])[1] >= LEAST_SIDE else None
    return how if how in ("pixels", "planes") else None


def may_be_encoded(array: Any) -> bool:
    """Return whether rows of an array [T] or [T, N] are bytes whose first ones begin as a JPEG or PNG does."""
    rows = array.dtype.kind in "SO" and len(array.shape) == 1
    if not array.shape or not array.shape[0] or not (rows or (array.dtype == np.uint8 and len(array.shape) == 2)):
        return False
    with suppress(ValueError):  # of numpy's pickles, which are not read
        return _begins(array[:1][0])
    return False


def is_film(array: Any) -> bool:
    """Return whether an array is the bytes of a film: mp4 or mov, Matroska or WebM."""
    if array.dtype != np.uint8 or len(array.shape) != 1 or array.shape[0] <= FILM_HEAD:
        return False
    head = bytes(np.asarray(array[:FILM_HEAD]))
    return head[4:8] == b"ftyp" or head.startswith(b"\x1aE\xdf\xa3")


def _begins(first: Any) -> bool:
    return isinstance(first, bytes | np.ndarray) and bytes(first).startswith(BEGINNINGS)


def picture_size(rows: np.ndarray, how: Storage, where: str) -> tuple[int, int, int]:
    """Return (H, W, 3) of the first of the rows of a camera."""
    height, width, _ = pictures(rows[:1], how, False, where).shape[1:]
    return height, width, 3


def pictures(rows: np.ndarray, how: Storage, swapped: bool, where: str, shares: bool = False) -> np.ndarray:
    """Turn rows of a camera into frames uint8 [n, H, W, 3]. `swapped`: encoded ones have red and blue swapped;
    `shares`: floats are shares of 255.

    Raises:
        LattokError: an encoded one is damaged, or has another size; or floats are neither whole numbers from 0 to 255
            nor shares.
    """
    if how == "pixels":
        return rows
    if how == "planes":
        return np.ascontiguousarray(rows.transpose(0, 2, 3, 1))
    if how == "floats":
        inside = np.isfinite(rows).all() and rows.min() >= 0 and rows.max() <= (1 if shares else 255)
        if not inside or not (shares or np.array_equal(rows, np.rint(rows))):
            expected = "shares from 0 to 1, as in others" if shares else "pixels as whole numbers from 0 to 255"
            raise LattokError(f"{where}: expected {expected}, got others. Write uint8.")
        return np.rint(rows * 255 if shares else rows).astype(np.uint8)
    frames = [_decoded(row, swapped, where) for row in rows]
    if len({frame.shape for frame in frames}) > 1:
        raise LattokError(f"{where}: expected pictures of one size, got several. Resize them first.")
    return np.stack(frames)


def _decoded(row: Any, swapped: bool, where: str) -> np.ndarray:
    data = row.encode("latin-1", "replace") if isinstance(row, str) else bytes(row)
    data = data.rstrip(b"\0")  # padded to the longest of the file; neither JPEG nor PNG ends with a zero
    pixels = decode_image(data, where)
    if swapped and not _marked(data):
        pixels = pixels[..., ::-1]
    return pixels


def _marked(data: bytes) -> bool:
    from PIL import Image

    return Image.open(BytesIO(data), formats=("JPEG", "PNG")).info.get("comment") == STANDARD
