"""What a configuration refuses of strategies and attacks, and what it says: the key, the reason, the remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from federation.config import Configuration, Layer, parse_assignments, schema
from federation.errors import ConfigurationError
from federation.settings.strategy import StrategySettings
from strategies.catalogue import STRATEGIES
from strategies.configuration import (
    least_replies,
    names_in_use,
    numbers_in_use,
    reads_class_counts,
    resolve,
    strategy_problems,
)
from strategies.fedtrimmedavg import num_cut
from strategies.sharing import private_prefixes

REPOSITORY = Path(__file__).resolve().parents[2]
THERE_ARE = (
    "There are fedgan, fedavg, fedavgm, fedprox, fedadam, fedyogi, fedadagrad, fedmedian, fedtrimmedavg, krum, "
    "multikrum, bulyan, geometric-median, qfedavg, scaffold, fednova, feddyn, fedbn, partial-sync, fegan, fed-tgan, "
    "ifl-gan, fedcar, label-aware, cap-gan, effgan, dp-fedavg-gan, ua-gan, md-gan, centralised, alone"
)
FOR_ONE_NETWORK = (
    "fedgan, fedavg, fedavgm, fedprox, fedadam, fedyogi, fedadagrad, fedmedian, fedtrimmedavg, krum, multikrum, "
    "bulyan, geometric-median, qfedavg, scaffold, fednova, feddyn, label-aware"
)
MORE_HOSPITALS = "are needed; set partition.hospitals or participation.fraction higher, or another strategy.name"


def resolved(*assignments: str) -> Configuration:
    return resolve([parse_assignments(assignments)])


def problems_of(*assignments: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        resolved(*assignments)
    return caught.value.problems


def found_in(settings: StrategySettings, hospitals: int) -> list[str]:
    """What is wrong with a strategy for so many hospitals, all other settings being the defaults."""
    defaults = schema()()
    partition = defaults.partition.model_copy(update={"hospitals": hospitals})
    return list(strategy_problems(defaults.model_copy(update={"strategy": settings, "partition": partition})))


# ---------------------------------------------------------------- names


def test_an_unknown_strategy_is_refused_with_the_nearest_names() -> None:
    meant = "did you mean fedavg or qfedavg or fedavgm?"
    assert problems_of("strategy.name=fedagv") == (f"strategy.name = 'fedagv': no such strategy; {meant} {THERE_ARE}",)
    assert problems_of("strategy.generator=fedagv", "strategy.discriminator=?") == (
        f"strategy.generator = 'fedagv': no such strategy; {meant} {THERE_ARE}",
        f"strategy.discriminator = '?': no such strategy; {THERE_ARE}",
    )


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("krumm", "krum"), ("ua_gan", "ua-gan"), ("centralized", "centralised"), ("fed-prox", "fedprox")],
)
def test_the_nearest_name_comes_first(typed: str, nearest: str) -> None:
    (problem,) = problems_of(f"strategy.name={typed}")
    assert problem.startswith(f"strategy.name = {typed!r}: no such strategy; did you mean {nearest}")


def test_private_is_no_strategy_for_everything() -> None:
    (problem,) = problems_of("strategy.name=private")
    assert problem.startswith("strategy.name = 'private': no such strategy; ")


# What each needs beside its name, of the four hospitals of the defaults.
NEEDS = {
    "krum": ("strategy.malicious=0",),
    "multikrum": ("strategy.malicious=0",),
    "bulyan": ("strategy.malicious=0",),
    "fedtrimmedavg": ("strategy.trim=0.25",),
    "fegan": ("participation.fraction=0.5",),
    "dp-fedavg-gan": ("stylegan2.loss=logistic",),
    "ua-gan": ("stylegan2.loss=logistic",),
    "md-gan": ("stylegan2.loss=logistic",),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_accepted_by_its_name_and_resolves_again_to_itself(name: str) -> None:
    configuration = resolved(f"strategy.name={name}", *NEEDS.get(name, ()))
    assert configuration.strategy.name == name
    assert resolve([Layer("a run's config.toml", configuration.to_flat())]) == configuration


def test_the_documentation_of_the_name_lists_every_strategy() -> None:
    field = StrategySettings.model_fields["name"]
    source = Path(REPOSITORY / "federation" / "settings" / "strategy.py").read_text(encoding="utf-8")
    documented = source.split(f'name: str = "{field.default}"', 1)[1].split('"""')[1]
    assert [name for name in STRATEGIES if f"``{name}``" not in documented] == []


