"""FeGAN: hospitals are drawn so that classes are seen alike, and weighted by how their classes differ.

Guerraoui, Guirguis, Kermarrec and Le Merrer 2020, *FeGAN: Scaling Distributed GANs* (Middleware), and its published
code: weight ∝ exp(KL(p_i ‖ p) n_i / N), p_i a hospital's class frequencies. Balanced sampling: while places are free,
the class seen least so far is taken, and a hospital that holds it.

More divergence means *more* weight; the authors' code notes that weighting the generator so is harmful. Sign and
networks are options (``strategy.divergence-weight``, ``strategy.weighted-networks``). Deviations: p is the
federation's own class distribution, where the code takes all classes alike; of the hospitals that hold the class one
is drawn at random, where the code takes turns.

Costs what FedGAN costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from federation.seeding import numpy_stream
from federation.site import Site
from strategies.aggregation import Federation
from strategies.scored_average import KnownScoreAverage


class FeGAN(KnownScoreAverage):
    """Balanced sampling and weights by divergence."""

    shown = "a mean, in which a hospital may be nearly alone"
    options = ("divergence_weight", "weighted_networks")
    counts_classes = True

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        yield from super().problems(configuration, anatomy)
        if configuration.asked_hospitals() == configuration.partition.hospitals:
            yield (
                f"participation.fraction = {configuration.participation.fraction:g}: fegan draws hospitals so that "
                f"classes are seen alike, and here all {configuration.partition.hospitals} are asked in each round; "
                "set participation.fraction=0.5, say, or choose another strategy.name"
            )

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._seen = np.zeros(0)

    def meet(self, sites: Mapping[str, Site]) -> None:
        """See :class:`Aggregation`."""
        super().meet(sites)
        shares, pooled = self.class_shares()
        sign = 1.0 if self.settings.divergence_weight == "more" else -1.0
        self._weights = {
            name: float(np.exp(sign * divergence(share, pooled) * self.size_share(name)))
            for name, share in shares.items()
        }

    def weight_of(self, site: str) -> float:
        """See :class:`KnownScoreAverage`."""
        return self._weights[site]

    def choose(self, sites: Sequence[Site], number: int, server_round: int) -> list[Site] | None:
        """Take the class seen least, then a hospital that holds it, until there are enough."""
        if number == len(sites):
            return None
        stream = numpy_stream(self.federation.configuration.seed, "FeGAN's sampling", server_round=server_round)
        seen = self._seen.copy() if len(self._seen) else np.zeros(len(sites[0].class_counts))
        held = np.sum([site.class_counts for site in sites], axis=0) > 0
        left, chosen = list(sites), list[Site]()
        while len(chosen) < number:
            for label in np.argsort(np.where(held, seen, np.inf), kind="stable"):
                holders = [site for site in left if site.class_counts[label] > 0]
                if holders:
                    break
            taken = holders[int(stream.integers(len(holders)))]
            left.remove(taken)
            chosen.append(taken)
            seen += np.array(taken.class_counts)
        self._seen = seen
        return chosen

    def state_dict(self) -> dict[str, np.ndarray]:
        """See :class:`Aggregation`."""
        return {"seen": self._seen}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """See :class:`Aggregation`."""
        self._seen = state["seen"]


def divergence(share: np.ndarray, pooled: np.ndarray) -> float:
    """Return KL(p_i ‖ p) in nats; p is above 0 wherever p_i is."""
    held = share > 0
    return float(np.sum(share[held] * np.log(share[held] / pooled[held])))
