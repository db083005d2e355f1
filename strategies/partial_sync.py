"""Partial synchronisation: only the generator, only the discriminator, both or none is averaged.

Fan and Liu 2020, *Federated Generative Adversarial Learning*, arXiv 2005.03793. What is not averaged stays at its
hospital and is not sent (``strategy.synchronise``). Where that is the generator, hospitals have generators of their
own, and what is judged is their mixture, by number of images of each class; in simulations alone, since they must be
handed over for it.

Costs, per hospital and round, the averaged networks once down and once up. Reveals these, and numbers of images.
"""

from __future__ import annotations

from strategies.aggregation import WeightedAverage


class PartialSync(WeightedAverage):
    """FedGAN on what is synchronised."""
