"""What is shared in a round: what the user keeps back, and what the strategies in use do."""

from __future__ import annotations

from federation.config import Configuration
from federation.sharing import SharingPolicy
from strategies.catalogue import STRATEGIES
from strategies.configuration import names_in_use, private_prefixes


def sharing_policy(configuration: Configuration, server_round: int) -> SharingPolicy:
    """Return what is shared in a round."""
    anatomy = configuration.anatomy
    for name in names_in_use(configuration.strategy):
        if alone := STRATEGIES[name].private_in_round(configuration, server_round):
            return SharingPolicy(anatomy, alone)
    return SharingPolicy(anatomy, private_prefixes(configuration), configuration.strategy.averaged_state_names)
