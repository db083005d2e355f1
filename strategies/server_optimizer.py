"""What FedAvgM, FedAdam, FedYogi and FedAdagrad share: the mean update is a gradient, and the server takes a step.

The arithmetic is Flower's, in float64, on the mean update by number of images.

Deviations of all four: the server steps trained weights alone, and moves the EMA of the generator itself
(:class:`strategies.aggregation.ServerEMA`); buffers are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict

from federation.engine.grid import assemble_message
from federation.exchange import ARRAYS, METRICS, NUM_EXAMPLES
from strategies.aggregation import Arrays, Federation, Reply, ServerStep
from strategies.flower_rules import aggregate_with, flower_record
from strategies.weighted_mean import WeightedMean


class ServerOptimizer(ServerStep):
    """Feeds Flower's strategy one reply: the mean, of weight 1."""

    default_learning_rate = 0.1

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._flower = self.build()

    def build(self) -> Any:
        """Return Flower's strategy."""
        raise NotImplementedError

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
        self._metadata = reply.message.metadata
        self._mean.add(arrays, reply.num_images)

    def step(self) -> dict[str, np.ndarray]:
        """See :class:`ServerStep`."""
        mean = self._mean.means()
        self.start_from({name: self.current[name].astype(np.float64) for name in mean})
        content = RecordDict({ARRAYS: flower_record(mean), METRICS: MetricRecord({NUM_EXAMPLES: 1.0})})
        return aggregate_with(self._flower, self.server_round, [assemble_message(content, self._metadata)])

    def start_from(self, current: dict[str, np.ndarray]) -> None:
        """Tell Flower's strategy the global weights; its own way there is its ``configure_train``."""
        self._flower.current_arrays = current


class AdaptiveOptimizer(ServerOptimizer):
    """Moments by name, as Flower keeps them."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """See :class:`strategies.aggregation.Aggregation`."""
        moments = {"m": self._flower.m_t or {}, "v": self._flower.v_t or {}}
        return super().state_dict() | {
            f"{moment}/{name}": value for moment, values in moments.items() for name, value in values.items()
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """See :class:`strategies.aggregation.Aggregation`."""
        super().load_state_dict(state)
        for moment in ("m", "v"):
            found = {name[2:]: value for name, value in state.items() if name.startswith(f"{moment}/")}
            setattr(self._flower, f"{moment}_t", found or None)
