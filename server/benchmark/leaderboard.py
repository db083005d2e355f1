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
from server.benchmark.figures import METRICS, OF_REAL, Metric
from server.benchmark.plan import BUDGET_TOLERANCE, BUDGET_WORDS, BenchmarkPlan, trials
from server.benchmark.statistics import SIGNIFICANT, Difference, Estimate, Results, by_rank, holm
from server.benchmark.wording import (
    MISSING,
    MOST_VALUES,
    difference_parts,
    difference_text,
    estimate_parts,
    estimate_text,
    verdict,
)

CellT = TypeVar("CellT")

SHOWN = (
    "kid",
    "fid",
    "precision",
    "recall",
    "coverage",
    "recognised",
    "utility_synthetic",
    "gain_mean",
    "gain_worst",
    "authentic",
    "kid_site_worst",
    "kid_site_excess_worst",
    "gain_over_alone",
    "megabytes",
    "seconds_federation",
)
"""Columns of the tables that a page has room for; the csv file has all."""

REAL_IMAGES = "real images"
"""The last line of a table: no strategy, but what its figures are read against."""

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
            # No direction: a generator that draws one class whatever is asked for has a share of 1 there.
            Metric(name, name.removeprefix(_BY_CLASS).removesuffix("]"), 0, "classes", bounds=(0.0, 1.0))
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
                if (found := self.results.estimate(metric, strategy, partition, model)) is not None
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
        compared = {
            name: one
            for name, one in found.items()
            if one.p_value is not None and whole[name] and whole[self.plan.baseline]
        }
        adjusted = holm({name: one.p_value for name, one in compared.items() if one.p_value is not None})
        # Of the least values it is the least that could have come out adjusted.
        least = holm({name: one.least_p for name, one in compared.items() if one.least_p is not None})
        return {name: replace(one, p_value=adjusted.get(name), least_p=least.get(name)) for name, one in found.items()}

    def verdict(self, partition: str, model: str) -> str:
        """Say who is told apart from the baseline by KID in a table, and if nobody is, whether anybody could be."""
        lines = self.lines(partition, model)
        places = (1 if partition else len(self.plan.partitions)) * (1 if model else len(self.plan.models))
        found = {line.strategy: line.differences["kid"] for line in lines if "kid" in line.differences}
        return verdict(found, self.plan.baseline, places)

    def of_real_images(self, metric: Metric, partition: str, model: str) -> float | None:
        """Return what real images get in the generator's place, mean over all cells of a table that say it."""
        if not partition and self._is_of_mixed_kinds(metric):
            return None
        found = [
            value
            for strategy in self.order
            for value in self.results.of(f"{OF_REAL}[{metric.name}]", strategy, partition, model).values()
        ]
        return sum(found) / len(found) if found else None

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
        means = [
            found.mean
            for line in lines
            if line.is_whole and (found := line.estimates.get(metric.name)) and found.num_cells == line.num_cells
        ]
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
        yield from self._notes_on_statistics()
        counts = {name: len(self.results.of(METRICS[0].name, name)) for name in self.order}
        if any(count < num_cells for count in counts.values()):
            kept = ", ".join(f"{name} {count}/{num_cells}" for name, count in counts.items() if count < num_cells)
            yield (
                f"Not every cell was finished: {kept}. Means and differences of these are over the other cells, and "
                "they are never the best; ranks and win rates count a cell that failed as lost."
            )

    def _images_judged_on(self) -> str:
        parts = {outcome.cell.configuration.evaluation.part for outcome in self.outcomes}
        return (
            "Validation images: a choice, and no result"
            if "validation" in parts
            else ("Test images, which nothing was chosen on")
        )

    def _notes_on_statistics(self) -> Iterator[str]:
        plan = self.plan
        several = len(plan.partitions) * len(plan.models) > 1
        said = f"{self._images_judged_on()}. Mean over cells"
        if 1 < len(plan.seeds) <= MOST_VALUES:
            said += f"; in parentheses the values of seeds {', '.join(map(str, plan.seeds))}, in this order"
            said += ", in the tables of one partition and model" if several else ""
        if len(plan.seeds) > 1:
            said += "; in brackets the 95 % t interval over seeds, cut where a figure ends"
            said += " (of several partitions and models together Welch's)" if several else ""
        yield (
            f"{said}. Differences are to {plan.baseline} on the same cells. A partition is one draw, the same for all "
            "seeds."
        )
        yield (
            "p-values are of Wilcoxon's signed-rank test, adjusted for the number of strategies (Holm) and not for "
            f"that of figures; beside each stands the least that was possible. Below {SIGNIFICANT} two strategies are "
            "told apart; the best mean of a column is marked whether they are or not. The interval of a difference is "
            "of one comparison by itself, as if seeds were normal. Pairs of one partition are taken as independent, "
            "which they are not quite."
        )
        if any(name.startswith(f"{OF_REAL}[") for name in self.results.values):
            yield (
                f"The line of {REAL_IMAGES} is what figures are read against: training images in the generator's "
                "place. Of AuthPct it is its control, of recognised classes and synthetic images what classifiers of "
                "real images make of real test images, of hospitals the real images of all of them. Precision, "
                "recognised classes and AuthPct have no best: one image repeated, or junk, has more of them than real "
                "images."
            )
        if len(plan.seeds) < 5:
            yield "Five seeds are the least for a published claim: fewer are a first look."

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
            "difference", "difference_low", "difference_high", "pairs", "wins", "p_value", "least_p", "real",
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
                compared: tuple[object, ...] = ("",) * 7
                if apart is not None:
                    ends = apart.estimate.interval or ("", "")
                    counts = ("" if one is None else one for one in (apart.wins, apart.p_value, apart.least_p))
                    compared = (apart.estimate.mean, *ends, apart.estimate.num_cells, *counts)
                real = board.of_real_images(metric, partition, model)
                writer.writerow(
                    (
                        partition or "all", model or "all", line.strategy,
                        "" if line.mean_rank is None else line.mean_rank,
                        metric.name, found.mean, low, high, found.num_cells, *compared,
                        "" if real is None else real,
                    )
                )  # fmt: skip
    return out.getvalue()


