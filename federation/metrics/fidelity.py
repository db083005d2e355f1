"""How far generated images are from real ones: KID and FID, on features of a named extractor.

Rank generators by KID: its estimate is unbiased at any number of images (and may be slightly
negative), while FID depends on how many there are, and with fewer images than features it compares
singular covariances. Neither can be compared between two extractors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from federation.metrics.neighbours import row_slices

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_SUBSET = 1000

# Rows that are turned into float64 at once.
_BLOCK = 2048


def kid(
    real_features: NDArray[np.floating],
    generated_features: NDArray[np.floating],
    *,
    seed: int = 0,
    num_subsets: int = 20,
) -> tuple[float, float]:
    """Kernel inception distance: the unbiased squared MMD under the kernel (x·y / d + 1)³.

    On subsets of min(n, m, 1000) images. Where they are drawn, they are those that torch-fidelity draws, so that
    its figures are the same. Everything is in float64: in float32 the three terms cancel, and what is left for
    sets that are nearly alike may have three right digits.

    Parameters
    ----------
    real_features, generated_features
        (n, d) and (m, d), at least 2 rows each.
    seed
        Which subsets are drawn.
    num_subsets
        Subsets over which the distance is averaged, at least 1. One is enough, and is all that is taken, where
        a subset is everything.

    Returns
    -------
    mean
        Over subsets; the unbiased estimate may be negative when the two are alike.
    deviation
        How far the estimate would move with other images. Over several subsets: their standard deviation, as
        published. Where one subset is everything: the jackknife's, from leaving out each image in turn. It errs on
        the large side: by a tenth where the two differ, by up to a half where they are alike. nan for 2 images, of
        which none can be left out.

    Raises
    ------
    ValueError
        If there are fewer than 2 rows, the numbers of features differ, or there is no subset.

    References
    ----------
    Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401
    Arvesen 1969, https://doi.org/10.1214/aoms/1177697287 (the jackknife of a U statistic of two samples)
    """
    real, generated = np.asarray(real_features), np.asarray(generated_features)
    _check_comparable(real, generated)
    if num_subsets < 1:
        raise ValueError(f"num_subsets must be at least 1, not {num_subsets}")
    subset_size = min(len(real), len(generated), LARGEST_SUBSET)
    if subset_size == len(real) == len(generated):
        sums = _KernelSums(real, generated)
        return sums.squared_mmd(), sums.jackknife_deviation()
    # The generator of torch-fidelity, of which a seed has 32 bits; it belongs to this call alone.
    stream = np.random.RandomState(seed % 2**32)
    distances = []
    for _ in range(num_subsets):
        some_real = real[stream.choice(len(real), subset_size, replace=False)]
        some_generated = generated[stream.choice(len(generated), subset_size, replace=False)]
        distances.append(_KernelSums(some_real, some_generated).squared_mmd())
    return float(np.mean(distances)), float(np.std(distances))


class _KernelSums:
    """Row sums of the three kernel matrices: all that the distance and its jackknife depend on."""

    def __init__(self, real: NDArray[np.floating], generated: NDArray[np.floating]) -> None:
        x, y = real.astype(np.float64), generated.astype(np.float64)
        across = _kernel(x, y)
        self.real_across = across.sum(axis=1)
        self.generated_across = across.sum(axis=0)
        self.real_within = self._sums_without_diagonal(_kernel(x, x))
        self.generated_within = self._sums_without_diagonal(_kernel(y, y))

    @staticmethod
    def _sums_without_diagonal(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
        # An image and itself are no pair: leaving them out is what makes the estimate unbiased.
        return np.asarray(kernel.sum(axis=1) - kernel.diagonal())

    def squared_mmd(self) -> float:
        """Return the unbiased estimate: means over pairs within each kind, less twice the mean across."""
        n, m = len(self.real_within), len(self.generated_within)
        within = self.real_within.sum() / (n * (n - 1)) + self.generated_within.sum() / (m * (m - 1))
        return float(within - 2 * self.real_across.sum() / (n * m))

    def jackknife_deviation(self) -> float:
        """Root of the jackknife variances of both samples, added."""
        return math.sqrt(
            _jackknife_variance(self.real_within, self.real_across, len(self.generated_within))
            + _jackknife_variance(self.generated_within, self.generated_across, len(self.real_within))
        )


def _jackknife_variance(within: NDArray[np.float64], across: NDArray[np.float64], num_others: int) -> float:
    """Variance of the distance over the images of one kind, from what changes when each is left out.

    Without image i, the sum of the kernel within its kind loses row and column i, and the sum across loses row i.
    What the other kind has among itself does not change, and so does not count.
    """
    n = len(within)
    if n < 3:
        return math.nan
    without = (within.sum() - 2 * within) / ((n - 1) * (n - 2)) - 2 * (across.sum() - across) / ((n - 1) * num_others)
    return float((n - 1) * np.var(without))


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel = np.asarray(x @ y.T)
    kernel /= x.shape[1]
    kernel += 1
    kernel *= kernel * kernel
    return kernel


class GaussianStatistics:
    """Mean and covariance of features that arrive in batches, or at several places.

    However the rows are cut into batches, and in whatever order these are merged, the figures are the same up to
    rounding. Everything is in float64.

    Parameters
    ----------
    num_features
        d.

    References
    ----------
    Chan, Golub & LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115
    """

    def __init__(self, num_features: int) -> None:
        self.num_images = 0
        self._mean = np.zeros(num_features)
        self._scatter = np.zeros((num_features, num_features))  # sum of (x - mean) (x - mean)ᵀ

    @property
    def mean(self) -> NDArray[np.float64]:
        """(d,); zeros before the first image."""
        return self._mean

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(d, d), with n - 1 in the denominator.

        Raises
        ------
        ValueError
            If there are fewer than 2 images.
        """
        if self.num_images < 2:
            raise ValueError(f"a covariance needs 2 images, not {self.num_images}")
        return np.asarray(self._scatter / (self.num_images - 1))

    def update(self, features: NDArray[np.floating]) -> None:
        """Add a batch of (n, d) features; n may be 0.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        if features.ndim != 2 or features.shape[1] != len(self._mean):
            raise ValueError(f"features must be (n, {len(self._mean)}), not {features.shape}")
        for chunk in row_slices(len(features), _BLOCK):
            count = chunk.stop - chunk.start
            # One row more than there are images: the scatter of the means joins the product.
            rows = np.empty((count + 1, len(self._mean)))
            rows[:-1] = features[chunk]
            mean = rows[:-1].mean(axis=0)
            rows[:-1] -= mean
            rows[-1] = math.sqrt(self._weight(count)) * (mean - self._mean)
            self._scatter += rows.T @ rows
            self._move_mean(count, mean)

    def merge(self, other: GaussianStatistics) -> None:
        """Add what another has seen; the other stays as it is.

        Raises
        ------
        ValueError
            If the numbers of features differ.
        """
        if len(self._mean) != len(other._mean):
            raise ValueError(f"statistics of {len(self._mean)} and of {len(other._mean)} features cannot be merged")
        if other.num_images:
            shift = other._mean - self._mean
            self._scatter += other._scatter + np.outer(shift, shift * self._weight(other.num_images))
            self._move_mean(other.num_images, other._mean)

    def _weight(self, count: int) -> float:
        """Weight of the squared shift of the mean, when `count` images join."""
        return self.num_images * count / (self.num_images + count)

    def _move_mean(self, count: int, mean: NDArray[np.float64]) -> None:
        self.num_images += count
        self._mean = self._mean + (mean - self._mean) * (count / self.num_images)


def frechet_distance(left: GaussianStatistics, right: GaussianStatistics) -> float:
    """Squared Fréchet distance of two Gaussians: |m₁ - m₂|² + tr(S₁ + S₂ - 2 (S₁ S₂)^½).

    Parameters
    ----------
    left, right
        Of the same features, of at least 2 images each.

    Raises
    ------
    ValueError
        If there are fewer than 2 images, or the numbers of features differ.

    Notes
    -----
    With S₁ = A Aᵀ the trace of (S₁ S₂)^½ is the sum of the roots of the eigenvalues of Aᵀ S₂ A, which is
    symmetric: no general matrix root is needed, and no complex number arises. A is the Cholesky factor, or where
    S₁ is singular its eigenvectors. The covariance of n images has rank n - 1 at most; eigenvalues beyond are
    rounding, and are left out before their roots enlarge them.

    References
    ----------
    Dowson & Landau 1982, https://doi.org/10.1016/0047-259X(82)90077-X
    """
    if len(left.mean) != len(right.mean):
        raise ValueError(f"statistics of {len(left.mean)} and of {len(right.mean)} features cannot be compared")
    if left.num_images < right.num_images:
        left, right = right, left  # more images are less likely to be singular
    first, second = left.covariance, right.covariance
    rank = min(left.num_images - 1, right.num_images - 1, len(left.mean))
    factor = _factor(first, left.num_images)
    product = factor.T @ second @ factor
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)[-rank:]
    trace_of_root = float(np.sqrt(eigenvalues.clip(min=0)).sum())
    difference = left.mean - right.mean
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * trace_of_root)


def _factor(covariance: NDArray[np.float64], num_images: int) -> NDArray[np.float64]:
    """Return A (d, rank) with A Aᵀ = `covariance` (d, d)."""
    num_features = len(covariance)
    if num_images > num_features:
        try:
            return np.asarray(np.linalg.cholesky(covariance))
        except np.linalg.LinAlgError:
            pass  # features that are constant, or follow from others
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    rounding = num_features * np.finfo(np.float64).eps * max(eigenvalues[-1], 0)
    kept = eigenvalues > rounding
    kept[: -min(num_images - 1, num_features)] = False
    return np.asarray(eigenvectors[:, kept] * np.sqrt(eigenvalues[kept]))


def fid(real_features: NDArray[np.floating], generated_features: NDArray[np.floating]) -> float:
    """Fréchet distance of two Gaussians fitted to the features, in float64.

    Parameters
    ----------
    real_features, generated_features
        (n, d) and (m, d), at least 2 rows each. With n or m not above d the covariances are singular
        and the figure is biased upwards: see :func:`fid_caveat`.

    Raises
    ------
    ValueError
        If there are fewer than 2 rows, or the numbers of features differ.

    References
    ----------
    Heusel et al. 2017, https://arxiv.org/abs/1706.08500
    """
    real, generated = np.asarray(real_features), np.asarray(generated_features)
    _check_comparable(real, generated)
    if max(len(real), len(generated)) <= real.shape[1]:
        return _frechet_distance_of_few(real.astype(np.float64), generated.astype(np.float64))
    statistics = []
    for features in (real, generated):
        entry = GaussianStatistics(features.shape[1])
        entry.update(features)
        statistics.append(entry)
    return frechet_distance(*statistics)


def _frechet_distance_of_few(real: NDArray[np.float64], generated: NDArray[np.float64]) -> float:
    """Fréchet distance without covariances, which are larger than what they are made of.

    With S₁ = Xᵀ X and S₂ = Yᵀ Y the trace of (S₁ S₂)^½ is the sum of the singular values of X Yᵀ.
    """
    difference = real.mean(axis=0) - generated.mean(axis=0)
    x = (real - real.mean(axis=0)) / math.sqrt(len(real) - 1)
    y = (generated - generated.mean(axis=0)) / math.sqrt(len(generated) - 1)
    trace_of_root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(difference @ difference + np.square(x).sum() + np.square(y).sum() - 2 * trace_of_root)


def fid_caveat(num_real: int, num_generated: int, num_features: int) -> str:
    """Say in a sentence why a FID should not be relied on; empty where it may be."""
    fewest = min(num_real, num_generated)
    if fewest > num_features:
        return ""
    return f"FID of {fewest} images on {num_features} features compares singular covariances: rank by KID"


def _check_comparable(real: NDArray[np.floating], generated: NDArray[np.floating]) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features must be (n, d) and (m, d), not {real.shape} and {generated.shape}")
    if min(len(real), len(generated)) < 2:
        raise ValueError(f"KID and FID need 2 images of each kind, not {len(real)} and {len(generated)}")
