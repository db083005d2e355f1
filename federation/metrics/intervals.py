"""How sure a figure is: intervals of a mean over draws or seeds, and of a share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def spread(
    values: Sequence[float], *, confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Sum up repeated measurements of one figure.

    Parameters
    ----------
    values
        One per draw or seed, at least one. They must be independent for the interval to mean what it says.
    confidence
        Of the interval, in (0, 1).
    bounds
        The least and the greatest value that the figure can have: the interval is cut there.

    Returns
    -------
    ``mean``; ``sd``, the sample standard deviation (n - 1 in the denominator); ``interval`` as [low, high],
    mean ± t · sd / √n with Student's t of n - 1 degrees of freedom; ``values`` as they were. ``sd`` and
    ``interval`` are None with one value.

    Raises
    ------
    ValueError
        If there is no value, or `confidence` is not in (0, 1).

    References
    ----------
    Student 1908, https://doi.org/10.1093/biomet/6.1.1
    """
    from scipy.special import stdtrit

    _check_confidence(confidence)
    listed = [float(value) for value in values]
    if not listed:
        raise ValueError("a spread needs at least one value")
    mean = float(np.mean(listed))
    if len(listed) == 1:
        return {"mean": mean, "sd": None, "interval": None, "values": listed}
    deviation = float(np.std(listed, ddof=1))
    half = float(stdtrit(len(listed) - 1, (1 + confidence) / 2)) * deviation / math.sqrt(len(listed))
    low, high = bounds or (-math.inf, math.inf)
    interval = [max(low, mean - half), min(high, mean + half)]
    return {"mean": mean, "sd": deviation, "interval": interval, "values": listed}


def wilson_interval(successes: int, count: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share; unlike mean ± z · sd it stays in [0, 1] and is honest for few images.

    Parameters
    ----------
    successes
        From 0 to `count`.
    count
        At least 1.
    confidence
        In (0, 1).

    Returns
    -------
    low, high
        Both in [0, 1].

    Raises
    ------
    ValueError
        If a figure is out of its range.

    References
    ----------
    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    from scipy.special import ndtri

    _check_confidence(confidence)
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"a share needs 0 to count successes of at least 1, not {successes} of {count}")
    z = float(ndtri((1 + confidence) / 2))
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # At the ends the interval touches 0 or 1; rounding must not push it beyond, or short of it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return low, high


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
