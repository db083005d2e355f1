"""Label-aware averaging: a class's own weights are averaged over the hospitals that hold the class.

Ours. In a conditional GAN some weights belong to a class alone: its row in the class embedding of the mapping network
and in the projection of the discriminator (Miyato and Koyama 2018, arXiv 1802.05637). A hospital without the class
does not move its row; FedGAN yet counts that row by all its images, and so slows down what others learn of the class:
of Fed-ISIC2019's centres three have no actinic keratosis and no squamous cell carcinoma.

Row c ← Σ_i n_ic x_ic / Σ_i n_ic with n_ic the images of class c at hospital i; a row of which nobody holds the class
stays. All else by number of images, as FedGAN. Unconditional networks have no such rows: there it is refused.

Costs what FedGAN costs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from flwr.app import ArrayRecord

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from strategies.aggregation import Arrays, Reply, WeightedAverage


class LabelAware(WeightedAverage):
    """Weighs the rows of a class by its images."""

    shown = "a mean; the rows of a class that one hospital alone holds are that hospital's own"
    counts_classes = True

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        if not configuration.model.conditional:
            yield (
                "strategy label-aware: model.conditional = false has no weights that belong to a class, so that it "
                "would be fedgan; choose that, or set model.conditional=true"
            )

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`WeightedAverage`."""
        super().begin(server_round, current)
        self._names = [name for name in self.federation.class_rows if name in current]
        self._sums = {name: np.zeros(current[name].shape) for name in self._names}
        self._counts = np.zeros(len(current[self._names[0]]) if self._names else 0)

    def add(self, reply: Reply) -> None:
        """See :class:`WeightedAverage`."""
        super().add(reply)
        if not self._names:
            return
        counts = np.array(self.sites[reply.site].class_counts, dtype=float)
        for name in self._names:
            self._sums[name] += counts[:, None] * reply.arrays[name].numpy()
        self._counts += counts

    def result(self) -> dict[str, np.ndarray] | ArrayRecord:
        """See :class:`WeightedAverage`."""
        mean = self._mean.result()
        if not self._names:
            return mean
        found = {name: array.numpy() for name, array in mean.items()}
        held = self._counts > 0
        for name in self._names:
            rows = self.current[name].copy()
            rows[held] = self._sums[name][held] / self._counts[held, None]
            found[name] = rows
        return found
