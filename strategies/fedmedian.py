"""FedMedian: the median of every weight over the hospitals.

Yin et al. 2018, *Byzantine-Robust Distributed Learning*, arXiv 1803.01498, Algorithm 1, Option I. Written out here,
in the entries' own type; Flower's own is the oracle of the tests. Over every shared entry, the EMA included: a plainly
averaged EMA would carry an attacker past it.

Every hospital counts alike, whatever its size, which it says itself. Needs three replies: the median of two is their
mean, and a liar is half of it. Under label skew a median loses much of what few hospitals know.

Costs what FedGAN costs, and at the server memory for all replies at once.
"""

from __future__ import annotations

import numpy as np

from federation.settings.strategy import StrategySettings
from strategies.aggregation import CollectingAggregation, Reply


class FedMedian(CollectingAggregation):
    """The median, entry by entry."""

    shown = "of each number the value of the one or two hospitals in the middle"

    @classmethod
    def least_hospitals(cls, settings: StrategySettings) -> tuple[int, str]:
        """See :class:`strategies.strategy.Strategy`."""
        return 3, "the median of two is their mean"

    def combine(self, replies: list[Reply]) -> dict[str, np.ndarray]:
        """See :class:`CollectingAggregation`."""
        found = {}
        for name in replies[0].arrays:
            values = np.stack([reply.arrays[name].numpy() for reply in replies])
            found[name] = np.median(values, axis=0, overwrite_input=True)
        return found
