"""Nearest neighbours in feature space, and what they say: precision, recall, density and coverage.

Distances are exact and in float64. They are made block by block, so that memory grows with the number of
images and never with the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Candidates beyond the k that were asked for. Matrix products may swap neighbours whose distances agree in all
# but the last digits; the spare ones are compared again, by their differences.
_SPARE = 3


def nearest_neighbours(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    *,
    k: int = 1,
    exclude_self: bool = False,
    block: int = 1024,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the `k` references that are nearest to each query, by Euclidean distance.

    Parameters
    ----------
    queries, references
        (n, d) and (m, d). Where both are one array, each pair is looked at once.
    k
        Neighbours per query, from 1 to m (to m - 1 with `exclude_self`).
    exclude_self
        Whether a row may not be its own neighbour. Only where `queries` is `references`.
    block
        Rows of either that are compared at once; memory beyond the result is about 16 · block · (block + 2 d)
        bytes. The result does not depend on it.

    Returns
    -------
    distances
        float64 (n, k), ascending; exactly 0 for a copy.
    rows
        int64 (n, k): which references these are. Of references equally far away the first come first, as long
        as there are no more than three too many.

    Raises
    ------
    ValueError
        If the shapes do not fit, `k` is out of its range, or `exclude_self` is asked of two arrays.

    Notes
    -----
    Candidates are found by |x|² + |y|² - 2 x·y on features centred on the mean of the references, which keeps
    the terms small. That form cancels for close pairs, so the winners' distances are computed again as |x - y|.
    """
    _check_comparable(queries, references)
    same = queries is references
    if exclude_self and not same:
        raise ValueError("exclude_self needs the references as queries: pass the same array twice")
    most = len(references) - exclude_self
    if not 1 <= k <= most:
        raise ValueError(f"k must lie between 1 and {most} (the references to choose from), not {k}")
    nearest = _Candidates(len(queries), min(k + _SPARE, most))
    for pairs in distance_blocks(queries, None if same else references, block=block):
        diagonal = same and pairs.rows == pairs.columns
        if exclude_self and diagonal:
            np.fill_diagonal(pairs.squared, np.inf)
        squared = torch.from_numpy(pairs.squared)
        nearest.offer(pairs.rows, squared, pairs.columns)
        if same and not diagonal:
            nearest.offer(pairs.columns, squared.T, pairs.rows)
    return _sorted_exactly(queries, references, nearest.rows.numpy(), k, block)


def prdc(
    real: NDArray[np.floating],
    generated: NDArray[np.floating],
    *,
    k_precision: int = 3,
    k_density: int = 5,
    block: int = 1024,
) -> dict[str, float]:
    """Precision, recall, density and coverage: are generated images among the real ones, and everywhere there?

    A ball stands around every image and reaches to its kth neighbour of the same kind. With r(x) its radius,

    - precision is the share of generated images in a real image's ball, recall the share of real images in a
      generated image's ball (k = `k_precision`);
    - density is the mean number of real balls around a generated image, over k; coverage is the share of real
      balls with a generated image inside (k = `k_density`).

    Parameters
    ----------
    real, generated
        (n, d) and (m, d).
    k_precision
        Neighbours for precision and recall; 3 in the paper.
    k_density
        Neighbours for density and coverage; 5 in the paper.
    block
        Rows that are compared at once, as in :func:`nearest_neighbours`. The result does not depend on it.

    Returns
    -------
    ``precision``, ``recall`` and ``coverage`` in [0, 1]; ``density`` from 0, about 1 for real images, and more
    where generated images crowd together.

    Raises
    ------
    ValueError
        If the shapes do not fit, a k is below 1, or either kind has not more images than neighbours.

    Notes
    -----
    Being inside is strict, d < r. So a generated copy of a real image's kth neighbour is outside that image's
    ball. Matrix products cannot tell such ties, so pairs about as far apart as the radius are compared again by
    the difference of their features.

    References
    ----------
    Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991
    Naeem et al. 2020, https://arxiv.org/abs/2002.09797
    """
    _check_comparable(real, generated)
    _check_neighbours(real, generated, k_precision, k_density)
    return _shares_inside(real, generated, k_precision, k_density, block)


@dataclass(frozen=True, kw_only=True, slots=True)
class DistanceBlock:
    """Squared distances between some rows of one array and some of another."""

    rows: slice
    """Which rows of the left array."""
    columns: slice
    """Which rows of the right array."""
    squared: NDArray[np.float64]
    """(rows, columns). Off by at most `rounding`, and so perhaps slightly negative."""
    rounding: float
    """Bound of the error of each entry."""


def distance_blocks(
    left: NDArray[np.floating], right: NDArray[np.floating] | None = None, *, block: int = 1024
) -> Iterator[DistanceBlock]:
    """Give the squared distances of all pairs, a block of pairs at a time.

    Parameters
    ----------
    left, right
        (n, d) and (m, d). None compares `left` with itself; blocks below the diagonal are then left out, which are
        the others' transposes.
    block
        Rows of either array in a block.

    Notes
    -----
    |x|² + |y|² - 2 x·y on features centred on the mean of one of the two, which keeps the terms small.
    """
    within = right is None
    right = left if right is None else right
    centre = np.asarray(np.mean(right, axis=0, dtype=np.float64))
    factor = (left.shape[1] + 8) * float(np.finfo(np.float64).eps)  # a sum of d products and what is done to it
    for rows, left_rows, left_norms in _centred_blocks(left, centre, block, 0):
        for columns, right_rows, right_norms in _centred_blocks(right, centre, block, rows.start if within else 0):
            squared = torch.addmm(right_norms, left_rows, right_rows.T, alpha=-2).add_(left_norms[:, None])
            rounding = factor * float(left_norms.max() + right_norms.max())
            yield DistanceBlock(rows=rows, columns=columns, squared=squared.numpy(), rounding=rounding)


