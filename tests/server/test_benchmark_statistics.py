"""Means, intervals, paired differences, ranks and win rates against values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from server.benchmark.figures import METRICS, Row, gains_over_alone, raw_csv
from server.benchmark.statistics import Results, by_rank, estimate, holm, wilcoxon

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


def test_an_interval_holds_the_mean_and_is_that_of_resampled_cells() -> None:
    found = RESULTS.estimate("kid", "fedgan")
    assert found is not None
    assert (found.mean, found.num_cells) == (2.0, 3)
    # Of three cells the mean of a resample is least with thrice the least, one time in 27: above 2.5 %.
    assert found.interval == (1.0, 3.0)
    assert RESULTS.estimate("fid", "fedgan") is None


def cells(values: list[float], partition: str = "iid") -> dict[tuple[str, str, int], float]:
    return {(partition, "model", seed): value for seed, value in enumerate(values)}


def test_one_cell_has_no_interval() -> None:
    assert estimate(cells([4.0])).interval is None
    # Nor do two partitions with a seed each: partitions were chosen, not drawn.
    assert estimate(cells([4.0]) | cells([9.0], "natural")).interval is None


def test_seeds_are_resampled_within_their_partition() -> None:
    """What differs between partitions widens no interval."""
    easy, hard = [1.0, 1.1, 1.2], [9.0, 9.1, 9.2]
    found = estimate(cells(easy) | cells(hard, "natural"))
    assert found.mean == pytest.approx(5.1)
    assert found.interval is not None
    assert 5.0 <= found.interval[0] < found.interval[1] <= 5.2
    assert estimate(cells(easy + hard)).interval[1] > 7.0  # type: ignore[index]


def test_a_bootstrap_interval_is_near_the_normal_one_for_many_cells() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    low, high = estimate(cells(values.tolist())).interval or (0.0, 0.0)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)


def test_differences_are_taken_cell_by_cell() -> None:
    found = RESULTS.difference(KID, "better", "fedgan")
    assert found is not None
    assert found.estimate.mean == pytest.approx(-2 / 3)
    assert (found.wins, found.p_value) == (3, None)  # three pairs: no p-value
    assert RESULTS.difference(KID, "fedgan", "fedgan") is None


def test_only_common_cells_are_compared() -> None:
    results = Results([*rows({"fedgan": [1.0, 2.0]}), *rows({"half": [5.0]})])
    found = results.difference(KID, "half", "fedgan")
    assert found is not None
    assert (found.estimate.mean, found.estimate.num_cells) == (4.0, 1)


def test_no_p_value_comes_from_fewer_than_six_pairs() -> None:
    assert wilcoxon(np.array([-1.0, -2.0, -3.0, -4.0, -5.0])) is None
    # Six of one sign: 2 / 2**6.
    assert wilcoxon(np.array([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])) == pytest.approx(0.03125)
    assert wilcoxon(np.zeros(6)) is None
    # A pair that does not differ says nothing: these are three.
    assert wilcoxon(np.array([0.0, 0.0, 0.0, -1.0, -2.0, -3.0])) is None


def test_p_values_are_adjusted_for_how_many_are_looked_at() -> None:
    # Thrice the least, twice the next, once the largest, each at least the one before.
    adjusted = holm({"a": 0.03, "b": 0.01, "c": 0.02})
    assert adjusted == pytest.approx({"b": 0.03, "c": 0.04, "a": 0.04})
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_nobody_wins_where_neither_more_nor_less_is_better() -> None:
    auc = next(metric for metric in METRICS if metric.name == "membership_auc")
    results = Results(rows({"fedgan": [0.5] * 6, "other": [0.6, 0.7, 0.8, 0.9, 1.0, 0.4]}, "membership_auc"))
    found = results.difference(auc, "other", "fedgan")
    assert found is not None
    assert (found.wins, found.p_value) == (None, None)


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
