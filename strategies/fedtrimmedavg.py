"""FedTrimmedAvg: of every weight the largest and the smallest are cut off, and the rest averaged.

Yin et al. 2018, *Byzantine-Robust Distributed Learning*, arXiv 1803.01498, Algorithm 1, Option II. Flower's own,
over every shared entry, the EMA included. Of n replies int(β n) are cut off at either end.

Every hospital counts alike, whatever its size.

Costs what FedGAN costs, and at the server memory for all replies at once. Reveals what FedGAN reveals.
"""

from __future__ import annotations

import numpy as np
from flwr.serverapp import strategy as flower

from strategies.aggregation import CollectingAggregation, Reply
from strategies.flower_rules import FLOWER_KEYS, aggregate_with, flower_replies


class FedTrimmedAvg(CollectingAggregation):
    """Flower's FedTrimmedAvg."""

    def combine(self, replies: list[Reply]) -> dict[str, np.ndarray]:
        """See :class:`CollectingAggregation`."""
        strategy = flower.FedTrimmedAvg(beta=self.settings.trim, **FLOWER_KEYS)
        return aggregate_with(strategy, self.server_round, flower_replies(replies))