def opposite_distances(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance of each row of `left` (n, d) from its opposite in `right` (n, d), by their difference.

    The same two rows give the same bits, whichever rows stand around them.
    """
    difference = np.subtract(left, right, dtype=np.float64)
    return np.asarray(np.sqrt(np.square(difference, out=difference).sum(axis=1)))


def row_slices(count: int, block: int, start: int = 0) -> Iterator[slice]:
    """Cut `start` … `count` into slices of `block` rows; the last may be shorter."""
    for first in range(start, count, block):
        yield slice(first, min(first + block, count))


class _Candidates:
    """The nearest references seen so far, of every query; unordered."""

    def __init__(self, num_queries: int, num_candidates: int) -> None:
        self.squared = torch.full((num_queries, num_candidates), torch.inf, dtype=torch.float64)
        self.rows = torch.zeros((num_queries, num_candidates), dtype=torch.int64)

    def offer(self, queries: slice, squared: torch.Tensor, references: slice) -> None:
        """Compare some queries with some references: squared distances (queries, references)."""
        num_candidates = self.rows.shape[1]
        values, positions = squared.topk(min(num_candidates, squared.shape[1]), dim=1, largest=False, sorted=False)
        values = torch.cat([self.squared[queries], values], dim=1)
        rows = torch.cat([self.rows[queries], positions + references.start], dim=1)
        self.squared[queries], kept = values.topk(num_candidates, dim=1, largest=False, sorted=False)
        self.rows[queries] = rows.gather(1, kept)


def _shares_inside(
    real: NDArray[np.floating], generated: NDArray[np.floating], k_precision: int, k_density: int, block: int
) -> dict[str, float]:
    """Return what :func:`prdc` does; every pair of a real and a generated image is looked at once."""
    largest = max(k_precision, k_density)
    real_radii, _ = nearest_neighbours(real, real, k=largest, exclude_self=True, block=block)
    generated_radii, _ = nearest_neighbours(generated, generated, k=k_precision, exclude_self=True, block=block)

    precise = np.zeros(len(generated), dtype=bool)
    recalled, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    num_inside = 0
    for pairs in distance_blocks(real, generated, block=block):
        inside_real = _closer_than(real_radii[pairs.rows, None, k_precision - 1], pairs, real, generated)
        precise[pairs.columns] |= inside_real.any(axis=0)
        if k_density != k_precision:
            inside_real = _closer_than(real_radii[pairs.rows, None, k_density - 1], pairs, real, generated)
        num_inside += int(np.count_nonzero(inside_real))
        covered[pairs.rows] |= inside_real.any(axis=1)
        inside_generated = _closer_than(generated_radii[None, pairs.columns, k_precision - 1], pairs, real, generated)
        recalled[pairs.rows] |= inside_generated.any(axis=1)
    return {
        "precision": float(precise.mean()),
        "recall": float(recalled.mean()),
        "density": num_inside / (k_density * len(generated)),
        "coverage": float(covered.mean()),
    }


def _closer_than(
    radii: NDArray[np.float64], pairs: DistanceBlock, left: NDArray[np.floating], right: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Tell which pairs are closer than `radii`, a column (a radius per row) or a row (a radius per column)."""
    limits = radii * radii
    inside = pairs.squared < limits - pairs.rounding
    perhaps = pairs.squared <= limits + pairs.rounding
    if np.count_nonzero(perhaps) != np.count_nonzero(inside):
        rows, columns = np.nonzero(perhaps & ~inside)
        limit = np.broadcast_to(radii, inside.shape)[rows, columns]
        for chunk in row_slices(len(rows), max(inside.shape)):
            distances = opposite_distances(left[pairs.rows][rows[chunk]], right[pairs.columns][columns[chunk]])
            inside[rows[chunk], columns[chunk]] = distances < limit[chunk]
    return inside


def _sorted_exactly(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    candidates: NDArray[np.int64],
    k: int,
    block: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    candidates = np.sort(candidates, axis=1)
    distances = np.empty(candidates.shape)
    for chunk in row_slices(len(queries), block):
        for column in range(candidates.shape[1]):
            distances[chunk, column] = opposite_distances(queries[chunk], references[candidates[chunk, column]])
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(candidates, order, axis=1)


def _centred_blocks(
    features: NDArray[np.floating], centre: NDArray[np.float64], block: int, start: int
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Give rows from `start` on, less `centre` and in float64, with their squared norms."""
    for chunk in row_slices(len(features), block, start):
        rows = torch.from_numpy(np.subtract(features[chunk], centre, dtype=np.float64))
        yield chunk, rows, rows.square().sum(dim=1)


def _check_comparable(left: NDArray[np.floating], right: NDArray[np.floating]) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(f"features must be (n, d) and (m, d), not {left.shape} and {right.shape}")


def _check_neighbours(
    real: NDArray[np.floating], generated: NDArray[np.floating], k_precision: int, k_density: int
) -> None:
    if min(k_precision, k_density) < 1:
        raise ValueError(f"k must be at least 1, not {min(k_precision, k_density)}")
    largest = max(k_precision, k_density)
    for kind, features in (("real", real), ("generated", generated)):
        if len(features) <= largest:
            raise ValueError(f"{largest} neighbours need more than {largest} {kind} images, not {len(features)}")
