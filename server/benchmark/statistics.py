"""Means with t intervals, paired differences, ranks and win rates over the cells of a benchmark.

A cell is a (partition, model, seed); two strategies are compared on the cells that both have finished. Intervals are
Student's over the seeds of a partition and model, which were chosen and not drawn: over several of them Welch's, each
with a variance of its own. (A percentile bootstrap of three seeds is their least and their greatest, and holds the mean
of normal values three times in four.) Beside every p-value stands the least that could have come out: where that is not
small, that nothing is significant says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.benchmark.figures import UNBOUNDED, Metric, Row

SIGNIFICANT = 0.05
"""A p-value below this, adjusted for how many are looked at, tells two strategies apart."""

Place = tuple[str, str, int]


@dataclass(frozen=True)
class Estimate:
    """A mean over cells."""

    mean: float
    interval: tuple[float, float] | None
    """95 % t interval over seeds; None where a partition and model has but one of them."""
    cells: Mapping[Place, float]
    """What it is the mean of."""

    @property
    def num_cells(self) -> int:
        """Return how many cells it is the mean of."""
        return len(self.cells)


@dataclass(frozen=True)
class Difference:
    """A strategy less the baseline, cell by cell."""

    estimate: Estimate
    wins: int | None
    """Cells in which the strategy was better; None for a metric of which neither more nor less is better."""
    losses: int | None
    """Cells in which it was worse."""
    p_value: float | None
    """Of Wilcoxon's signed-rank test, two-sided; None where nobody wins or loses."""
    least_p: float | None
    """The least that `p_value` could have been for so many pairs."""


class Results:
    """The figures of a benchmark, by metric, strategy and cell."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.values: dict[str, dict[str, dict[Place, float]]] = {}
        for row in rows:
            cells = self.values.setdefault(row.metric, {}).setdefault(row.strategy, {})
            cells[row.partition, row.model, row.seed] = row.value

    def of(self, metric: str, strategy: str, partition: str = "", model: str = "") -> dict[Place, float]:
        """Return a strategy's figures by cell, of one partition and model or of all."""
        cells = self.values.get(metric, {}).get(strategy, {})
        return {
            place: value for place, value in cells.items() if partition in ("", place[0]) and model in ("", place[1])
        }

    def estimate(self, metric: Metric, strategy: str, partition: str = "", model: str = "") -> Estimate | None:
        """Return the mean over a strategy's cells; None if none has the figure."""
        cells = self.of(metric.name, strategy, partition, model)
        return estimate(cells, metric.bounds) if cells else None

    def difference(
        self, metric: Metric, strategy: str, baseline: str, partition: str = "", model: str = ""
    ) -> Difference | None:
        """Compare a strategy with the baseline on the cells that both have; None where there is none."""
        ours, theirs = self.of(metric.name, strategy, partition, model), self.of(metric.name, baseline)
        places = sorted(ours.keys() & theirs.keys())
        if not places or strategy == baseline:
            return None
        differences = {place: ours[place] - theirs[place] for place in places}
        values = np.array(list(differences.values()))
        # Where neither more nor less is better, nobody wins.
        judged = metric.better != 0
        return Difference(
            estimate(differences),
            int((values * metric.better > 0).sum()) if judged else None,
            int((values * metric.better < 0).sum()) if judged else None,
            wilcoxon(values) if judged else None,
            least_p(len(values)) if judged else None,
        )

    def ranks(
        self, metric: Metric, strategies: Sequence[str], partition: str = "", model: str = ""
    ) -> dict[str, dict[Place, float]]:
        """Return each strategy's rank, 1 is best, in every cell that any of them has finished.

        Equal figures share the mean of their ranks. A strategy that failed in a cell ranks last there, or failing where
        it is hard would pay. Strategies without any figure are left out.
        """
        from scipy.stats import rankdata

        assert metric.better, f"{metric.name} has no direction to rank by"
        cells = {name: found for name in strategies if (found := self.of(metric.name, name, partition, model))}
        places = sorted({place for found in cells.values() for place in found})
        ranks: dict[str, dict[Place, float]] = {name: {} for name in cells}
        for place in places:
            worth = [-metric.better * found[place] if place in found else np.inf for found in cells.values()]
            for name, rank in zip(cells, rankdata(worth), strict=True):
                ranks[name][place] = float(rank)
        return ranks

    def win_rates(self, metric: Metric, strategies: Sequence[str]) -> dict[tuple[str, str], float]:
        """Return for each pair the share of cells in which the first was better; a draw is half.

        Of the cells that either has finished: one that failed has lost to one that did not.
        """
        assert metric.better, f"{metric.name} has no direction to win by"
        found = {}
        for first in strategies:
            for second in strategies:
                ours, theirs = self.of(metric.name, first), self.of(metric.name, second)
                places = sorted(ours.keys() | theirs.keys())
                if first == second or not ours or not theirs:
                    continue
                lost = -np.inf
                gains = [
                    (metric.better * ours[place] if place in ours else lost)
                    - (metric.better * theirs[place] if place in theirs else lost)
                    for place in places
                ]
                found[first, second] = float(np.mean([(gain > 0) + 0.5 * (gain == 0) for gain in gains]))
        return found


