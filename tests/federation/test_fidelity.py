"""KID and FID against known values, brute force and two published libraries."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.metrics.fidelity import GaussianStatistics, fid, fid_caveat, frechet_distance, kid
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


def lesion_like_features(count: int, num_features: int, *, shift: float = 0.0, purpose: str) -> np.ndarray:
    """Correlated, mostly active, some never: what a network with rectifiers gives."""
    directions = numpy_stream(0, "directions").normal(size=(32, num_features)) * np.geomspace(0.5, 0.1, 32)[:, None]
    features = numpy_stream(0, purpose).normal(shift, 1, size=(count, 32)) @ directions
    features += numpy_stream(1, purpose).normal(size=(count, num_features))
    features[:, : num_features // 8] = -1.0
    return np.maximum(features, 0)


# (real, generated): many images, few images on Inception's number of features, copies, one feature, unequal counts.
CASES = {
    "many": (R, F),
    "alike": (R, T),
    "2048 features": (
        lesion_like_features(40, 2048, purpose="real"),
        lesion_like_features(40, 2048, shift=0.2, purpose="generated"),
    ),
    "512 features, unequal": (
        lesion_like_features(40, 512, purpose="real"),
        lesion_like_features(24, 512, shift=0.2, purpose="generated"),
    ),
    "dead features": (
        lesion_like_features(150, 64, purpose="real"),
        lesion_like_features(150, 64, shift=0.2, purpose="generated"),
    ),
    "duplicates": (np.repeat(R[:16], 4, axis=0), np.concatenate([R[:32], R[:32]])),
    "one feature": (R[:, :1], F[:, :1]),
    "one wide set": (R[:6], F),
}


def fidelity_kid(real: np.ndarray, generated: np.ndarray, num_subsets: int, seed: int) -> tuple[float, float]:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    result = kid_features_to_metric(
        torch.from_numpy(real),
        torch.from_numpy(generated),
        kid_subsets=num_subsets,
        kid_subset_size=min(len(real), len(generated), 1000),
        rng_seed=seed,
        verbose=False,
    )
    return result[KEY_METRIC_KID_MEAN], result[KEY_METRIC_KID_STD]


def fidelity_fid(real: np.ndarray, generated: np.ndarray) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [
        {name: np.atleast_1d(value) for name, value in fid_features_to_statistics(torch.from_numpy(rows)).items()}
        for rows in (real, generated)
    ]
    for entry in statistics:
        entry["sigma"] = np.atleast_2d(entry["sigma"])  # np.cov gives a scalar for one feature
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


@pytest.mark.parametrize("name", CASES)
def test_kid_agrees_with_torch_fidelity_subset_by_subset(name: str) -> None:
    real, generated = CASES[name]
    mean, deviation = kid(real, generated, seed=5, num_subsets=4)
    expected_mean, expected_deviation = fidelity_kid(real, generated, 4, 5)
    assert mean == pytest.approx(expected_mean, rel=1e-6, abs=1e-9)
    if len(real) != len(generated):
        assert deviation == pytest.approx(expected_deviation, rel=1e-6)


@pytest.mark.parametrize("name", [name for name, (real, generated) in CASES.items() if len(real) == len(generated)])
def test_kid_agrees_with_torchmetrics(name: str) -> None:
    from torchmetrics.image.kid import poly_mmd

    real, generated = CASES[name]
    expected = float(poly_mmd(torch.from_numpy(real), torch.from_numpy(generated)))
    assert kid(real, generated)[0] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_fid_agrees_with_torch_fidelity(name: str) -> None:
    real, generated = CASES[name]
    # With 40 images torch-fidelity adds 2008 roots of rounded zeros, 4e-7 of the distance; ours leaves them out.
    assert fid(real, generated) == pytest.approx(fidelity_fid(real, generated), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["many", "dead features", "duplicates"])
def test_fid_agrees_with_torchmetrics(name: str) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, generated = CASES[name]

    class FeaturesAsImages(torch.nn.Module):
        num_features = real.shape[1]

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features

    metric = FrechetInceptionDistance(feature=FeaturesAsImages())
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated), real=False)
    assert fid(real, generated) == pytest.approx(float(metric.compute()), rel=1e-6, abs=1e-6)


def test_kid_known_values() -> None:
    assert kid(R, F)[0] == pytest.approx(0.43101659172, abs=1e-10)
    assert kid(R, T)[0] == pytest.approx(-0.01750672019, abs=1e-10)
    assert kid(np.array([[0, 0], [1, 0]]), np.array([[0, 1], [1, 1]]))[0] == pytest.approx(1.1875, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 1000))
def test_kid_is_the_unbiased_estimate(count: int, num_features: int, seed: int) -> None:
    stream = numpy_stream(seed, "kid")
    real, generated = stream.normal(size=(count, num_features)), stream.normal(1, 2, size=(count, num_features))
    assert kid(real, generated)[0] == pytest.approx(brute_force_kid(real, generated), rel=1e-9, abs=1e-9)


def test_kid_of_everything_does_not_depend_on_the_seed_or_the_order() -> None:
    assert kid(R, F, seed=1) == kid(R, F, seed=2)
    shuffled = kid(numpy_stream(0, "order").permutation(R), F[::-1])
    assert shuffled == pytest.approx(kid(R, F), rel=1e-12)


def test_deviation_of_kid_is_the_jackknife_by_brute_force() -> None:
    real, generated = R[:12], F[:12]

    def estimate(x: np.ndarray, y: np.ndarray) -> float:
        def within(rows: np.ndarray) -> float:
            kernel = (rows @ rows.T / rows.shape[1] + 1) ** 3
            return float(kernel[~np.eye(len(rows), dtype=bool)].mean())

        return within(x) + within(y) - 2 * float(((x @ y.T / x.shape[1] + 1) ** 3).mean())

    variance = 0.0
    for without in (
        [estimate(np.delete(real, i, axis=0), generated) for i in range(12)],
        [estimate(real, np.delete(generated, i, axis=0)) for i in range(12)],
    ):
        variance += 11 / 12 * float(np.square(np.array(without) - np.mean(without)).sum())
    mean, deviation = kid(real, generated)
    assert mean == pytest.approx(estimate(real, generated), rel=1e-12)
    assert deviation == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_deviation_of_kid_is_how_far_it_moves_with_other_images() -> None:
    stream = numpy_stream(0, "kid replicates")
    figures = np.array([kid(stream.normal(size=(50, 8)), stream.normal(0.5, 1, size=(50, 8))) for _ in range(300)])
    observed, told = figures[:, 0].std(ddof=1), np.sqrt(np.square(figures[:, 1]).mean())
    assert 0.95 < told / observed < 1.25


def test_two_images_have_no_jackknife() -> None:
    assert np.isnan(kid(R[:2], F[:2])[1])
    assert np.isfinite(kid(R[:3], F[:3])[1])


def test_kid_needs_a_subset() -> None:
    with pytest.raises(ValueError, match="num_subsets must be at least 1, not 0"):
        kid(R, F, num_subsets=0)


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


def test_fid_of_singular_covariances_by_both_ways() -> None:
    # Through the images themselves, and through their covariances: the two must meet.
    real, generated = CASES["512 features, unequal"]
    through_covariances = frechet_distance(statistics_of(real), statistics_of(generated))
    assert fid(real, generated) == pytest.approx(through_covariances, abs=1e-9)
    assert frechet_distance(statistics_of(generated), statistics_of(real)) == pytest.approx(through_covariances)


def test_fid_of_images_that_are_all_alike_is_the_distance_of_the_means() -> None:
    assert fid(np.ones((10, 3)), np.zeros((12, 3))) == pytest.approx(3.0)
    assert fid(np.ones((2, 3)), np.zeros((2, 3))) == pytest.approx(3.0)


def statistics_of(*batches: np.ndarray) -> GaussianStatistics:
    statistics = GaussianStatistics(batches[0].shape[1])
    for batch in batches:
        statistics.update(batch)
    return statistics


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 64), max_size=4), st.integers(0, 64))
def test_statistics_in_batches_or_merged_are_those_of_everything(cuts: list[int], middle: int) -> None:
    # Far from zero, where the plain sum of squares loses half its digits.
    rows = R * np.geomspace(0.01, 1, 8) + 1e4
    edges = [0, *sorted(cuts), 64]
    batches = [rows[start:end] for start, end in pairwise(edges)]
    merged = statistics_of(rows[:middle])
    merged.merge(statistics_of(rows[middle:]))
    for statistics in (statistics_of(*batches), merged):
        assert statistics.num_images == 64
        np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(statistics.covariance, np.cov(R.T * np.geomspace(0.01, 1, 8)[:, None]), atol=1e-9)


def test_statistics_of_more_images_than_are_converted_at_once() -> None:
    rows = numpy_stream(0, "many").normal(3, 1, size=(2500, 5)).astype(np.float32)
    statistics = statistics_of(rows)
    np.testing.assert_allclose(statistics.mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(rows.T, dtype=np.float64), atol=1e-12)
    assert statistics.covariance.dtype == np.float64


def test_statistics_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="a covariance needs 2 images, not 1"):
        _ = statistics_of(R[:1]).covariance
    with pytest.raises(ValueError, match=r"features must be \(n, 8\), not \(64, 7\)"):
        statistics_of(R).update(R[:, :7])
    with pytest.raises(ValueError, match="statistics of 8 and of 7 features cannot be merged"):
        statistics_of(R).merge(statistics_of(R[:, :7]))
    with pytest.raises(ValueError, match="statistics of 8 and of 7 features cannot be compared"):
        frechet_distance(statistics_of(R), statistics_of(R[:, :7]))


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
