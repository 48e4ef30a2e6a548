"""One image, encoded as PNG or decoded from the JPEG or PNG that a dataset stores."""

from io import BytesIO
from pathlib import Path

import numpy as np

from lattok.data.video import MOST_PIXELS
from lattok.utils import checks

BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG")  # JPEG and PNG begin so
TIFF = (b"II*\0", b"MM\0*")  # begins so; in LeRobot these are depth maps
_ORIENTATION = 0x0112  # tag of Exif


def encode_png(image: np.ndarray) -> bytes:
    """Encode one frame uint8 [H, W, 3] as PNG."""
    from PIL import Image  # only datasets with stored images need it

    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def is_rgb(data: bytes) -> bool:
    """Return whether an image that `decode_image` reads is stored in colour and without transparency."""
    from PIL import Image

    return Image.open(BytesIO(data), formats=("JPEG", "PNG")).mode == "RGB"


def is_deep(path: Path) -> bool:
    """Return whether a stored image has one channel of more than 8 bits, as distances have."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.mode.startswith(("I", "F"))
    except (OSError, ValueError, SyntaxError):  # it is no PNG, or damaged
        return False


def decode_image(data: bytes, where: str) -> np.ndarray:
    """Decode a JPEG or PNG that all readers show in the same way to RGB uint8 [H, W, 3]. `where` names it in errors."""
    from PIL import Image, UnidentifiedImageError

    if data[:4] in TIFF:
        way_out = 'If it is a depth camera, say so in meta/info.json ("info": {"is_depth_map": true})'
        raise checks.LattokError(f"{where}: expected a JPEG or PNG image, got TIFF. {way_out}, or use other cameras.")
    try:
        image = Image.open(BytesIO(data), formats=("JPEG", "PNG"))
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels")
        turned = image.getexif().get(_ORIENTATION, 1) != 1  # `datasets` turns such an image, other readers do not
        pixels = np.asarray(image)
    except Exception as error:  # damaged images make the decoder raise errors of many kinds
        # Pillow names the object it reads from by its address, which differs from run to run
        why = "it begins like neither" if isinstance(error, UnidentifiedImageError) else checks.first_line(error)
        raise checks.LattokError(f"{where}: not a readable JPEG or PNG image ({why}). Copy it again.") from None
    if not turned and image.mode in ("L", "P") and "transparency" not in image.info:
        pixels = np.asarray(image.convert("RGB"))
    elif not turned and image.mode == "RGBA" and pixels[..., 3].min() == 255:
        pixels = np.ascontiguousarray(pixels[..., :3])
    elif image.mode != "RGB" or turned:
        got = "one to be turned by its Exif data" if turned else f"mode {image.mode}"
        way_out = (
            "Turn it: mogrify -auto-orient FILE." if turned else "Write it as RGB: ffmpeg -i FILE -pix_fmt rgb24 FILE"
        )
        way_out = f"{way_out} Or leave the camera out (`cameras`)."
        raise checks.LattokError(f"{where}: expected an upright RGB image, got {got}. {way_out}")
    return pixels