def test_every_option_of_strategies_has_an_owner_and_every_owner_a_field() -> None:
    common = {"name", "generator", "discriminator", "private", "averaged_state"}
    owned = {option for facts in STRATEGIES.values() for option in facts.options}
    assert owned == set(StrategySettings.model_fields) - common


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("name", "option", "value", "owners"),
    [
        ("fedgan", "proximal-mu", "0.5", "fedprox"),
        ("fedadam", "server-momentum", "0.5", "fedavgm"),
        ("fedavgm", "server-beta1", "0.5", "fedadam, fedyogi"),
        ("fedgan", "malicious", "2", "krum, multikrum, bulyan"),
        ("krum", "selected", "3", "multikrum"),
        ("fedmedian", "trim", "0.3", "fedtrimmedavg"),
        ("cap-gan", "fine-tune-rounds", "2", "effgan"),
        ("cap-gan", "temperature", "0.5", "fed-tgan, ifl-gan, fedcar"),
        ("alone", "swap-rounds", "3", "md-gan"),
        ("fedgan", "noise-multiplier", "1.0", "dp-fedavg-gan"),
    ],
)
def test_an_option_of_another_strategy_is_refused_with_its_owner(
    name: str, option: str, value: str, owners: str
) -> None:
    problems = problems_of(f"strategy.name={name}", f"strategy.{option}={value}", "partition.hospitals=20")
    assert problems == (
        f"strategy.{option} = {value}: {name} has no such option, it is one of {owners}; leave it out, or choose "
        "another strategy.name",
    )


def test_an_option_at_its_default_is_nobodys_concern() -> None:
    assert resolved("strategy.proximal-mu=0.01", "strategy.name=fedadam").strategy.name == "fedadam"


def test_a_strategy_reads_its_own_options_also_for_one_network() -> None:
    settings = resolved("strategy.discriminator=fedprox", "strategy.proximal-mu=0.5").strategy
    assert (names_in_use(settings), settings.proximal_mu) == (("fedgan", "fedprox"), 0.5)
    assert problems_of("strategy.generator=fedadam", "strategy.discriminator=private", "strategy.proximal-mu=0.5") == (
        "strategy.proximal-mu = 0.5: fedadam has no such option, it is one of fedprox; leave it out, or choose another "
        "strategy.name",
    )


# ---------------------------------------------------------------- one strategy for each network


def test_a_rule_for_both_networks_is_refused_for_one() -> None:
    (problem,) = problems_of("strategy.generator=ua-gan", "stylegan2.loss=logistic")
    assert problem == (
        "strategy.generator = 'ua-gan': is a rule for both networks together; where strategy.generator or "
        f"strategy.discriminator is set, choose from {FOR_ONE_NETWORK}, or private for one of them"
    )
    (problem,) = problems_of("strategy.name=partial-sync", "strategy.discriminator=fedadam")
    assert problem.startswith("strategy.name = 'partial-sync': is a rule for both networks together; ")


def test_strategies_for_one_network_and_private_are_allowed() -> None:
    both = resolved("strategy.generator=fedadam", "strategy.discriminator=private")
    assert names_in_use(both.strategy) == ("fedadam",)
    assert private_prefixes(both) == ("discriminator",)
    mixed = resolved("strategy.name=fedavgm", "strategy.generator=private", "strategy.private=discriminator.last")
    assert names_in_use(mixed.strategy) == ("fedavgm",)
    assert private_prefixes(mixed) == ("discriminator.last", "generator")


@pytest.mark.parametrize("name", FOR_ONE_NETWORK.split(", "))
@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_each_of_the_strategies_that_the_message_lists_is_allowed_for_one_network(name: str, network: str) -> None:
    assert found_in(StrategySettings(**{network: name}), 20) == []


# ---------------------------------------------------------------- how many hospitals


@pytest.mark.parametrize(
    ("name", "hospitals", "problem"),
    [
        ("krum", 4, "Krum needs n > 2 f + 2, and here 4 hospitals are asked in a round, at least 5"),
        ("multikrum", 4, "Multi-Krum needs n > 2 f + 2, and no fewer than strategy.selected, and here 4 hospitals are "
         "asked in a round, at least 5"),
        ("bulyan", 6, "Bulyan needs n >= 4 f + 3, and here 6 hospitals are asked in a round, at least 7"),
        ("fedmedian", 2, "the median of two is their mean, and here 2 hospitals are asked in a round, at least 3"),
        ("geometric-median", 2, "of two no model is in the middle, and here 2 hospitals are asked in a round, at least "
         "3"),
        ("fedtrimmedavg", 4, "of fewer, strategy.trim = 0.2 cuts none off, and here 4 hospitals are asked in a round, "
         "at least 5"),
    ],
)  # fmt: skip
def test_a_hospital_fewer_than_a_robust_rule_needs_is_refused(name: str, hospitals: int, problem: str) -> None:
    assert problems_of(f"strategy.name={name}", f"partition.hospitals={hospitals}") == (
        f"strategy {name}: {problem} {MORE_HOSPITALS}",
    )
    enough = resolved(f"strategy.name={name}", f"partition.hospitals={hospitals + 1}")
    assert least_replies(enough.strategy) == hospitals + 1


