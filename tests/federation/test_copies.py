"""The search for copies: who stands at the top of those that generated images come nearest to."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from benchmarks.copies import Bench
from federation.config import parse_assignments
from federation.metrics.authenticity import ScoredImages, true_positive_rate
from federation.metrics.copies import CopySearch, Surroundings, copy_test, is_flagged, thumbnails
from server.inputs import prepare_inputs
from strategies.configuration import resolve


def test_a_thumbnail_has_the_mean_colours_of_eight_by_eight_fields() -> None:
    images = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    images[0, 0:2, 2:4] = [10, 20, 40]
    images[0, 0, 2] = [14, 20, 40]
    small = thumbnails(images).reshape(8, 8, 3)
    assert small[0, 1].tolist() == [11, 20, 40]
    assert small.sum() == 71
    with pytest.raises(ValueError, match="a multiple of 8, not 12"):
        thumbnails(np.zeros((1, 12, 12, 3), dtype=np.uint8))


def test_loneliness_looks_past_the_own_lesion_and_past_who_is_absent() -> None:
    real = np.array([[0.0], [1.0], [3.0], [7.0]])
    surroundings = Surroundings(real, ["a", "a", "b", "c"])
    assert surroundings.loneliness().tolist() == [3, 2, 2, 4]
    assert surroundings.loneliness(np.array([False, False, True, False])).tolist() == [7, 6, 2, 6]
    # The same bytes under two names are near, and not so near that a quotient overflows.
    assert Surroundings(np.zeros((2, 1)), ["a", "b"]).loneliness().tolist() == [1e-9, 1e-9]


def test_the_chance_of_so_many_is_fishers() -> None:
    members, others = np.linspace(1, 2, 80), np.linspace(0, 0.5, 20)
    names = np.arange(100)
    found = copy_test(members, names[:80], others, names[80:])
    # Forty are looked at where two per cent are fewer, and all of them were trained on.
    assert (found.num_looked_at, found.num_trained_on, found.expected) == (40, 40, 32)
    assert found.p == pytest.approx(comb(80, 40) / comb(100, 40))
    assert found.smallest_p == found.p
    assert found.p_opposite == 1
    opposite = copy_test(-members, names[:80], others, names[80:])
    assert opposite.num_trained_on == 20
    assert opposite.p == pytest.approx(1)
    assert opposite.p_opposite == pytest.approx(comb(80, 20) / comb(100, 40))


def test_a_lesion_counts_once_and_ties_are_no_evidence() -> None:
    # Ten images of one lesion are copied: one of 100 lesions.
    members = np.concatenate([np.full(10, 5.0), np.zeros(59)])
    found = copy_test(members, [0] * 10 + list(range(1, 60)), np.zeros(40), np.arange(60, 100))
    assert found.num_looked_at == 40
    # Of those that are all alike, held-out ones are taken first.
    assert found.num_trained_on == 1


def test_two_per_cent_of_many_are_looked_at_and_no_more_than_half_of_few() -> None:
    stream = np.random.default_rng(0)
    assert copy_test(stream.random(3000), np.arange(3000), stream.random(1000), np.arange(1000)).num_looked_at == 80
    few = copy_test(stream.random(6), np.arange(6), stream.random(4), np.arange(4))
    assert few.num_looked_at == 5
    assert few.smallest_p == pytest.approx(comb(6, 5) / comb(10, 5))


def test_nothing_is_flagged_more_often_than_is_said() -> None:
    stream = np.random.default_rng(0)
    names = np.arange(500)
    p_values = [
        copy_test(scores[:400], names[:400], scores[400:], names[400:]).p for scores in stream.random((400, 500))
    ]
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(p_values) <= level) <= level + 2.5 * np.sqrt(level / 400)
    assert np.mean(np.array(p_values) <= 0.2) > 0.1  # and it is no test that never speaks


def test_two_tests_share_the_level() -> None:
    assert is_flagged([0.01])
    assert not is_flagged([0.01, 0.9])
    assert is_flagged([0.9, 0.005])


def test_held_out_images_in_the_generated_ones_place_are_held_out_no_longer() -> None:
    stream = np.random.default_rng(0)
    train, test = stream.normal(size=(300, 5)), stream.normal(size=(200, 5))
    search = CopySearch(train, test, np.arange(300), np.arange(300, 500))
    half = np.arange(200) < 100
    control = search.control([half])
    assert control.expected == pytest.approx(40 * 300 / 400)
    assert min(control.p, control.p_opposite) > 0.01
    # Were they still held out, each of them would be its own copy.
    assert search.test(*search.nearness(test[half])).p_opposite < 1e-9
    assert search.test(*search.nearness(train[::3] + 1e-3)).p < 1e-6


# ------------------------------------------------------------------ the true positive rate


def scored(scores: object, strata: object = None, groups: object = None) -> ScoredImages:
    values = np.asarray(scores, dtype=float)
    count = values.shape[-1]
    return ScoredImages(
        values, np.arange(count) if groups is None else groups, np.zeros(count) if strata is None else strata
    )


def test_the_true_positive_rate_counts_whom_one_false_alarm_in_a_hundred_finds() -> None:
    others = np.arange(200)
    # Two of 200 may score as high: 198 and 199. A member that equals 198 has two, one that equals 197 three.
    found = true_positive_rate(scored([197, 198, 300, -5]), scored(others), seed=0)
    assert found["tpr"] == 0.5
    # With a hundred one may; with fewer none, which would be another rate.
    assert true_positive_rate(scored([98, 98.5]), scored(others[:100]), seed=0)["tpr"] == 0.5
    assert true_positive_rate(scored([98, 98.5]), scored(others[:99]), seed=0) == {"tpr": None, "tpr_interval": None}
    # A rare class that scores high among held-out ones counts as it does among members: one of 200 there, 3 of 4 here.
    strata = np.where(others == 199, "rare", "common")
    weighted = true_positive_rate(
        scored([500, 1, 1, 198.5], ["common", "rare", "rare", "rare"]), scored(others, strata), seed=0
    )
    assert weighted["tpr"] == 0.25


def test_the_true_positive_rate_of_what_knows_nothing_is_one_per_cent() -> None:
    stream = np.random.default_rng(1)
    found = true_positive_rate(scored(stream.random((3, 4000))), scored(stream.random((3, 1500))), seed=0)
    low, high = found["tpr_interval"]
    assert low < 0.012
    assert high > 0.008
    assert found["tpr"] == pytest.approx(0.01, abs=0.004)
    assert high - low < 0.02


# ------------------------------------------------------------------ real lesions


def test_copies_of_real_lesions_are_flagged_and_strangers_are_not(ham10000: Path, cache_dir: str) -> None:
    """Every tenth of 4,000 a copy in disguise: flagged in each of three draws; none: in none, though all are real."""
    assignments = ["data.source=ham10000", f"data.root={ham10000}", f"data.cache-dir={cache_dir}"]
    bench = Bench(prepare_inputs(resolve([parse_assignments(assignments)])), None)
    for draw in range(3):
        strangers = bench.nearness(bench.stand_ins("both parts, augmented", 3600, draw))
        copies = bench.nearness(bench.copies(400, draw))
        assert bench.ask(strangers)["flagged"] is False
        found = bench.ask(strangers, copies)
        assert found["flagged"] is True
        assert found["thumbnails"]["num_trained_on"] >= 110
        assert found["thumbnails"]["num_looked_at"] == 112
