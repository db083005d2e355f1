"""Means with bootstrap intervals, paired differences, ranks and win rates over the cells of a benchmark.

A cell is a (partition, model, seed); two strategies are compared on the cells that both have finished. Intervals are
percentile bootstraps over cells (Efron 1979), which resample the seeds of each partition and model by themselves, as
those were chosen and not drawn. With few cells they are too narrow: :data:`COVERAGE`. No p-value is given for fewer
than six pairs that differ: Wilcoxon's least is .03 there, and .06 with five.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.seeding import numpy_stream
from server.benchmark.figures import Metric, Row

LEAST_PAIRS = 6
"""Pairs that differ, below which no p-value is given."""
COVERAGE = {2: 0.50, 3: 0.75, 4: 0.81, 5: 0.84, 6: 0.85, 10: 0.90}
"""How often the interval of so many values from a normal distribution holds its mean; from 1,500 draws each."""
_RESAMPLES = 10_000

Place = tuple[str, str, int]


@dataclass(frozen=True)
class Estimate:
    """A mean over cells."""

    mean: float
    interval: tuple[float, float] | None
    """95 % bootstrap interval; None where no partition and model has two seeds."""
    num_cells: int


@dataclass(frozen=True)
class Difference:
    """A strategy less the baseline, cell by cell."""

    estimate: Estimate
    wins: int | None
    """Cells in which the strategy was better; None for a metric of which neither more nor less is better."""
    p_value: float | None
    """Of Wilcoxon's signed-rank test, two-sided; None for fewer than six pairs that differ."""


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

    def estimate(self, metric: str, strategy: str, partition: str = "", model: str = "") -> Estimate | None:
        """Return the mean over a strategy's cells; None if none has the figure."""
        cells = self.of(metric, strategy, partition, model)
        return estimate(cells) if cells else None

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
            wilcoxon(values) if judged else None,
        )

    def ranks(
        self, metric: Metric, strategies: Sequence[str], partition: str = "", model: str = ""
    ) -> dict[str, dict[Place, float]]:
        """Return each strategy's rank, 1 is best, in every cell that any of them has finished.

        Equal figures share the mean of their ranks. A strategy that failed in a cell ranks last there, or failing where
        it is hard would pay. Strategies without any figure are left out.
        """
        from scipy.stats import rankdata

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


def estimate(cells: Mapping[Place, float]) -> Estimate:
    """Return the mean over at least one cell and its bootstrap interval, stratified by partition and model."""
    strata: dict[tuple[str, str], list[float]] = {}
    for partition, model, seed in sorted(cells):
        strata.setdefault((partition, model), []).append(cells[partition, model, seed])
    mean = float(np.mean(list(cells.values())))
    if all(len(values) == 1 for values in strata.values()):
        return Estimate(mean, None, len(cells))
    # The same resamples for every figure, so that a table does not depend on the order of its columns.
    stream = numpy_stream(0, "bootstrap")
    sums = np.zeros(_RESAMPLES)
    for values in strata.values():
        picks = stream.integers(len(values), size=(_RESAMPLES, len(values)))
        sums += np.asarray(values)[picks].sum(axis=1)
    low, high = np.quantile(sums / len(cells), [0.025, 0.975])
    return Estimate(mean, (float(low), float(high)), len(cells))


def wilcoxon(differences: NDArray[np.float64]) -> float | None:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; None for fewer than six pairs that differ.

    References
    ----------
    Wilcoxon 1945, https://doi.org/10.2307/3001968; Demšar 2006, JMLR 7, for comparing algorithms with it.
    """
    from scipy import stats

    if np.count_nonzero(differences) < LEAST_PAIRS:
        return None
    return float(stats.wilcoxon(differences).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values that may be looked at together: that any is below .05 by chance has a chance of .05 at most.

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
