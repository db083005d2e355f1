"""Neighbours against brute force; precision, recall, density and coverage against known values and against prdc."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.metrics.neighbours import distance_blocks, nearest_neighbours, prdc
from federation.seeding import numpy_stream

R = np.random.RandomState(0).randn(64, 8)
F = np.random.RandomState(1).randn(64, 8) * 0.8 + 0.3


def brute_force_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(left[:, None] - right[None]).sum(axis=2))


def brute_force_prdc(real: np.ndarray, generated: np.ndarray, k_precision: int, k_density: int) -> dict[str, float]:
    """The definitions, on distances that are made by differences: ties are ties."""

    def radii(rows: np.ndarray, k: int) -> np.ndarray:
        distances = brute_force_distances(rows, rows)
        np.fill_diagonal(distances, np.inf)
        return np.sort(distances, axis=1)[:, k - 1]

    distances = brute_force_distances(real, generated)
    in_dense_ball = distances < radii(real, k_density)[:, None]
    return {
        "precision": float((distances < radii(real, k_precision)[:, None]).any(axis=0).mean()),
        "recall": float((distances < radii(generated, k_precision)[None]).any(axis=1).mean()),
        "density": float(in_dense_ball.sum() / k_density / len(generated)),
        "coverage": float(in_dense_ball.any(axis=1).mean()),
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.integers(1, 45), st.integers(0, 100))
def test_neighbours_by_brute_force_at_any_block_size(n: int, m: int, k: int, block: int, seed: int) -> None:
    stream = numpy_stream(seed, "neighbours")
    queries, references = stream.normal(size=(n, 5)), stream.normal(size=(m, 5)) + 100
    k = min(k, m)
    expected = brute_force_distances(queries, references)
    distances, rows = nearest_neighbours(queries, references, k=k, block=block)
    np.testing.assert_array_equal(rows, np.argsort(expected, axis=1, kind="stable")[:, :k])
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :k], rtol=1e-14)
    assert (distances.dtype, rows.dtype) == (np.float64, np.int64)


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 40), st.integers(1, 45), st.booleans())
def test_neighbours_within_one_set(count: int, block: int, exclude_self: bool) -> None:
    rows = R[:count]
    expected = brute_force_distances(rows, rows)
    if exclude_self:
        np.fill_diagonal(expected, np.inf)
    distances, found = nearest_neighbours(rows, rows, k=4, exclude_self=exclude_self, block=block)
    np.testing.assert_array_equal(found, np.argsort(expected, axis=1, kind="stable")[:, :4])
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :4], rtol=1e-14)


def test_a_copy_is_exactly_as_far_away_as_zero() -> None:
    # A large common offset, where |x|² + |y|² - 2 x·y alone would leave about 1e-4.
    references = (numpy_stream(0, "copies").normal(size=(300, 2048)) + 1e3).astype(np.float32)
    order = numpy_stream(1, "copies").permutation(300)
    distances, rows = nearest_neighbours(references[order], references, k=2, block=128)
    np.testing.assert_array_equal(rows[:, 0], order)
    assert (distances[:, 0] == 0).all()
    assert distances[:, 1].min() > 50


def test_a_near_copy_comes_before_the_rest_and_after_the_copy() -> None:
    near = R[:1] + 1e-9
    distances, rows = nearest_neighbours(R[:1], np.concatenate([R[1:], near, R[:1]]), k=2)
    assert rows.tolist() == [[64, 63]]
    assert distances[0] == pytest.approx([0, 1e-9 * np.sqrt(8)], rel=1e-6)


def test_neighbours_that_cannot_be_found_are_refused() -> None:
    with pytest.raises(ValueError, match=r"k must lie between 1 and 64 .*, not 65"):
        nearest_neighbours(F, R, k=65)
    with pytest.raises(ValueError, match=r"k must lie between 1 and 63 .*, not 64"):
        nearest_neighbours(R, R, k=64, exclude_self=True)
    with pytest.raises(ValueError, match="exclude_self needs the references as queries"):
        nearest_neighbours(R, R.copy(), exclude_self=True)
    with pytest.raises(ValueError, match=r"features must be \(n, d\) and \(m, d\), not \(64, 8\) and \(64, 7\)"):
        nearest_neighbours(R, R[:, :7])


def test_distance_blocks_are_as_exact_as_they_say() -> None:
    expected, seen = brute_force_distances(R, F) ** 2, np.zeros((64, 64))
    for pairs in distance_blocks(R, F, block=24):
        error = np.abs(pairs.squared - expected[pairs.rows, pairs.columns]).max()
        assert error <= pairs.rounding < 1e-12
        seen[pairs.rows, pairs.columns] += 1
    assert (seen == 1).all()


def test_prdc_known_values() -> None:
    three, five = prdc(R, F, k_density=3), prdc(R, F, k_precision=5)
    assert list(three) == ["precision", "recall", "density", "coverage"]
    assert list(three.values()) == pytest.approx([0.9375, 0.59375, 1.2916667, 0.8125], abs=1e-7)
    assert list(five.values()) == pytest.approx([0.984375, 0.75, 1.3125, 0.9375])
    expected = {"precision": 0.9375, "recall": 0.59375, "density": 1.3125, "coverage": 0.9375}
    assert prdc(R, F) == pytest.approx(expected)


CASES = {
    "as many": (R, F),
    "fewer generated": (R, F[:20]),
    "2048 features": (
        numpy_stream(0, "real").normal(size=(30, 2048)),
        numpy_stream(0, "generated").normal(0.01, 0.98, size=(40, 2048)),
    ),
    "one feature": (R[:, :1], F[:, :1]),
    # Whole numbers, so that both libraries see ties as ties: every image thrice, half of them generated too.
    "duplicates": (np.repeat(np.round(4 * R), 3, axis=0), np.round(4 * np.concatenate([R[:32], F]))),
    "float32": (R.astype(np.float32), F.astype(np.float32)),
}


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("name", CASES)
def test_prdc_agrees_with_the_published_library(name: str, k: int) -> None:
    from prdc import compute_prdc

    real, generated = CASES[name]
    expected = {key: float(value) for key, value in compute_prdc(real, generated, k).items()}
    assert prdc(real, generated, k_precision=k, k_density=k, block=25) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(6, 30), st.integers(6, 30), st.integers(1, 32), st.integers(0, 1000))
def test_prdc_decides_ties_as_exact_distances_do(n: int, m: int, block: int, seed: int) -> None:
    # Generated images are copies of real ones and of one another: most comparisons with a radius are ties.
    stream = numpy_stream(seed, "ties")
    real = stream.normal(size=(n, 3)) * 0.1 + 7
    generated = real[stream.integers(0, n, m)]
    assert prdc(real, generated, block=block) == pytest.approx(brute_force_prdc(real, generated, 3, 5), abs=1e-12)
    assert prdc(real, real, block=block) == pytest.approx(brute_force_prdc(real, real, 3, 5), abs=1e-12)


def test_prdc_does_not_depend_on_order_or_block() -> None:
    stream = numpy_stream(0, "order")
    reference = prdc(R, F)
    assert prdc(stream.permutation(R), stream.permutation(F)) == pytest.approx(reference, abs=1e-15)
    assert all(prdc(R, F, block=block) == reference for block in (1, 7, 63, 64, 1000))


def test_prdc_of_a_generator_that_repeats_one_image() -> None:
    # It lies among the real images, and covers almost none of them: its own balls have radius 0.
    figures = prdc(R, np.repeat(R.mean(axis=0, keepdims=True), 50, axis=0))
    assert figures["precision"] == 1
    assert figures["recall"] == 0
    assert 0 < figures["coverage"] < 1


def test_prdc_of_too_few_images_is_refused() -> None:
    assert prdc(R[:6], F[:6])["coverage"] >= 0
    with pytest.raises(ValueError, match="5 neighbours need more than 5 real images, not 5"):
        prdc(R[:5], F)
    with pytest.raises(ValueError, match="5 neighbours need more than 5 generated images, not 5"):
        prdc(R, F[:5])
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        prdc(R, F, k_precision=0)
