"""FedTrimmedAvg: of every weight the largest and the smallest are cut off, and the rest averaged.

Yin et al. 2018, *Byzantine-Robust Distributed Learning*, arXiv 1803.01498, Algorithm 1, Option II. Written out here,
in the entries' own type; Flower's own is the oracle of the tests. Over every shared entry, the EMA included. Of n
replies int(β n) are cut off at either end.

Every hospital counts alike, whatever its size.

Costs what FedGAN costs, and at the server memory for all replies at once.
"""

from __future__ import annotations

import numpy as np

from federation.settings.strategy import StrategySettings
from strategies.aggregation import CollectingAggregation, Reply


class FedTrimmedAvg(CollectingAggregation):
    """The trimmed mean, entry by entry."""

    shown = "of each number the mean of what was not cut off, which may be of one hospital"
    options = ("trim",)

    @classmethod
    def least_hospitals(cls, settings: StrategySettings) -> tuple[int, str]:
        """See :class:`strategies.strategy.Strategy`."""
        return int(-(-1 // settings.trim)), f"of fewer, strategy.trim = {settings.trim:g} cuts none off"

    def combine(self, replies: list[Reply]) -> dict[str, np.ndarray]:
        """See :class:`CollectingAggregation`."""
        first = int(self.settings.trim * len(replies))
        end = len(replies) - first
        found = {}
        for name in replies[0].arrays:
            values = np.stack([reply.arrays[name].numpy() for reply in replies])
            values.partition((first, end - 1), axis=0)
            found[name] = np.mean(values[first:end], axis=0)
        return found
