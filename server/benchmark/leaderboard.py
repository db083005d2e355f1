"""The leaderboard as csv, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from data_partitions.wording import counted
from server.benchmark.cells import Outcome
from server.benchmark.figures import METRICS, Metric
from server.benchmark.plan import BenchmarkPlan
from server.benchmark.statistics import LEAST_PAIRS, Difference, Estimate, Results, by_rank

SHOWN = (
    "kid",
    "fid",
    "precision",
    "recall",
    "coverage",
    "recognised",
    "utility_synthetic",
    "authentic",
    "kid_site_worst",
    "gain_over_alone",
    "megabytes",
    "seconds",
)
"""Columns of the tables that a page has room for; the csv file has all."""


@dataclass(frozen=True)
class Line:
    """A strategy in the table."""

    strategy: str
    partition: str
    """Empty: over all."""
    model: str
    estimates: dict[str, Estimate]
    difference: Difference | None
    """Of KID to the baseline's."""
    mean_rank: float | None
    """By KID; 1 is best."""


@dataclass(frozen=True)
class Leaderboard:
    """A table over all cells, and one for each partition and model."""

    plan: BenchmarkPlan
    results: Results
    outcomes: Sequence[Outcome]
    metrics: tuple[Metric, ...]
    """Those that any cell has."""
    order: list[str]
    """Strategies, best first by mean rank of KID."""

    @classmethod
    def of(cls, plan: BenchmarkPlan, results: Results, outcomes: Sequence[Outcome]) -> Leaderboard:
        """Rank the strategies of a plan."""
        metrics = tuple(metric for metric in METRICS if metric.name in results.values)
        return cls(plan, results, outcomes, metrics, by_rank(results, METRICS[0], list(plan.strategies)))

    def places(self) -> list[tuple[str, str]]:
        """Return partition and model of each table: over all first, then one by one where there are several."""
        each = [(partition, model) for partition in self.plan.partitions for model in self.plan.models]
        return [("", ""), *(each if len(each) > 1 else [])]

    def lines(self, partition: str, model: str) -> list[Line]:
        """Return the strategies of one table."""
        ranks = self.results.ranks(METRICS[0], self.order)
        lines = []
        for strategy in self.order:
            estimates = {
                metric.name: found
                for metric in self.metrics
                if (found := self.results.estimate(metric.name, strategy, partition, model)) is not None
            }
            ranked = ranks.get(strategy, [])
            lines.append(
                Line(
                    strategy,
                    partition,
                    model,
                    estimates,
                    self.results.difference(METRICS[0], strategy, self.plan.baseline, partition, model),
                    sum(ranked) / len(ranked) if ranked and not partition else None,
                )
            )
        return lines

    def failures(self) -> list[Outcome]:
        """Return the cells that failed."""
        return [outcome for outcome in self.outcomes if outcome.summary is None]

    def notes(self) -> list[str]:
        """Return what must stand beside the tables."""
        plan = self.plan
        num_cells = len(plan.seeds) * len(plan.partitions) * len(plan.models)
        notes = [
            f"Equal {plan.budget}. Hyper-parameters: {plan.hyperparameters}. {counted(len(plan.seeds), 'seed')}, "
            f"{counted(len(plan.partitions), 'partition')}, {counted(len(plan.models), 'model')}: "
            f"{counted(num_cells, 'cell')} for each strategy.",
            "Test images, which nothing was chosen on. Mean over cells and 95 % bootstrap interval over cells; "
            f"differences are to {plan.baseline} on the same cells."
            + (f" No p-value is given for fewer than {LEAST_PAIRS} pairs." if num_cells < LEAST_PAIRS else ""),
        ]
        if len(plan.seeds) < 5:
            notes.append("Five seeds are the least for a published claim: fewer are a first look.")
        for outcome in self.failures():
            notes.append(f"Failed: {outcome.cell.key}: {outcome.reason}")
        return notes


