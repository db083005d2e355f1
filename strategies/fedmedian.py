"""FedMedian: the median of every weight over the hospitals.

Yin et al. 2018, *Byzantine-Robust Distributed Learning*, arXiv 1803.01498, Algorithm 1, Option I. Flower's own,
over every shared entry, the EMA included: a plainly averaged EMA would carry an attacker past it.

Every hospital counts alike, whatever its size. Under label skew a median loses much of what few hospitals know.

Costs what FedGAN costs, and at the server memory for all replies at once. Reveals what FedGAN reveals.
"""

from __future__ import annotations

import numpy as np
from flwr.serverapp import strategy as flower

from strategies.aggregation import CollectingAggregation, Reply
from strategies.flower_rules import FLOWER_KEYS, aggregate_with, flower_replies


class FedMedian(CollectingAggregation):
    """Flower's FedMedian."""

    def combine(self, replies: list[Reply]) -> dict[str, np.ndarray]:
        """See :class:`CollectingAggregation`."""
        return aggregate_with(flower.FedMedian(**FLOWER_KEYS), self.server_round, flower_replies(replies))
