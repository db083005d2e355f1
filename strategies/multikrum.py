"""Multi-Krum: the average of the updates that lie nearest to their neighbours.

Blanchard et al. 2017, *Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent*, arXiv 1703.02757,
Section 4 and "Multi-Krum": each update is scored by its squared distances to its n − f − 2 nearest others; those
with the m least scores are averaged. Needs n > 2 f + 2. m = n − f unless ``strategy.selected`` says otherwise: the
common choice; the paper's guarantee is for m up to n − f − 2.

Distances are over every shared entry at once, the EMA included. Those selected are averaged alike, as in the paper;
Flower weighs them by number of images, which a hospital says itself. Selection is ours and not Flower's, whose
distances are float32.

Costs what FedGAN costs, and at the server memory for all replies at once and n² / 2 passes over them.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord

from federation.settings.strategy import StrategySettings
from strategies.aggregation import CollectingAggregation, Reply, weighted_average
from strategies.distances import krum_scores, squared_distances


class MultiKrum(CollectingAggregation):
    """Selects by Krum's score, and averages."""

    shown = "the mean of the hospitals selected; with strategy.selected = 1 one hospital's model, bit for bit"
    options: ClassVar[tuple[str, ...]] = ("malicious", "selected")

    @classmethod
    def least_hospitals(cls, settings: StrategySettings) -> tuple[int, str]:
        """See :class:`strategies.strategy.Strategy`."""
        least = max(2 * settings.malicious + 3, settings.selected)
        return least, "Multi-Krum needs n > 2 f + 2, and no fewer than strategy.selected"

    def number_to_select(self, num_replies: int) -> int:
        """Return m."""
        return min(num_replies, self.settings.selected or max(1, num_replies - self.settings.malicious))

    def combine(self, replies: list[Reply]) -> ArrayRecord:
        """See :class:`CollectingAggregation`."""
        distances = squared_distances(replies, self.current)
        scores = krum_scores(distances, self.settings.malicious) if len(replies) > 1 else np.zeros(1)
        chosen = sorted(np.argsort(scores, kind="stable")[: self.number_to_select(len(replies))])
        return weighted_average([replies[position] for position in chosen], [1.0] * len(chosen))
