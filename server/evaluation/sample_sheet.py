"""A picture of what the generator draws, the same latents in every round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from federation.run_directory import written_atomically

_TEXT_WIDTH = 64
_GAP = 2
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
    sheet = Image.new("RGB", (_TEXT_WIDTH + widest * (side + _GAP), len(rows) * (side + _GAP)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for number, (caption, images) in enumerate(rows):
        top = number * (side + _GAP)
        draw.text((4, top + side // 2 - 7), caption[:10], fill=(0, 0, 0), font=font)
        for column, image in enumerate(images):
            # Enlarged without smoothing: what the generator drew, pixel by pixel.
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (_TEXT_WIDTH + column * (side + _GAP), top))
    with written_atomically(path) as temporary:
        sheet.save(temporary, format="PNG")
