"""One encoded image, of whatever kind, to 8-bit RGB and to a square of the training resolution."""

from __future__ import annotations

import io

import numpy as np
import PIL
from PIL import Image, ImageOps

from federation.errors import DataError

# Decoded images are cached under this name: a new Pillow may decode or resample with other last bits.
PREPROCESSING = f"1, centre crop, Lanczos, Pillow {PIL.__version__}"


def decode_image(encoded: bytes) -> np.ndarray:
    """Decode an image file's bytes, upright, to 8-bit RGB.

    Parameters
    ----------
    encoded
        Content of a file in any format that Pillow reads; of several frames the first counts.

    Returns
    -------
    uint8 array of shape (height, width, 3). EXIF orientation is applied; 16-bit pixels are scaled
    to 8 bits, not clipped; palettes, grey and CMYK are converted; what is transparent becomes black,
    as the frame of a dermoscope is.

    Raises
    ------
    DataError
        If the bytes are not an image, are truncated, or hold pixels of unknown range.
    """
    if not encoded:
        raise DataError("the file is empty")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            return np.array(_to_rgb(_upright(image)))
    except (DataError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        raise DataError("not an image file") from None
    # For a broken file Pillow's decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error, …
    except Exception as error:
        raise DataError(str(error) or type(error).__name__) from error


def to_square(image: np.ndarray, resolution: int) -> np.ndarray:
    """Crop the centre square and resample it with Pillow's Lanczos filter.

    The filter widens when it shrinks an image, so it is antialiased; it works on the 8-bit values as they are.

    Parameters
    ----------
    image
        uint8 array of shape (height, width, 3).
    resolution
        Side of the result in pixels.

    Returns
    -------
    uint8 array of shape (resolution, resolution, 3); the crop itself where no resampling is needed.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == resolution:
        return square
    return np.asarray(Image.fromarray(square).resize((resolution, resolution), Image.Resampling.LANCZOS))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF beside sound pixels: there is no orientation to apply
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba).convert("RGB")
    return image.convert("RGB")  # Pillow has read 16-bit colour by its high byte already


def _eight_bits(grey: np.ndarray, mode: str) -> np.ndarray:
    """Scale 16-bit integers, or floats in [0, 1], to 0 … 255."""
    full_scale = 1.0 if mode == "F" else 65535.0
    values = grey.astype(np.float64)
    if not (values.min() >= 0 and values.max() <= full_scale):  # also refuses NaN
        raise DataError(f"pixels of mode {mode} lie outside 0 … {full_scale:g}: save the image with 8 bits per channel")
    return np.rint(values * (255.0 / full_scale)).astype(np.uint8)
