"""What a configuration must know of each strategy before anything starts: its options, what it needs, whom it suits.

The rules themselves stand in :mod:`strategies`, a file for each.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

PRIVATE = "private"
"""In place of a strategy for one network: it stays at its hospital."""

_COMMON = ("name", "generator", "discriminator", "private", "averaged_state")


@dataclass(frozen=True)
class StrategyFacts:
    """One strategy, as the configuration sees it."""

    options: tuple[str, ...] = ()
    """Fields of ``[strategy]`` that it reads beside the common ones."""
    for_one_network: bool = True
    """Whether ``strategy.generator`` or ``strategy.discriminator`` may name it."""
    class_counts: bool = False
    """Whether each hospital tells the server how many images of each class it holds."""
    trains_discriminator_only: bool = False
    """Whether hospitals train the discriminator alone, and the server the generator."""
    simulation_only: str = ""
    """Why it is for simulations alone; empty: it is not."""
    least_hospitals: Callable[[Any], tuple[int, str]] = lambda settings: (1, "")
    """Replies that a round needs, given the settings of the strategy, and the rule behind it."""


_OPTIMIZER = ("server_learning_rate", "server_beta1", "server_beta2", "server_tau")
_OWN_GENERATOR = "every hospital has a generator of its own, and would have to hand it over to be judged"

STRATEGY_FACTS: dict[str, StrategyFacts] = {
    "fedgan": StrategyFacts(),
    "fedavg": StrategyFacts(),
    "fedavgm": StrategyFacts(("server_learning_rate", "server_momentum")),
    "fedprox": StrategyFacts(("proximal_mu",)),
    "fedadam": StrategyFacts(_OPTIMIZER),
    "fedyogi": StrategyFacts(_OPTIMIZER),
    "fedadagrad": StrategyFacts(("server_learning_rate", "server_tau")),
    "fedmedian": StrategyFacts(),
    "fedtrimmedavg": StrategyFacts(
        ("trim",),
        least_hospitals=lambda settings: (
            int(-(-1 // settings.trim)) if settings.trim > 0 else 1,
            f"of fewer, strategy.trim = {settings.trim:g} cuts none off",
        ),
    ),
    "krum": StrategyFacts(
        ("malicious",), least_hospitals=lambda settings: (2 * settings.malicious + 3, "Krum needs n > 2 f + 2")
    ),
    "multikrum": StrategyFacts(
        ("malicious", "selected"),
        least_hospitals=lambda settings: (
            max(2 * settings.malicious + 3, settings.selected),
            "Multi-Krum needs n > 2 f + 2, and no fewer than strategy.selected",
        ),
    ),
    "bulyan": StrategyFacts(
        ("malicious",), least_hospitals=lambda settings: (4 * settings.malicious + 3, "Bulyan needs n >= 4 f + 3")
    ),
    "geometric-median": StrategyFacts(),
    "qfedavg": StrategyFacts(("fairness_q", "fairness_lipschitz", "fairness_loss")),
    "scaffold": StrategyFacts(("server_learning_rate",)),
    "fednova": StrategyFacts(),
    "feddyn": StrategyFacts(("dynamic_alpha",)),
    "fedbn": StrategyFacts(for_one_network=False, simulation_only=_OWN_GENERATOR),
    "partial-sync": StrategyFacts(("synchronise",), for_one_network=False),
    "fegan": StrategyFacts(("divergence_weight", "weighted_networks"), for_one_network=False, class_counts=True),
    "fed-tgan": StrategyFacts(("temperature", "weighted_networks"), for_one_network=False, class_counts=True),
    "ifl-gan": StrategyFacts(("temperature", "weighted_networks"), for_one_network=False),
    "fedcar": StrategyFacts(("temperature", "weighted_networks", "samples"), for_one_network=False, class_counts=True),
    "label-aware": StrategyFacts(class_counts=True),
    "cap-gan": StrategyFacts(("personal_part",), for_one_network=False, simulation_only=_OWN_GENERATOR),
    "effgan": StrategyFacts(("fine_tune_rounds",), for_one_network=False, simulation_only=_OWN_GENERATOR),
    "dp-fedavg-gan": StrategyFacts(
        ("generator_steps", "clip_norm", "noise_multiplier", "delta"),
        for_one_network=False,
        class_counts=True,
        trains_discriminator_only=True,
    ),
    "ua-gan": StrategyFacts(
        ("generator_steps",),
        for_one_network=False,
        class_counts=True,
        trains_discriminator_only=True,
        simulation_only="the server would hold the private discriminator of every hospital",
    ),
    "md-gan": StrategyFacts(
        ("generator_steps", "swap_rounds"),
        for_one_network=False,
        class_counts=True,
        trains_discriminator_only=True,
        simulation_only="hospitals would be given one another's discriminators",
    ),
    "centralised": StrategyFacts(for_one_network=False, simulation_only="it pools the images of all hospitals"),
    "alone": StrategyFacts(for_one_network=False, simulation_only=_OWN_GENERATOR),
}
"""Every strategy by its name in ``strategy.name``."""


def names_in_use(settings: Any) -> tuple[str, ...]:
    """Return the strategies that a configuration's ``[strategy]`` uses, each once."""
    names = (settings.generator or settings.name, settings.discriminator or settings.name)
    return tuple(dict.fromkeys(names))


