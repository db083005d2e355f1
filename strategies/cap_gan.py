"""CAP-GAN's split: layers of the generator that are general are shared, those that are personal stay.

Zhang, Zhao, Yu, Min, Al-Dubai and Zomaya 2023, *A Novel Federated Learning Scheme for Generative Adversarial Networks*,
IEEE Transactions on Mobile Computing, 10.1109/tmc.2023.3278668; CAP is collaborated game parallel learning. Only its
abstract was read: its Mix-G module divides a generator into a sharing and a personalising layer. The division is ours:
synthesis is shared, and the mapping network stays, or the layers that turn w into styles (``strategy.personal-part``).
Its cloud, edge and device game is not here.

Hospitals have generators of their own; what is judged is their mixture. Costs what FedGAN costs, less what stays.
"""

from __future__ import annotations

from collections.abc import Iterator

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from federation.settings.strategy import StrategySettings
from strategies.aggregation import WeightedAverage
from strategies.strategy import OWN_GENERATOR


class CapGAN(WeightedAverage):
    """FedGAN on what is shared."""

    told = "its own layers, to be judged"
    shown = "a mean of the layers that are shared"
    options = ("personal_part",)
    for_one_network = False
    simulation_only = OWN_GENERATOR

    @classmethod
    def private(cls, settings: StrategySettings, anatomy: Anatomy) -> tuple[str, ...]:
        """Return the layers of the personal part."""
        return anatomy.groups.get(settings.personal_part, ())

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        chosen = configuration.strategy.personal_part
        if chosen not in anatomy.groups:
            there = [part for part in ("mapping", "styles") if part in anatomy.groups]
            remedy = f"set strategy.personal-part={there[0]}" if there else "choose another strategy.name"
            yield (
                f"strategy.personal-part = {chosen!r}: model.name = {configuration.model.name} has no such layers; "
                f"{remedy}"
            )
