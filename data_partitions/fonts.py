"""Fonts that have the letters of a name: hospitals and diagnoses are written in all scripts of the world."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=1024)
def letters_of(path: str) -> frozenset[int]:
    """Return the code points that a font file can draw; none of a file that is no font, or is of bitmaps alone."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


def font_files(text: str, installed: Iterable[str] | None = None) -> list[str]:
    """Choose fonts that together have the letters of a text, as far as the system has them.

    Parameters
    ----------
    text
        All that will be written.
    installed
        Font files to choose from. None: the system's.

    Returns
    -------
    Matplotlib's own font, which is always there, and after it as few others as it takes.
    """
    from matplotlib import font_manager

    chosen = [str(font_manager.findfont("DejaVu Sans"))]
    missing = {ord(letter) for letter in text if letter.isprintable()} - letters_of(chosen[0])
    candidates = sorted(font_manager.findSystemFonts() if installed is None else installed) if missing else []
    while missing and candidates:
        best = max(candidates, key=lambda path: len(missing & letters_of(path)))
        if not missing & letters_of(best):
            break
        chosen.append(best)
        missing -= letters_of(best)
    return chosen


def font_families(text: str, installed: Iterable[str] | None = None) -> list[str]:
    """Return the names of :func:`font_files` for matplotlib's ``font.family``, which looks through them in turn."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    files = font_files(text, installed)
    for path in files[1:]:
        font_manager.fontManager.addfont(path)
    return [FT2Font(path).family_name for path in files]
