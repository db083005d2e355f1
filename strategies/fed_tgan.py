"""Fed-TGAN's weighting: hospitals whose data are more like the federation's count more.

Zhao, Birke, Kunar and Chen 2021, *Fed-TGAN: Federated Learning Framework for Synthesizing Tabular Data*, arXiv
2108.07927, and its published code: s_i is the distance of hospital i's statistics to the federation's, the
Jensen-Shannon distance for a categorical column; weights are softmax_i((1 − s_i / Σ_k s_k) n_i / N), for both networks.

Here the one column is the class. What goes into the softmax lies in [0, 1), so that weights are nearly alike;
``strategy.temperature`` divides it. Where all hospitals are alike, s_i / Σ s is 1 / number of hospitals.

Costs what FedGAN costs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federation.site import Site
from strategies.scored_average import KnownScoreAverage, softmax


class FedTGAN(KnownScoreAverage):
    """Weights by class distribution, known from the start."""

    shown = "a mean, in which with a low strategy.temperature a hospital may be nearly alone"
    options = ("temperature", "weighted_networks")
    counts_classes = True

    def meet(self, sites: Mapping[str, Site]) -> None:
        """See :class:`Aggregation`."""
        from scipy.spatial.distance import jensenshannon  # at the server alone: a hospital need not import it

        super().meet(sites)
        shares, pooled = self.class_shares()
        distances = np.nan_to_num(np.array([jensenshannon(share, pooled) for share in shares.values()]))
        total = distances.sum()
        parts = distances / total if total > 0 else np.full(len(distances), 1 / len(distances))
        sizes = np.array([self.size_share(name) for name in shares])
        weights = softmax((1 - parts) * sizes / self.settings.temperature)
        self._weights = dict(zip(shares, weights.tolist(), strict=True))

    def weight_of(self, site: str) -> float:
        """See :class:`KnownScoreAverage`."""
        return self._weights[site]