@pytest.mark.parametrize(
    ("name", "malicious", "least"),
    [("krum", 0, 3), ("krum", 1, 5), ("krum", 3, 9), ("bulyan", 0, 3), ("bulyan", 1, 7), ("bulyan", 2, 11)],
)
def test_hospitals_that_may_be_hostile_against_hospitals_that_there_are(name: str, malicious: int, least: int) -> None:
    settings = StrategySettings(name=name, malicious=malicious)
    assert found_in(settings, least) == []
    (problem,) = found_in(settings, least - 1)
    assert f"here {least - 1} hospitals are asked in a round, at least {least} are needed" in problem


def test_krum_of_four_hospitals_none_of_them_hostile_is_allowed() -> None:
    assert least_replies(resolved("strategy.name=krum", "strategy.malicious=0").strategy) == 3


def test_multikrum_cannot_average_more_updates_than_there_are() -> None:
    common = ("strategy.name=multikrum", "strategy.malicious=0")
    assert least_replies(resolved(*common, "strategy.selected=4").strategy) == 4
    (problem,) = problems_of(*common, "strategy.selected=5")
    assert "no fewer than strategy.selected, and here 4 hospitals are asked in a round, at least 5" in problem


@pytest.mark.parametrize(
    ("trim", "least"),
    [(0.1, 10), (0.2, 5), (0.25, 4), (0.3, 4), (1 / 3, 3), (0.33, 4), (0.4, 3), (0.49, 3), (1 / 7, 7), (1 / 49, 49)],
)
def test_trimming_that_cuts_nothing_off_is_refused(trim: float, least: int) -> None:
    """Flower cuts int(trim x n) off at either end; of a share that is rounded, the whole number that was meant."""
    settings = StrategySettings(name="fedtrimmedavg", trim=trim)
    assert (num_cut(trim, least), num_cut(trim, least - 1)) == (1, 0)
    assert found_in(settings, least) == []
    assert len(found_in(settings, least - 1)) == 1


def test_only_hospitals_that_are_asked_in_a_round_are_counted() -> None:
    (problem,) = problems_of("strategy.name=krum", "partition.hospitals=8", "participation.fraction=0.5")
    assert "here 4 hospitals are asked in a round, at least 5 are needed" in problem
    resolved("strategy.name=krum", "partition.hospitals=10", "participation.fraction=0.5")


@pytest.mark.parametrize("away", ["participation.fraction=0.25", "participation.dropout=0.75"])
def test_a_transition_of_a_hospitals_own_goes_by_the_rounds_that_it_is_in(away: str) -> None:
    """The federation shows 24 x 40 x 8 = 7,680 images at one hospital, and a hospital that is away sees a quarter."""
    length = ("rounds=24", "training.local-steps=40")
    transition = (*length, "stylegan2.transition-start-images=1000.0", "stylegan2.transition-images=1000.0")
    resolved(*transition, away)
    resolved(*transition, "strategy.private=generator.mapping")
    (problem,) = problems_of(*transition, away, "strategy.private=generator.mapping")
    assert "is a hospital's own and needs 2000 images: one that is in 25% of the rounds is shown about 1,920" in problem
    resolved(*length, "stylegan2.transition-images=1000.0", away, "strategy.private=generator.mapping")


def test_the_strategy_that_needs_most_replies_decides() -> None:
    settings = resolved("strategy.generator=krum", "strategy.discriminator=bulyan", "partition.hospitals=7").strategy
    assert least_replies(settings) == 7
    assert least_replies(StrategySettings(generator="private", discriminator="private")) == 1
    assert least_replies(StrategySettings()) == 1


def test_class_counts_are_asked_for_only_where_they_are_read() -> None:
    assert [name for name in STRATEGIES if reads_class_counts(StrategySettings(name=name))] == [
        "fegan", "fed-tgan", "fedcar", "label-aware", "ua-gan", "md-gan",
    ]  # fmt: skip
    assert reads_class_counts(StrategySettings(generator="label-aware", discriminator="private"))
    assert not reads_class_counts(StrategySettings(name="label-aware", generator="fedavg", discriminator="private"))


# ---------------------------------------------------------------- a generator that the server trains


@pytest.mark.parametrize("name", ["dp-fedavg-gan", "ua-gan", "md-gan"])
def test_a_server_that_trains_the_generator_has_no_real_images_to_pair_with(name: str) -> None:
    assert problems_of(f"strategy.name={name}") == (
        "stylegan2.loss = 'relativistic': the server trains the generator and has no real images to pair with "
        f"generated ones; set stylegan2.loss=logistic (strategy.name = {name})",
    )


