"""Numbers as people read them, with the exact value behind each."""

from __future__ import annotations

import math

from markupsafe import Markup

MISSING = "–"
"""Stands for what was not measured."""


def figure(value: float | None) -> str:
    """Write a number with three significant digits, and no digit left out before the point.

    Examples
    --------
    >>> figure(0.48763), figure(1804.29), figure(-0.00213), figure(0), figure(None)
    ('0.488', '1,804', '−0.00213', '0', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-4 or size >= 1e9:
        return f"{value:.2e}".replace("-", "−")
    # Of the rounded value: 0.9996 is 1.00, not 1.000.
    digits = max(0, 2 - math.floor(math.log10(float(f"{size:.2e}"))))
    return f"{value:,.{digits}f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Write a difference with three significant digits and its sign."""
    return ("+" if value is not None and value > 0 else "") + figure(value)


def count(value: float | None) -> str:
    """Write a whole number with its thousands apart."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.0f}".replace("-", "−")


def share(value: float | None) -> str:
    """Write a number of about 1 with three decimals, so that a column can be read down."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.3f}".replace("-", "−")


def percent(value: float | None) -> str:
    """Write a share as a percentage."""
    if value is None or not math.isfinite(value):
        return MISSING
    digits = 0 if value in (0, 1) else 1
    return f"{100 * value:.{digits}f}\u00a0%".replace("-", "−")  # no line may end before the sign


def size_bytes(value: float | None) -> str:
    """Write a number of bytes in powers of 1,000."""
    if value is None or not math.isfinite(value):
        return MISSING
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{figure(value) if unit != 'bytes' else count(value)} {unit}"
        value /= 1000
    return f"{figure(value)} TB"


def duration(value: float | None) -> str:
    """Write seconds as people say them."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 120:
        return f"{figure(value)} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


STYLES = {
    "figure": figure,
    "count": count,
    "share": share,
    "percent": percent,
    "bytes": size_bytes,
    "seconds": duration,
}
"""Ways of writing a number, by name."""


def exact(value: float | None, style: str = "figure") -> Markup | str:
    """Write a number for people inside an element that holds its exact value for machines."""
    words = STYLES[style](value)
    if value is None or words == MISSING:
        return MISSING
    return Markup('<data value="{}">{}</data>').format(repr(value), words)


def between(interval: tuple[float, float] | None, style: str = "figure") -> Markup | str:
    """Write an interval."""
    if interval is None:
        return MISSING
    return Markup('<span class="interval">{} to {}</span>').format(*(exact(end, style) for end in interval))


def with_interval(value: float | None, interval: tuple[float, float] | None, style: str = "figure") -> Markup | str:
    """Write a number with its interval in brackets."""
    if interval is None:
        return exact(value, style)
    return Markup('{} <span class="interval">[{}, {}]</span>').format(
        exact(value, style), *(exact(end, style) for end in interval)
    )
