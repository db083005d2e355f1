"""FedYogi: FedAdam whose second moment moves by steps of the squared update, whatever its own size.

Reddi et al. 2021, *Adaptive Federated Optimization*, arXiv 2003.00295, Algorithm 2: m as FedAdam,
v ← v − (1 − β₂) Δ² sign(v − Δ²), w ← w_t + η m / (√v + τ), with Δ = Σ_i p_i w_i − w_t.

Deviations: those of :mod:`strategies.server_optimizer`; v starts from 0 and not from τ².

Costs what FedGAN costs, and at the server two more copies of the trained weights in float64, which go into every
checkpoint.
"""

from __future__ import annotations

import numpy as np

from strategies.server_optimizer import AdaptiveOptimizer


class FedYogi(AdaptiveOptimizer):
    """Yogi's step on the trained weights."""

    options = ("server_learning_rate", "server_beta1", "server_beta2", "server_tau")

    default_learning_rate = 0.01

    def move(self, name: str, weights: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """See :class:`strategies.server_optimizer.ServerOptimizer`."""
        beta1, beta2 = self.settings.server_beta1, self.settings.server_beta2
        delta, before = mean - weights, self.v.get(name, 0.0)
        m = self.m[name] = beta1 * self.m.get(name, 0.0) + (1 - beta1) * delta
        v = self.v[name] = before - (1 - beta2) * delta**2 * np.sign(before - delta**2)
        return weights + self.learning_rate * m / (np.sqrt(v) + self.settings.server_tau)
