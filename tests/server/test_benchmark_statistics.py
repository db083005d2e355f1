"""Means, intervals, paired differences, the least p-values, ranks and win rates against values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from server.benchmark.figures import METRICS, Row, gains_over_alone, raw_csv
from server.benchmark.statistics import (
    Difference,
    Estimate,
    Results,
    by_rank,
    estimate,
    holm,
    least_p,
    pairs_needed,
    wilcoxon,
)
from server.benchmark.wording import difference_text, estimate_text, verdict

KID = METRICS[0]


def rows(values: dict[str, list[float]], metric: str = "kid") -> list[Row]:
    return [
        Row(strategy, "iid", "conditional", seed, metric, value)
        for strategy, found in values.items()
        for seed, value in enumerate(found)
    ]


RESULTS = Results(rows({"fedgan": [1.0, 2.0, 3.0], "better": [0.5, 1.5, 2.0], "mixed": [2.0, 1.0, 3.0]}))


def test_kid_comes_first_and_less_of_it_is_better() -> None:
    assert (KID.name, KID.better) == ("kid", -1)


def test_an_interval_is_students_and_not_the_least_and_the_greatest() -> None:
    found = RESULTS.estimate(KID, "fedgan")
    assert found is not None
    assert (found.mean, found.num_cells) == (2.0, 3)
    # 1, 2, 3: s = 1, and t of two degrees of freedom at .975 is 4.302653.
    assert found.interval == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)
    assert RESULTS.estimate(METRICS[1], "fedgan") is None


def cells(values: list[float], partition: str = "iid") -> dict[tuple[str, str, int], float]:
    return {(partition, "model", seed): value for seed, value in enumerate(values)}


def test_one_cell_has_no_interval() -> None:
    assert estimate(cells([4.0])).interval is None
    # Nor do two partitions with a seed each: partitions were chosen, not drawn.
    assert estimate(cells([4.0]) | cells([9.0], "natural")).interval is None
    # Nor where but one of them has several: how much seeds differ on the other is not known.
    assert estimate(cells([4.0, 5.0]) | cells([9.0], "natural")).interval is None


def test_seeds_are_compared_within_their_partition() -> None:
    """What differs between partitions widens no interval."""
    easy, hard = [1.0, 2.0, 3.0], [91.0, 92.0, 93.0]
    found = estimate(cells(easy) | cells(hard, "natural"))
    # A variance of 1 in both: of the mean of six 1/6, with 4 degrees of freedom, whose t is 2.776445.
    assert found.mean == 47.0
    half = 2.776445 / 6**0.5
    assert found.interval == pytest.approx((47 - half, 47 + half), abs=1e-6)


def test_partitions_with_variances_of_their_own_have_welchs_interval() -> None:
    """The mean of two halves is half their sum, which Welch's interval of a difference has the width of."""
    first, second = [1.0, 2.0, 4.0], [5.0, 5.1, 5.4]
    low, high = estimate(cells(first) | cells(second, "natural")).interval or (0.0, 0.0)
    welch = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert high - low == pytest.approx((welch.high - welch.low) / 2)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_an_interval_of_few_seeds_holds_the_mean_as_often_as_it_says(count: int) -> None:
    """The bootstrap that stood here held it .50, .75 and .84 of the time."""
    draws = np.random.default_rng(0).standard_normal((2000, count))
    held = [low < 0 < high for low, high in (estimate(cells(row)).interval or (0, 0) for row in draws.tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_an_interval_ends_where_the_figure_does_and_equal_seeds_have_no_width() -> None:
    assert estimate(cells([0.0, 0.1, 0.02]), (0.0, 1.0)).interval == (0.0, pytest.approx(0.171, abs=1e-3))
    assert estimate(cells([263.6] * 3)).interval == (263.6, 263.6)
    assert estimate(cells([1e-200, 2e-200, 3e-200])).interval is not None


def test_differences_are_taken_cell_by_cell() -> None:
    found = RESULTS.difference(KID, "better", "fedgan")
    assert found is not None
    assert found.estimate.mean == pytest.approx(-2 / 3)
    # Three of one sign: 2 of the 8 ways to give them signs.
    assert (found.wins, found.losses, found.p_value, found.least_p) == (3, 0, 0.25, 0.25)
    assert RESULTS.difference(KID, "fedgan", "fedgan") is None


def test_only_common_cells_are_compared() -> None:
    results = Results([*rows({"fedgan": [1.0, 2.0]}), *rows({"half": [5.0]})])
    found = results.difference(KID, "half", "fedgan")
    assert found is not None
    assert (found.estimate.mean, found.estimate.num_cells) == (4.0, 1)


def test_p_values_and_the_least_that_were_possible() -> None:
    # Six of one sign: 2 / 2**6.
    assert wilcoxon(np.array([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])) == pytest.approx(0.03125)
    assert wilcoxon(np.zeros(6)) == 1.0
    # A pair that does not differ says nothing: these are three.
    assert wilcoxon(np.array([0.0, 0.0, 0.0, -1.0, -2.0, -3.0])) == 0.25
    assert [least_p(number) for number in (1, 2, 3, 6)] == [1.0, 0.5, 0.25, 0.03125]
    for number in (1, 3, 6, 13, 14, 60):
        assert wilcoxon(np.arange(1.0, number + 1)) >= least_p(number) * (1 - 1e-12)
    # One comparison needs six pairs, nine need nine: 9 x 2 / 2**9 = .035, and .070 with eight.
    assert [pairs_needed(number) for number in (1, 9)] == [6, 9]


def test_p_values_are_adjusted_for_how_many_are_looked_at() -> None:
    # Thrice the least, twice the next, once the largest, each at least the one before.
    adjusted = holm({"a": 0.03, "b": 0.01, "c": 0.02})
    assert adjusted == pytest.approx({"b": 0.03, "c": 0.04, "a": 0.04})
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    # Six pairs and nine strategies: the least that could have come out is .28, whatever the figures are.
    assert holm(dict.fromkeys("abcdefghi", least_p(6))) == pytest.approx(dict.fromkeys("abcdefghi", 0.28125))


def difference(values: list[float], p_value: float, least: float) -> Difference:
    """A difference in KID."""
    wins, losses = sum(value < 0 for value in values), sum(value > 0 for value in values)
    return Difference(estimate(cells(values)), wins, losses, p_value, least)


def test_that_nothing_is_significant_is_told_apart_from_that_nothing_could_be() -> None:
    few = {name: difference([-1.0, -2.0, -3.0], 0.5, 0.5) for name in ("a", "b")}
    assert verdict(few, "fedgan", 1) == (
        "No strategy could have been told apart from fedgan by KID, whatever the figures are: with so few seeds the "
        "least p that was possible is 0.500, for 2 comparisons. That none is says nothing about the strategies; 7 "
        "seeds would be the least that can."
    )
    assert "4 seeds would be the least that can" in verdict(few, "fedgan", 2)
    mixed = [-1.0, 2.0, -3.0, 4.0, -5.0, 6.0]
    assert verdict({"a": difference(mixed, 0.8, 0.03125)}, "fedgan", 1) == (
        "No strategy is measurably better or worse than fedgan by KID, and one could have been: the least p that was "
        "possible is 0.031, for 1 comparison."
    )
    some = {
        "a": difference([-1.0] * 8, 0.016, 0.016),
        "b": difference([1.0] * 8, 0.016, 0.016),
        "c": difference([1.0, -1.0] * 4, 1.0, 0.016),
        "d": difference([1.0] * 3, 0.5, 0.5),
    }
    assert verdict(some, "fedgan", 1) == (
        "Measurably better than fedgan by KID (p < 0.05): a. Measurably worse than fedgan by KID (p < 0.05): b. The "
        "other is not told apart from it, and could have been. Too few cells to be told apart, whatever the figures "
        "are: d."
    )
    assert verdict({}, "fedgan", 1) == ""


def test_the_values_of_few_seeds_are_printed_in_their_order() -> None:
    seeds = [0, 1, 2]
    found = estimate(cells([3.0, 1.0, 2.0]))
    assert estimate_text(found, 2, seeds) == "2.00 (3.00, 1.00, 2.00) [-0.48, 4.48]"
    # Of a seed that failed there is a dash in its place.
    assert estimate_text(found, 1, [0, 1, 5, 2]) == "2.0 (3.0, 1.0, –, 2.0) [-0.5, 4.5]"
    assert estimate_text(found, 2, range(6)) == "2.00 [-0.48, 4.48]"
    assert estimate_text(estimate(found.cells | cells([3.0, 1.0, 2.0], "natural")), 1, seeds) == "2.0 [0.9, 3.1]"
    assert estimate_text(estimate(cells([7.0] * 3)), 0, seeds) == "7"
    assert estimate_text(Estimate(1.0, None, cells([1.0])), 0, [0]) == "1"
    assert estimate_text(None, 0, seeds) == "–"
    assert difference_text(difference([-3.0, -1.0, -2.0], 0.25, 0.25), seeds) == (
        "-2.000 (-3.000, -1.000, -2.000) [-4.484, +0.484], better in 3/3, p = 0.250 (least possible 0.250)"
    )
    assert difference_text(difference([-3.0] * 16, 0.0001, 0.00003), range(16)) == (
        "-3.000, better in 16/16, p < 0.001 (least possible < 0.001)"
    )


NO_DIRECTION = {
    "precision", "density", "vendi", "recognised", "authentic", "membership_auc", "images", "evaluations",
}  # fmt: skip


def test_nobody_wins_and_nobody_is_ranked_where_neither_more_nor_less_is_better() -> None:
    """AuthPct is highest for junk, precision for one image repeated: they are read against what real images get."""
    assert {metric.name for metric in METRICS if metric.better == 0} == NO_DIRECTION
    for name in sorted(NO_DIRECTION):
        metric = next(metric for metric in METRICS if metric.name == name)
        results = Results(rows({"fedgan": [0.5] * 6, "other": [0.6, 0.7, 0.8, 0.9, 1.0, 0.4]}, name))
        found = results.difference(metric, "other", "fedgan")
        assert found is not None
        assert (found.wins, found.losses, found.p_value, found.least_p) == (None, None, None, None)
        with pytest.raises(AssertionError, match="has no direction"):
            results.ranks(metric, ["fedgan", "other"])
        with pytest.raises(AssertionError, match="has no direction"):
            results.win_rates(metric, ["fedgan", "other"])


def test_ranks_share_ties() -> None:
    strategies = ["fedgan", "better", "mixed"]
    ranks = {name: list(found.values()) for name, found in RESULTS.ranks(KID, strategies).items()}
    assert ranks == {"fedgan": [2.0, 3.0, 2.5], "better": [1.0, 2.0, 1.0], "mixed": [3.0, 1.0, 2.5]}
    assert by_rank(RESULTS, KID, strategies) == ["better", "mixed", "fedgan"]


def test_a_cell_that_failed_is_the_last_place() -> None:
    """Or failing where it is hard would pay."""
    results = Results(rows({"fedgan": [1.0, 2.0, 3.0], "worse": [4.0, 5.0, 6.0], "half": [0.5]}))
    ranks = {name: list(found.values()) for name, found in results.ranks(KID, ["fedgan", "worse", "half"]).items()}
    assert ranks == {"fedgan": [2.0, 1.0, 1.0], "worse": [3.0, 2.0, 2.0], "half": [1.0, 3.0, 3.0]}


def test_a_strategy_without_results_comes_last() -> None:
    assert by_rank(RESULTS, KID, ["failed", "fedgan", "better"]) == ["better", "fedgan", "failed"]


def test_a_draw_is_half_a_win() -> None:
    rates = RESULTS.win_rates(KID, ["fedgan", "better", "mixed"])
    assert rates["better", "fedgan"] == 1.0
    assert rates["fedgan", "mixed"] == pytest.approx(0.5)  # a win, a defeat, a draw
    assert rates["mixed", "better"] == pytest.approx(1 / 3)


def test_a_cell_that_failed_is_lost_to_one_that_did_not() -> None:
    results = Results(rows({"fedgan": [1.0, 2.0, 3.0], "half": [0.5]}))
    rates = results.win_rates(KID, ["fedgan", "half", "nothing"])
    assert rates == {("fedgan", "half"): pytest.approx(2 / 3), ("half", "fedgan"): pytest.approx(1 / 3)}


def test_gain_over_alone_is_by_hospital() -> None:
    alone = {"kid": 9.0, "kid_own[a]": 3.0, "kid_own[b]": 1.0}
    # One generator for all: it gains 2.5 at a and .5 at b.
    assert gains_over_alone({"kid": 0.5}, alone) == {"gain_over_alone": 1.5, "gain_over_alone_worst": 0.5}
    # Where hospitals have generators of their own, those count.
    personal = {"kid": 0.5, "kid_own[a]": 2.0, "kid_own[b]": 4.0}
    assert gains_over_alone(personal, alone) == {"gain_over_alone": -1.0, "gain_over_alone_worst": -3.0}
    assert gains_over_alone({"kid": 0.5}, None) == {}


def test_raw_figures_read_back_as_they_were() -> None:
    text = raw_csv([Row("fedgan", "iid", "conditional", 0, "kid", 0.1 + 0.2)])
    assert text == ("strategy,partition,model,seed,metric,value\nfedgan,iid,conditional,0,kid,0.30000000000000004\n")
