"""The geometric median: the model with the least sum of distances to all hospitals' models.

Pillutla, Kakade and Harchaoui 2019, *Robust Aggregation for Federated Learning* (RFA), arXiv 1912.13445, Algorithm 2,
the smoothed Weiszfeld algorithm: z ← Σ_i β_i w_i / Σ_i β_i with β_i = α_i / max(ν, ‖z − w_i‖), from the mean.

Deviation: every hospital counts alike, α_i = 1 / n, where the paper has n_i / N. A hospital says itself how many images
it has: one liar who claims more than all others together would be the median. Needs three replies: between two, every
point has the least sum.

z is always a weighted mean of the replies, and so its distances follow from those between the replies: they are
taken once, and the iteration itself costs nothing. So it goes on until the weights stand still, where the paper stops
after a few passes over the models. Over every shared entry at once, the EMA included.

Costs what FedGAN costs, and at the server memory for all replies at once and n² / 2 passes over them.
"""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from federation.settings.strategy import StrategySettings
from strategies.aggregation import CollectingAggregation, Reply, weighted_average
from strategies.distances import distances_between, inner_products

# Relative to the least distance: ν of the paper.
_SMOOTHING = 1e-6
_TOLERANCE = 1e-10
_MOST_ITERATIONS = 10_000


class GeometricMedian(CollectingAggregation):
    """The weighted mean at which Weiszfeld's iteration rests."""

    shown = "a mean that is nearly one hospital's model where that lies in the middle of the others"

    @classmethod
    def least_hospitals(cls, settings: StrategySettings) -> tuple[int, str]:
        """See :class:`strategies.strategy.Strategy`."""
        return 3, "of two no model is in the middle"

    def combine(self, replies: list[Reply]) -> ArrayRecord:
        """See :class:`CollectingAggregation`."""
        shares = np.full(len(replies), 1 / len(replies))
        weights = weiszfeld_weights(inner_products(replies, self.current), shares)
        return weighted_average(replies, weights)


def weiszfeld_weights(products: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of each model in their geometric median.

    Parameters
    ----------
    products
        Inner products of the models, (n, n), from any origin that is near those that are close to one another.
    shares
        α_i, (n,), of sum 1.

    Returns
    -------
    (n,), of sum 1, each above 0.
    """
    apart = np.sqrt(distances_between(products))
    weights = shares.copy()
    if not apart.any():  # all alike
        return weights
    # Of the least distance: one that is far away must not make one point of those that are near.
    smoothing = _SMOOTHING * float(apart[apart > 0].min())
    for _ in range(_MOST_ITERATIONS):
        # ‖z − w_j‖² with z = Σ_i c_i w_i
        to_median = weights @ products @ weights - 2 * products @ weights + np.diag(products)
        pulls = shares / np.maximum(smoothing, np.sqrt(np.maximum(to_median, 0.0)))
        before, weights = weights, pulls / pulls.sum()
        # Relative: the weight of one that is far away is small, and counts by how far that is.
        if (np.abs(weights - before) <= _TOLERANCE * weights).all():
            break
    return weights
