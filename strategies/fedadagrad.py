"""FedAdagrad: the server's step shrinks with the sum of squared updates.

Reddi et al. 2021, *Adaptive Federated Optimization*, arXiv 2003.00295, Algorithm 2: v ← v + Δ²,
w ← w_t + η Δ / (√v + τ), with Δ = Σ_i p_i w_i − w_t.

Deviations: those of :mod:`strategies.server_optimizer`; v starts from 0 and not from τ².

Costs what FedGAN costs, and at the server two more copies of the trained weights in float64, which go into every
checkpoint.
"""

from __future__ import annotations

import numpy as np

from strategies.server_optimizer import AdaptiveOptimizer


class FedAdagrad(AdaptiveOptimizer):
    """Adagrad's step on the trained weights."""

    options = ("server_learning_rate", "server_tau")

    def move(self, name: str, weights: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """See :class:`strategies.server_optimizer.ServerOptimizer`."""
        delta = mean - weights
        # The moment of Algorithm 2 with β₁ = 0, as in Flower's: it is Δ, and stands in checkpoints beside v.
        m = self.m[name] = 0.0 * self.m.get(name, 0.0) + delta
        v = self.v[name] = self.v.get(name, 0.0) + delta**2
        return weights + self.learning_rate * m / (np.sqrt(v) + self.settings.server_tau)
