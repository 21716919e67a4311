"""Decode images with Pillow, in named formats only."""

from typing import Any, BinaryIO

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.errors import UserError, shorten

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
GREY = ("1", "L", "I", "I;16", "I;16B", "F", "LA", "La")
"""Pillow's modes of images without colour."""
_MOST_PIXELS = 2**27


def opened(stream: BinaryIO, where: str) -> Any:
    """Return a Pillow image whose header is read; raises UserError for another format or more than 2^27 pixels."""
    from PIL import Image

    try:
        image = Image.open(stream, formats=IMAGE_FORMATS)
    except Exception as error:  # Pillow's plug-ins raise many types for damaged headers
        expected = f"{where}: expected an image ({', '.join(IMAGE_FORMATS)})"
        raise UserError(f"{expected}, found something else: {shorten(error)}") from error
    if image.width * image.height > _MOST_PIXELS:
        raise UserError(f"{where}: expected at most {_MOST_PIXELS:,} pixels, found {image.width} × {image.height}")
    return image


def decode(stream: BinaryIO, where: str, colour: str) -> Array:
    """Return the pixels, uint8 [H, W] if ``colour`` is "grey", else [H, W, 3].

    Transparent pixels are laid on white. Values of 16 bits are scaled to 8. Raises UserError for a damaged file.
    """
    from PIL import Image

    image = opened(stream, where)
    try:
        if image.mode.startswith("I"):  # 16 bits: Pillow would cut values above 255
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.array(image.convert("L" if colour == "grey" else "RGB"))
    except Exception as error:  # as above
        raise UserError(f"{where}: the image is damaged: {shorten(error)}") from error