@pytest.mark.parametrize("name", ["dp-fedavg-gan", "ua-gan", "md-gan"])
@pytest.mark.parametrize("option", ["private=discriminator", "averaged-state=ada-p"])
def test_a_server_that_trains_the_generator_says_itself_what_is_shared(name: str, option: str) -> None:
    problems = problems_of(
        f"strategy.name={name}",
        f"strategy.{option}",
        "stylegan2.loss=logistic",
        "stylegan2.augmentation.name=ada",
    )
    assert problems == (
        f"strategy.private and strategy.averaged-state: {name} says itself what is shared; leave them out",
        "stylegan2.augmentation.name = 'ada': the server, which trains the generator, cannot know how strongly each "
        f"hospital augments now; set stylegan2.augmentation.name=fixed (strategy.name = {name})",
    )


@pytest.mark.parametrize("name", ["dp-fedavg-gan", "ua-gan", "md-gan"])
@pytest.mark.parametrize("key", ["label-dropout", "transition-start-images", "transition-images"])
def test_a_server_that_trains_the_generator_hears_all_labels(name: str, key: str) -> None:
    """Else the discriminator would learn with hidden labels at a hospital, and the generator with others here."""
    value = "0.5" if key == "label-dropout" else "500.0"
    (problem,) = problems_of(f"strategy.name={name}", "stylegan2.loss=logistic", f"stylegan2.{key}={value}")
    assert problem == (
        f"stylegan2.{key} = {float(value):g}: generator and discriminator are trained in different places, and would "
        f"not hear the same labels; set it to 0 (strategy.name = {name})"
    )


@pytest.mark.parametrize("name", ["dp-fedavg-gan", "ua-gan", "md-gan"])
def test_a_server_that_trains_the_generator_does_not_regularise_path_lengths(name: str) -> None:
    assert problems_of(f"strategy.name={name}", "stylegan2.loss=logistic", "stylegan2.path-length-weight=2.0") == (
        "stylegan2.path-length-weight = 2: the server trains the generator, without this regularisation; set it to 0 "
        f"(strategy.name = {name})",
    )


@pytest.mark.parametrize("name", ["dp-fedavg-gan", "ua-gan", "md-gan"])
def test_local_epochs_do_not_say_how_many_steps_the_server_takes(name: str) -> None:
    """Else the generator would stay as it began."""
    epochs = (f"strategy.name={name}", "stylegan2.loss=logistic", "training.local-epochs=0.5")
    assert problems_of(*epochs) == (
        "strategy.generator-steps = 0: means as many as training.local-steps, and training.local-epochs is given in "
        "its place; set strategy.generator-steps to the server's steps in a round",
    )
    resolved(*epochs, "strategy.generator-steps=20")


def test_all_problems_of_a_strategy_come_at_once() -> None:
    problems = problems_of("strategy.name=ua-gan", "strategy.private=generator", "strategy.trim=0.1")
    assert [problem.split(":")[0] for problem in problems] == [
        "strategy.trim = 0.1",
        "strategy.private and strategy.averaged-state",
        "stylegan2.loss = 'relativistic'",
    ]


# ---------------------------------------------------------------- what a family of models has not


@pytest.mark.parametrize("name", ["dp-fedavg-gan", "ua-gan", "md-gan"])
def test_a_generator_that_the_server_trains_needs_a_family_with_a_discriminator(name: str) -> None:
    assert problems_of("model.name=vae", f"strategy.name={name}") == (
        f"strategy.name = '{name}': hospitals train a discriminator and the server the generator, and "
        "model.name = vae has no such pair; choose another strategy.name, or model.name=stylegan2",
    )


@pytest.mark.parametrize("key", ["generator", "discriminator"])
@pytest.mark.parametrize("value", ["fedadam", "private"])
def test_a_strategy_for_each_network_needs_a_family_with_a_discriminator(key: str, value: str) -> None:
    assert problems_of("model.name=vae", f"strategy.{key}={value}") == (
        f"strategy.{key} = '{value}': model.name = vae has no generator and discriminator; leave it out, or set "
        "model.name=stylegan2",
    )


NETWORKS = {
    "stylegan2": "both, none, generator, discriminator, several networks separated by commas",
    "vae": "both, none, generator, encoder, decoder, several networks separated by commas",
}


@pytest.mark.parametrize(
    ("family", "word"),
    [
        ("stylegan2", "critic"),
        ("stylegan2", "generator_ema"),
        ("stylegan2", "generator,critic"),
        ("vae", "discriminator"),
    ],
)
def test_a_network_that_a_family_has_not_is_refused_with_those_that_it_has(family: str, word: str) -> None:
    assert problems_of(f"model.name={family}", "strategy.name=partial-sync", f"strategy.synchronise={word}") == (
        f"strategy.synchronise = '{word}': model.name = {family} has no such trained network; choose from "
        f"{NETWORKS[family]}",
    )
    assert problems_of(f"model.name={family}", "strategy.name=fed-tgan", f"strategy.weighted-networks={word}") == (
        f"strategy.weighted-networks = '{word}': model.name = {family} has no such trained network; choose from "
        f"auto, {NETWORKS[family].replace('none, ', '')}",
    )


