"""What FedAvgM, FedAdam, FedYogi and FedAdagrad share: the mean update is a gradient, and the server takes a step.

In float64, on the mean update by number of images. The rules are written out; Flower's own are the oracle of the
tests, which they equal to the bit.

Deviations of all four: the server steps trained weights alone, and moves running averages itself
(:class:`strategies.aggregation.ServerEMA`); buffers are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord

from strategies.aggregation import Arrays, Federation, Reply, ServerStep
from strategies.weighted_mean import WeightedMean


class ServerOptimizer(ServerStep):
    """Steps entry by entry from the global weights along the mean update."""

    default_learning_rate = 0.1

    @property
    def learning_rate(self) -> float:
        """``strategy.server-learning-rate``, or the strategy's own."""
        return self.settings.server_learning_rate or self.default_learning_rate

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`ServerStep`."""
        super().begin(server_round, current)
        self._mean = WeightedMean()

    def add_trained(self, reply: Reply, arrays: ArrayRecord) -> None:
        """See :class:`ServerStep`."""
        self._mean.add(arrays, self.size_of(reply))

    def step(self) -> dict[str, np.ndarray]:
        """See :class:`ServerStep`."""
        means = self._mean.means()
        for name, mean in means.items():
            # Into the memory of the mean, which nobody needs any more.
            mean[...] = self.move(name, self.current[name].astype(np.float64), mean)
        return means

    def move(self, name: str, weights: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return an entry's next weights, and take note of its moments; called once a round.

        Parameters
        ----------
        name
            Of the entry.
        weights
            The global ones, float64.
        mean
            Of the hospitals' weights, float64.
        """
        raise NotImplementedError


class AdaptiveOptimizer(ServerOptimizer):
    """Moments by name, 0 before the first round."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self.m: dict[str, np.ndarray] = {}
        self.v: dict[str, np.ndarray] = {}

    def state_dict(self) -> dict[str, np.ndarray]:
        """See :class:`strategies.aggregation.Aggregation`."""
        moments = {"m": self.m, "v": self.v}
        return super().state_dict() | {
            f"{moment}/{name}": value for moment, values in moments.items() for name, value in values.items()
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """See :class:`strategies.aggregation.Aggregation`."""
        super().load_state_dict(state)
        self.m, self.v = (
            {name[2:]: value for name, value in state.items() if name.startswith(f"{moment}/")} for moment in ("m", "v")
        )
