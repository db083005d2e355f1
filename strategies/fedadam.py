"""FedAdam: the server takes Adam's step along the mean update.

Reddi et al. 2021, *Adaptive Federated Optimization*, arXiv 2003.00295, Algorithm 2: m ← β₁ m + (1 − β₁) Δ,
v ← β₂ v + (1 − β₂) Δ², w ← w_t + η m / (√v + τ), with Δ = Σ_i p_i w_i − w_t.

Deviations: those of :mod:`strategies.server_optimizer`; as Flower's, it corrects the bias of the moments, as Adam does
and Algorithm 2 does not, and counts rounds from 2 for it; v starts from 0 and not from τ².

Costs what FedGAN costs, and at the server two more copies of the trained weights in float64, which go into every
checkpoint.
"""

from __future__ import annotations

import numpy as np

from strategies.server_optimizer import AdaptiveOptimizer


class FedAdam(AdaptiveOptimizer):
    """Adam's step on the trained weights."""

    options = ("server_learning_rate", "server_beta1", "server_beta2", "server_tau")

    def move(self, name: str, weights: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """See :class:`strategies.server_optimizer.ServerOptimizer`."""
        beta1, beta2, count = self.settings.server_beta1, self.settings.server_beta2, self.server_round + 1.0
        # Kingma and Ba 2015, arXiv 1412.6980, Section 2, last formula; numpy's power and not Python's, as in Flower's.
        rate = self.learning_rate * np.sqrt(1 - np.power(beta2, count)) / (1 - np.power(beta1, count))
        delta = mean - weights
        m = self.m[name] = beta1 * self.m.get(name, 0.0) + (1 - beta1) * delta
        v = self.v[name] = beta2 * self.v.get(name, 0.0) + (1 - beta2) * delta**2
        return weights + rate * m / (np.sqrt(v) + self.settings.server_tau)
