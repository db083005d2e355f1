"""Bulyan: Krum chooses updates one after the other; of each weight those nearest to the median are averaged.

El Mhamdi, Guerraoui and Rouault 2018, *The Hidden Vulnerability of Distributed Learning in Byzantium*, arXiv
1802.07927, Section 4: θ = n − 2 f updates are chosen, each by Krum among those left; then of each weight the
β = θ − 2 f values nearest to its median are averaged. Needs n ≥ 4 f + 3.

Over every shared entry, the EMA included; the second half in the entries' own type. Both halves are written out here.
Flower's own second half is the oracle of the tests; its choice is not: it takes Multi-Krum's first θ at once, by
distances in float32. Where the last choices tie, as those of two mutual neighbours must, the order of site names
decides.

Costs what Multi-Krum costs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from federation.settings.strategy import StrategySettings
from strategies.aggregation import CollectingAggregation, Reply
from strategies.distances import krum_scores, squared_distances


class Bulyan(CollectingAggregation):
    """The paper's choice, and the mean of what is nearest to the median."""

    shown = "of each number the mean of those nearest to the median, of three hospitals at least"
    options = ("malicious",)

    @classmethod
    def least_hospitals(cls, settings: StrategySettings) -> tuple[int, str]:
        """See :class:`strategies.strategy.Strategy`."""
        return 4 * settings.malicious + 3, "Bulyan needs n >= 4 f + 3"

    def combine(self, replies: list[Reply]) -> dict[str, np.ndarray]:
        """See :class:`CollectingAggregation`."""
        malicious = self.settings.malicious
        number = len(replies) - 2 * malicious
        kept = number - 2 * malicious
        distances = squared_distances(replies, self.current)
        chosen = [replies[position] for position in choose_by_krum(distances, malicious, number)]
        found = {}
        for name in self.current:
            # Name by name: what it makes on its way is as large as all the models that it is given.
            values = np.stack([reply.arrays[name].numpy() for reply in chosen])
            away = np.abs(values - np.median(values, axis=0))
            nearest = np.argpartition(away, kept - 1, axis=0)[:kept]
            found[name] = np.mean(np.take_along_axis(values, nearest, axis=0), axis=0)
        return found


def choose_by_krum(distances: NDArray[np.float64], malicious: int, number: int) -> list[int]:
    """Return the positions of `number` models, each chosen by Krum among those left, ascending."""
    left = list(range(len(distances)))
    chosen = []
    for _ in range(number):
        scores = krum_scores(distances[np.ix_(left, left)], malicious) if len(left) > 1 else np.zeros(1)
        chosen.append(left.pop(int(np.argmin(scores))))
    return sorted(chosen)