def csv_table(board: Leaderboard) -> str:
    """Return every figure of every table as csv: a line for each strategy, partition, model and metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        (
            "partition", "model", "strategy", "mean_rank", "metric", "mean", "low", "high", "cells",
            "difference", "difference_low", "difference_high", "pairs", "wins", "p_value",
        )
    )  # fmt: skip
    for partition, model in board.places():
        for line in board.lines(partition, model):
            for metric in board.metrics:
                found = line.estimates.get(metric.name)
                if found is None:
                    continue
                low, high = found.interval or ("", "")
                apart = board.results.difference(metric, line.strategy, board.plan.baseline, partition, model)
                compared: tuple[object, ...] = ("",) * 6
                if apart is not None:
                    ends = apart.estimate.interval or ("", "")
                    p_value = "" if apart.p_value is None else apart.p_value
                    compared = (apart.estimate.mean, *ends, apart.estimate.num_cells, apart.wins, p_value)
                writer.writerow(
                    (
                        partition or "all", model or "all", line.strategy,
                        "" if line.mean_rank is None else line.mean_rank,
                        metric.name, found.mean, low, high, found.num_cells, *compared,
                    )
                )  # fmt: skip
    return out.getvalue()


def shown_metrics(board: Leaderboard) -> list[Metric]:
    """Return the columns of the tables on a page."""
    return [metric for metric in board.metrics if metric.name in SHOWN]


def estimate_text(found: Estimate | None, digits: int) -> str:
    """Return a mean with its interval."""
    if found is None:
        return "–"
    text = f"{found.mean:.{digits}f}"
    if found.interval is not None:
        text += f" [{found.interval[0]:.{digits}f}, {found.interval[1]:.{digits}f}]"
    return text


def difference_text(found: Difference | None) -> str:
    """Return a difference with its interval, wins and p-value."""
    if found is None:
        return "–"
    text = f"{found.estimate.mean:+.3f}"
    if found.estimate.interval is not None:
        text += f" [{found.estimate.interval[0]:+.3f}, {found.estimate.interval[1]:+.3f}]"
    text += f", better in {found.wins}/{found.estimate.num_cells}"
    return text + (f", p = {found.p_value:.3f}" if found.p_value is not None else "")


def _title(partition: str, model: str) -> str:
    return f"{partition}, {model}" if partition else "All cells"


def markdown(board: Leaderboard) -> str:
    """Return the tables as Markdown."""
    metrics = shown_metrics(board)
    parts = [f"# {board.plan.name}", *board.notes()]
    for partition, model in board.places():
        heads = ["strategy", "rank", *(metric.label for metric in metrics), f"KID − {board.plan.baseline}"]
        rows = [heads, ["---"] * len(heads)]
        for line in board.lines(partition, model):
            rows.append(
                [
                    line.strategy,
                    "–" if line.mean_rank is None else f"{line.mean_rank:.2f}",
                    *(estimate_text(line.estimates.get(metric.name), metric.digits) for metric in metrics),
                    difference_text(line.difference),
                ]
            )
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        parts += [f"## {_title(partition, model)}", table]
    return "\n\n".join(parts) + "\n"


_TEX_SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"−": "$-$", "–": "--", "~": r"\textasciitilde{}"}
)


def tex(board: Leaderboard) -> str:
    """Return the table over all cells as LaTeX, for the booktabs package; the best mean of each column is bold."""
    metrics = shown_metrics(board)
    lines = board.lines("", "")
    heads = [_tex(name) for name in ("strategy", "rank", *(_arrow(metric) for metric in metrics))]
    rows = []
    for line in lines:
        cells = [_tex(line.strategy), "--" if line.mean_rank is None else f"{line.mean_rank:.2f}"]
        for metric in metrics:
            found = line.estimates.get(metric.name)
            means = [other.estimates[metric.name].mean for other in lines if metric.name in other.estimates]
            text = "--" if found is None else f"{found.mean:.{metric.digits}f}"
            if found is not None and metric.better and found.mean == max(means, key=lambda mean: metric.better * mean):
                text = rf"\textbf{{{text}}}"
            if found is not None and found.interval is not None:
                low, high = found.interval
                text += rf" {{\scriptsize [{low:.{metric.digits}f}, {high:.{metric.digits}f}]}}"
            cells.append(text)
        rows.append(" & ".join(cells) + r" \\")
    notes = "\n".join(f"% {note}" for note in board.notes())
    body = "\n".join(rows)
    return (
        f"{notes}\n\\begin{{tabular}}{{ll{'r' * len(metrics)}}}\n\\toprule\n{' & '.join(heads)} \\\\\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _arrow(metric: Metric) -> str:
    return metric.label + {1: " (up)", -1: " (down)", 0: ""}[metric.better]


def _tex(text: str) -> str:
    return text.translate(_TEX_SIGNS).replace("(up)", r"$\uparrow$").replace("(down)", r"$\downarrow$")