def reads_class_counts(settings: Any) -> bool:
    """Return whether a strategy in use needs each hospital's number of images of each class."""
    return any(STRATEGY_FACTS[name].class_counts for name in names_in_use(settings) if name != PRIVATE)


def least_replies(settings: Any) -> int:
    """Return the replies of a round without which the strategies in use mean nothing."""
    names = [name for name in names_in_use(settings) if name != PRIVATE]
    return max((STRATEGY_FACTS[name].least_hospitals(settings)[0] for name in names), default=1)


def strategy_problems(settings: Any, num_replies: int, training: Any, augmentation: Any) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with ``[strategy]``.

    Parameters
    ----------
    settings
        A :class:`federation.config.StrategySettings`.
    num_replies
        Hospitals that are asked in a round.
    training, augmentation
        A ``TrainingSettings`` and an ``AugmentationSettings``.
    """
    known = True
    for key in ("name", "generator", "discriminator"):
        name = getattr(settings, key)
        if name in STRATEGY_FACTS or (key != "name" and name in ("", PRIVATE)):
            continue
        known = False
        nearest = difflib.get_close_matches(name, STRATEGY_FACTS, n=3, cutoff=0.4)
        meant = f"did you mean {' or '.join(nearest)}? " if nearest else ""
        yield f"strategy.{key} = {name!r}: no such strategy; {meant}There are {', '.join(STRATEGY_FACTS)}"
    if not known:
        return
    if settings.generator or settings.discriminator:
        for key in ("name", "generator", "discriminator"):
            name = getattr(settings, key)
            if name in STRATEGY_FACTS and not STRATEGY_FACTS[name].for_one_network:
                choices = [choice for choice, facts in STRATEGY_FACTS.items() if facts.for_one_network]
                yield (
                    f"strategy.{key} = {name!r}: is a rule for both networks together; where strategy.generator or "
                    f"strategy.discriminator is set, choose from {', '.join(choices)}, or private for one of them"
                )
    names = [name for name in names_in_use(settings) if name != PRIVATE]
    read = {*_COMMON, *(option for name in names for option in STRATEGY_FACTS[name].options)}
    for key, field in type(settings).model_fields.items():
        if key not in read and getattr(settings, key) != field.default:
            owners = [name for name, facts in STRATEGY_FACTS.items() if key in facts.options]
            yield (
                f"strategy.{key.replace('_', '-')} = {getattr(settings, key)!r}: {' and '.join(names) or PRIVATE} has "
                f"no such option, it is one of {', '.join(owners)}; leave it out, or choose another strategy.name"
            )
    for name in names:
        least, rule = STRATEGY_FACTS[name].least_hospitals(settings)
        if num_replies < least:
            yield (
                f"strategy {name}: {rule}, and here {num_replies} hospitals are asked in a round, at least {least} "
                "are needed; set partition.hospitals or participation.fraction higher, or another strategy.name"
            )
        if STRATEGY_FACTS[name].trains_discriminator_only:
            yield from _server_training_problems(name, training, augmentation)
            if settings.private or settings.averaged_state:
                yield f"strategy.private and strategy.averaged-state: {name} says itself what is shared; leave them out"


def _server_training_problems(name: str, training: Any, augmentation: Any) -> Iterator[str]:
    """Yield what cannot be where hospitals train the discriminator alone, and the server the generator."""
    if training.loss != "logistic":
        yield (
            f"training.loss = {training.loss!r}: under {name} the server trains the generator and has no real images "
            "to pair with generated ones; set training.loss=logistic"
        )
    if training.path_length_weight > 0:
        yield (
            f"training.path-length-weight = {training.path_length_weight:g}: under {name} the server trains the "
            "generator, without this regularisation; set it to 0"
        )
    if augmentation.name == "ada":
        yield (
            f"augmentation.name = 'ada': under {name} the server cannot know how strongly each hospital augments now; "
            "set augmentation.name=fixed"
        )
    for key, value in (
        ("label-dropout", training.label_dropout),
        ("transition-start-images", training.transition_start_images),
        ("transition-images", training.transition_images),
    ):
        if value > 0:
            yield (
                f"training.{key} = {value:g}: under {name} generator and discriminator are trained in different "
                "places, and would not hear the same labels; set it to 0"
            )
