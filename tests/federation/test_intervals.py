"""Intervals against tables, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from federation.metrics.intervals import spread, wilson_interval
from federation.seeding import numpy_stream


def test_spread_known_values() -> None:
    # Mean 3, sample deviation sqrt(2.5), t of 4 degrees of freedom at 97.5 %: 2.776445.
    half = 2.776445105 * np.sqrt(2.5 / 5)
    figures = spread([1, 2, 3, 4, 5])
    assert list(figures) == ["mean", "sd", "interval", "values"]
    assert figures["mean"] == 3
    assert figures["sd"] == pytest.approx(np.sqrt(2.5))
    assert figures["interval"] == pytest.approx([3 - half, 3 + half], abs=1e-8)
    assert figures["values"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    # Two values at 90 %: t of 1 degree of freedom at 95 % is tan(0.45 pi) = 6.313752, the deviation of (0, 2) sqrt(2).
    assert spread([0, 2], confidence=0.9)["interval"] == pytest.approx([1 - 6.313751515, 1 + 6.313751515])
    assert spread(np.array([2.0, 2.0]))["interval"] == [2, 2]


def test_one_value_has_no_spread() -> None:
    assert spread([0.25]) == {"mean": 0.25, "sd": None, "interval": None, "values": [0.25]}


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says() -> None:
    draws = numpy_stream(0, "intervals").normal(7, 3, size=(1000, 5))
    held = np.mean([low <= 7 <= high for low, high in (spread(row.tolist())["interval"] for row in draws)])
    assert 0.93 < held < 0.97


def test_wilson_interval_known_values() -> None:
    # Newcombe 1998, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson_interval(0, 20) == (0.0, pytest.approx(0.1611, abs=1e-4))
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)
    assert wilson_interval(20, 20) == (pytest.approx(1 - 0.1611, abs=1e-4), 1.0)
    assert wilson_interval(50, 100, confidence=0.99) == pytest.approx((0.3752, 0.6248), abs=2e-3)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        spread([])
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, not 95"):
        spread([1, 2], confidence=95)
    for successes, count in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"not {successes} of {count}"):
            wilson_interval(successes, count)
