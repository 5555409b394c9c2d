"""Which kinds of pixels are read, and how they become 8 bits a channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

GREY = frozenset({"1", "L", "LA", "La"})
COLOUR = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"})
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def to_rgb(image: Any) -> tuple[Any, bool]:
    """Returns an image of Pillow's as upright RGB, and whether it was greyscale.

    Grey images of 16 bits keep their upper 8. The orientation that a camera stored is applied, as
    Hugging Face does; torchvision's ImageFolder does not.

    Raises `ValueError` for other modes, which Pillow would clip to white or black without a word.
    """
    mode = image.mode
    # Older versions of Pillow open a PNG of 16 bits as 32-bit integers.
    if mode in SIXTEEN_BITS or (mode == "I" and image.format == "PNG"):
        values = np.asarray(image).astype(np.int64)
        image_8 = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
        image_8.info = dict(image.info)
        image, grey = image_8, True
    elif mode in GREY or mode in COLOUR:
        grey = mode in GREY
    else:
        allowed = ", ".join(sorted(GREY | COLOUR | {"I;16"}))
        raise ValueError(f"pixels of mode {mode!r} are not allowed; save it as 8 bits a channel (allowed: {allowed})")
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return image.convert("RGB"), grey
