"""FedAvgM: the server takes a step with momentum along the mean update.

Hsu, Qi and Brown 2019, *Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification*, arXiv 1909.06335, Section 4.3: v ← β v + Δw, w ← w − η v, with Δw = w − Σ_i p_i w_i.

Deviations: those of :mod:`strategies.server_optimizer`.

Costs what FedGAN costs, and at the server one more copy of the trained weights in float64, which goes into every
checkpoint. Reveals what FedGAN reveals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.serverapp import strategy as flower

from strategies.aggregation import Federation
from strategies.flower_rules import FLOWER_KEYS, flower_record
from strategies.server_optimizer import ServerOptimizer


class FedAvgM(ServerOptimizer):
    """Flower's FedAvgM on the trained weights."""

    default_learning_rate = 1.0

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._names: list[str] = []
        self._loaded: dict[str, np.ndarray] = {}

    def build(self) -> Any:
        """See :class:`strategies.server_optimizer.ServerOptimizer`."""
        return flower.FedAvgM(
            server_learning_rate=self.learning_rate, server_momentum=self.settings.server_momentum, **FLOWER_KEYS
        )

    def start_from(self, current: dict[str, np.ndarray]) -> None:
        """See :class:`strategies.server_optimizer.ServerOptimizer`. Flower's momentum is a list without names."""
        self._flower.current_arrays = flower_record(current)
        if self._loaded:
            self._flower.momentum_vector = [self._loaded[name] for name in current]
            self._loaded = {}
        self._names = list(current)

    def state_dict(self) -> dict[str, np.ndarray]:
        """See :class:`strategies.aggregation.Aggregation`."""
        vector = self._flower.momentum_vector
        momentum = self._loaded if vector is None else dict(zip(self._names, vector, strict=True))
        return super().state_dict() | {f"momentum/{name}": value for name, value in momentum.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """See :class:`strategies.aggregation.Aggregation`."""
        super().load_state_dict(state)
        self._loaded = {name.removeprefix("momentum/"): value for name, value in state.items() if "/" in name}
