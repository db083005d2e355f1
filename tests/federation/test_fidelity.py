"""KID and FID against known values and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.metrics.fidelity import fid, fid_caveat, kid
from federation.seeding import numpy_stream

R = np.random.RandomState(0).randn(64, 8)
F = np.random.RandomState(1).randn(64, 8) * 0.8 + 0.3
T = np.random.RandomState(2).randn(64, 8)


def brute_force_kid(real: np.ndarray, generated: np.ndarray) -> float:
    """The unbiased estimate, pair by pair."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    def within(rows: np.ndarray) -> float:
        pairs = [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
        return float(np.mean(pairs))

    return within(real) + within(generated) - 2 * float(np.mean([kernel(x, y) for x in real for y in generated]))


def test_kid_known_values() -> None:
    assert kid(R, F) == (pytest.approx(0.43101659172, abs=1e-10), 0.0)
    assert kid(R, T) == (pytest.approx(-0.01750672019, abs=1e-10), 0.0)
    assert kid(np.array([[0, 0], [1, 0]]), np.array([[0, 1], [1, 1]]))[0] == pytest.approx(1.1875, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 1000))
def test_kid_is_the_unbiased_estimate(count: int, num_features: int, seed: int) -> None:
    stream = numpy_stream(seed, "kid")
    real, generated = stream.normal(size=(count, num_features)), stream.normal(1, 2, size=(count, num_features))
    assert kid(real, generated)[0] == pytest.approx(brute_force_kid(real, generated), rel=1e-9, abs=1e-9)


def test_kid_of_unequal_counts_averages_repeatable_subsets() -> None:
    mean, deviation = kid(R, F[:40], seed=3)
    assert (mean, deviation) == kid(R, F[:40], seed=3) != kid(R, F[:40], seed=4)
    assert deviation > 0
    assert kid(R, F[:40], seed=2**63 - 1)[0] == pytest.approx(brute_force_kid(R, F[:40]), abs=3 * deviation)


def test_kid_takes_at_most_a_thousand_at_once() -> None:
    stream = numpy_stream(0, "many")
    real, generated = stream.normal(size=(1200, 4)), stream.normal(0.3, 1, size=(1200, 4))
    mean, deviation = kid(real, generated, num_subsets=3)
    assert 0 < deviation < 0.05
    assert mean == pytest.approx(brute_force_moments(0.3, 4), abs=0.1)


def brute_force_moments(shift: float, num_features: int) -> float:
    """KID of N(0, I) against N(shift, I), from E(x·y / d + 1)³ = 1 + 3 E(s²) + 3 E(s) + E(s³), s = x·y / d."""

    def expectation(mean: float, variance: float, third: float) -> float:
        return 1 + 3 * mean + 3 * (variance + mean**2) + third

    d, m = num_features, shift
    # s of two independent draws with means a and b per feature: products p = x y per feature.
    values = []
    for a, b in ((0.0, 0.0), (m, m), (0.0, m)):
        mean = a * b
        second = (1 + a * a) * (1 + b * b)
        third = (a**3 + 3 * a) * (b**3 + 3 * b)
        variance = second - mean**2
        central = third - 3 * mean * second + 2 * mean**3
        s_mean, s_variance = mean, variance / d
        s_third = central / d**2 + 3 * s_mean * s_variance + s_mean**3
        values.append(expectation(s_mean, s_variance, s_third))
    return values[0] + values[1] - 2 * values[2]


def test_fid_known_values() -> None:
    assert fid(R, F) == pytest.approx(1.90317377774, abs=1e-9)
    # Rows with exactly zero mean and unit covariance: the closed form of N(0, I) and N(.5, 4 I) is 10.
    centred = R - R.mean(0)
    standard = centred @ np.linalg.inv(np.linalg.cholesky(np.cov(centred.T))).T
    assert fid(standard, 2 * standard + 0.5) == pytest.approx(10.0, abs=1e-9)
    assert fid(R, R) == pytest.approx(0, abs=1e-6)
    # One feature: (1 - 0)² + (3 - 1)² for means 0, 1 and deviations 1, 3.
    unit = np.array([[-1.0], [1.0]]) / np.sqrt(2)
    assert fid(unit, 3 * unit + 1) == pytest.approx(5.0)


def test_fid_says_when_there_are_too_few_images() -> None:
    assert fid_caveat(65, 1000, 64) == ""
    assert fid_caveat(1000, 64, 64) == "FID of 64 images on 64 features compares singular covariances: rank by KID"


@pytest.mark.parametrize("distance", [kid, fid])
def test_features_that_cannot_be_compared_are_refused(distance: object) -> None:
    assert callable(distance)
    with pytest.raises(ValueError, match=r"features must be \(n, d\) and \(m, d\), not \(64, 8\) and \(64, 7\)"):
        distance(R, F[:, :7])
    with pytest.raises(ValueError, match="need 2 images of each kind, not 64 and 1"):
        distance(R, F[:1])
