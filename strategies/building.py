"""Both halves of what ``[strategy]`` names, built: one strategy, or one for each network."""

from __future__ import annotations

from federation.config import Configuration
from strategies.aggregation import Aggregation, Federation
from strategies.catalogue import STRATEGIES
from strategies.configuration import PRIVATE
from strategies.federated_strategy import FederatedStrategy, Governed
from strategies.local_rule import LocalRule, LocalRules


def build_rule(name: str, federation: Federation) -> Aggregation:
    """Build the server's half of a strategy that is a rule over entries.

    Raises
    ------
    ValueError
        If it is not known, or is no such rule; lists those that are.
    """
    rule = STRATEGIES.get(name)
    if rule is None or not issubclass(rule, Aggregation):
        rules = [known for known, strategy in STRATEGIES.items() if issubclass(strategy, Aggregation)]
        raise ValueError(f"strategy.name = {name!r}: choose one of {', '.join(rules)}")
    return rule(federation)


def build_strategy(federation: Federation) -> FederatedStrategy:
    """Build the server's half of what ``[strategy]`` names: one strategy, or one for each network.

    Raises
    ------
    ValueError
        If a name is not known; lists those that are.
    """
    settings = federation.settings
    whole = STRATEGIES.get(settings.name)
    if whole is not None and issubclass(whole, FederatedStrategy):
        return whole(federation)  # type: ignore[arg-type]
    if not settings.generator and not settings.discriminator:
        return FederatedStrategy([Governed((), build_rule(settings.name, federation))])
    anatomy = federation.anatomy
    assert anatomy.adversaries is not None
    generator = anatomy.with_averages([anatomy.adversaries.generator])
    # State of training goes with the discriminator: what it sees of images, and how sure it is of them.
    critic = (*anatomy.with_averages([anatomy.adversaries.critic]), *anatomy.of_kind("state"))
    governed = []
    for name, parts in ((settings.generator, generator), (settings.discriminator, critic)):
        name = name or settings.name
        # What is private has nothing that could be averaged.
        governed.append(Governed(parts, build_rule("fedgan" if name == PRIVATE else name, federation)))
    return FederatedStrategy(governed)


def build_local_rule(configuration: Configuration) -> LocalRule:
    """Build the hospital's half of what ``[strategy]`` names."""
    settings, anatomy = configuration.strategy, configuration.anatomy
    if not settings.generator and not settings.discriminator:
        return STRATEGIES[settings.name].local(settings, anatomy)
    assert anatomy.adversaries is not None
    rules = []
    for name, part in (
        (settings.generator, anatomy.adversaries.generator),
        (settings.discriminator, anatomy.adversaries.critic),
    ):
        name = name or settings.name
        local = LocalRule if name == PRIVATE else STRATEGIES[name].local
        rules.append(local(settings, anatomy, (part,)))
    return LocalRules(settings, anatomy, rules)
