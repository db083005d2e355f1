"""Sample sheets in the page: a choice of rounds, in no more bytes than are needed to show each pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MOST_ROUNDS = 24
CAPTION_PIXELS = 64
"""Width of the column of captions at a sheet's left edge; see :mod:`server.evaluation.sample_sheet`."""
CAPTION_KEY = "caption-pixels"
"""What a sheet says of a wider one."""
_MOST_BYTES = 3_500_000  # of all pictures but the last round's: what a mail still carries
_MOST_BYTES_OF_LAST = 1_500_000
_SMALLEST_TILE = 32


@dataclass(frozen=True)
class Sheet:
    """The sample sheet of a round, without its column of captions where its rows are known."""

    round: int
    href: str
    """A data address."""
    width: int
    height: int
    pitch: int
    """Pixels from one row to the next; 0 where rows are not known."""


@dataclass(frozen=True)
class Samples:
    """What the slider shows."""

    sheets: tuple[Sheet, ...]
    """By round, ascending."""
    rows: tuple[str, ...]
    """Captions of the rows; empty where rows are not known."""
    num_rounds: int
    """Rounds that have a sheet in the run directory."""
    unreadable: tuple[str, ...]
    """Names of sheets that could not be read."""
    is_reduced: bool
    """Whether some are smaller than in the run directory."""


def choose_rounds(rounds: Sequence[int], most: int) -> list[int]:
    """Choose at most `most` rounds at even distances in the list, the first and the last among them.

    Examples
    --------
    >>> choose_rounds([0, 4, 8, 12, 16], 3)
    [0, 8, 16]
    """
    if len(rounds) <= most:
        return list(rounds)
    if most < 2:
        return [rounds[-1]]
    places = [round(index * (len(rounds) - 1) / (most - 1)) for index in range(most)]
    return [rounds[place] for place in places]


def read_samples(paths: Mapping[int, Path], rows: Sequence[str]) -> Samples:
    """Read the sample sheets of a run.

    Parameters
    ----------
    paths
        By round, ascending.
    rows
        Captions of the rows that a sheet has; empty where rows mean nothing.
    """
    unreadable: list[str] = []
    known_rows = tuple(rows)

    def load(chosen: int) -> Image.Image | None:
        try:
            with Image.open(paths[chosen]) as image:
                return image.convert("RGB")
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
            unreadable.append(paths[chosen].name)
            return None

    pictures: dict[int, Image.Image] = {}
    for chosen in choose_rounds(list(paths), MOST_ROUNDS):
        loaded = load(chosen)
        if loaded is not None:
            pictures[chosen] = loaded
    if not all(_fits(picture, len(known_rows)) for picture in pictures.values()):
        known_rows = ()

    is_reduced = False
    encoded: dict[int, Sheet] = {}
    last = max(pictures, default=None)
    for chosen, picture in pictures.items():
        most = _MOST_BYTES_OF_LAST if chosen == last else _MOST_BYTES // 4
        sheet, reduced = _encode(chosen, picture, len(known_rows), most)
        is_reduced |= reduced
        encoded[chosen] = sheet
    shown = list(encoded)
    # Fewer rounds where all of them would make a page that nobody can send.
    while len(shown) > 2 and sum(len(encoded[chosen].href) for chosen in shown[:-1]) > _MOST_BYTES * 4 / 3:
        shown = choose_rounds(list(encoded), len(shown) - 1)
    return Samples(
        sheets=tuple(encoded[chosen] for chosen in shown),
        rows=known_rows,
        num_rounds=len(paths),
        unreadable=tuple(unreadable),
        is_reduced=is_reduced,
    )


def _fits(picture: Image.Image, num_rows: int) -> bool:
    """Return whether a sheet can have so many rows of equal height."""
    return num_rows > 0 and picture.width > _caption_pixels(picture) and picture.height % num_rows == 0


def _caption_pixels(picture: Image.Image) -> int:
    said = str(picture.info.get(CAPTION_KEY, ""))
    return int(said) if said.isdecimal() else CAPTION_PIXELS


def _encode(server_round: int, picture: Image.Image, num_rows: int, most: int) -> tuple[Sheet, bool]:
    """Return a sheet as png of at most so many bytes if halving its side gets there, and whether it was halved."""
    pixels = np.asarray(picture)
    pitch = 0
    if num_rows:
        pixels = pixels[:, _caption_pixels(picture) :]
        pitch = pixels.shape[0] // num_rows
    # Enlarged sheets repeat each pixel: once is enough, and the browser enlarges them again.
    scale = next((factor for factor in (8, 4, 2) if _repeats(pixels, factor)), 1)
    pixels = pixels[::scale, ::scale]
    pitch //= scale
    data, reduced = _png(pixels), False
    while len(data) > most and pixels.shape[0] % 2 == 0 and pixels.shape[1] % 2 == 0 and pitch // 2 >= _SMALLEST_TILE:
        half = Image.fromarray(pixels).reduce(2)
        pixels, pitch, reduced = np.asarray(half), pitch // 2, True
        data = _png(pixels)
    href = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    height, width = pixels.shape[:2]
    return Sheet(server_round, href, width, height, pitch), reduced


def _repeats(pixels: np.ndarray, factor: int) -> bool:
    if pixels.shape[0] % factor or pixels.shape[1] % factor:
        return False
    small = pixels[::factor, ::factor]
    return bool(np.array_equal(small.repeat(factor, axis=0).repeat(factor, axis=1), pixels))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
