"""What every strategy is compared with: training on all images in one place, and each hospital alone.

``centralised`` pools the images of all hospitals and trains one model on them, with as many steps in a round as the
hospitals would take together: as many images are shown, one step after the other. ``alone`` lets every hospital train
for itself; nothing is averaged. What is judged is the mixture of the hospitals' generators, and each of them.

Neither costs bytes, but for the generators that a simulation judges.
"""

from __future__ import annotations

from collections.abc import Iterator

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from federation.settings.strategy import StrategySettings
from strategies.aggregation import WeightedAverage
from strategies.strategy import OWN_GENERATOR


class Centralised(WeightedAverage):
    """The mean of one."""

    told = "all its images"
    shown = "nothing: there are no others"
    for_one_network = False
    simulation_only = "it pools the images of all hospitals"

    @classmethod
    def adapted(cls, configuration: Configuration) -> Configuration:
        """Return one place that holds all images, and shows as many of them in a round as the hospitals would.

        Nobody in it is away.
        """
        if configuration.partition.hospitals == 1:
            return configuration
        training = configuration.training
        share = configuration.asked_hospitals() / configuration.partition.hospitals
        present = 1.0 - configuration.participation.dropout
        pooled = {
            "local_steps": max(
                min(1, training.local_steps), round(training.local_steps * configuration.asked_hospitals() * present)
            ),
            "local_epochs": training.local_epochs * share * present,
        }
        everybody = {"fraction": 1.0, "min_replies": 1, "dropout": 0.0}
        return configuration.model_copy(
            update={
                "partition": configuration.partition.model_copy(update={"hospitals": 1}),
                "participation": configuration.participation.model_copy(update=everybody),
                "training": training.model_copy(update=pooled),
            }
        )

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        if configuration.attack.name != "none":
            yield (
                f"attack.name = {configuration.attack.name}: strategy.name = centralised has no hospitals that could "
                "do harm; leave it out, or choose another strategy.name"
            )
        if configuration.strategy.private or configuration.strategy.averaged_state:
            yield (
                "strategy.private and strategy.averaged-state: strategy.name = centralised has one place, where all "
                "stays; leave them out"
            )


class Alone(WeightedAverage):
    """The mean of nothing: all entries are private."""

    balances = False

    told = "its own generator, to be judged"
    shown = "nothing"
    for_one_network = False
    simulation_only = OWN_GENERATOR

    @classmethod
    def private(cls, settings: StrategySettings, anatomy: Anatomy) -> tuple[str, ...]:
        """Return everything."""
        return anatomy.trained

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        if configuration.attack.harms_updates:
            yield (
                f"attack.name = {configuration.attack.name}: strategy.name = alone sends nothing that could be "
                "falsified; choose flipped-labels or noisy-camera, or another strategy"
            )
        if configuration.strategy.averaged_state_names:
            yield (
                f"strategy.averaged-state = {configuration.strategy.averaged_state!r}: strategy.name = alone sends "
                "nothing that could be averaged; leave it empty, or choose another strategy"
            )
