"""q-FedAvg: hospitals with a higher loss count more, so that none is left behind.

Li et al. 2020, *Fair Resource Allocation in Federated Learning*, arXiv 1905.10497, Algorithm 2: with
Δ_i = L (w − w_i), w ← w − Σ_i F_i^q Δ_i / Σ_i (q F_i^(q−1) ‖Δ_i‖² + L F_i^q). The arithmetic is Flower's, in float64.

Hospitals count by their loss and not by their size: with q = 0 it is the plain mean. (The paper draws hospitals by
size, which all in every round leaves no room for.) F_i is the mean of ``strategy.fairness-loss`` over hospital i's
round. Deviations: over every shared entry, the EMA included; L is ``strategy.fairness-lipschitz`` and not
1 / learning rate, since updates are Adam's.

Costs what FedGAN costs. Reveals what FedGAN reveals, and each hospital's loss.
"""

from __future__ import annotations

import numpy as np
from flwr.serverapp.strategy.qfedavg import compute_delta_and_h

from strategies.aggregation import Aggregation, Arrays, Reply


class QFedAvg(Aggregation):
    """Flower's q-FedAvg, reply by reply."""

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`Aggregation`."""
        super().begin(server_round, current)
        self._start = [value.astype(np.float64) for value in current.values()]
        self._deltas = [np.zeros_like(value) for value in self._start]
        self._h = 0.0

    def add(self, reply: Reply) -> None:
        """See :class:`Aggregation`."""
        values = reply.values()
        deltas, h = compute_delta_and_h(
            self._start,
            [values[name].astype(np.float64) for name in self.current],
            self.settings.fairness_q,
            self.settings.fairness_lipschitz,
            reply.metrics[self.settings.fairness_loss],
        )
        for total, delta in zip(self._deltas, deltas, strict=True):
            total += delta
        self._h += float(h)

    def result(self) -> dict[str, np.ndarray]:
        """See :class:`Aggregation`."""
        return {
            name: (start - delta / self._h).astype(self.current[name].dtype)
            for name, start, delta in zip(self.current, self._start, self._deltas, strict=True)
        }
