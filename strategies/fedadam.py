"""FedAdam: the server takes Adam's step along the mean update.

Reddi et al. 2021, *Adaptive Federated Optimization*, arXiv 2003.00295, Algorithm 2: m ← β₁ m + (1 − β₁) Δ,
v ← β₂ v + (1 − β₂) Δ², w ← w + η m / (√v + τ).

Deviations: those of :mod:`strategies.server_optimizer`; Flower corrects the bias of the moments, as Adam does and
Algorithm 2 does not, and counts rounds from 2 for it; v starts from 0 and not from τ².

Costs what FedGAN costs, and at the server two more copies of the trained weights in float64, which go into every
checkpoint. Reveals what FedGAN reveals.
"""

from __future__ import annotations

from typing import Any

from flwr.serverapp import strategy as flower

from strategies.flower_rules import FLOWER_KEYS
from strategies.server_optimizer import AdaptiveOptimizer


class FedAdam(AdaptiveOptimizer):
    """Flower's FedAdam on the trained weights."""

    def build(self) -> Any:
        """See :class:`strategies.server_optimizer.ServerOptimizer`."""
        return flower.FedAdam(
            eta=self.learning_rate,
            beta_1=self.settings.server_beta1,
            beta_2=self.settings.server_beta2,
            tau=self.settings.server_tau,
            **FLOWER_KEYS,
        )
