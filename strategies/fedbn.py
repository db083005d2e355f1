"""FedBN: layers that normalise stay at their hospital.

Li et al. 2021, *FedBN: Federated Learning on Non-IID Features via Local Batch Normalization*, arXiv 2102.07623.
StyleGAN2 has no batch normalisation: its place is taken by the layers that turn w into the scale of each channel and
by demodulation. So these layers (``style``, of every convolution of the generator) are private, and all else is
averaged. Of a VAE they are the group normalisations of encoder and decoder. Hospitals have generators of their own;
what is judged is their mixture.

Costs what FedGAN costs, less the layers that stay.
"""

from __future__ import annotations

from collections.abc import Iterator

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from federation.settings.strategy import StrategySettings
from strategies.aggregation import WeightedAverage
from strategies.strategy import OWN_GENERATOR


class FedBN(WeightedAverage):
    """FedGAN on what is shared."""

    told = "its own layers, to be judged"
    shown = "a mean of the layers that are shared"
    for_one_network = False
    simulation_only = OWN_GENERATOR

    @classmethod
    def private(cls, settings: StrategySettings, anatomy: Anatomy) -> tuple[str, ...]:
        """Return the layers that normalise."""
        return anatomy.groups.get("normalisation", ())

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        if "normalisation" not in anatomy.groups:
            yield (
                f"strategy.name = fedbn: model.name = {configuration.model.name} has no layers that normalise, which "
                "would stay at their hospital; choose another strategy.name"
            )