@pytest.mark.parametrize("name", ["fegan", "fed-tgan", "ifl-gan", "fedcar"])
def test_weighing_no_network_is_refused(name: str) -> None:
    """It would be FedGAN under another name."""
    assert problems_of(f"strategy.name={name}", "strategy.weighted-networks=none", "participation.fraction=0.5") == (
        "strategy.weighted-networks = 'none': the strategy would do nothing; choose networks, or strategy.name=fedgan",
    )


def test_ifl_gan_does_not_take_balanced_classes_for_a_generators_mistake() -> None:
    """Of a generator that hears classes images are of the classes of the hospital's; one that does not learns them."""
    balanced = ("strategy.name=ifl-gan", "training.balanced-classes=true")
    resolved(*balanced)
    assert problems_of(*balanced, "model.conditional=false") == (
        "training.balanced-classes = hospital: with model.conditional = false the generator learns classes as they are "
        "shown, all alike, and ifl-gan would count as its mistake that they are not so among the hospital's images; "
        "set model.conditional=true, or leave it out",
    )


@pytest.mark.parametrize(
    ("assignments", "sends"),
    [(["strategy.name=alone"], "alone"), (["strategy.name=partial-sync", "strategy.synchronise=none"], "none")],
)
def test_state_of_training_is_not_averaged_where_nothing_is_sent(assignments: list[str], sends: str) -> None:
    ada = ("stylegan2.augmentation.name=ada", "strategy.averaged-state=ada-p")
    (problem,) = problems_of(*assignments, *ada)
    assert problem.startswith("strategy.averaged-state = 'ada-p': ")
    assert f"= {sends} sends nothing" in problem


@pytest.mark.parametrize(
    ("family", "word"),
    [
        ("stylegan2", "discriminator"),
        ("stylegan2", "generator, discriminator"),
        ("vae", "generator"),
        ("vae", "encoder"),
    ],
)
def test_a_network_that_a_family_has_is_allowed(family: str, word: str) -> None:
    for option in ("strategy.name=partial-sync", f"strategy.synchronise={word}"), (
        "strategy.name=fed-tgan", f"strategy.weighted-networks={word}",
    ):  # fmt: skip
        resolved(f"model.name={family}", *option)


@pytest.mark.parametrize(
    ("others", "loss", "asked", "choices"),
    [
        (("strategy.fairness-loss=logit-real",), "logit-real", "logit-real", "loss-generator, loss-discriminator"),
        (("strategy.fairness-loss=elbo",), "elbo", "elbo", "loss-generator, loss-discriminator"),
        (("model.name=vae",), "loss-negative-elbo", "auto", "loss-divergence"),
        (
            ("model.name=vae", "strategy.fairness-loss=loss-discriminator"),
            "loss-discriminator",
            "loss-discriminator",
            "loss-divergence",
        ),
    ],
)
def test_hospitals_are_not_weighed_by_what_can_be_negative(
    others: tuple[str, ...], loss: str, asked: str, choices: str
) -> None:
    family = "vae" if "model.name=vae" in others else "stylegan2"
    assert problems_of("strategy.name=qfedavg", *others) == (
        f"strategy.fairness-loss = '{asked}': of model.name = {family} {loss} can be negative or is not known, and "
        f"qfedavg takes powers of it; choose from {choices}",
    )


@pytest.mark.parametrize(
    ("others", "loss"),
    [
        ((), "loss-discriminator"),
        (("strategy.fairness-loss=loss-generator",), "loss-generator"),
        (("model.name=vae", "vae.variance=fixed"), "loss-negative-elbo"),
        (("model.name=vae", "strategy.fairness-loss=loss-divergence"), "loss-divergence"),
    ],
)
def test_the_loss_that_hospitals_are_weighed_by_is_asked_of_every_reply(others: tuple[str, ...], loss: str) -> None:
    assert numbers_in_use(resolved("strategy.name=qfedavg", *others)) == (loss,)


def test_no_state_of_training_is_averaged_of_a_family_that_has_none() -> None:
    assert problems_of("model.name=vae", "strategy.averaged-state=ada-p") == (
        "strategy.averaged-state = 'ada-p': 'ada-p' is not known; allowed are none in this family of models; leave it "
        "empty",
    )


# ---------------------------------------------------------------- effgan, centralised


def test_effgan_keeps_a_round_in_which_hospitals_learn_from_one_another() -> None:
    assert problems_of("strategy.name=effgan", "rounds=4") == (
        "strategy.fine-tune-rounds = 4: of rounds = 4 none would be left in which hospitals learn from one another; "
        "lower it",
    )
    assert problems_of("strategy.name=effgan", "rounds=4", "strategy.fine-tune-rounds=6")[0].startswith(
        "strategy.fine-tune-rounds = 6: of rounds = 4 none would be left"
    )
    assert resolved("strategy.name=effgan", "rounds=5").rounds == 5
    assert resolved("rounds=1").rounds == 1  # no other strategy minds


