"""q-FedAvg: hospitals with a higher loss count more, so that none is left behind.

Li et al. 2020, *Fair Resource Allocation in Federated Learning*, arXiv 1905.10497, Algorithm 2: with
Δ_i = L (w_t − w_i), w ← w_t − Σ_i F_i^q Δ_i / Σ_i (q F_i^(q−1) ‖Δ_i‖² + L F_i^q). Written out here, in float64;
Flower's own is the oracle of the tests.

Hospitals count by their loss and not by their size: with q = 0 it is the plain mean. (The paper draws hospitals by
size, which all in every round leaves no room for.) F_i is the mean of ``strategy.fairness-loss`` over hospital i's
round. Deviations: over every shared entry, the EMA included; L is ``strategy.fairness-lipschitz`` and not
1 / learning rate, since updates are Adam's; as Flower's, it adds 1e-10 to F_i, so that 0 has a power.

Costs what FedGAN costs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from federation.settings.strategy import StrategySettings
from strategies.aggregation import Aggregation, Arrays, Reply


class QFedAvg(Aggregation):
    """Two sums, reply by reply."""

    options = ("fairness_q", "fairness_lipschitz", "fairness_loss")

    @classmethod
    def numbers(cls, settings: StrategySettings, anatomy: Anatomy) -> tuple[str, ...]:
        """Return the loss that it weighs by."""
        return (anatomy.objective if settings.fairness_loss == "auto" else settings.fairness_loss,)

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        (name,) = cls.numbers(configuration.strategy, anatomy)
        allowed = [loss for loss, facts in anatomy.losses.items() if loss.startswith("loss-") and facts.least >= 0]
        if name not in allowed:
            yield (
                f"strategy.fairness-loss = {configuration.strategy.fairness_loss!r}: of model.name = "
                f"{configuration.model.name} {name} can be negative or is not known, and qfedavg takes powers of it; "
                f"choose from {', '.join(allowed) or 'none: choose another strategy.name'}"
            )

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`Aggregation`."""
        super().begin(server_round, current)
        self._deltas = {name: np.zeros(value.shape) for name, value in current.items()}
        self._h = 0.0
        (self._loss,) = self.numbers(self.settings, self.federation.anatomy)

    def add(self, reply: Reply) -> None:
        """See :class:`Aggregation`."""
        q, lipschitz = self.settings.fairness_q, self.settings.fairness_lipschitz
        loss = reply.metrics[self._loss] + 1e-10
        # numpy's power and not Python's, as in Flower's: they may differ in the last bit.
        norm, power = 0.0, np.float_power(loss, q)
        for name, total in self._deltas.items():
            delta = np.subtract(self.current[name], reply.arrays[name].numpy(), dtype=np.float64)
            delta *= lipschitz
            norm += np.sum(np.square(delta))
            delta *= power
            total += delta
        self._h += float(q * np.float_power(loss, q - 1) * norm + lipschitz * power)

    def result(self) -> dict[str, np.ndarray]:
        """See :class:`Aggregation`."""
        return {
            name: (self.current[name] - delta / self._h).astype(self.current[name].dtype)
            for name, delta in self._deltas.items()
        }
