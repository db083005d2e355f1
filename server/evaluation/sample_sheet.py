"""A picture of what the generator draws, the same latents in every round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from data_partitions.fonts import font_files, letters_of
from federation.run_directory import written_atomically

CAPTION_PIXELS = 64
"""Width of the captions' column, where none is wider."""
CAPTION_KEY = "caption-pixels"
"""What the png says of a wider one."""
_GAP = 2
_MARGIN = 4
_FONT_PIXELS = 12
_BACKGROUND = (255, 255, 255)


def write_sample_sheet(path: Path, rows: Sequence[tuple[str, np.ndarray]], *, scale: int) -> None:
    """Write rows of images as one png.

    Parameters
    ----------
    path
        Where to; written atomically.
    rows
        A caption and uint8 (n, r, r, 3) for each row.
    scale
        Pixels of the sheet per pixel of an image, so that 32 px can be seen.
    """
    side = rows[0][1].shape[1] * scale
    widest = max(len(images) for _, images in rows)
    captions = [" ".join(caption.split()) for caption, _ in rows]
    fonts = [_font(caption) for caption in captions]
    lengths = [font.getlength(caption) for font, caption in zip(fonts, captions, strict=True)]
    text_width = max(CAPTION_PIXELS, math.ceil(max(lengths)) + 2 * _MARGIN)
    sheet = Image.new("RGB", (text_width + widest * (side + _GAP), len(rows) * (side + _GAP)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (caption, font, (_, images)) in enumerate(zip(captions, fonts, rows, strict=True)):
        top = number * (side + _GAP)
        draw.text((_MARGIN, top + side // 2 - 7), caption, fill=(0, 0, 0), font=font)
        for column, image in enumerate(images):
            # Enlarged without smoothing: what the generator drew, pixel by pixel.
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (text_width + column * (side + _GAP), top))
    said = PngInfo()
    if text_width != CAPTION_PIXELS:
        said.add_text(CAPTION_KEY, str(text_width))
    with written_atomically(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=said)


@lru_cache(maxsize=256)
def _font(caption: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, or for letters that it may lack the installed one that has most of them."""
    if caption.isascii():
        return ImageFont.load_default(size=_FONT_PIXELS)
    letters = {ord(letter) for letter in caption}
    best = max(font_files(caption), key=lambda path: len(letters & letters_of(path)))
    return ImageFont.truetype(best, _FONT_PIXELS)