def again(configuration: Configuration) -> Configuration:
    """What a hospital, or a resumed run, makes of a resolved configuration."""
    return resolve([Layer("server", configuration.to_flat(), settled=True)])


def test_centralised_is_one_hospital_that_shows_as_many_images_in_a_round() -> None:
    configuration = resolved("strategy.name=centralised", "partition.hospitals=6", "training.local-steps=7")
    assert (configuration.partition.hospitals, configuration.training.local_steps) == (1, 42)
    assert again(configuration) == configuration
    assert again(again(configuration)) == configuration


def test_centralised_leaves_epochs_and_one_hospital_as_they_are() -> None:
    epochs = resolved("strategy.name=centralised", "training.local-epochs=0.5")
    assert (epochs.partition.hospitals, epochs.training.local_epochs, epochs.training.local_steps) == (1, 0.5, 0)
    assert again(epochs) == epochs
    # Of four hospitals two are asked, and one in five of those is away: two fifths of the images in a round.
    away = ("participation.fraction=0.5", "participation.dropout=0.2")
    epochs = resolved("strategy.name=centralised", "training.local-epochs=0.5", *away)
    assert epochs.training.local_epochs == pytest.approx(0.5 * 0.5 * 0.8)
    assert again(epochs) == epochs
    steps = resolved("strategy.name=centralised", "training.local-steps=10", *away)
    assert (steps.training.local_steps, again(steps)) == (16, steps)
    # However few images a round shows, one step is taken.
    few = ("training.local-steps=1", "participation.fraction=0.5", "participation.dropout=0.6")
    rare = resolved("strategy.name=centralised", *few)
    assert (rare.training.local_steps, again(rare)) == (1, rare)
    one = resolved("strategy.name=centralised", "partition.hospitals=1", "training.local-steps=7")
    assert (one.partition.hospitals, one.training.local_steps) == (1, 7)


@pytest.mark.parametrize(
    "others",
    [
        ("participation.min-replies=3",),
        ("participation.fraction=0.5", "participation.min-replies=2"),
    ],
    ids=["min-replies", "fraction"],
)
def test_what_centralised_was_allowed_with_is_allowed_when_its_one_hospital_reads_it(others: tuple[str, ...]) -> None:
    """Else the run begins, and its hospital refuses the settings that the server sends."""
    configuration = resolved("strategy.name=centralised", "partition.hospitals=4", *others)
    assert again(configuration) == configuration


def test_nobody_in_one_place_is_away() -> None:
    """Three of six hospitals are asked in a round, and every third is away: one place shows the images of two."""
    configuration = resolved(
        "strategy.name=centralised", "training.local-steps=7", "participation.fraction=0.5", "partition.hospitals=6",
        "participation.min-replies=2", "participation.dropout=0.333",
    )  # fmt: skip
    assert (configuration.partition.hospitals, configuration.training.local_steps) == (1, 14)
    participation = configuration.participation
    assert (participation.fraction, participation.min_replies, participation.dropout) == (1.0, 1, 0.0)


# ---------------------------------------------------------------- attacks


def test_options_of_an_attack_without_an_attack_are_refused() -> None:
    assert problems_of("attack.scale=2.0", "attack.hospitals=2") == (
        "attack.hospitals = 2: attack.name = none attacks nothing; set attack.name",
        "attack.scale = 2.0: attack.name = none attacks nothing; set attack.name",
    )


def test_more_attackers_than_hospitals_are_refused() -> None:
    assert problems_of("attack.name=random", "attack.hospitals=5") == (
        "attack.hospitals = 5: there are 4 hospitals (partition.hospitals); lower it",
    )
    assert resolved("attack.name=random", "attack.hospitals=4").attack.hospitals == 4


def test_labels_cannot_be_flipped_without_classes() -> None:
    assert problems_of("attack.name=flipped-labels", "model.conditional=false") == (
        "attack.name = flipped-labels: model.conditional = false hears no class; choose another attack",
    )
    assert resolved("attack.name=sign-flipped", "model.conditional=false").attack.name == "sign-flipped"


