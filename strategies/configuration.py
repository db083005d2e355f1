"""The configuration as a run has it: validated whole, strategies included, and made what the strategy makes of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

import federation.config
from federation.config import Configuration, Layer
from federation.models.anatomy import Anatomy
from federation.settings.section import Scalar, kebab
from federation.settings.strategy import StrategySettings

PRIVATE = "private"
"""In place of a strategy for one network: it stays at its hospital."""

_COMMON = ("name", "generator", "discriminator", "private", "averaged_state")


def resolve(layers: Iterable[Layer]) -> Configuration:
    """Merge layers over the defaults and validate the whole; see :func:`federation.config.resolve`.

    Raises
    ------
    ConfigurationError
        With every problem found, those of strategies among them.
    """
    configuration = federation.config.resolve(layers, check=strategy_problems)
    from strategies.catalogue import STRATEGIES

    return STRATEGIES[configuration.strategy.name].adapted(configuration)


def with_values(configuration: Configuration, values: Mapping[str, Scalar]) -> Configuration:
    """Return a copy with some dotted keys set anew; refuses what :func:`resolve` refuses."""
    return resolve([Layer("configuration", configuration.to_flat()), Layer("update", dict(values))])


def names_in_use(settings: StrategySettings) -> tuple[str, ...]:
    """Return the strategies that ``[strategy]`` uses, each once; ``private`` is none."""
    names = (settings.generator or settings.name, settings.discriminator or settings.name)
    return tuple(name for name in dict.fromkeys(names) if name != PRIVATE)


def reads_class_counts(settings: StrategySettings) -> bool:
    """Return whether a strategy in use needs each hospital's number of images of each class."""
    from strategies.catalogue import STRATEGIES

    return any(STRATEGIES[name].counts_classes for name in names_in_use(settings))


def numbers_in_use(configuration: Configuration) -> tuple[str, ...]:
    """Return the numbers that strategies in use read of every reply, beside counts of images and steps."""
    from strategies.catalogue import STRATEGIES

    settings = configuration.strategy
    found = [STRATEGIES[name].numbers(settings, configuration.anatomy) for name in names_in_use(settings)]
    return tuple(dict.fromkeys(number for numbers in found for number in numbers))


def least_replies(settings: StrategySettings) -> int:
    """Return the replies of a round without which the strategies in use mean nothing."""
    from strategies.catalogue import STRATEGIES

    return max((STRATEGIES[name].least_hospitals(settings)[0] for name in names_in_use(settings)), default=1)


def strategy_problems(configuration: Configuration) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with ``[strategy]``, by itself or for this family of models."""
    # Not before a configuration is otherwise right: PyTorch and Flower take seconds to import.
    from strategies.catalogue import STRATEGIES

    settings, anatomy = configuration.strategy, configuration.anatomy
    unknown = list(_unknown_names(settings))
    yield from unknown
    if unknown:
        return
    yield from _problems_of_networks(configuration, anatomy)
    yield from _state_problems(settings, anatomy)
    yield from _pace_problems(configuration, anatomy)
    names = names_in_use(settings)
    yield from _option_problems(settings, names)
    asked = configuration.asked_hospitals()
    for name in names:
        strategy = STRATEGIES[name]
        least, rule = strategy.least_hospitals(settings)
        if asked < least:
            yield (
                f"strategy {name}: {rule}, and here {asked} hospitals are asked in a round, at least {least} "
                "are needed; set partition.hospitals or participation.fraction higher, or another strategy.name"
            )
        if strategy.adversarial and anatomy.adversaries is None:
            yield (
                f"strategy.name = {name!r}: hospitals train a discriminator and the server the generator, and "
                f"model.name = {configuration.model.name} has no such pair; choose another strategy.name, or "
                "model.name=stylegan2"
            )
            continue
        yield from strategy.problems(configuration, anatomy)


def _unknown_names(settings: StrategySettings) -> Iterator[str]:
    from strategies.catalogue import STRATEGIES

    for key in ("name", "generator", "discriminator"):
        name = getattr(settings, key)
        if name in STRATEGIES or (key != "name" and name in ("", PRIVATE)):
            continue
        nearest = difflib.get_close_matches(name, STRATEGIES, n=3, cutoff=0.4)
        meant = f"did you mean {' or '.join(nearest)}? " if nearest else ""
        yield f"strategy.{key} = {name!r}: no such strategy; {meant}There are {', '.join(STRATEGIES)}"


def _problems_of_networks(configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
    """Yield what is wrong with a strategy for each network."""
    from strategies.catalogue import STRATEGIES

    settings = configuration.strategy
    if not settings.generator and not settings.discriminator:
        return
    if anatomy.adversaries is None:
        for key in ("generator", "discriminator"):
            if getattr(settings, key):
                yield (
                    f"strategy.{key} = {getattr(settings, key)!r}: model.name = {configuration.model.name} has no "
                    "generator and discriminator; leave it out, or set model.name=stylegan2"
                )
        return
    for key in ("name", "generator", "discriminator"):
        name = getattr(settings, key)
        if name in STRATEGIES and not STRATEGIES[name].for_one_network:
            choices = [choice for choice, strategy in STRATEGIES.items() if strategy.for_one_network]
            yield (
                f"strategy.{key} = {name!r}: is a rule for both networks together; where strategy.generator or "
                f"strategy.discriminator is set, choose from {', '.join(choices)}, or private for one of them"
            )


def _state_problems(settings: StrategySettings, anatomy: Anatomy) -> Iterator[str]:
    for name in settings.averaged_state_names:
        if name not in anatomy.shareable_state:
            allowed = ", ".join(anatomy.shareable_state) or "none in this family of models; leave it empty"
            yield f"strategy.averaged-state = {settings.averaged_state!r}: {name!r} is not known; allowed are {allowed}"
        elif anatomy.shareable_state[name]:
            yield (
                f"strategy.averaged-state = {name!r}: there is none to average; leave it out, or set "
                f"{anatomy.shareable_state[name]}"
            )


def _pace_problems(configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
    """Yield the entries that go by a hospital's own count of images, and would not be there at the end of the run."""
    from strategies.sharing import sharing_policy

    training, participation = configuration.training, configuration.participation
    present = configuration.asked_hospitals() / configuration.partition.hospitals * (1 - participation.dropout)
    shown = configuration.rounds * present * training.local_steps * training.batch_size
    policy = sharing_policy(configuration, 0)
    for name, images in anatomy.paced.items():
        if training.local_epochs == 0 and present < 1 and policy.is_private(name) and images > shown:
            yield (
                f"{name} is a hospital's own and needs {images:g} images: one that is in {present:.0%} of the rounds "
                f"is shown about {shown:,.0f} (participation.fraction, participation.dropout); share it, set more "
                "rounds, or let it need fewer (stylegan2.transition-start-images, stylegan2.transition-images)"
            )


def _option_problems(settings: StrategySettings, names: tuple[str, ...]) -> Iterator[str]:
    """Yield the options that no strategy in use reads."""
    from strategies.catalogue import STRATEGIES

    read = {*_COMMON, *(option for name in names for option in STRATEGIES[name].options)}
    for key, field in type(settings).model_fields.items():
        if key not in read and getattr(settings, key) != field.default:
            owners = [name for name, strategy in STRATEGIES.items() if key in strategy.options]
            yield (
                f"strategy.{kebab(key)} = {getattr(settings, key)!r}: {' and '.join(names) or PRIVATE} has "
                f"no such option, it is one of {', '.join(owners)}; leave it out, or choose another strategy.name"
            )
