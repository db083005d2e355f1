"""What a strategy says of itself before anything starts: its options, what it shares, what it needs, whom it suits.

A strategy is one class in one file: the server's half of its rule, with these facts, and the hospital's half named by
them. :data:`strategies.catalogue.STRATEGIES` is the list of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from federation.settings.strategy import StrategySettings
from strategies.local_rule import LocalRule


class Strategy:
    """The facts of one strategy; a strategy overrides what is not so for it."""

    options: ClassVar[tuple[str, ...]] = ()
    """Fields of ``[strategy]`` that it reads beside those that all have."""
    for_one_network: ClassVar[bool] = True
    """Whether ``strategy.generator`` or ``strategy.discriminator`` may name it."""
    counts_classes: ClassVar[bool] = False
    """Whether each hospital tells the server how many images of each class it holds."""
    balances: ClassVar[bool] = True
    """Whether classes can be balanced over the federation (:mod:`federation.balance`): hospitals learn one model
    together, and weigh in it."""
    adversarial: ClassVar[bool] = False
    """Whether hospitals train the critic alone and the server the generator: for families that have such a pair."""
    told: ClassVar[str] = ""
    """What the server learns of a hospital by it beside what every strategy tells (:mod:`strategies.disclosure`), its
    images of each class and numbers that are read; empty: nothing."""
    shown: ClassVar[str] = "a mean"
    """What hospitals are sent of one another: of what the next global model is made where several reply."""
    simulation_only: ClassVar[str] = ""
    """Why it is for simulations alone; empty: it is not."""
    counts_releases: ClassVar[bool] = False
    """Whether it counts, in the run directory, what it has released: for its guarantee all must be there."""
    resumed_with: ClassVar[tuple[str, ...]] = ()
    """Settings that other runs may change when they are resumed, and its runs may not."""
    local: ClassVar[type[LocalRule]] = LocalRule
    """The hospital's half."""

    @classmethod
    def least_hospitals(cls, settings: StrategySettings) -> tuple[int, str]:
        """Return the replies that a round needs, and the rule behind it."""
        return 1, ""

    @classmethod
    def numbers(cls, settings: StrategySettings, anatomy: Anatomy) -> tuple[str, ...]:
        """Return the numbers that each reply must hold beside counts of images and steps."""
        return ()

    @classmethod
    def private(cls, settings: StrategySettings, anatomy: Anatomy) -> tuple[str, ...]:
        """Return what stays at hospitals under it, as ``strategy.private`` would name it."""
        return ()

    @classmethod
    def private_in_round(cls, configuration: Configuration, server_round: int) -> tuple[str, ...]:
        """Return what more stays in one round."""
        return ()

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """Yield a sentence for each thing that it cannot do with these settings, or with this family of models."""
        yield from ()

    @classmethod
    def adapted(cls, configuration: Configuration) -> Configuration:
        """Return the settings that a run of it has, given those of the federation that it is compared with."""
        return configuration


OWN_GENERATOR = "every hospital has a generator of its own, and would have to hand it over to be judged"
"""A reason for :attr:`Strategy.simulation_only`."""


def parts_named(word: str, anatomy: Anatomy) -> tuple[str, ...] | None:
    """Return the trained parts that a setting names; None if it names one that there is not.

    Parameters
    ----------
    word
        ``both``: all. ``none``. ``generator``: what draws, or what running averages that draw follow.
        ``discriminator``: the critic of an adversarial family. Or names of trained parts, separated by commas.
    anatomy
        Of the model.
    """
    if word == "both":
        return anatomy.trained
    if word == "none":
        return ()
    if word == "generator":
        return anatomy.learned_to_draw
    if word == "discriminator" and anatomy.adversaries is not None:
        return (anatomy.adversaries.critic,)
    names = tuple(name.strip() for name in word.split(","))
    return names if set(names) <= set(anatomy.trained) else None


def parts_problem(
    key: str, word: str, configuration: Configuration, anatomy: Anatomy, *others: str, may_be_none: bool = True
) -> Iterator[str]:
    """Yield what is wrong with a setting that :func:`parts_named` reads.

    Parameters
    ----------
    key, word
        The setting, without its table, and its value.
    configuration, anatomy
        Of the run and of its model.
    others
        Words that the setting knows beside.
    may_be_none
        Whether it may name no part.
    """
    if word == "none" and not may_be_none:
        yield f"strategy.{key} = 'none': the strategy would do nothing; choose networks, or strategy.name=fedgan"
        return
    if word in others or parts_named(word, anatomy) is not None:
        return
    words = [*others, "both", *(["none"] if may_be_none else []), "generator", *anatomy.trained]
    yield (
        f"strategy.{key} = {word!r}: model.name = {configuration.model.name} has no such trained network; choose from "
        f"{', '.join(dict.fromkeys(words))}, several networks separated by commas"
    )
