"""The leaderboard as csv, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from data_partitions.wording import counted
from federation.run_directory import read_json
from server.benchmark.cells import Outcome
from server.benchmark.figures import METRICS, Metric
from server.benchmark.plan import BUDGET_TOLERANCE, BUDGET_WORDS, BenchmarkPlan, trials
from server.benchmark.statistics import COVERAGE, LEAST_PAIRS, Difference, Estimate, Results, by_rank, holm

CellT = TypeVar("CellT")

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
    "seconds_federation",
)
"""Columns of the tables that a page has room for; the csv file has all."""

BY_CLASS_TITLE = "Generated images recognised as the class that was asked for"
_BY_CLASS = "recognised["


@dataclass(frozen=True)
class Line:
    """A strategy in the table."""

    strategy: str
    partition: str
    """Empty: over all."""
    model: str
    estimates: dict[str, Estimate]
    differences: dict[str, Difference]
    """To the baseline's, by metric; p-values hold for all strategies of the table together (Holm)."""
    mean_rank: float | None
    """By KID; 1 is best."""
    num_cells: int
    """Cells that it has finished, of those of the table."""
    is_whole: bool
    """Whether it has finished every one: the means of others are of other cells, and are not compared."""


@dataclass(frozen=True)
class Leaderboard:
    """A table over all cells, and one for each partition and model."""

    plan: BenchmarkPlan
    results: Results
    outcomes: Sequence[Outcome]
    metrics: tuple[Metric, ...]
    """Those that any cell has."""
    class_metrics: tuple[Metric, ...]
    """How often a generated image of each class is recognised as such; labelled by the class."""
    order: list[str]
    """Strategies, best first by mean rank of KID."""

    chosen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What tuning has chosen, by strategy."""
    _tables: dict[tuple[str, str], list[Line]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        plan: BenchmarkPlan,
        results: Results,
        outcomes: Sequence[Outcome],
        chosen: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Leaderboard:
        """Rank the strategies of a plan."""
        metrics = tuple(metric for metric in METRICS if metric.name in results.values)
        by_class = tuple(
            Metric(name, name.removeprefix(_BY_CLASS).removesuffix("]"), 1, "classes")
            for name in results.values
            if name.startswith(_BY_CLASS)
        )
        order = by_rank(results, METRICS[0], list(plan.strategies))
        return cls(plan, results, outcomes, metrics, by_class, order, chosen or {})

    def places(self) -> list[tuple[str, str]]:
        """Return partition and model of each table: over all first, then one by one where there are several.

        Only of cells that were judged by one extractor: KID is comparable under one alone.
        """
        each = [(partition, model) for partition in self.plan.partitions for model in self.plan.models]
        places = [("", ""), *(each if len(each) > 1 else [])]
        return [place for place in places if len(self.extractors(*place)) < 2]

    def lines(self, partition: str, model: str) -> list[Line]:
        """Return the strategies of one table."""
        if (partition, model) not in self._tables:
            self._tables[partition, model] = self._lines(partition, model)
        return self._tables[partition, model]

    def _lines(self, partition: str, model: str) -> list[Line]:
        ranks = self.results.ranks(METRICS[0], self.order, partition, model)
        planned = len(self.plan.seeds)
        planned *= 1 if partition else len(self.plan.partitions)
        planned *= 1 if model else len(self.plan.models)
        metrics = [
            metric
            for metric in (*self.metrics, *self.class_metrics)
            if partition or not self._is_of_mixed_kinds(metric)
        ]
        counts = {name: len(self.results.of(METRICS[0].name, name, partition, model)) for name in self.order}
        whole = {name: count == planned for name, count in counts.items()}
        differences = {metric.name: self._differences(metric, partition, model, whole) for metric in metrics}
        lines = []
        for strategy in self.order:
            estimates = {
                metric.name: found
                for metric in metrics
                if (found := self.results.estimate(metric.name, strategy, partition, model)) is not None
            }
            ranked = list(ranks.get(strategy, {}).values())
            lines.append(
                Line(
                    strategy,
                    partition,
                    model,
                    estimates,
                    {name: found[strategy] for name, found in differences.items() if strategy in found},
                    sum(ranked) / len(ranked) if ranked else None,
                    counts[strategy],
                    whole[strategy],
                )
            )
        return lines

    def _differences(
        self, metric: Metric, partition: str, model: str, whole: Mapping[str, bool]
    ) -> dict[str, Difference]:
        """Compare each strategy with the baseline; adjust the p-values for how many are compared.

        Where one of the two has failed in a cell there is none: the others are no fair draw.
        """
        found = {
            strategy: difference
            for strategy in self.order
            if (difference := self.results.difference(metric, strategy, self.plan.baseline, partition, model))
        }
        given = {
            name: one.p_value
            for name, one in found.items()
            if one.p_value is not None and whole[name] and whole[self.plan.baseline]
        }
        adjusted = holm(given)
        return {name: replace(one, p_value=adjusted.get(name)) for name, one in found.items()}

    def _is_of_mixed_kinds(self, metric: Metric) -> bool:
        """Say whether a figure is of other real images in one partition than in another."""
        return metric.name.startswith("kid_site") and len(self._kinds()) > 1

    def _kinds(self) -> dict[bool, str]:
        """Return whether hospitals are sites of the data, and what then stands for each."""
        return {
            outcome.cell.configuration.partition.scheme == "natural": str(outcome.summary["test"].get("per_site_say"))
            for outcome in self.outcomes
            if outcome.summary is not None
        }

    def extractors(self, partition: str = "", model: str = "") -> list[str]:
        """Return the extractors that the cells of a table were judged by; one, if all is well."""
        found = [
            str(outcome.summary["test"]["extractor"])
            for outcome in self.outcomes
            if outcome.summary is not None
            and partition in ("", outcome.cell.partition)
            and model in ("", outcome.cell.model)
        ]
        return list(dict.fromkeys(found))

    def whole_best(self, lines: Sequence[Line], metric: Metric) -> float | None:
        """Return the best mean of those strategies that have finished every cell of a table."""
        means = [line.estimates[metric.name].mean for line in lines if line.is_whole and metric.name in line.estimates]
        return max(means, key=lambda mean: metric.better * mean) if means and metric.better else None

    def failures(self) -> list[Outcome]:
        """Return the cells that failed."""
        return [outcome for outcome in self.outcomes if outcome.summary is None]

    def notes(self) -> list[str]:
        """Return what must stand beside the tables."""
        return [
            *self._notes_on_the_plan(),
            *self._notes_on_kid(),
            *self._notes_on_budgets(),
            *(f"Failed: {outcome.cell.key}: {outcome.reason}" for outcome in self.failures()),
        ]

    def _notes_on_the_plan(self) -> Iterator[str]:
        plan = self.plan
        num_cells = len(plan.seeds) * len(plan.partitions) * len(plan.models)
        yield (
            f"Equal {BUDGET_WORDS[plan.budget]}. Hyper-parameters: {plan.hyperparameters}. "
            f"{counted(len(plan.seeds), 'seed')}, {counted(len(plan.partitions), 'partition')}, "
            f"{counted(len(plan.models), 'model')}: {counted(num_cells, 'cell')} for each strategy."
        )
        if plan.tuning is not None:
            tried = {name: len(list(trials(table))) for name, table in plan.strategies.items() if "tune" in table}
            told = "; ".join(
                f"{name}: {counted(count, 'trial')}, chosen "
                + ", ".join(f"{key} = {value}" for key, value in self.chosen.get(name, {}).items())
                for name, count in tried.items()
            )
            others = ", ".join(name for name in plan.strategies if name not in tried)
            yield (
                f"Tuned by KID on validation images, {counted(plan.tuning.rounds, 'round')} a trial, on seed "
                f"{plan.tuning.seed}. {told}." + (f" Untuned: {others}." if others else "")
            )
        yield (
            "Test images, which nothing was chosen on. Mean over cells and 95 % bootstrap interval, seeds resampled "
            f"within each partition and model; differences are to {plan.baseline} on the same cells."
        )
        seeds = len(plan.seeds)
        if 2 <= seeds < 10:
            held = COVERAGE[max(number for number in COVERAGE if number <= seeds)]
            yield (
                f"Intervals over {seeds} seeds are too narrow: of normal values in one partition and model they hold "
                f"the mean {held:.0%} of the time. A partition is one draw, the same for all seeds."
            )
        lines = [line for place in self.places() for line in self.lines(*place)]
        pairs = [line.differences["kid"] for line in lines if "kid" in line.differences]
        if any(one.p_value is not None for one in pairs):
            yield (
                "p-values are of Wilcoxon's signed-rank test, adjusted for the number of strategies (Holm). They take "
                "pairs of one partition as independent, which they are not quite."
            )
        if not all(one.estimate.num_cells >= LEAST_PAIRS for one in pairs):
            yield f"No p-value is given for fewer than {LEAST_PAIRS} pairs."
        if seeds < 5:
            yield "Five seeds are the least for a published claim: fewer are a first look."
        counts = {name: len(self.results.of(METRICS[0].name, name)) for name in self.order}
        if any(count < num_cells for count in counts.values()):
            kept = ", ".join(f"{name} {count}/{num_cells}" for name, count in counts.items() if count < num_cells)
            yield (
                f"Not every cell was finished: {kept}. Means and differences of these are over the other cells, and "
                "they are never the best; ranks and win rates count a cell that failed as lost."
            )

    def _notes_on_kid(self) -> Iterator[str]:
        done = [outcome for outcome in self.outcomes if outcome.summary is not None]
        extractors = self.extractors()
        for extractor in extractors:
            summary = next(s for o in done if (s := o.summary) and s["test"]["extractor"] == extractor)
            test = summary["test"]
            yardsticks = ", ".join(
                f"{label} {summary[key]:.3g}"
                for label, key in (
                    ("halves of real images", "kid_floor"),
                    ("a Gaussian of pixels", "kid_pca_gaussian"),
                    ("the mean image", "kid_mean_image"),
                )
                if summary.get(key) is not None
            )
            yield (
                f"KID and its kin by {extractor}, {test['num_generated']:,} generated against {test['num_real']:,} "
                f"real images, {counted(test['num_draws'], 'draw')}. For comparison, by KID: {yardsticks}."
            )
        if len(extractors) > 1:
            yield "Cells of different extractors cannot be compared: there is no table of them together."
        if len(kinds := self._kinds()) > 1:
            yield (
                "KID of hospitals is against other images in one partition than in another, and not averaged over "
                f"them: {'; '.join(kinds.values())}."
            )
        commits = {found for o in done if (found := commit_of(o))}
        if len(commits) > 1:
            yield f"Cells ran on {len(commits)} versions of the code: {', '.join(sorted(c[:12] for c in commits))}."

    def _notes_on_budgets(self) -> Iterator[str]:
        """Say who in the end had another budget than the baseline: hospitals drop out, and rounds are whole."""
        plan = self.plan
        metric, unit = {
            "images": ("images", "images"),
            "evaluations": ("evaluations", "network evaluations"),
            "rounds": ("rounds", "rounds"),
            "bytes": ("megabytes", "MB"),
        }[plan.budget]
        theirs = self.results.of(metric, plan.baseline)
        for strategy in plan.strategies:
            ours = self.results.of(metric, strategy)
            off = {
                place: ours[place] / theirs[place] - 1
                for place in sorted(ours.keys() & theirs.keys())
                if ours[place] and theirs[place]
            }
            place = max(off, key=lambda place: abs(off[place]), default=None)
            if place is not None and abs(off[place]) > BUDGET_TOLERANCE:
                yield (
                    f"Not quite equal: {strategy} had {ours[place]:,.0f} {unit} where {plan.baseline} had "
                    f"{theirs[place]:,.0f} ({off[place]:+.0%}), on {place[0]}, {place[1]}, seed {place[2]}."
                )


def commit_of(outcome: Outcome) -> str:
    """Return the version of the code that a cell ran on; empty where it is not known."""
    path = outcome.directory.environment
    if not path.is_file():
        return ""
    return str(read_json(path).get("git_commit") or "")


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
            for metric in (*board.metrics, *board.class_metrics):
                found = line.estimates.get(metric.name)
                if found is None:
                    continue
                low, high = found.interval or ("", "")
                apart = line.differences.get(metric.name)
                compared: tuple[object, ...] = ("",) * 6
                if apart is not None:
                    ends = apart.estimate.interval or ("", "")
                    counts = ("" if one is None else one for one in (apart.wins, apart.p_value))
                    compared = (apart.estimate.mean, *ends, apart.estimate.num_cells, *counts)
                writer.writerow(
                    (
                        partition or "all", model or "all", line.strategy,
                        "" if line.mean_rank is None else line.mean_rank,
                        metric.name, found.mean, low, high, found.num_cells, *compared,
                    )
                )  # fmt: skip
    return out.getvalue()


def shown_metrics(board: Leaderboard, lines: Sequence[Line]) -> list[Metric]:
    """Return the columns of a table on a page: those that any of its lines has."""
    having = {name for line in lines for name in line.estimates}
    return [metric for metric in board.metrics if metric.name in SHOWN and metric.name in having]


def leading_cells(line: Line, *, with_cells: bool) -> list[str]:
    """Return what stands between a strategy's name and its figures: its rank and, where they differ, its cells."""
    rank = "–" if line.mean_rank is None else f"{line.mean_rank:.2f}"
    return [rank, *([str(line.num_cells)] if with_cells else [])]