def shown_metrics(board: Leaderboard, lines: Sequence[Line]) -> list[Metric]:
    """Return the columns of a table on a page: those that any of its lines has.

    How far hospitals are stands above what their own real images get, where cells know it.
    """
    having = {name for line in lines for name in line.estimates}
    if "kid_site_excess_worst" in having:
        having.discard("kid_site_worst")
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


def real_cells(board: Leaderboard, metrics: Sequence[Metric], partition: str, model: str) -> list[str]:
    """Return what real images get for each of the metrics; empty where nothing is known of any."""
    found = [board.of_real_images(metric, partition, model) for metric in metrics]
    if all(value is None for value in found):
        return []
    return [
        MISSING if value is None else f"{value:.{metric.digits}f}" for metric, value in zip(metrics, found, strict=True)
    ]


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
    for place in board.places():
        parts += [f"## {title(*place)}", *filter(None, [board.verdict(*place)]), _pipes(_main_rows(board, *place))]
        if board.class_metrics:
            parts += [f"### {BY_CLASS_TITLE}", _pipes(_class_rows(board, *place))]
    return "\n\n".join(parts) + "\n"


def _main_rows(board: Leaderboard, partition: str, model: str) -> list[list[str]]:
    lines = board.lines(partition, model)
    metrics, seeds = shown_metrics(board, lines), board.plan.seeds
    labels = [metric.label for metric in metrics]
    heads = ["strategy", *leading_heads(lines), *beside_kid(metrics, labels, difference_head(board))]
    rows = [heads, ["---"] * len(heads)]
    for line in lines:
        leading = leading_cells(line, with_cells=some_failed(lines))
        found = [estimate_text(line.estimates.get(metric.name), metric.digits, seeds) for metric in metrics]
        difference = difference_text(line.differences.get("kid"), seeds)
        rows.append([line.strategy, *leading, *beside_kid(metrics, found, difference)])
    if real := real_cells(board, metrics, partition, model):
        rows.append([f"*{REAL_IMAGES}*", *[MISSING] * len(leading_heads(lines)), *beside_kid(metrics, real, MISSING)])
    return rows


def _class_rows(board: Leaderboard, partition: str, model: str) -> list[list[str]]:
    metrics = board.class_metrics
    heads = ["strategy", *(metric.label for metric in metrics)]
    rows = [heads, ["---"] * len(heads)]
    for line in board.lines(partition, model):
        found = [estimate_text(line.estimates.get(metric.name), 3, board.plan.seeds) for metric in metrics]
        rows.append([line.strategy, *found])
    if real := real_cells(board, metrics, partition, model):
        rows.append([f"*{REAL_IMAGES}*", *real])
    return rows


def _pipes(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


_TEX_SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"−": "$-$", "–": "--", "<": "$<$", "~": r"\textasciitilde{}"}
)

_ARROWS = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}


def tex(board: Leaderboard) -> str:
    """Return the first table as LaTeX, for the booktabs package; the best mean of each column is bold."""
    place = board.places()[0] if board.places() else ("", "")
    lines = board.lines(*place) if board.places() else []
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
            mean, rest = estimate_parts(found, metric.digits, board.plan.seeds)
            is_best = found is not None and line.is_whole and found.mean == best[metric.name]
            cells.append(_tex_figure(rf"\textbf{{{mean}}}" if is_best else mean, rest))
        difference = _tex_figure(*difference_parts(line.differences.get("kid"), board.plan.seeds))
        rows.append(" & ".join([*leading, *beside_kid(metrics, cells, difference)]) + r" \\")
    if real := real_cells(board, metrics, *place) if lines else []:
        texts = [*[MISSING] * len(leading_heads(lines)), *beside_kid(metrics, real, MISSING)]
        cells = [_tex_number(_tex(text)) for text in texts]
        rows += [r"\midrule", " & ".join([REAL_IMAGES, *cells]) + r" \\"]
    said = [*board.notes(), *filter(None, [board.verdict(*place) if lines else ""])]
    notes = "\n".join(f"% {line}" for note in said for line in note.splitlines())
    body = "\n".join(rows)
    alignment = "l" + "r" * (len(heads) - 1)
    return (
        f"{notes}\n\\begin{{tabular}}{{{alignment}}}\n\\toprule\n{' & '.join(heads)} \\\\\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _tex_figure(value: str, rest: str) -> str:
    """Return a figure with what stands beside it in small print."""
    if value == MISSING:
        return "--"
    return _tex_number(value) + (rf" {{\scriptsize {_tex_number(_tex(rest))}}}" if rest else "")


def _tex_number(text: str) -> str:
    """Give negative numbers a minus sign where LaTeX would print a hyphen."""
    return re.sub(r"-(?=\d)", "$-$", text)


def _tex(text: str) -> str:
    return text.translate(_TEX_SIGNS)
