"""Averages whose weights are a strategy's scores, for both networks or for one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from federation.sharing import SharingPolicy
from strategies.aggregation import Aggregation, Arrays, CollectingAggregation, Reply
from strategies.strategy import parts_named, parts_problem
from strategies.weighted_mean import WeightedMean


class WeighsSomeNetworks(Aggregation):
    """The entries of the networks of ``strategy.weighted-networks`` are told from the others."""

    for_one_network = False
    published = "both"
    """The networks that the strategy's source weighs."""

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        word = configuration.strategy.weighted_networks
        yield from parts_problem("weighted-networks", word, configuration, anatomy, "auto", may_be_none=False)
        weighted = parts_named(cls.published if word == "auto" else word, anatomy) or ()
        policy = SharingPolicy(anatomy, configuration.strategy.private_names)
        if weighted and all(policy.keeps_whole(part) for part in weighted):
            yield (
                f"strategy.private = {configuration.strategy.private!r}: {configuration.strategy.name} weighs "
                f"{' and '.join(weighted)} alone, which then stays at its hospital; leave it out, or set "
                "strategy.weighted-networks to a network that is shared"
            )

    def split_weighted(self, arrays: ArrayRecord) -> tuple[ArrayRecord, ArrayRecord]:
        """Return the entries that take the strategy's weights, and the others."""
        anatomy, word = self.federation.anatomy, self.settings.weighted_networks
        word = self.published if word == "auto" else word
        # Both: averaged state of training too, which is of no network.
        parts = tuple(anatomy.parts) if word == "both" else anatomy.with_averages(parts_named(word, anatomy) or ())
        weighted, others = ArrayRecord(), ArrayRecord()
        for name, array in arrays.items():
            (weighted if name.split(".")[0] in parts else others)[name] = array
        return weighted, others


class ScoredAverage(WeighsSomeNetworks, CollectingAggregation):
    """Σ_i a_i x_i over the networks of ``strategy.weighted-networks``, and by number of images over the others."""

    def weights(self, replies: Sequence[Reply]) -> NDArray[np.float64]:
        """Return a weight above 0 for each reply; only their ratios count."""
        raise NotImplementedError

    def combine(self, replies: list[Reply]) -> dict[str, np.ndarray] | ArrayRecord:
        """See :class:`CollectingAggregation`."""
        scored, by_images = WeightedMean(), WeightedMean()
        for reply, weight in zip(replies, self.weights(replies), strict=True):
            weighted, others = self.split_weighted(reply.arrays)
            scored.add(weighted, float(weight))
            by_images.add(others, self.size_of(reply))
        return {name: array.numpy() for mean in (scored, by_images) for name, array in mean.result().items()}


class KnownScoreAverage(WeighsSomeNetworks):
    """A :class:`ScoredAverage` whose weights are known before a reply comes: nothing is collected."""

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`Aggregation`."""
        super().begin(server_round, current)
        self._scored, self._by_images = WeightedMean(), WeightedMean()

    def weight_of(self, site: str) -> float:
        """Return a hospital's weight, above 0; only ratios count."""
        raise NotImplementedError

    def add(self, reply: Reply) -> None:
        """See :class:`Aggregation`."""
        weighted, others = self.split_weighted(reply.arrays)
        self._scored.add(weighted, self.weight_of(reply.site))
        self._by_images.add(others, self.size_of(reply))

    def result(self) -> Mapping[str, np.ndarray]:
        """See :class:`Aggregation`."""
        means = (self._scored.result(), self._by_images.result())
        return {name: array.numpy() for mean in means for name, array in mean.items()}

    def class_shares(self) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
        """Return each hospital's class frequencies, and the federation's."""
        counts = {name: np.array(site.class_counts, dtype=float) for name, site in self.sites.items()}
        total = sum(counts.values())
        assert isinstance(total, np.ndarray)
        return {name: count / count.sum() for name, count in counts.items()}, total / total.sum()

    def size_share(self, site: str) -> float:
        """Return n_i / N over the whole federation."""
        return self.sites[site].size / sum(other.size for other in self.sites.values())


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return exp(s) / Σ exp(s)."""
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())
