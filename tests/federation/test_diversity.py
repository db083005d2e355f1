"""Diversity against known values and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.metrics.diversity import mean_pairwise_distance, total_variation, vendi_score, within_class_spread
from federation.seeding import numpy_stream

R = np.random.RandomState(0).randn(64, 8)
F = np.random.RandomState(1).randn(64, 8) * 0.8 + 0.3


def test_vendi_known_values() -> None:
    assert vendi_score(R) == pytest.approx(7.5908903265, abs=1e-9)
    assert vendi_score(F) == pytest.approx(7.1449920842, abs=1e-9)
    assert vendi_score(np.eye(5)) == pytest.approx(5)
    assert vendi_score(np.eye(5)[[0, 0, 1, 1]]) == pytest.approx(2)
    assert vendi_score(np.ones((7, 3))) == pytest.approx(1)
    assert vendi_score(np.ones((1, 3))) == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 100))
def test_vendi_of_either_gram_matrix_is_that_of_the_kernel(count: int, num_features: int, seed: int) -> None:
    features = numpy_stream(seed, "vendi").normal(1, 1, size=(count, num_features))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / count)
    eigenvalues = eigenvalues[eigenvalues > 1e-14]
    assert vendi_score(features) == pytest.approx(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()), rel=1e-9)


def test_vendi_does_not_depend_on_lengths_order_or_block() -> None:
    features = numpy_stream(0, "vendi").normal(0.5, 1, size=(2500, 6))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit.T @ unit / 2500)
    expected = np.exp(-(eigenvalues * np.log(eigenvalues)).sum())
    assert vendi_score(features) == pytest.approx(expected, rel=1e-12)
    assert vendi_score(features[::-1] * np.linspace(0.1, 9, 2500)[:, None]) == pytest.approx(expected, rel=1e-12)


def test_rows_of_zeros_are_one_more_image() -> None:
    assert vendi_score(np.array([[1.0, 0], [0, 1], [0, 0]])) == pytest.approx(3)
    assert vendi_score(np.array([[1.0, 0], [2, 0], [0, 0], [0, 0]])) == pytest.approx(2)
    assert vendi_score(np.zeros((9, 2))) == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 64), st.integers(1, 70))
def test_mean_pairwise_distance_by_brute_force(count: int, block: int) -> None:
    rows = R[:count] + 50
    pairs = [np.linalg.norm(rows[i] - rows[j]) for i in range(count) for j in range(i)]
    assert mean_pairwise_distance(rows, block=block) == pytest.approx(np.mean(pairs), rel=1e-10)


def test_images_that_are_all_alike_are_no_distance_apart() -> None:
    assert mean_pairwise_distance(np.full((30, 5), 0.1)) == 0
    near = np.full((2, 5), 0.1)
    near[1, 0] += 1e-9
    assert mean_pairwise_distance(near) == pytest.approx(1e-9, rel=1e-6)
    # Two places, each many times: half of the pairs at distance 1, less the pairs within.
    assert mean_pairwise_distance(np.repeat([[3.1, 0], [4.1, 0]], 10, axis=0)) == pytest.approx(100 / 190, rel=1e-12)


def test_spread_within_classes() -> None:
    real = np.array([[0.0], [2], [10], [14], [5], [7], [7], [1], [1]])
    real_labels = np.array([0, 0, 1, 1, 2, 3, 3, 4, 4])
    generated = np.array([[1.0], [2], [20], [30], [1], [2], [3], [1], [9]])
    generated_labels = np.array([0, 0, 1, 1, 2, 2, 3, 4, 4])
    # Class 2 has one real image, class 3 one generated, class 4 equal real ones, class 5 nothing.
    expected = [0.5, 2.5, None, None, None, None]
    assert within_class_spread(real, real_labels, generated, generated_labels, 6) == expected


def test_total_variation() -> None:
    assert total_variation([0.5, 0.5, 0], [0.25, 0.25, 0.5]) == pytest.approx(0.5)
    assert total_variation([1, 0], [0, 1]) == 1
    assert total_variation(np.array([0.2, 0.8]), [0.2, 0.8]) == 0


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"features must be \(n, d\) with n at least 1, not \(0, 3\)"):
        vendi_score(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"features must be \(n, d\) with n at least 2, not \(1, 3\)"):
        mean_pairwise_distance(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"features must be \(n, d\) and \(m, d\), not \(64, 8\) and \(64, 7\)"):
        within_class_spread(R, np.zeros(64, int), F[:, :7], np.zeros(64, int), 1)
    with pytest.raises(ValueError, match=r"labels must be \(64,\) and \(64,\), not \(63,\) and \(64,\)"):
        within_class_spread(R, np.zeros(63, int), F, np.zeros(64, int), 1)
    with pytest.raises(ValueError, match=r"distributions must be \(k,\) and \(k,\), not \(2,\) and \(3,\)"):
        total_variation([0.5, 0.5], [0.5, 0.5, 0])
    with pytest.raises(ValueError, match=r"must add up to 1, not \[0.5, 0.6\]"):
        total_variation([0.5, 0.5], [0.5, 0.6])
    with pytest.raises(ValueError, match=r"must not be negative .*, not \[1.5, -0.5\]"):
        total_variation([1.5, -0.5], [0.5, 0.5])
