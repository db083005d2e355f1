"""FedAdagrad: the server's step shrinks with the sum of squared updates.

Reddi et al. 2021, *Adaptive Federated Optimization*, arXiv 2003.00295, Algorithm 2: v ← v + Δ², w ← w + η Δ / (√v + τ).

Deviations: those of :mod:`strategies.server_optimizer`; v starts from 0 and not from τ².

Costs what FedGAN costs, and at the server two more copies of the trained weights in float64, which go into every
checkpoint. Reveals what FedGAN reveals.
"""

from __future__ import annotations

from typing import Any

from flwr.serverapp import strategy as flower

from strategies.flower_rules import FLOWER_KEYS
from strategies.server_optimizer import AdaptiveOptimizer


class FedAdagrad(AdaptiveOptimizer):
    """Flower's FedAdagrad on the trained weights."""

    def build(self) -> Any:
        """See :class:`strategies.server_optimizer.ServerOptimizer`."""
        return flower.FedAdagrad(eta=self.learning_rate, tau=self.settings.server_tau, **FLOWER_KEYS)
