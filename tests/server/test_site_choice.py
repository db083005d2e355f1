"""Who takes part in a round, by chance, by a strategy's choice and by bad luck; what real sites refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from federation.config import Configuration, parse_assignments
from federation.errors import ConfigurationError
from federation.settings.participation import ParticipationSettings
from federation.site import Site
from server.app import check_deployment
from server.messaging import choose_sites, fewest_replies
from strategies.catalogue import STRATEGIES
from strategies.configuration import resolve


def sites(number: int, *, deployed: int = 0) -> list[Site]:
    """So many hospitals in the order of their names, the last `deployed` of them real."""
    return [Site(f"hospital-{n:02d}", n + 2, 100, is_deployed=n >= number - deployed) for n in range(number)]


def names(chosen: Sequence[Site]) -> list[str]:
    return [site.name for site in chosen]


# ---------------------------------------------------------------- dropping out


@pytest.mark.parametrize("dropout", [0.1, 0.3, 0.8])
def test_hospitals_are_away_as_often_as_the_chance_says(dropout: float) -> None:
    everyone, rounds = sites(20), 500
    settings = ParticipationSettings(dropout=dropout)
    drawn = [choose_sites(everyone, settings, 0, server_round) for server_round in range(1, rounds + 1)]
    there = sum(len(chosen) for chosen in drawn)
    deviation = (rounds * 20 * dropout * (1 - dropout)) ** 0.5
    # At least one is there even where chance would leave none: of 20 at 0.8, one round in a hundred.
    assert there == pytest.approx(rounds * 20 * (1 - dropout), abs=5 * deviation + rounds * dropout**20)
    # Each hospital alike.
    counts = Counter(name for chosen in drawn for name in names(chosen))
    spread = 5 * (rounds * dropout * (1 - dropout)) ** 0.5
    assert all(abs(counts[site.name] - there / 20) < spread for site in everyone)


def test_those_that_are_there_are_drawn_from_seed_and_round_alone_in_the_order_of_names() -> None:
    everyone, settings = sites(10), ParticipationSettings(dropout=0.5)

    def drawn(seed: int) -> list[list[str]]:
        return [names(choose_sites(everyone, settings, seed, server_round)) for server_round in range(1, 31)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert len({tuple(chosen) for chosen in drawn(0)}) > 25
    assert all(chosen == sorted(set(chosen)) for chosen in drawn(0))
    # A round does not depend on those before it: a resumed run draws the same.
    assert names(choose_sites(everyone, settings, 0, 20)) == drawn(0)[19]


def test_at_least_one_hospital_is_always_there() -> None:
    everyone, settings = sites(3), ParticipationSettings(dropout=0.99)
    drawn = [choose_sites(everyone, settings, 0, server_round) for server_round in range(1, 301)]
    assert Counter(len(chosen) for chosen in drawn)[1] >= 290
    assert min(len(chosen) for chosen in drawn) == 1
    # Not always the same one.
    counts = Counter(chosen[0].name for chosen in drawn)
    assert all(counts[site.name] > 60 for site in everyone)


def test_no_more_drop_out_than_the_strategy_can_spare() -> None:
    """Krum among seven with two hostile ones needs all seven; fewer would end the run in that round, each time."""
    everyone, settings = sites(7), ParticipationSettings(dropout=0.5)
    free = [choose_sites(everyone, settings, 0, server_round) for server_round in range(1, 101)]
    held = [choose_sites(everyone, settings, 0, server_round, least=5) for server_round in range(1, 101)]
    numbers = [len(chosen) for chosen in held]
    assert min(numbers) == 5 < max(numbers)
    for few, more in zip(free, held, strict=True):
        assert set(names(few)) <= set(names(more))
        assert names(more) == sorted(names(more))
        assert more == few or len(more) == 5
    assert choose_sites(everyone, settings, 0, 1, least=9) == everyone


def test_one_hospital_alone_cannot_drop_out() -> None:
    everyone = sites(1)
    for server_round in range(1, 50):
        assert choose_sites(everyone, ParticipationSettings(dropout=0.9), 0, server_round) == everyone


def test_without_dropping_out_everyone_is_there() -> None:
    everyone = sites(5)
    assert choose_sites(everyone, ParticipationSettings(), 0, 3) == everyone


def test_those_who_drop_out_were_among_those_asked() -> None:
    everyone = sites(10)
    for server_round in range(1, 40):
        asked = choose_sites(everyone, ParticipationSettings(fraction=0.4), 0, server_round)
        there = choose_sites(everyone, ParticipationSettings(fraction=0.4, dropout=0.5), 0, server_round)
        assert len(asked) == 4
        assert set(names(there)) <= set(names(asked))


# ---------------------------------------------------------------- a strategy's own choice


def test_a_strategys_own_choice_is_used_with_the_number_and_the_round() -> None:
    everyone = sites(10)
    asked: list[tuple[list[Site], int, int]] = []

    def choose(sites: Sequence[Site], number: int, server_round: int) -> list[Site]:
        asked.append((list(sites), number, server_round))
        return [sites[1], sites[4], sites[9]]

    chosen = choose_sites(everyone, ParticipationSettings(fraction=0.3), 0, 7, choose)
    assert names(chosen) == ["hospital-01", "hospital-04", "hospital-09"]
    assert asked == [(everyone, 3, 7)]
    # Also where all could take part.
    assert len(choose_sites(everyone, ParticipationSettings(), 0, 7, choose)) == 3
    assert asked[1] == (everyone, 10, 7)


def test_hospitals_of_a_strategys_choice_may_be_away_too() -> None:
    everyone, settings = sites(10), ParticipationSettings(fraction=0.3, dropout=0.5)
    drawn = [
        names(choose_sites(everyone, settings, 0, server_round, lambda sites, *_: list(sites[2:6])))
        for server_round in range(1, 101)
    ]
    assert {name for chosen in drawn for name in chosen} == {f"hospital-0{n}" for n in (2, 3, 4, 5)}
    assert {len(chosen) for chosen in drawn} == {1, 2, 3, 4}


def test_a_strategy_that_leaves_it_to_chance_changes_nothing() -> None:
    everyone, settings = sites(10), ParticipationSettings(fraction=0.3, dropout=0.2)
    for server_round in range(1, 20):
        left = choose_sites(everyone, settings, 0, server_round, lambda *_: None)
        assert left == choose_sites(everyone, settings, 0, server_round)


# ---------------------------------------------------------------- real sites


def configured(*assignments: str) -> Configuration:
    return resolve([parse_assignments(["partition.hospitals=12", *assignments])])


def refusals(*assignments: str, deployed: int = 12) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        check_deployment(sites(12, deployed=deployed), configured(*assignments))
    return caught.value.problems


OWN_GENERATOR = "every hospital has a generator of its own, and would have to hand it over to be judged"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ua-gan", "the server would hold the private discriminator of every hospital"),
        ("md-gan", "hospitals would be given one another's discriminators"),
        ("alone", OWN_GENERATOR),
        ("fedbn", OWN_GENERATOR),
        ("cap-gan", OWN_GENERATOR),
        ("effgan", OWN_GENERATOR),
        ("centralised", "it pools the images of all hospitals"),
    ],
)
def test_a_strategy_for_simulations_alone_is_refused_at_real_sites_with_its_reason(name: str, reason: str) -> None:
    loss = ("stylegan2.loss=logistic",) if name.endswith("a-gan") or name == "md-gan" else ()
    assert refusals(f"strategy.name={name}", *loss) == (
        f"strategy {name}: is for simulations alone, since {reason}; choose another strategy.name for real sites",
    )


KEPT = (
    "a generator, or a part of it, stays at its hospital: such a federation is for simulations alone, since every "
    "hospital would have to hand over its own to be judged; share the generator (strategy.private, strategy.generator, "
    "strategy.synchronise)"
)


@pytest.mark.parametrize(
    "assignments",
    [
        ("strategy.private=generator.mapping",),
        ("strategy.private=generator",),
        ("strategy.generator=private",),
        ("strategy.name=partial-sync", "strategy.synchronise=discriminator"),
        ("strategy.name=partial-sync", "strategy.synchronise=none"),
        ("strategy.private=generator.layers.*.style",),
        ("strategy.private=*.mapping",),
        ("strategy.private=generator*",),
    ],
    ids="; ".join,
)
def test_a_generator_that_stays_at_its_hospital_is_refused_at_real_sites(assignments: tuple[str, ...]) -> None:
    assert refusals(*assignments) == (KEPT,)


def test_a_round_of_one_real_site_is_refused() -> None:
    """Whatever the rule, the next global model would be that hospital's own."""
    assert refusals("participation.fraction=0.1") == (
        "participation.fraction = 0.1: of 12 hospitals one is asked in a round, and what it has learned would go to "
        "all others as it is; ask two at least",
    )
    check_deployment(sites(12, deployed=12), configured("participation.fraction=0.2"))
    check_deployment(sites(12), configured("participation.fraction=0.1"))
    alone = resolve([parse_assignments(["partition.hospitals=1"])])
    check_deployment(sites(1, deployed=1), alone)


