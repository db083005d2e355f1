"""Tables of a study: means over seeds, with intervals over seeds and, of classifiers, over test lesions too."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from federation.metrics.intervals import spread
from federation.metrics.resampling import resampled_intervals
from federation.seeding import numpy_stream
from server.evaluation.mixes import MIXES, REAL
from server.study.judging import figures_of, resampled_name, site_figure
from server.study.plan import KINDS, REGIMES, StudyPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DRAWS_OF_SEEDS = 100
"""For each resampled set of lesions: the ends of an interval are then known to about a hundredth of its width."""
RAW_COLUMNS = ("table", "regime", "kind", "seed", "classifier", "figure", "value")


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    label: str
    digits: int
    scale: float = 1.0
    """What a value is multiplied with when it is written."""
    bounds: tuple[float, float] = (-math.inf, math.inf)


_SHARE = (0.0, 1.0)
_AMOUNT = (0.0, math.inf)
FIDELITY = (
    Column("kid", "KID", 3),
    Column("second_kid", "KID, second opinion", 3),
    Column("fid", "FID", 1, bounds=_AMOUNT),
    Column("precision", "precision", 3, bounds=_SHARE),
    Column("density", "density", 3, bounds=_AMOUNT),
    Column("recall", "recall", 3, bounds=_SHARE),
    Column("coverage", "coverage", 3, bounds=_SHARE),
    Column("vendi", "Vendi score", 1, bounds=(1.0, math.inf)),
)
COSTS = (
    Column("seconds", "seconds to train", 0, bounds=_AMOUNT),
    Column("seconds_per_kimg", "seconds per 1,000 images", 2, bounds=_AMOUNT),
    Column("images", "images shown", 0),
    Column("bytes", "MB sent", 1, 1e-6),
)
ALL_CLASSES = (
    Column("all_classes[real]", "real images", 3, bounds=_SHARE),
    Column("all_classes[real+synthetic]", "real and synthetic", 3, bounds=_SHARE),
    Column("all_classes[synthetic]", "synthetic images", 3, bounds=_SHARE),
)
FIGURE_WORDS = {
    "f1": "F1",
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
}


@dataclass(frozen=True)
class Figure:
    """A figure of a line, over seeds."""

    mean: float
    values: dict[int, float]
    """By seed."""
    interval: tuple[float, float] | None
    """95 %. Of classifiers over test lesions and, with several seeds, over these; else Student's over seeds, and None
    with one."""


@dataclass(frozen=True)
class KeptRow:
    """A judged row as it is kept."""

    table: str
    regime: str
    kind: str
    seed: int
    record: Mapping[str, Any]
    resampled: Mapping[str, NDArray[np.float64]]

    @property
    def hospitals(self) -> list[str]:
        """Names of its generators."""
        return [generator["hospital"] for generator in self.record["generators"]]

    def sets(self, network: str, mix: str, figure: str) -> NDArray[np.float64]:
        """Return a figure in each resampled set, (r,): the mean over generators."""
        return np.mean([self.resampled[resampled_name(name, network, mix, figure)] for name in self.hospitals], axis=0)


class StudyResults:
    """What has been judged of a study.

    Parameters
    ----------
    plan
        The study.
    rows
        What there is; it need not be all.
    against
        The class that is told from the rest, by table.
    """

    def __init__(self, plan: StudyPlan, rows: Iterable[KeptRow], against: Mapping[str, str]) -> None:
        self.plan, self.rows, self.against = plan, list(rows), against

    def lines(self, table: str) -> list[tuple[str, str]]:
        """Return the regimes and kinds of a table of which something was judged, in their order."""
        there = {(row.regime, row.kind) for row in self.rows if row.table == table}
        return [(regime, kind) for kind in KINDS for regime in REGIMES if (regime, kind) in there]

    def networks(self, table: str) -> list[str]:
        """Return the classifiers that were trained for a table, in the order of the plan."""
        there = {name for row in self.rows if row.table == table for name in row.record["generators"][0]["mixes"]}
        return [name for name in self.plan.classifiers if name in there]

    def of(self, table: str, line: tuple[str, str]) -> list[KeptRow]:
        """Return the rows of a line, by seed."""
        found = [row for row in self.rows if (row.table, row.regime, row.kind) == (table, *line)]
        return sorted(found, key=lambda row: row.seed)

    def figure(self, table: str, line: tuple[str, str], column: Column) -> Figure | None:
        """Return a figure that has no test lesions resampled; None where no row has it."""
        values = {
            row.seed: found[column.name]
            for row in self.of(table, line)
            if column.name in (found := figures_of(row.record, ""))
        }
        return _over_seeds(values, column.bounds) if values else None

    def difference(self, table: str, first: tuple[str, str], second: tuple[str, str], name: str) -> Figure | None:
        """Return how much the first line's figure is above the second's, seed by seed; None where none has both."""
        ours, theirs = (
            {row.seed: figures_of(row.record, "").get(name) for row in self.of(table, line)} for line in (first, second)
        )
        values = {
            seed: value - other
            for seed, value in ours.items()
            if value is not None and (other := theirs.get(seed)) is not None
        }
        return _over_seeds(values, (-math.inf, math.inf)) if values else None

    def mix(
        self, table: str, line: tuple[str, str], network: str, mix: str, figure: str, *, above_real: bool = False
    ) -> Figure | None:
        """Return what classifiers of a mix reach, or by how much they are above those of real images alone."""
        rows = [row for row in self.of(table, line) if network in row.record["generators"][0]["mixes"]]
        if not rows:
            return None
        values: dict[int, float] = {}
        sets = []
        for row in rows:
            found = figures_of(row.record, network)
            base = found[f"{figure}[{REAL}]"] if above_real else 0.0
            values[row.seed] = found[f"{figure}[{mix}]"] - base
            own = row.sets(network, mix, figure)
            sets.append(own - row.sets(network, REAL, figure) if above_real else own)
        bounds = (-1.0, 1.0) if above_real else (0.0, 1.0)
        # Equal values have equal intervals, whichever row they stand in: the chance of seeds is drawn alike for all.
        stream = numpy_stream(0, "seeds, resampled")
        # Of two or three seeds it has so long tails that one draw for each set would leave the ends to chance.
        often = np.repeat(np.stack(sets, axis=1), _DRAWS_OF_SEEDS if len(sets) > 1 else 1, axis=0)
        intervals = resampled_intervals(often, stream, bounds=bounds)
        ends = intervals["whole_interval"] or intervals["test_interval"]
        return Figure(float(np.mean(list(values.values()))), values, None if ends is None else (ends[0], ends[1]))

    def real(self, table: str, column: Column) -> float | None:
        """Return what real images get in the generator's place: training images, or another half of a hospital's."""
        judged = next((row.record["generators"][0]["test"] for row in self.rows if row.table == table), None)
        if judged is None:
            return None
        found = dict(judged["real"]) | {
            site_figure(entry["name"]): entry.get("real_kid") for entry in judged.get("per_site", [])
        }
        if judged.get("second"):
            found["second_kid"] = judged["second"]["real"]["kid"]
        value = found.get(column.name)
        return None if value is None else float(value)

    def hospitals(self, table: str) -> list[Column]:
        """Return a column for the distance to each hospital's images, where a table has them."""
        names = {
            entry["name"]: None
            for row in self.rows
            if row.table == table
            for entry in row.record["generators"][0]["test"].get("per_site", [])
        }
        return [Column(site_figure(name), name, 3) for name in sorted(names)]

    def which_images(self, table: str) -> tuple[str, str]:
        """Say which images stand for each hospital, and which real ones are held against them."""
        judged = [row.record["generators"][0]["test"] for row in self.rows if row.table == table]
        said = judged[0] if judged else {}
        return str(said.get("per_site_say", "")), str(said.get("per_site_real_say", ""))

    def raw_csv(self) -> str:
        """Return every figure of every row."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(RAW_COLUMNS)
        for row in sorted(self.rows, key=lambda row: (row.table, row.regime, row.kind, row.seed)):
            place = (row.table, row.regime, row.kind, row.seed)
            plain = figures_of(row.record, "")
            writer.writerows((*place, "", name, repr(value)) for name, value in plain.items())
            for network in row.record["generators"][0]["mixes"]:
                of_mixes = figures_of(row.record, network).items() - plain.items()
                writer.writerows((*place, network, name, repr(value)) for name, value in sorted(of_mixes))
        return out.getvalue()


def _over_seeds(values: dict[int, float], bounds: tuple[float, float]) -> Figure:
    found = spread(list(values.values()), bounds=bounds)
    ends = found["interval"]
    return Figure(found["mean"], values, None if ends is None else (ends[0], ends[1]))


def sentences(results: StudyResults, table: str) -> Iterator[str]:
    """Yield what a table shows, in words: each with its figure, and that it is not told where it is not."""
    yield from fidelity_sentences(results, table)
    for network in results.networks(table):
        yield from mix_sentences(results, table, network)


def fidelity_sentences(results: StudyResults, table: str) -> Iterator[str]:
    """Yield who is closer to real images: the federation, one place or a hospital alone; a pair or one generator."""
    lines = results.lines(table)
    yield from _regime_sentences(results, table, lines)
    yield from _kind_sentences(results, table, lines)


_WHO = {
    "centralised": "one place with all images",
    "federated": "the federation",
    "alone": "a hospital alone (mean)",
}


def _regime_sentences(results: StudyResults, table: str, lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    for kind in KINDS:
        for first, second in (("federated", "centralised"), ("federated", "alone")):
            if (first, kind) in lines and (second, kind) in lines:
                yield from _pair_sentences(
                    f"{kind.capitalize()} generators", _WHO[first], _WHO[second],
                    results, table, ((first, kind), (second, kind)),
                )  # fmt: skip


def _kind_sentences(results: StudyResults, table: str, lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    for regime in REGIMES:
        pair = (regime, "unconditional"), (regime, "conditional")
        if all(line in lines for line in pair):
            yield from _pair_sentences(
                f"Trained by {_WHO[regime]}", "a pair of unconditional generators", "one conditional generator",
                results, table, pair,
            )  # fmt: skip


def _pair_sentences(
    where: str,
    first: str,
    second: str,
    results: StudyResults,
    table: str,
    lines: tuple[tuple[str, str], tuple[str, str]],
) -> Iterator[str]:
    """Yield how two lines differ in KID by both extractors, and in recall where that tells them apart."""
    said = []
    verdicts = []
    differences = [results.difference(table, *lines, name) for name in ("kid", "second_kid")]
    for found, by in zip(differences, ("first", "second"), strict=True):
        if found is None:
            continue
        said.append(f"{signed(found, 3)} by the {by} extractor")
        verdicts.append(_direction(found))
    told = {-1: f"{first} is closer to real images than {second}", 1: f"{second} is closer to real images than {first}"}
    agreed = verdicts[0] if len(set(verdicts)) == 1 else 0  # what one of the two sees is not told yet
    words = told.get(agreed, f"{first} and {second} are not told apart")
    if all(found is None or found.interval is None for found in differences):
        words = f"with one seed {first} and {second} cannot be told apart"
    if {-1, 1} <= set(verdicts):
        words = f"the extractors contradict each other on {first} and {second}"
    yield f"{where}: {words} (KID {', '.join(said)})."
    recall = results.difference(table, *lines, "recall")
    if recall is not None and _direction(recall):
        more, less = (first, second) if recall.mean > 0 else (second, first)
        yield f"{where}: {more} is more varied than {less} (recall of {first} {signed(recall, 3)})."


def _direction(found: Figure) -> int:
    """Return -1 or 1 where an interval excludes 0, else 0."""
    if found.interval is None or found.interval[0] <= 0 <= found.interval[1]:
        return 0
    return int(math.copysign(1, found.mean))


_ONE_SEED = "; these intervals are over test lesions, and the chance of a seed is in none"


def mix_sentences(results: StudyResults, table: str, network: str) -> Iterator[str]:
    """Yield what synthetic images do beside real ones, by who made them."""
    beside = [mix for mix in MIXES if mix not in (REAL, "synthetic")]
    for line in results.lines(table):
        found = {
            mix: results.mix(table, line, network, mix, "auroc", above_real=True) for mix in [*beside, "synthetic"]
        }
        if any(figure is None for figure in found.values()):
            continue
        helps = [mix for mix in beside if _direction(found[mix]) > 0]  # type: ignore[arg-type]
        harms = [mix for mix in beside if _direction(found[mix]) < 0]  # type: ignore[arg-type]
        what = f"{results.against[table]} against the rest, {network}, images of {_WHO[line[0]]}, {line[1]}"
        verdict = "synthetic images beside real ones neither help nor harm measurably"
        if helps or harms:
            parts = [f"help in {', '.join(helps)}" if helps else "", f"harm in {', '.join(harms)}" if harms else ""]
            verdict = f"synthetic images beside real ones {' and '.join(part for part in parts if part)}"
        several = all(figure is None or len(figure.values) > 1 for figure in found.values())
        if not several:
            verdict = "with one seed it cannot be told if synthetic images beside real ones help"
        differences = ", ".join(f"{mix} {signed(figure, 3)}" for mix, figure in found.items() if figure is not None)
        yield f"{what}: {verdict} (AUROC above real images alone: {differences}{'' if several else _ONE_SEED})."


def signed(found: Figure, digits: int) -> str:
    """Write a difference with its interval."""
    ends = "" if found.interval is None else f" [{found.interval[0]:+.{digits}f}, {found.interval[1]:+.{digits}f}]"
    return f"{found.mean:+.{digits}f}{ends}"


def written(found: Figure | None, column: Column) -> tuple[str, str]:
    """Return a figure's mean; and its values by seed with the interval."""
    if found is None:
        return "–", ""
    style = f",.{column.digits}f"
    values = list(found.values.values())
    said = []
    if len(values) > 1 and len(set(values)) > 1:
        said.append(f"({', '.join(format(value * column.scale, style) for value in values)})")
    if found.interval is not None and found.interval[0] != found.interval[1]:
        low, high = (end * column.scale for end in found.interval)
        said.append(f"[{low:{style}}, {high:{style}}]")
    return format(found.mean * column.scale, style), " ".join(said)