def leading_heads(lines: Sequence[Line]) -> list[str]:
    """Return the heads of :func:`leading_cells`."""
    return ["rank", *(["cells"] if some_failed(lines) else [])]


def some_failed(lines: Sequence[Line]) -> bool:
    """Say whether a table must tell how many cells each line is of."""
    return any(not line.is_whole for line in lines)


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
    if found.wins is not None:
        text += f", better in {found.wins}/{found.estimate.num_cells}"
    return text + (f", p = {found.p_value:.3f}" if found.p_value is not None else "")


def title(partition: str, model: str) -> str:
    """Return the heading of a table."""
    return f"{partition}, {model}" if partition else "All cells"


def beside_kid(metrics: Sequence[Metric], cells: Iterable[CellT], difference: CellT) -> list[CellT]:
    """Return a row's cells, one for each metric, with the difference to the baseline after that of KID."""
    row = []
    for metric, cell in zip(metrics, cells, strict=True):
        row += [cell, difference] if metric.name == "kid" else [cell]
    return row


def difference_head(board: Leaderboard) -> str:
    """Return the head of the column of differences."""
    return f"KID − {board.plan.baseline}"


def markdown(board: Leaderboard) -> str:
    """Return the tables as Markdown."""
    parts = [f"# {board.plan.name}", *board.notes()]
    for partition, model in board.places():
        lines = board.lines(partition, model)
        metrics = shown_metrics(board, lines)
        labels = [metric.label for metric in metrics]
        heads = ["strategy", *leading_heads(lines), *beside_kid(metrics, labels, difference_head(board))]
        rows = [heads, ["---"] * len(heads)]
        for line in lines:
            leading = leading_cells(line, with_cells=some_failed(lines))
            found = [estimate_text(line.estimates.get(metric.name), metric.digits) for metric in metrics]
            difference = difference_text(line.differences.get("kid"))
            rows.append([line.strategy, *leading, *beside_kid(metrics, found, difference)])
        parts += [f"## {title(partition, model)}", _pipes(rows)]
        if board.class_metrics:
            heads = ["strategy", *(metric.label for metric in board.class_metrics)]
            rows = [heads, ["---"] * len(heads)]
            for line in lines:
                found = [estimate_text(line.estimates.get(metric.name), 3) for metric in board.class_metrics]
                rows.append([line.strategy, *found])
            parts += [f"### {BY_CLASS_TITLE}", _pipes(rows)]
    return "\n\n".join(parts) + "\n"


