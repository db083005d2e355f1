"""How the hospitals' updates are combined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation.config import StrategySettings

if TYPE_CHECKING:
    from strategies.fedgan import FedGAN


def build_strategy(settings: StrategySettings) -> FedGAN:
    """Build the strategy that ``strategy.name`` names.

    Raises
    ------
    ValueError
        If it is not known; lists those that are.
    """
    from strategies.fedgan import FedGAN

    strategies = {"fedgan": FedGAN}
    if settings.name not in strategies:
        raise ValueError(f"strategy.name = {settings.name!r}: choose one of {', '.join(strategies)}")
    return strategies[settings.name]()
