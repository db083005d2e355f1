"""FedBN: layers that normalise stay at their hospital.

Li et al. 2021, *FedBN: Federated Learning on Non-IID Features via Local Batch Normalization*, arXiv 2102.07623.
StyleGAN2 has no batch normalisation: its place is taken by the layers that turn w into the scale of each channel and
by demodulation. So these layers (``style``, of every convolution of the generator) are private, and all else is
averaged. Hospitals have generators of their own; what is judged is their mixture.

Costs what FedGAN costs, less the layers that stay. Reveals what FedGAN reveals of the rest; in simulations the
generators' private layers are handed over to be judged.
"""

from __future__ import annotations

from strategies.aggregation import WeightedAverage


class FedBN(WeightedAverage):
    """FedGAN on what is shared."""