def test_the_replies_of_a_round_at_real_sites_are_two_at_least() -> None:
    why = "at real sites a single reply would go to all others as it is"
    assert fewest_replies(sites(12, deployed=12), configured()) == (2, why)
    assert fewest_replies(sites(12, deployed=1), configured()) == (2, why)
    assert fewest_replies(sites(1, deployed=1), resolve([])) == (1, "participation.min-replies")
    assert fewest_replies(sites(12), configured()) == (1, "participation.min-replies")
    more = configured("participation.min-replies=4", "strategy.name=fedmedian")
    assert fewest_replies(sites(12, deployed=12), more) == (4, "participation.min-replies")
    assert fewest_replies(sites(12, deployed=12), configured("strategy.name=krum")) == (5, "the strategy needs as many")


def test_attacks_are_refused_at_real_sites() -> None:
    assert refusals("attack.name=sign-flipped") == (
        "attack.name = 'sign-flipped': is for simulations alone; set attack.name=none",
    )


def test_all_reasons_are_given_at_once() -> None:
    problems = refusals("strategy.name=alone", "attack.name=noisy-camera")
    assert [problem.split(":")[0] for problem in problems] == ["strategy alone", "attack.name = 'noisy-camera'"]


def test_one_real_site_among_simulated_ones_is_enough() -> None:
    assert len(refusals("strategy.name=alone", deployed=1)) == 1


def test_a_simulation_may_do_all_of_it() -> None:
    for assignment in ("strategy.name=alone", "strategy.private=generator.mapping", "attack.name=random"):
        check_deployment(sites(12), configured(assignment))


NEEDS = {"dp-fedavg-gan": ("stylegan2.loss=logistic",), "fegan": ("participation.fraction=0.5",)}
ALLOWED = [name for name, facts in STRATEGIES.items() if not facts.simulation_only]


@pytest.mark.parametrize("name", ALLOWED)
def test_other_strategies_are_allowed_at_real_sites(name: str) -> None:
    check_deployment(sites(12, deployed=12), configured(f"strategy.name={name}", *NEEDS.get(name, ())))


def test_what_shares_the_generator_is_allowed_at_real_sites() -> None:
    assert {"fedgan", "fedavg", "fedprox", "krum", "partial-sync", "dp-fedavg-gan"} < set(ALLOWED)
    for assignments in (
        ("strategy.private=discriminator",),
        ("strategy.discriminator=private",),
        ("strategy.generator=fedadam", "strategy.discriminator=private"),
        ("strategy.private=discriminator.*",),
        ("participation.dropout=0.2",),
    ):
        check_deployment(sites(12, deployed=12), configured(*assignments))
