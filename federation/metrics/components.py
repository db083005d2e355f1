"""From statistics of images to features: principal components, half whitened.

Why half: among 64 features of variance one, KID's kernel (x·y / d + 1)³ counts each for a sixty-fourth, those in which
real images hardly differ no less than those in which they differ most. A generator that has no variety left in half
of them then costs 3 · 32 / 64² = 0.023, less than the least noise; real images scored 59 of 64 by the Vendi score,
whatever they showed. Without any whitening the reverse holds: few components, brightness among them, drown all others.
So each component is divided by the root of its deviation, and all by one number, so that their mean variance is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

NUM_FEATURES = 64
# A statistic that is (nearly) the same everywhere must not be blown up to unit variance: its deviation counts as
# at least this share of the median one.
_LEAST_DEVIATION = 0.1


def half_whitened(statistics: Tensor, num_features: int = NUM_FEATURES) -> tuple[Tensor, Tensor]:
    """Fit a projection to statistics of real images.

    Parameters
    ----------
    statistics
        (n, k) float64, n at least 4.
    num_features
        Components that are kept, at most; no more than half as many as images, since the variance of later ones is a
        matter of these very images.

    Returns
    -------
    mean
        (k,).
    projection
        (k, d): features are ``(statistics - mean) @ projection``. On the images that it was fitted to they are
        uncorrelated, their deviations are those of the components, squared-rooted, and their mean variance is one.
    """
    mean, deviation = statistics.mean(0), statistics.std(0)
    scale = 1.0 / deviation.clamp_min(_LEAST_DEVIATION * float(deviation.median()))
    _, singular_values, components = torch.linalg.svd((statistics - mean) * scale, full_matrices=False)
    count = min(num_features, len(statistics) // 2, int((singular_values > 1e-9 * singular_values[0]).sum()))
    deviations = singular_values[:count] / len(statistics) ** 0.5
    # Half whitened, the variance of a component is its deviation.
    projection = components[:count].T / deviations.sqrt() / deviations.mean().sqrt()
    return mean, (scale[:, None] * projection).contiguous()
