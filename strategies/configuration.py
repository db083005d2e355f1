"""The configuration as a run has it: validated whole, strategies included, and made what the strategy makes of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

import federation.config
from federation.config import Configuration, Layer
from federation.models.anatomy import Anatomy
from federation.models.families import FAMILIES
from federation.settings.section import Scalar, kebab
from federation.settings.strategy import StrategySettings

PRIVATE = "private"
"""In place of a strategy for one network: it stays at its hospital."""

_PLAIN = ("fedgan", "fedavg")
"""The plain average: it promises nothing that a network which stays at its hospital would miss."""

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

    strategy = STRATEGIES[configuration.strategy.name]
    training = configuration.training
    if training.balanced_classes == "auto" and configuration.balanced_over == "federation" and not strategy.balances:
        by_itself = training.model_copy(update={"balanced_classes": "hospital"})
        configuration = configuration.model_copy(update={"training": by_itself})
    if configuration.num_sites and _why_no_sites(configuration):
        untold = configuration.model.model_copy(update={"site_embedding": "off"})
        configuration = configuration.model_copy(update={"model": untold})
    return strategy.adapted(configuration)


def _why_no_sites(configuration: Configuration) -> str:
    """Return why a generator cannot be told hospitals under the strategies in use; empty where it can."""
    from federation.sharing import SharingPolicy
    from strategies.catalogue import STRATEGIES

    if any(STRATEGIES[name].adversarial for name in names_in_use(configuration.strategy)):
        return "the generator is trained at the server, which has no hospital's look"
    adapted = STRATEGIES[configuration.strategy.name].adapted(configuration)
    if adapted.partition.hospitals == 1 < configuration.partition.hospitals:
        return f"under strategy {configuration.strategy.name} all images are in one place"
    private = set(private_prefixes(configuration))
    for name in names_in_use(configuration.strategy):
        private.update(*(STRATEGIES[name].private_in_round(configuration, each) for each in (0, configuration.rounds)))
    if SharingPolicy(configuration.anatomy, sorted(private)).keeps_drawing():
        return "hospitals have generators, or parts of it, of their own, each with its own look"
    return ""


def with_values(configuration: Configuration, values: Mapping[str, Scalar]) -> Configuration:
    """Return a copy with some dotted keys set anew; refuses what :func:`resolve` refuses."""
    before = Layer("configuration", configuration.to_flat(), settled=True)
    return resolve([before, Layer("update", dict(values))])


def names_in_use(settings: StrategySettings) -> tuple[str, ...]:
    """Return the strategies that ``[strategy]`` uses, each once; ``private`` is none."""
    names = (settings.generator or settings.name, settings.discriminator or settings.name)
    return tuple(name for name in dict.fromkeys(names) if name != PRIVATE)


def private_prefixes(configuration: Configuration) -> tuple[str, ...]:
    """Return what ``strategy.private``, and strategies that are themselves a choice of what is private, keep back."""
    from strategies.catalogue import STRATEGIES

    settings, anatomy = configuration.strategy, configuration.anatomy
    chosen = list(settings.private_names)
    if anatomy.adversaries is not None:
        pair = {"generator": anatomy.adversaries.generator, "discriminator": anatomy.adversaries.critic}
        chosen += [part for key, part in pair.items() if getattr(settings, key) == PRIVATE]
    for name in names_in_use(settings):
        chosen += STRATEGIES[name].private(settings, anatomy)
    return tuple(dict.fromkeys(chosen))


def reads_class_counts(settings: StrategySettings) -> bool:
    """Return whether a strategy in use needs each hospital's number of images of each class."""
    from strategies.catalogue import STRATEGIES

    return any(STRATEGIES[name].counts_classes for name in names_in_use(settings))


