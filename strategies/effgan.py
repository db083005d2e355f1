"""EFFGAN: FedGAN, then every hospital fine-tunes; images come from the mixture of their generators.

Ekblom, Zec and Mogren 2022, *EFFGAN: Ensembles of fine-tuned federated GANs*, arXiv 2206.11682. How long hospitals
fine-tune, and the weights of the mixture, were not read: here it is the last ``strategy.fine-tune-rounds`` rounds, and
of each class each generator gives as many images as its hospital's share of that class; of an unconditional
federation, of all images. Both networks are fine-tuned.

Costs what FedGAN costs until then. The server goes on sending the global networks, and hospitals send nothing but
the generators that are judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from strategies.aggregation import WeightedAverage
from strategies.strategy import OWN_GENERATOR


class EFFGAN(WeightedAverage):
    """FedGAN while hospitals share."""

    told = "its own generator, to be judged"
    shown = "a mean, until each goes on by itself"
    options = ("fine_tune_rounds",)
    for_one_network = False
    simulation_only = OWN_GENERATOR
    # Which rounds are the last decides what hospitals share in them.
    resumed_with = ("rounds",)

    @classmethod
    def private_in_round(cls, configuration: Configuration, server_round: int) -> tuple[str, ...]:
        """Return everything, in the last rounds."""
        is_alone = server_round > configuration.rounds - configuration.strategy.fine_tune_rounds
        return configuration.anatomy.trained if is_alone else ()

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        if configuration.strategy.fine_tune_rounds >= configuration.rounds:
            yield (
                f"strategy.fine-tune-rounds = {configuration.strategy.fine_tune_rounds}: of rounds = "
                f"{configuration.rounds} none would be left in which hospitals learn from one another; lower it"
            )
        if configuration.early_stopping.patience > 0:
            yield (
                f"early-stopping.patience = {configuration.early_stopping.patience}: under effgan the last rounds are "
                "each hospital's own, and a run that stops early never comes to them; set it to 0"
            )
