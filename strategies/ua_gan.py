"""UA-GAN: private discriminators are combined to one that knows all hospitals' images, and G is trained against it.

Zhang et al. 2021, *Training Federated GANs with Theoretical Guarantees: A Universal Aggregation Approach*, arXiv
2102.04655, Eq. 4 and 5, and its published code: D_ua = O / (1 + O) with O(x, y) = Σ_j π_j(y) D_j / (1 − D_j) and
π_j(y) = n_j(y) / Σ_k n_k(y). In logits l_ua = log Σ_j exp(l_j + log π_j(y)), which is stable, and whose gradient
weighs the hospitals by their posterior.

At rest G(x | y) is Σ_j π_j(y) P_j(x | y), the images of class y of all hospitals: each l_j is then log P_j / G, and
Σ_j π_j exp(l_j) is 1 everywhere. That is so where D_j sees as many generated as real images of a class. Where it does
not (``stylegan2.fake-labels`` = uniform), the prior is π_j(y) u_j(y) / p_j(y), with p_j(y) and u_j(y) how often it sees
real and generated images of class y (:mod:`strategies.discriminator_ensemble` has the derivation); else G would rest at
the mixture by π_j(y) p_j(y).

Deviations: see :mod:`strategies.discriminator_ensemble`; an unconditional federation has π_j = n_j / N, where the
code has 1 / number of hospitals, all of one size there.

Costs the generator and a discriminator down, a discriminator up; the server's steps pass through every
discriminator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from strategies.discriminator_ensemble import DiscriminatorEnsemble


class UAGAN(DiscriminatorEnsemble):
    """Trains G against the aggregated logit."""

    told = "its private discriminator"
    shown = "a generator that learned from all discriminators"
    options = ("generator_steps",)
    simulation_only = "the server would hold the private discriminator of every hospital"

    def close_round(self, server_round: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """See :class:`strategies.server_trained.ServerTrainedGenerator`."""
        model = self.build()
        networks = self.networks_of(model, names)
        if model.num_classes:
            counts = self.class_counts(names)
            offsets = self.label_offsets(counts)
        else:
            counts = torch.tensor([[self.members[name].size] for name in names], dtype=torch.float64)
            offsets = torch.zeros_like(counts)
        # Of a class that nobody holds no image is asked.
        log_priors = ((counts / counts.sum(dim=0).clamp(min=1)).log() + offsets).to(self.federation.device)

        def judge(images: Tensor, labels: Tensor | None) -> Tensor:
            logits = torch.stack([network(images, labels) for network in networks])
            priors = log_priors.expand(-1, len(images)) if labels is None else log_priors[:, labels]
            return universal_logit(logits, priors)

        odds = self.class_odds(self.class_counts(names).sum(dim=0, keepdim=True))
        return self.train_generator(model, server_round, judge, odds)


def universal_logit(logits: Tensor, log_priors: Tensor) -> Tensor:
    """Return l_ua = log Σ_j exp(l_j + log π_j).

    Parameters
    ----------
    logits
        (hospitals, batch).
    log_priors
        Of the same shape; -inf where a hospital has nothing of a class, though not for all hospitals.

    Returns
    -------
    (batch,).
    """
    return torch.logsumexp(logits + log_priors.to(logits.dtype), dim=0)