def _pipes(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


_TEX_SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"−": "$-$", "–": "--", "~": r"\textasciitilde{}"}
)

_ARROWS = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}


def tex(board: Leaderboard) -> str:
    """Return the first table as LaTeX, for the booktabs package; the best mean of each column is bold."""
    lines = board.lines(*board.places()[0]) if board.places() else []
    metrics = shown_metrics(board, lines)
    labels = [_tex(metric.label) + _ARROWS[metric.better] for metric in metrics]
    leading = map(_tex, ("strategy", *leading_heads(lines)))
    heads = [*leading, *beside_kid(metrics, labels, _tex(difference_head(board)))]
    best = {metric.name: board.whole_best(lines, metric) for metric in metrics}
    rows = []
    for line in lines:
        leading = map(_tex, (line.strategy, *leading_cells(line, with_cells=some_failed(lines))))
        cells = []
        for metric in metrics:
            found = line.estimates.get(metric.name)
            text = "--" if found is None else f"{found.mean:.{metric.digits}f}"
            if found is not None and line.is_whole and found.mean == best[metric.name]:
                text = rf"\textbf{{{text}}}"
            if found is not None and found.interval is not None:
                low, high = found.interval
                text += rf" {{\scriptsize [{low:.{metric.digits}f}, {high:.{metric.digits}f}]}}"
            cells.append(_tex_number(text))
        difference = _tex_difference(line.differences.get("kid"))
        rows.append(" & ".join([*leading, *beside_kid(metrics, cells, difference)]) + r" \\")
    notes = "\n".join(f"% {said}" for note in board.notes() for said in note.splitlines())
    body = "\n".join(rows)
    alignment = "l" + "r" * (len(heads) - 1)
    return (
        f"{notes}\n\\begin{{tabular}}{{{alignment}}}\n\\toprule\n{' & '.join(heads)} \\\\\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _tex_difference(found: Difference | None) -> str:
    if found is None:
        return "--"
    mean = f"{found.estimate.mean:+.3f}"
    rest = difference_text(found).removeprefix(mean).lstrip(" ,")
    return _tex_number(mean) + (rf" {{\scriptsize {_tex_number(_tex(rest))}}}" if rest else "")


def _tex_number(text: str) -> str:
    """Give negative numbers a minus sign where LaTeX would print a hyphen."""
    return re.sub(r"-(?=\d)", "$-$", text)


def _tex(text: str) -> str:
    return text.translate(_TEX_SIGNS)
