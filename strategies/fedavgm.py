"""FedAvgM: the server takes a step with momentum along the mean update.

Hsu, Qi and Brown 2019, *Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification*, arXiv 1909.06335, Section 4.3: v ← β v + (w_t − Σ_i p_i w_i), w ← w_t − η v.

Deviations: those of :mod:`strategies.server_optimizer`.

Costs what FedGAN costs, and at the server one more copy of the trained weights in float64, which goes into every
checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from strategies.aggregation import Federation
from strategies.server_optimizer import ServerOptimizer

_MOMENTUM = "momentum/"


class FedAvgM(ServerOptimizer):
    """SGD's step with momentum on the trained weights."""

    options = ("server_learning_rate", "server_momentum")

    default_learning_rate = 1.0

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._v: dict[str, np.ndarray] = {}

    def move(self, name: str, weights: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """See :class:`strategies.server_optimizer.ServerOptimizer`."""
        v = weights - mean
        if name in self._v:  # not 0 at first: 0 + −0.0 is 0.0
            v = self.settings.server_momentum * self._v[name] + v
        self._v[name] = v
        return weights - self.learning_rate * v

    def state_dict(self) -> dict[str, np.ndarray]:
        """See :class:`strategies.aggregation.Aggregation`."""
        return super().state_dict() | {_MOMENTUM + name: value for name, value in self._v.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """See :class:`strategies.aggregation.Aggregation`."""
        super().load_state_dict(state)
        self._v = {name.removeprefix(_MOMENTUM): value for name, value in state.items() if name.startswith(_MOMENTUM)}
