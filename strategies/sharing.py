"""What is shared in a round: what the user keeps back, and what the strategies in use do."""

from __future__ import annotations

from federation.config import Configuration
from federation.sharing import SharingPolicy
from strategies.catalogue import STRATEGIES
from strategies.configuration import PRIVATE, names_in_use


def private_prefixes(configuration: Configuration) -> tuple[str, ...]:
    """Return what ``strategy.private``, and strategies that are themselves a choice of what is private, keep back."""
    settings, anatomy = configuration.strategy, configuration.anatomy
    chosen = list(settings.private_names)
    if anatomy.adversaries is not None:
        pair = {"generator": anatomy.adversaries.generator, "discriminator": anatomy.adversaries.critic}
        chosen += [part for key, part in pair.items() if getattr(settings, key) == PRIVATE]
    for name in names_in_use(settings):
        chosen += STRATEGIES[name].private(settings, anatomy)
    return tuple(dict.fromkeys(chosen))


def sharing_policy(configuration: Configuration, server_round: int) -> SharingPolicy:
    """Return what is shared in a round."""
    anatomy = configuration.anatomy
    for name in names_in_use(configuration.strategy):
        if alone := STRATEGIES[name].private_in_round(configuration, server_round):
            return SharingPolicy(anatomy, alone)
    return SharingPolicy(anatomy, private_prefixes(configuration), configuration.strategy.averaged_state_names)
