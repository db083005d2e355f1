"""How the hospitals' updates are combined: each strategy a file, its server's and its hospital's half together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation.config import NETWORKS, StrategySettings
from federation.strategy_facts import PRIVATE, STRATEGY_FACTS

if TYPE_CHECKING:
    from strategies.aggregation import Aggregation, Federation
    from strategies.federated_strategy import FederatedStrategy
    from strategies.local_rule import LocalRule


def _unknown(name: str) -> ValueError:
    return ValueError(f"strategy.name = {name!r}: choose one of {', '.join(STRATEGY_FACTS)}")


def build_rule(name: str, federation: Federation) -> Aggregation:
    """Build the server's half of a strategy that is a rule over entries.

    Raises
    ------
    ValueError
        If it is not known; lists those that are.
    """
    from strategies.bulyan import Bulyan
    from strategies.cap_gan import CapGAN
    from strategies.effgan import EFFGAN
    from strategies.fed_tgan import FedTGAN
    from strategies.fedadagrad import FedAdagrad
    from strategies.fedadam import FedAdam
    from strategies.fedavgm import FedAvgM
    from strategies.fedbn import FedBN
    from strategies.fedcar import FedCAR
    from strategies.feddyn import FedDyn
    from strategies.fedgan import FedGAN
    from strategies.fedmedian import FedMedian
    from strategies.fednova import FedNova
    from strategies.fedprox import FedProx
    from strategies.fedtrimmedavg import FedTrimmedAvg
    from strategies.fedyogi import FedYogi
    from strategies.fegan import FeGAN
    from strategies.geometric_median import GeometricMedian
    from strategies.ifl_gan import IFLGAN
    from strategies.krum import Krum
    from strategies.label_aware import LabelAware
    from strategies.multikrum import MultiKrum
    from strategies.partial_sync import PartialSync
    from strategies.qfedavg import QFedAvg
    from strategies.references import Alone, Centralised
    from strategies.scaffold import Scaffold

    rules: dict[str, type[Aggregation]] = {
        "fedgan": FedGAN,
        "fedavg": FedGAN,
        "fedavgm": FedAvgM,
        "fedprox": FedProx,
        "fedadam": FedAdam,
        "fedyogi": FedYogi,
        "fedadagrad": FedAdagrad,
        "fedmedian": FedMedian,
        "fedtrimmedavg": FedTrimmedAvg,
        "krum": Krum,
        "multikrum": MultiKrum,
        "bulyan": Bulyan,
        "geometric-median": GeometricMedian,
        "qfedavg": QFedAvg,
        "scaffold": Scaffold,
        "fednova": FedNova,
        "feddyn": FedDyn,
        "fedbn": FedBN,
        "partial-sync": PartialSync,
        "fegan": FeGAN,
        "fed-tgan": FedTGAN,
        "ifl-gan": IFLGAN,
        "fedcar": FedCAR,
        "label-aware": LabelAware,
        "cap-gan": CapGAN,
        "effgan": EFFGAN,
        "centralised": Centralised,
        "alone": Alone,
    }
    if name not in rules:
        raise _unknown(name)
    return rules[name](federation)


def build_strategy(federation: Federation) -> FederatedStrategy:
    """Build the server's half of what ``[strategy]`` names: one strategy, or one for each network.

    Raises
    ------
    ValueError
        If a name is not known; lists those that are.
    """
    from strategies.dp_fedavg_gan import DPFedAvgGAN
    from strategies.federated_strategy import FederatedStrategy, Part
    from strategies.md_gan import MDGAN
    from strategies.server_trained import ServerTrainedGenerator
    from strategies.ua_gan import UAGAN

    settings = federation.settings
    at_the_server: dict[str, type[ServerTrainedGenerator]] = {
        "dp-fedavg-gan": DPFedAvgGAN,
        "ua-gan": UAGAN,
        "md-gan": MDGAN,
    }
    if settings.name in at_the_server:
        return at_the_server[settings.name](federation)
    if not settings.generator and not settings.discriminator:
        return FederatedStrategy([Part((), build_rule(settings.name, federation))])
    parts = []
    for network in NETWORKS:
        name = getattr(settings, network) or settings.name
        networks = ("generator", "generator_ema") if network == "generator" else (network, "training")
        # What is private has nothing that could be averaged.
        parts.append(Part(networks, build_rule("fedgan" if name == PRIVATE else name, federation)))
    return FederatedStrategy(parts)


def build_local_rule(settings: StrategySettings) -> LocalRule:
    """Build the hospital's half of what ``[strategy]`` names."""
    from strategies.feddyn import FedDynLocally
    from strategies.fedprox import FedProxLocally
    from strategies.ifl_gan import IFLGANLocally
    from strategies.local_rule import DiscriminatorOnly, LocalRule, LocalRules
    from strategies.scaffold import ScaffoldLocally

    rules: dict[str, type[LocalRule]] = {
        "fedprox": FedProxLocally,
        "feddyn": FedDynLocally,
        "scaffold": ScaffoldLocally,
        "ifl-gan": IFLGANLocally,
        "dp-fedavg-gan": DiscriminatorOnly,
        "ua-gan": DiscriminatorOnly,
        "md-gan": DiscriminatorOnly,
    }
    if not settings.generator and not settings.discriminator:
        return rules.get(settings.name, LocalRule)(settings)
    names = {network: getattr(settings, network) or settings.name for network in NETWORKS}
    return LocalRules(settings, [rules.get(name, LocalRule)(settings, (network,)) for network, name in names.items()])
