"""Partial synchronisation: only the generator, only the discriminator, both or none is averaged.

Fan and Liu 2020, *Federated Generative Adversarial Learning*, arXiv 2005.03793. What is not averaged stays at its
hospital and is not sent (``strategy.synchronise``). Where that is the generator, hospitals have generators of their
own, and what is judged is their mixture, by number of images of each class; in simulations alone, since they must be
handed over for it.

Costs, per hospital and round, the averaged networks once down and once up.
"""

from __future__ import annotations

from collections.abc import Iterator

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from federation.settings.strategy import StrategySettings
from strategies.aggregation import WeightedAverage
from strategies.strategy import parts_named, parts_problem


class PartialSync(WeightedAverage):
    """FedGAN on what is synchronised."""

    told = "its own generator, to be judged, where that is not synchronised"
    shown = "a mean of the networks that are synchronised"
    options = ("synchronise",)
    for_one_network = False

    @classmethod
    def private(cls, settings: StrategySettings, anatomy: Anatomy) -> tuple[str, ...]:
        """Return the trained parts that are not synchronised."""
        synchronised = parts_named(settings.synchronise, anatomy) or ()
        return tuple(part for part in anatomy.trained if part not in synchronised)

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        settings = configuration.strategy
        yield from parts_problem("synchronise", settings.synchronise, configuration, anatomy)
        if settings.averaged_state_names and not parts_named(settings.synchronise, anatomy):
            yield (
                f"strategy.averaged-state = {settings.averaged_state!r}: strategy.synchronise = "
                f"{settings.synchronise} sends nothing; leave it empty, or synchronise a network"
            )