def estimate(cells: Mapping[Place, float], bounds: tuple[float, float] = UNBOUNDED) -> Estimate:
    """Return the mean over at least one cell and its 95 % t interval over the seeds of each partition and model.

    The mean of all cells weighs a partition and model by its number of seeds n: its variance is the sum of
    (n / N)^2 s^2 / n over them, with Welch's degrees of freedom. What differs between partitions widens no interval.

    Parameters
    ----------
    cells
        Figures by cell.
    bounds
        The least and the greatest value that the figure can have: the interval is cut there.

    References
    ----------
    Student 1908, https://doi.org/10.1093/biomet/6.1.1; Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28
    """
    from scipy.special import stdtrit

    strata: dict[tuple[str, str], list[float]] = {}
    for partition, model, seed in sorted(cells):
        strata.setdefault((partition, model), []).append(cells[partition, model, seed])
    mean = float(np.mean(list(cells.values())))
    if any(len(values) == 1 for values in strata.values()):
        return Estimate(mean, None, cells)
    parts = [len(values) * float(np.var(values, ddof=1)) / len(cells) ** 2 for values in strata.values()]
    error = sum(parts)
    if error == 0:
        return Estimate(mean, (mean, mean), cells)
    # As parts of the whole: squares of tiny variances would be zero.
    freedom = 1 / sum(
        (part / error) ** 2 / (len(values) - 1) for part, values in zip(parts, strata.values(), strict=True)
    )
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(error)
    low, high = bounds
    return Estimate(mean, (max(low, mean - half), min(high, mean + half)), cells)


def wilcoxon(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; pairs that do not differ say nothing.

    Exact up to 13 pairs, and up to 50 without ties.

    References
    ----------
    Wilcoxon 1945, https://doi.org/10.2307/3001968; Demšar 2006, JMLR 7, for comparing algorithms with it.
    """
    from scipy import stats

    differing = differences[differences != 0]
    return float(stats.wilcoxon(differing).pvalue) if len(differing) else 1.0


def least_p(num_pairs: int) -> float:
    """Return the least p-value that :func:`wilcoxon` can give for so many pairs: all differ in one direction.

    Each of the 2^n ways to give them signs is as likely if nothing differs, and two of them are as extreme.
    """
    return min(1.0, 2.0 ** (1 - num_pairs))


def pairs_needed(num_comparisons: int) -> int:
    """Return the least number of pairs for which one of so many comparisons could be significant (Holm)."""
    return next(number for number in range(1, 1000) if num_comparisons * least_p(number) < SIGNIFICANT)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values that may be looked at together: that any is below .05 by chance has a chance of .05 at most.

    No adjusted value falls where a given one rises. So of the least values that were possible it gives the least that
    could have come out adjusted.

    References
    ----------
    Holm 1979, Scandinavian Journal of Statistics 6: step-down Bonferroni.
    """
    adjusted: dict[str, float] = {}
    least = 0.0
    for number, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - number) * p_values[name]))
        adjusted[name] = least
    return adjusted


def by_rank(results: Results, metric: Metric, strategies: Sequence[str]) -> list[str]:
    """Return strategies from the best mean rank to the worst; those without a cell come last, as they were."""
    ranks = results.ranks(metric, strategies)
    means = {name: float(np.mean(list(found.values()))) for name, found in ranks.items()}
    return sorted(strategies, key=lambda name: (means.get(name, np.inf), strategies.index(name)))
