"""How far generated images are from real ones: KID and FID, on features of a named extractor.

Rank generators by KID: its estimate is unbiased at any number of images (and may be slightly
negative), while FID depends on how many there are, and with fewer images than features it compares
singular covariances. Neither can be compared between two extractors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_SUBSET = 1000


def kid(
    real_features: NDArray[np.floating],
    generated_features: NDArray[np.floating],
    *,
    seed: int = 0,
    num_subsets: int = 20,
) -> tuple[float, float]:
    """Kernel inception distance: the unbiased squared MMD under the kernel (x·y / d + 1)³.

    Computed by torch-fidelity on subsets of min(n, m, 1000) images, in float64.

    Parameters
    ----------
    real_features, generated_features
        (n, d) and (m, d), at least 2 rows each.
    seed
        Which subsets are drawn.
    num_subsets
        Subsets over which the distance is averaged. One is enough, and is all that is taken, where a
        subset is everything.

    Returns
    -------
    mean
        Over subsets; the unbiased estimate may be negative when the two are alike.
    deviation
        Standard deviation over subsets: the spread of the estimate for that many images. 0 with one subset.

    Raises
    ------
    ValueError
        If there are fewer than 2 rows, or the numbers of features differ.

    References
    ----------
    Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    real, generated = _as_rows(real_features), _as_rows(generated_features)
    _check_comparable(real, generated)
    subset_size = min(len(real), len(generated), LARGEST_SUBSET)
    is_everything = subset_size == len(real) == len(generated)
    result = kid_features_to_metric(
        torch.from_numpy(real),
        torch.from_numpy(generated),
        kid_subsets=1 if is_everything else num_subsets,
        kid_subset_size=subset_size,
        rng_seed=seed % 2**32,  # NumPy's RandomState takes 32 bits
        verbose=False,
    )
    return result[KEY_METRIC_KID_MEAN], result[KEY_METRIC_KID_STD]


def fid(real_features: NDArray[np.floating], generated_features: NDArray[np.floating]) -> float:
    """Fréchet distance of two Gaussians fitted to the features, by torch-fidelity, in float64.

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
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    real, generated = _as_rows(real_features), _as_rows(generated_features)
    _check_comparable(real, generated)
    statistics = [
        {name: np.atleast_1d(value) for name, value in fid_features_to_statistics(torch.from_numpy(rows)).items()}
        for rows in (real, generated)
    ]
    for entry in statistics:
        entry["sigma"] = np.atleast_2d(entry["sigma"])  # np.cov gives a scalar for one feature
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def fid_caveat(num_real: int, num_generated: int, num_features: int) -> str:
    """Say in a sentence why a FID should not be relied on; empty where it may be."""
    fewest = min(num_real, num_generated)
    if fewest > num_features:
        return ""
    return f"FID of {fewest} images on {num_features} features compares singular covariances: rank by KID"


def _as_rows(features: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.ascontiguousarray(features, dtype=np.float64)


def _check_comparable(real: NDArray[np.float64], generated: NDArray[np.float64]) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features must be (n, d) and (m, d), not {real.shape} and {generated.shape}")
    if min(len(real), len(generated)) < 2:
        raise ValueError(f"KID and FID need 2 images of each kind, not {len(real)} and {len(generated)}")