def test_an_unknown_attack_is_refused() -> None:
    assert problems_of("attack.name=bribe") == (
        "attack.name = 'bribe' (--set): allowed is one of none, flipped-labels, random, scaled, sign-flipped, "
        "free-rider, noisy-camera; the default is 'none'",
    )


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (
            ("attack.name=free-rider", "attack.scale=2.0"),
            "attack.scale = 2.0: attack.name = free-rider has no strength; leave it out",
        ),
        (
            ("attack.name=flipped-labels", "attack.scale=2.0"),
            "attack.scale = 2.0: attack.name = flipped-labels has no strength; leave it out",
        ),
        (
            ("attack.name=scaled",),
            "attack.scale = 1: attack.name = scaled would change nothing; set attack.scale=10, say",
        ),
        (
            ("attack.name=flipped-labels", "data.classes=nv"),
            "attack.name = flipped-labels: data.classes = 'nv' is one class, and there is no other to take it for; "
            "choose another attack",
        ),
        (
            ("attack.name=noisy-camera", "strategy.name=centralised"),
            "attack.name = noisy-camera: strategy.name = centralised has no hospitals that could do harm; leave it "
            "out, or choose another strategy.name",
        ),
    ],
)
def test_an_attack_that_would_do_nothing_is_refused(assignments: tuple[str, ...], problem: str) -> None:
    assert problems_of(*assignments) == (problem,)


NOTHING_SENT = {
    "synchronise": ("strategy.name=partial-sync", "strategy.synchronise=none"),
    "each network": ("strategy.generator=private", "strategy.discriminator=private"),
    "private": ("strategy.private=generator,discriminator",),
    "a pattern": ("strategy.private=*",),
    "layers": ("strategy.private=generator.*,disc*",),
    "both": ("strategy.generator=private", "strategy.private=discriminator"),
    "vae": ("model.name=vae", "strategy.private=encoder,decoder"),
}


@pytest.mark.parametrize("attack", ["random", "sign-flipped", "free-rider"])
@pytest.mark.parametrize("case", NOTHING_SENT)
def test_nothing_is_falsified_where_nothing_is_sent(case: str, attack: str) -> None:
    assert problems_of(*NOTHING_SENT[case], f"attack.name={attack}") == (
        f"attack.name = {attack}: every network stays at its hospital, so that nothing is sent that could be "
        "falsified; choose flipped-labels or noisy-camera, or share a network (strategy.private, strategy.generator, "
        "strategy.discriminator, strategy.synchronise)",
    )
    resolved(*NOTHING_SENT[case], "attack.name=noisy-camera")


@pytest.mark.parametrize(
    "sent",
    [
        ("strategy.private=generator",),
        ("strategy.private=*.mapping,generator.*.weight",),
        ("strategy.name=fedbn",),
        ("strategy.name=ua-gan", "stylegan2.loss=logistic"),
        (*NOTHING_SENT["each network"], "stylegan2.augmentation.name=ada", "strategy.averaged-state=ada-p"),
    ],
)
def test_what_is_sent_may_be_falsified(sent: tuple[str, ...]) -> None:
    resolved(*sent, "attack.name=sign-flipped")


# ---------------------------------------------------------------- what would do nothing


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (
            ("strategy.generator=fedadam", "strategy.discriminator=private", "strategy.name=fedprox"),
            "strategy.name = 'fedprox': strategy.generator and strategy.discriminator leave nothing to it; leave it "
            "out, or one of them",
        ),
        (
            ("strategy.generator=private", "strategy.private=generator.mapping"),
            "strategy.private = 'generator.mapping': generator.mapping stays at its hospital anyway "
            "(strategy.generator = private); leave it out",
        ),
        (
            ("strategy.name=cap-gan", "strategy.private=discriminator,generator.mapping.layers"),
            "strategy.private = 'discriminator,generator.mapping.layers': generator.mapping.layers stays at its "
            "hospital anyway (strategy.name = cap-gan); leave it out",
        ),
        (
            ("strategy.name=cap-gan", "strategy.private=generator"),
            "strategy.name = 'cap-gan': strategy.private = 'generator' keeps all that it would keep; leave one of the "
            "two out",
        ),
        (
            ("strategy.name=fedadam", "strategy.private=generator,discriminator"),
            "strategy.name = 'fedadam': strategy.private = 'generator,discriminator' leaves nothing to combine; leave "
            "one of the two out",
        ),
        (
            ("strategy.discriminator=fedmedian", "strategy.private=disc*"),
            "strategy.discriminator = 'fedmedian': strategy.private = 'disc*' leaves nothing to combine; leave one of "
            "the two out",
        ),
        (
            ("strategy.name=ifl-gan", "strategy.private=generator"),
            "strategy.private = 'generator': ifl-gan weighs generator alone, which then stays at its hospital; leave "
            "it out, or set strategy.weighted-networks to a network that is shared",
        ),
        (
            ("strategy.name=centralised", "strategy.private=generator"),
            "strategy.private and strategy.averaged-state: strategy.name = centralised has one place, where all stays; "
            "leave them out",
        ),
        (
            ("strategy.name=md-gan", "stylegan2.loss=logistic", "rounds=10"),
            "strategy.swap-rounds = 10: of rounds = 10 none would be left in which a hospital trains another's "
            "discriminator; lower it, or set strategy.swap-rounds=0 for no exchange",
        ),
        (
            ("strategy.name=fegan", "participation.fraction=1.0"),
            "participation.fraction = 1: fegan draws hospitals so that classes are seen alike, and here all 4 are "
            "asked in each round; set participation.fraction=0.5, say, or choose another strategy.name",
        ),
        (
            ("strategy.name=label-aware", "model.conditional=false"),
            "strategy label-aware: model.conditional = false has no weights that belong to a class, so that it would "
            "be fedgan; choose that, or set model.conditional=true",
        ),
        (
            ("strategy.name=fedprox", "training.local-steps=1"),
            "strategy fedprox: training.local-steps = 1 is taken from the global weights themselves, from which "
            "nothing has moved away; set training.local-steps=2 or more, or choose another strategy.name",
        ),
        (
            ("strategy.name=qfedavg", "strategy.fairness-q=0.0", "strategy.fairness-lipschitz=0.1"),
            "strategy.fairness-lipschitz = 0.1: strategy.fairness-q = 0 weighs by no loss; leave it out, or raise "
            "strategy.fairness-q",
        ),
        (
            ("strategy.name=krum", "partition.hospitals=5", "participation.dropout=0.2"),
            "participation.dropout = 0.2: 5 hospitals are asked in a round, and krum needs 5 of them, so that none may "
            "be away; ask more, choose another strategy.name, or leave it out",
        ),
    ],
)
def test_what_a_strategy_makes_idle_is_refused(assignments: tuple[str, ...], problem: str) -> None:
    assert problem in problems_of(*assignments)


