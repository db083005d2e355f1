"""FedNova: hospitals that took more steps do not pull the federation towards themselves.

Wang et al. 2020, *Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization*, arXiv
2007.07481, Eq. 9 for plain SGD: d_i = (w_t − w_i) / τ_i, w ← w_t − τ_eff Σ_i p_i d_i, with τ_i the local steps and
τ_eff = Σ_i p_i τ_i. Where all take as many steps, as with ``training.local-steps``, trained weights move as FedAvg's
do; use it with ``training.local-epochs``.

Deviations: updates are Adam's, which grow with the number of steps as SGD's do, but not with the gradient. Trained
weights alone; the server keeps the EMA itself (:class:`strategies.aggregation.ServerEMA`), so that what is judged is
not FedAvg's even where the steps are equal.

Costs what FedGAN costs.
"""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord

from strategies.aggregation import Arrays, Reply, ServerStep


class FedNova(ServerStep):
    """Normalised averaging."""

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`ServerStep`."""
        super().begin(server_round, current)
        self._directions: dict[str, np.ndarray] = {}
        self._images_in_all = self._steps = 0.0

    def add_trained(self, reply: Reply, arrays: ArrayRecord) -> None:
        """Σ_i n_i d_i and Σ_i n_i τ_i."""
        steps, size = reply.metrics["num-steps"], self.size_of(reply)
        for name, array in arrays.items():
            direction = (self.current[name].astype(np.float64) - array.numpy()) * (size / steps)
            if name in self._directions:
                self._directions[name] += direction
            else:
                self._directions[name] = direction
        self._images_in_all += size
        self._steps += size * steps

    def step(self) -> dict[str, np.ndarray]:
        """Return w_t − τ_eff Σ_i p_i d_i."""
        effective = self._steps / self._images_in_all
        return {
            name: self.current[name] - effective * direction / self._images_in_all
            for name, direction in self._directions.items()
        }
