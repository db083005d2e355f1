"""FedTrimmedAvg: of every weight the largest and the smallest are cut off, and the rest averaged.

Yin et al. 2018, *Byzantine-Robust Distributed Learning*, arXiv 1803.01498, Algorithm 1, Option II. Written out here,
in the entries' own type; Flower's own is the oracle of the tests. Over every shared entry, the EMA included. Of n
replies the whole part of β n is cut off at either end.

Every hospital counts alike, whatever its size.

Costs what FedGAN costs, and at the server memory for all replies at once.
"""

from __future__ import annotations

import math

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
        near = round(1 / settings.trim)
        # By what is cut off, and not by a quotient: a third of three hospitals is one.
        least = next(number for number in range(max(1, near - 1), near + 3) if num_cut(settings.trim, number) > 0)
        return least, f"of fewer, strategy.trim = {settings.trim:g} cuts none off"

    def combine(self, replies: list[Reply]) -> dict[str, np.ndarray]:
        """See :class:`CollectingAggregation`."""
        first = num_cut(self.settings.trim, len(replies))
        end = len(replies) - first
        found = {}
        for name in replies[0].arrays:
            values = np.stack([reply.arrays[name].numpy() for reply in replies])
            values.partition((first, end - 1), axis=0)
            found[name] = np.mean(values[first:end], axis=0)
        return found


def num_cut(trim: float, num_replies: int) -> int:
    """Return how many replies are cut off at either end: the whole part of β n.

    A share such as 1/49 is rounded where it is written, and 49 times it falls short of one in the last bit: what is
    that near to a whole number is taken for it, where Flower's int(β n) is one less.
    """
    return math.floor(trim * num_replies + 1e-9)
