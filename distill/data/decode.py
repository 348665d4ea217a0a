"""From a file to the picture that a person sees in it: grey or colour, 8 bits, upright, on white."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from typing import IO, TYPE_CHECKING

import numpy as np

from distill.data.bad import bad_image, printable

if TYPE_CHECKING:
    from PIL.Image import Image

# Content decides, not the suffix; formats outside of this list, some of which start other programs, are not tried.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "MPO")
SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "avif", "jp2", "j2k"),
    )
)
LARGE_PIXELS = 16_000_000
"""A larger image is halved until it is not: a view has a few hundred pixels a side."""
MOST_PIXELS = 178_956_970
"""A larger image is refused; this is the size at which Pillow suspects a decompression bomb."""


def open_image(file: str | IO[bytes], name: str | None = None) -> Image:
    """The image in a file, mode L or RGB.

    EXIF orientation is applied and of an animation the first frame is taken. Transparent pixels are laid on white.
    16 bits are scaled to 8; other numbers by `_to_8_bits`. CMYK is inverted as Adobe's marker says. A large JPEG is
    decoded at a half, quarter or eighth.
    BadImage, which names the file, or `name`, if it is no image; ValueError if it cannot be opened at all.
    """
    name = str(file) if name is None else name
    try:
        return _decoded(file)
    except OSError as error:
        if error.errno is not None:  # of the disk or network, not of the bytes: another time it may be there
            reason = error.strerror or error
            raise ValueError(f"{printable(name)} cannot be opened ({reason}); mend that, and run again") from None
        unknown = type(error).__name__ == "UnidentifiedImageError"
        raise bad_image(name, "of no kind of image that is read here" if unknown else error) from None
    except Exception as error:  # Pillow's parsers of broken files raise anything
        raise bad_image(name, str(error) or type(error).__name__) from None


def _decoded(file: str | IO[bytes]) -> Image:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of corrupt EXIF, of large images: what matters is an error here
        with Image.open(file, formats=_formats()) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width} × {height} pixels are more than {MOST_PIXELS:,}; make it smaller")
            if image.format == "JPEG" and (scale := _scale(width, height)) > 1:
                image.draft(None, (width // scale, height // scale))
            image.load()
            _turn_upright(image)
            # Pillow takes every CMYK JPEG for one of Adobe's, whose numbers are inverted.
            inverted = image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info
            return _smaller(_shown(image, inverted))


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _scale(width: int, height: int) -> int:
    scale = 1
    while width * height > LARGE_PIXELS * scale * scale:
        scale *= 2
    return scale


def _smaller(image: Image) -> Image:
    scale = _scale(*image.size)
    return image.reduce(scale) if scale > 1 else image


def _turn_upright(image: Image) -> None:
    from PIL import ImageOps

    # A picture with broken EXIF is still a picture, the way it is stored.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _shown(image: Image, inverted: bool) -> Image:
    from PIL import ImageChops

    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if is_deep(image):
        return of_8_bits(image)
    if image.mode == "CMYK":
        return (ImageChops.invert(image) if inverted else image).convert("RGB")
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("L" if image.mode == "1" else "RGB")


def is_deep(image: Image) -> bool:
    """Whether its grey has more than 8 bits, which Pillow would cut to 255."""
    return image.mode.startswith("I") or image.mode == "F"


def of_8_bits(image: Image) -> Image:
    """A deep image as uint8 grey, by the range that its kind of file uses."""
    from PIL import Image

    return Image.fromarray(_to_8_bits(np.asarray(image)))


def _on_white(image: Image) -> Image:
    from PIL import Image

    grey = image.mode in ("1", "L", "LA", "La")
    seen = image.convert("RGBA" if image.mode != "La" else "LA").convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    return Image.alpha_composite(white, seen).convert("L" if grey else "RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey [H, W] of more than 8 bits -> uint8, by the range that its kind of file uses.

    Unsigned 16 bits: 65,535 is white. 32 bits: the same if all are in 0..65535. Floats: 1 is white if all are in
    0..1, 255 if all are in 0..255. Anything else is stretched from its least to its largest number. NaN is black.
    """
    floats = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    black, white = float(values.min()), float(values.max())
    for usual in (1.0, 255.0) if floats else (65535.0,):
        if black >= 0 and white <= usual:
            black, white = 0.0, usual
            break
    scaled = (values - black) * (255 / (white - black or 1.0))
    return np.round(scaled).astype(np.uint8)


def is_image_name(name: str) -> bool:
    """Whether a file's name is that of an image: a known suffix, and not hidden."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