def asks_class_counts(configuration: Configuration) -> bool:
    """Return whether each hospital is asked for its number of images of each class: needed, or of use where told."""
    is_of_use = configuration.balanced_over == "federation" or (
        configuration.num_sites > 0 and configuration.model.conditional
    )
    return is_of_use or reads_class_counts(configuration.strategy)


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

    settings = configuration.strategy
    unknown = list(_unknown_names(settings))
    yield from unknown
    names = names_in_use(settings)
    if not unknown:
        yield from _option_problems(settings, names)
    if unknown or configuration.model.name not in FAMILIES:
        return
    anatomy = configuration.anatomy
    yield from _problems_of_networks(configuration, anatomy)
    yield from _state_problems(settings, anatomy)
    yield from _pace_problems(configuration, anatomy)
    yield from _privacy_problems(configuration, anatomy)
    yield from _idle_problems(configuration, names)
    if configuration.model.site_embedding == "on" and (why := _why_no_sites(configuration)):
        yield f"model.site-embedding = on: {why}; leave it at auto, or set it to off"
    asked = configuration.asked_hospitals()
    for name in names:
        strategy = STRATEGIES[name]
        least, rule = strategy.least_hospitals(settings)
        if asked < least:
            yield (
                f"strategy {name}: {rule}, and here {asked} hospitals are asked in a round, at least {least} "
                "are needed; set partition.hospitals or participation.fraction higher, or another strategy.name"
            )
        if configuration.training.balanced_classes == "federation" and not strategy.balances:
            yield (
                f"training.balanced-classes = federation: under strategy {name} hospitals do not weigh by what they "
                "show, so that classes cannot be balanced over them; set training.balanced-classes=hospital, or leave "
                "it at auto"
            )
        if strategy.adversarial and anatomy.adversaries is None:
            yield (
                f"strategy.name = {name!r}: hospitals train a discriminator and the server the generator, and "
                f"model.name = {configuration.model.name} has no such pair; choose another strategy.name"
                f"{_adversarial_families(configuration, ', or ')}"
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
                    f"generator and discriminator; leave it out{_adversarial_families(configuration, ', or set ')}"
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


def _adversarial_families(configuration: Configuration, before: str) -> str:
    """Return the end of a remedy, behind some words: the families that have a generator and a discriminator."""
    names = []
    for name, family in FAMILIES.items():
        model = configuration.model.model_copy(update={"name": name})
        if family.anatomy(configuration.model_copy(update={"model": model})).adversaries is not None:
            names.append(f"model.name={name}")
    return before + " or ".join(names) if names else ""


def _privacy_problems(configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
    """Yield what of ``[strategy]`` does nothing because of what stays at hospitals."""
    from federation.sharing import SharingPolicy, is_within
    from strategies.catalogue import STRATEGIES

    settings = configuration.strategy
    both = settings.generator and settings.discriminator and anatomy.adversaries is not None
    if both:
        why = "strategy.generator and strategy.discriminator leave nothing to it; leave it out, or one of them"
        yield from settings.in_vain("strategy", ("name",), why, "strategy.generator", "strategy.discriminator")
    asked = SharingPolicy(anatomy, settings.private_names)
    for key, name, parts in _governed(settings, anatomy):
        if name != PRIVATE and STRATEGIES[name].adversarial:
            continue  # it says itself what is shared
        kept = parts if name == PRIVATE else STRATEGIES[name].private(settings, anatomy)
        for own in settings.private_names:
            if any(is_within(own, prefix) for prefix in kept):
                yield (
                    f"strategy.private = {settings.private!r}: {own} stays at its hospital anyway (strategy.{key} = "
                    f"{name}); leave it out"
                )
        if name == PRIVATE:
            continue
        if kept and all(any(is_within(part, prefix) for prefix in settings.private_names) for part in kept):
            yield (
                f"strategy.{key} = {name!r}: strategy.private = {settings.private!r} keeps all that it would keep; "
                "leave one of the two out"
            )
        elif name not in _PLAIN and parts and all(asked.keeps_whole(part) for part in parts):
            yield (
                f"strategy.{key} = {name!r}: strategy.private = {settings.private!r} leaves nothing to combine; leave "
                "one of the two out"
            )


def _governed(settings: StrategySettings, anatomy: Anatomy) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield key, strategy and trained parts of each choice of a strategy."""
    if anatomy.adversaries is None or not (settings.generator or settings.discriminator):
        yield "name", settings.name, anatomy.trained
        return
    for key, part in (("generator", anatomy.adversaries.generator), ("discriminator", anatomy.adversaries.critic)):
        name = getattr(settings, key)
        yield key if name else "name", name or settings.name, (part,)


def _idle_problems(configuration: Configuration, names: tuple[str, ...]) -> Iterator[str]:
    """Yield what of attacks and of participation does nothing under the strategies in use."""
    from federation.sharing import SharingPolicy
    from strategies.catalogue import STRATEGIES

    settings, anatomy, attack = configuration.strategy, configuration.anatomy, configuration.attack
    policy = SharingPolicy(anatomy, private_prefixes(configuration))
    sends = (
        settings.averaged_state
        or any(STRATEGIES[name].adversarial for name in names)
        or not all(policy.keeps_whole(part) for part in anatomy.trained)
    )
    # ``alone`` says so itself.
    if attack.harms_updates and not sends and settings.name != "alone":
        yield (
            f"attack.name = {attack.name}: every network stays at its hospital, so that nothing is sent that could be "
            "falsified; choose flipped-labels or noisy-camera, or share a network (strategy.private, "
            "strategy.generator, strategy.discriminator, strategy.synchronise)"
        )
    least, asked = least_replies(settings), configuration.asked_hospitals()
    if configuration.participation.min_replies < least == asked:
        why = (
            f"{asked} hospitals are asked in a round, and {' and '.join(names)} needs {least} of them, so that none "
            "may be away; ask more, choose another strategy.name, or leave it out"
        )
        switches = ("strategy.name", "partition.hospitals", "participation.fraction")
        yield from configuration.participation.in_vain("participation", ("dropout",), why, *switches)


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
    from federation.sharing import SharingPolicy

    training, participation = configuration.training, configuration.participation
    present = configuration.asked_hospitals() / configuration.partition.hospitals * (1 - participation.dropout)
    shown = configuration.rounds * present * training.local_steps * training.batch_size
    policy = SharingPolicy(anatomy, private_prefixes(configuration))
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