@pytest.mark.parametrize(
    "private", ["*.mapping", "generator.mapping", "generator_ema.mapping", "*", "gen*", "generator.*.style"]
)
def test_fedcar_judges_no_generator_that_nobody_has(private: str) -> None:
    (problem,) = (
        found
        for found in problems_of("strategy.name=fedcar", f"strategy.private={private}")
        if "fedcar compares" in found
    )
    assert problem.startswith(f"strategy.private = '{private}': ")
    resolved("strategy.name=fedcar", "strategy.private=discriminator")
    resolved("strategy.name=fedcar", "strategy.private=disc*.weight")


@pytest.mark.parametrize(("hospitals", "delta", "allowed"), [(4, 0.9, False), (4, 0.25, False), (4, 0.2, True)])
def test_a_delta_that_lets_a_hospital_be_given_away_is_refused(hospitals: int, delta: float, allowed: bool) -> None:
    """Of n hospitals, to publish one drawn at random is (0, 1/n)-private."""
    settings = ("strategy.name=dp-fedavg-gan", "stylegan2.loss=logistic", "strategy.noise-multiplier=1.0",
                f"partition.hospitals={hospitals}", f"strategy.delta={delta}")  # fmt: skip
    if allowed:
        assert resolved(*settings).strategy.delta == delta
        return
    assert problems_of(*settings) == (
        f"strategy.delta = {delta:g}: allowed is below one over partition.hospitals = 4, that is 0.25, or to give one "
        "of them away whole would count as private; 1 / hospitals^1.1 is a usual choice",
    )


def test_a_delta_without_noise_is_refused() -> None:
    assert problems_of("strategy.name=dp-fedavg-gan", "stylegan2.loss=logistic", "strategy.delta=0.01") == (
        "strategy.delta = 0.01: strategy.noise-multiplier = 0 is no privacy; leave it out, or raise "
        "strategy.noise-multiplier",
    )


# ---------------------------------------------------------------- the real command line


def test_a_wrong_strategy_ends_the_command_with_one_message_and_nothing_written(tmp_path: Path) -> None:
    process = subprocess.run(
        [
            sys.executable, "run_simulation.py", "--set", "strategy.name=fedagv", "--run-dir", str(tmp_path / "run"),
            f"--set=data.cache-dir={tmp_path / 'cache'}",
        ],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert process.returncode == 2
    assert process.stderr == (
        f"error: strategy.name = 'fedagv': no such strategy; did you mean fedavg or qfedavg or fedavgm? {THERE_ARE}\n"
    )
    assert process.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (("strategy.name=alone", "attack.name=sign-flipped"), "alone sends nothing that could be falsified"),
        (
            ("strategy.name=effgan", "early-stopping.patience=2", "rounds=20"),
            "a run that stops early never comes to them",
        ),
        (("strategy.name=fedcar", "strategy.private=generator.mapping"), "would look at some that nobody has"),
        (("strategy.name=fed-tgan", "strategy.temperature=0.0005"), "strategy.temperature = 0.0005"),
    ],
)
def test_what_would_not_do_what_it_says_is_refused(assignments: tuple[str, ...], problem: str) -> None:
    assert any(problem in found for found in problems_of(*assignments)), problems_of(*assignments)


def test_hospitals_alone_may_have_bad_images() -> None:
    resolved("strategy.name=alone", "attack.name=noisy-camera", "attack.scale=0.1")
