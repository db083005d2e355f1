"""What is said of a strategy, that it tells and shows, is so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from three_numbers import Arrays, Hospital, model, play, strategy

from strategies.catalogue import STRATEGIES
from strategies.disclosure import disclosure_of, table

DOCUMENT = Path(__file__).parents[2] / "docs" / "strategies.md"
ONE_MODEL = "one hospital's model, bit for bit"
# Those whose server does nothing but combine what hospitals send; the others train, or send nothing.
RULES = [
    name
    for name, facts in STRATEGIES.items()
    if not facts.adversarial and name not in ("alone", "scaffold", "ifl-gan", "fedcar")
]


def hospitals() -> list[Hospital]:
    """Eleven that differ in every number, and in size."""
    stream = np.random.default_rng(5)
    found = []
    for size in stream.integers(5, 50, size=11):
        w, ema, d = stream.normal(size=(3, 3))
        arrays = model(
            w.tolist(), b=float(stream.normal()), ema=ema.tolist(), ema_b=float(stream.normal()), d=d.tolist()
        )
        found.append(Hospital(arrays, int(size), class_counts=(int(size) - 2, 2)))
    return found


# Drawing hospitals so that classes are seen alike is a choice among more than are asked.
OPTIONS = {"fegan": ("participation.fraction=0.9",)}


def equal(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in other)


def test_the_document_holds_the_table() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RULES)
def test_a_strategy_says_so_if_it_hands_on_one_hospitals_model(name: str) -> None:
    everyone = hospitals()
    after = play(strategy(f"strategy.name={name}", *OPTIONS.get(name, ())), model(), everyone)
    handed_on = [one for one in everyone if equal(after, one.arrays)]
    assert bool(handed_on) == (disclosure_of(name).shown == ONE_MODEL)


def test_multikrum_that_selects_one_hands_on_its_model() -> None:
    everyone = hospitals()
    after = play(strategy("strategy.name=multikrum", "strategy.selected=1"), model(), everyone)
    assert any(equal(after, one.arrays) for one in everyone)
    assert f"with strategy.selected = 1 {ONE_MODEL}" in disclosure_of("multikrum").shown


def test_each_number_of_a_median_is_of_one_hospital() -> None:
    everyone = hospitals()
    after = play(strategy("strategy.name=fedmedian"), model(), everyone)
    for name, values in after.items():
        assert np.isin(values, np.stack([one.arrays[name] for one in everyone])).all()


def test_a_geometric_median_is_nearly_the_model_in_the_middle() -> None:
    models = [model([x, y, 0]) for x, y in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
    after = play(strategy("strategy.name=geometric-median"), model(), [Hospital(one) for one in models])
    np.testing.assert_allclose(after["generator.w"], models[0]["generator.w"], atol=1e-5)


def test_the_rows_of_a_class_that_one_hospital_alone_holds_are_its_own() -> None:
    name = "generator.class_embedding"
    rows = [np.full((2, 2), value, np.float32) for value in (0.1, 0.3, 0.7)]
    everyone = [
        Hospital({name: one}, 10, class_counts=counts)
        for one, counts in zip(rows, ((5, 5), (10, 0), (10, 0)), strict=True)
    ]
    rule = strategy("strategy.name=label-aware", trainable=frozenset({name}), class_rows=(name,))
    after = play(rule, {name: np.zeros((2, 2), np.float32)}, everyone)[name]
    np.testing.assert_array_equal(after[1], rows[0][1])
    assert not any(np.array_equal(after[0], one[0]) for one in rows)


@pytest.mark.parametrize("name", ["fedgan", "fedprox", "fegan", "fed-tgan", "label-aware", "partial-sync"])
def test_a_round_with_one_reply_hands_on_that_hospitals_model(name: str) -> None:
    """Therefore a round at real sites has two."""
    everyone = hospitals()
    after = play(strategy(f"strategy.name={name}", *OPTIONS.get(name, ())), model(), everyone, absent=range(1, 11))
    assert equal(after, everyone[0].arrays)
