"""Means with bootstrap intervals, paired differences, ranks and win rates over the cells of a benchmark.

A cell is a (partition, model, seed); two strategies are compared on the cells that both have finished. Intervals are
percentile bootstraps over cells (Efron 1979): with few cells they are too narrow, and say so by nothing but their
number, which stands beside them. No p-value is given for fewer than six pairs: Wilcoxon's least is .03 there, and .06
with five.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.seeding import numpy_stream
from server.benchmark.figures import Metric, Row

LEAST_PAIRS = 6
"""Pairs below which no p-value is given."""
_RESAMPLES = 10_000

Place = tuple[str, str, int]


@dataclass(frozen=True)
class Estimate:
    """A mean over cells."""

    mean: float
    interval: tuple[float, float] | None
    """95 % bootstrap interval; None of one cell."""
    num_cells: int


@dataclass(frozen=True)
class Difference:
    """A strategy less the baseline, cell by cell."""

    estimate: Estimate
    wins: int
    """Cells in which the strategy was better."""
    p_value: float | None
    """Of Wilcoxon's signed-rank test, two-sided; None for fewer than six pairs."""


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
        return estimate([cells[place] for place in sorted(cells)]) if cells else None

    def difference(
        self, metric: Metric, strategy: str, baseline: str, partition: str = "", model: str = ""
    ) -> Difference | None:
        """Compare a strategy with the baseline on the cells that both have; None where there is none."""
        ours, theirs = self.of(metric.name, strategy, partition, model), self.of(metric.name, baseline)
        places = sorted(ours.keys() & theirs.keys())
        if not places or strategy == baseline:
            return None
        differences = np.array([ours[place] - theirs[place] for place in places])
        return Difference(
            estimate(differences.tolist()),
            int((differences * metric.better > 0).sum()),
            wilcoxon(differences),
        )

    def ranks(self, metric: Metric, strategies: Sequence[str]) -> dict[str, list[float]]:
        """Return each strategy's rank, 1 is best, in every cell that all of those with any result have finished.

        Equal figures share the mean of their ranks.
        """
        from scipy.stats import rankdata

        having = [name for name in strategies if self.of(metric.name, name)]
        if not having:
            return {}
        common = set.intersection(*(set(self.of(metric.name, name)) for name in having))
        found: dict[str, list[float]] = {name: [] for name in having}
        for place in sorted(common):
            ranks = rankdata([-metric.better * self.of(metric.name, name)[place] for name in having])
            for name, rank in zip(having, ranks, strict=True):
                found[name].append(float(rank))
        return found if common else {}

    def win_rates(self, metric: Metric, strategies: Sequence[str]) -> dict[tuple[str, str], float]:
        """Return for each pair the share of their common cells in which the first was better; a draw is half."""
        found = {}
        for first in strategies:
            for second in strategies:
                ours, theirs = self.of(metric.name, first), self.of(metric.name, second)
                places = ours.keys() & theirs.keys()
                if first == second or not places:
                    continue
                gains = [metric.better * (ours[place] - theirs[place]) for place in sorted(places)]
                found[first, second] = float(np.mean([(gain > 0) + 0.5 * (gain == 0) for gain in gains]))
        return found


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of at least one value and its bootstrap interval."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 1:
        return Estimate(float(array[0]), None, 1)
    # The same resamples for every figure, so that a table does not depend on the order of its columns.
    picks = numpy_stream(0, "bootstrap").integers(len(array), size=(_RESAMPLES, len(array)))
    low, high = np.quantile(array[picks].mean(axis=1), [0.025, 0.975])
    return Estimate(float(array.mean()), (float(low), float(high)), len(array))


def wilcoxon(differences: NDArray[np.float64]) -> float | None:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; None for fewer than six pairs, or none that differ.

    References
    ----------
    Wilcoxon 1945, https://doi.org/10.2307/3001968; Demšar 2006, JMLR 7, for comparing algorithms with it.
    """
    from scipy import stats

    if len(differences) < LEAST_PAIRS or not np.any(differences):
        return None
    return float(stats.wilcoxon(differences).pvalue)


def by_rank(results: Results, metric: Metric, strategies: Sequence[str]) -> list[str]:
    """Return strategies from the best mean rank to the worst; those without a common cell come last, as they were."""
    ranks: Mapping[str, list[float]] = results.ranks(metric, strategies)
    return sorted(
        strategies,
        key=lambda name: (float(np.mean(ranks[name])) if ranks.get(name) else np.inf, strategies.index(name)),
    )
