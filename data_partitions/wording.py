"""How notes and errors count and name things: ``2,084 rows``, ``a, b, c and 2,081 more``."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 3  # enough to recognise the culprits; a list of thousands hides the sentence


def counted(number: int, noun: str) -> str:
    """Return e.g. ``"1 row"`` or ``"2,084 rows"``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def first_names(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first few names and the number of the others."""
    shown = separator.join(names[:NAMED])
    others = len(names) - NAMED
    return f"{shown} and {others:,} more" if others > 0 else shown
