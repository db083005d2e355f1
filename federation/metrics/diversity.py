"""How varied images are, on features of a named extractor, and how far two distributions of classes differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from federation.metrics.neighbours import distance_blocks, opposite_distances, row_slices

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Rows that are turned into float64 at once.
_BLOCK = 1024

# Squared distances below this many times their rounding are measured again: their roots then have six digits.
_TOO_CLOSE = 1e6


def vendi_score(features: NDArray[np.floating]) -> float:
    """Number of effectively different images: exp of the entropy of the eigenvalues of X Xᵀ / n.

    Parameters
    ----------
    features
        X, (n, d), at least 1 row. Rows are normalised to length 1, so that the kernel is the cosine. Rows of
        zeros have no direction: they count as copies of one another and as unlike all others.

    Returns
    -------
    From 1 (all alike) to min(n, d) (all orthogonal; one more with rows of zeros).

    Raises
    ------
    ValueError
        If `features` is not (n, d), or has no row.

    Notes
    -----
    X Xᵀ and Xᵀ X have the same eigenvalues above 0; the smaller is taken.

    References
    ----------
    Friedman & Dieng 2022, https://arxiv.org/abs/2210.02410
    """
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"features must be (n, d) with n at least 1, not {features.shape}")
    count, num_features = features.shape
    if count <= num_features:
        rows, num_zeros = _normalised(features)
        gram = rows @ rows.T
    else:
        gram, num_zeros = np.zeros((num_features, num_features)), 0
        for chunk in row_slices(count, _BLOCK):
            rows, zeros = _normalised(features[chunk])
            gram += rows.T @ rows
            num_zeros += zeros
    shares = np.append(np.linalg.eigvalsh(gram), num_zeros) / count
    shares = shares[shares > 0]  # 0 log 0 is 0; rounding makes some slightly negative
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_pairwise_distance(features: NDArray[np.floating], *, block: int = 1024) -> float:
    """Mean Euclidean distance over all pairs of images.

    Parameters
    ----------
    features
        (n, d), at least 2 rows.
    block
        Rows that are compared at once; memory grows with its square and not with n².

    Returns
    -------
    In units of the features; 0 where all images are alike.

    Raises
    ------
    ValueError
        If `features` is not (n, d), or there is no pair.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (n, d) with n at least 2, not {features.shape}")
    total = 0.0
    for pairs in distance_blocks(features, block=block):
        distances = np.sqrt(pairs.squared.clip(min=0))
        rows, columns = np.nonzero(pairs.squared < _TOO_CLOSE * pairs.rounding)
        for chunk in row_slices(len(rows), block):
            left, right = rows[chunk] + pairs.rows.start, columns[chunk] + pairs.columns.start
            distances[rows[chunk], columns[chunk]] = opposite_distances(features[left], features[right])
        # A block on the diagonal holds each pair twice.
        total += float(distances.sum()) / (2 if pairs.rows == pairs.columns else 1)
    return total / (len(features) * (len(features) - 1) / 2)


def within_class_spread(
    real: NDArray[np.floating],
    real_labels: NDArray[np.integer],
    generated: NDArray[np.floating],
    generated_labels: NDArray[np.integer],
    num_classes: int,
) -> list[float | None]:
    """Compare how varied generated images of a class are with how varied real ones are.

    Parameters
    ----------
    real, generated
        (n, d) and (m, d).
    real_labels, generated_labels
        (n,) and (m,), in [0, `num_classes`).
    num_classes
        Classes to compare.

    Returns
    -------
    Per class the mean pairwise distance of generated images over that of real ones: 1 where they are as varied,
    near 0 where the generator repeats itself. None with fewer than 2 images of either kind, or where all real
    ones are alike.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features must be (n, d) and (m, d), not {real.shape} and {generated.shape}")
    if real_labels.shape != real.shape[:1] or generated_labels.shape != generated.shape[:1]:
        shapes = f"{real_labels.shape} and {generated_labels.shape}"
        raise ValueError(f"labels must be ({len(real)},) and ({len(generated)},), not {shapes}")
    ratios: list[float | None] = []
    for label in range(num_classes):
        ours, theirs = generated[generated_labels == label], real[real_labels == label]
        if min(len(ours), len(theirs)) < 2:
            ratios.append(None)
            continue
        reference = mean_pairwise_distance(theirs)
        ratios.append(mean_pairwise_distance(ours) / reference if reference > 0 else None)
    return ratios


def total_variation(
    left: Sequence[float] | NDArray[np.floating], right: Sequence[float] | NDArray[np.floating]
) -> float:
    """Total variation distance of two distributions: half the sum of absolute differences.

    Parameters
    ----------
    left, right
        (k,) shares, not negative, that add up to 1.

    Returns
    -------
    In [0, 1]: the share of images that would have to change class for the distributions to agree.

    Raises
    ------
    ValueError
        If the lengths differ, or either is not a distribution.
    """
    p, q = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if p.ndim != 1 or p.shape != q.shape:
        raise ValueError(f"distributions must be (k,) and (k,), not {p.shape} and {q.shape}")
    for shares in (p, q):
        if not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
            raise ValueError(f"shares must not be negative and must add up to 1, not {shares.tolist()}")
    return float(np.abs(p - q).sum() / 2)


def _normalised(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], int]:
    """Return rows of length 1, rows of zeros as they are, and how many these are."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=rows, where=lengths > 0), int((lengths == 0).sum())
