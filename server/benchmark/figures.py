"""What a finished cell is worth: figures by name, from its run directory."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.run_directory import RunDirectory, read_lines
from server.benchmark.cells import Outcome

RAW_COLUMNS = ("strategy", "partition", "model", "seed", "metric", "value")


UNBOUNDED = (-math.inf, math.inf)
_SHARE, _POSITIVE = (0.0, 1.0), (0.0, math.inf)


@dataclass(frozen=True)
class Metric:
    """A column of the leaderboard."""

    name: str
    label: str
    better: int
    """1: more is better; -1: less is; 0: neither, it is read against what real images get and never ranked."""
    group: str
    digits: int = 3
    bounds: tuple[float, float] = UNBOUNDED
    """The least and the greatest value that it can have."""


# One image repeated has a precision of 1 and twice the density of real images; a cloud of junk can have their Vendi
# score; AuthPct is highest for junk; one typical image of each class is recognised more often than real ones are.
METRICS = (
    Metric("kid", "KID", -1, "fidelity"),
    Metric("fid", "FID", -1, "fidelity", 1, _POSITIVE),
    Metric("precision", "precision", 0, "fidelity", bounds=_SHARE),
    Metric("density", "density", 0, "fidelity", bounds=_POSITIVE),
    Metric("recall", "recall", 1, "diversity", bounds=_SHARE),
    Metric("coverage", "coverage", 1, "diversity", bounds=_SHARE),
    Metric("vendi", "Vendi score", 0, "diversity", 2, (1.0, math.inf)),
    Metric("recognised", "recognised class", 0, "utility", bounds=_SHARE),
    Metric("utility_synthetic", "balanced accuracy, synthetic", 1, "utility", bounds=_SHARE),
    Metric("utility_gain", "balanced accuracy gained by adding synthetic", 1, "utility", bounds=(-1.0, 1.0)),
    Metric("gain_mean", "a hospital's gain, mean", 1, "utility", bounds=(-1.0, 1.0)),
    Metric("gain_worst", "a hospital's gain, least", 1, "utility", bounds=(-1.0, 1.0)),
    Metric("authentic", "authentic, %", 0, "authenticity", 1, (0.0, 100.0)),
    Metric("membership_auc", "membership AUC", 0, "authenticity", bounds=_SHARE),
    Metric("kid_site_mean", "KID, mean of hospitals", -1, "hospitals"),
    Metric("kid_site_worst", "KID, worst hospital", -1, "hospitals"),
    Metric("kid_site_excess_mean", "KID above own real images, mean of hospitals", -1, "hospitals"),
    Metric("kid_site_excess_worst", "KID above own real images, worst hospital", -1, "hospitals"),
    Metric("gain_over_alone", "KID gained over alone", 1, "hospitals"),
    Metric("gain_over_alone_worst", "KID gained over alone, worst hospital", 1, "hospitals"),
    Metric("megabytes", "MB sent", -1, "cost", 1, _POSITIVE),
    Metric("seconds_federation", "seconds to train and combine", -1, "cost", 0, _POSITIVE),
    Metric("images", "images shown", 0, "cost", 0, _POSITIVE),
    Metric("evaluations", "network evaluations", 0, "cost", 0, _POSITIVE),
)
"""In the order of the table; KID comes first, and ranks."""

OF_REAL = "real"
"""Of a figure that real images get in the generator's place: ``real[kid]``."""
_OWN = "kid_own"
_SITE = "kid_site"
_EXCESS = "kid_site_excess"


def cell_figures(outcome: Outcome) -> dict[str, float]:
    """Return the figures of a finished cell; what was not measured is left out."""
    summary = outcome.summary
    assert summary is not None
    found: dict[str, Any] = {"validation_kid": summary.get("kid"), "validation_kid_best": summary.get("best_kid")}
    test = summary["test"]
    found |= {name: test.get(name) for name in ("kid", "fid", "precision", "density", "recall", "coverage", "vendi")}
    partition = outcome.cell.configuration.partition
    # Centralised training has one hospital; who it stands for is known where hospitals are sites of the data.
    if partition.scheme == "natural" or partition.hospitals > 1:
        found |= dict(_of_hospitals(test))
    found |= dict(_of_utility(summary.get("utility", {})))
    found |= dict(_of_gain(summary.get("gain", {})))
    found |= dict(_of_authenticity(summary.get("authenticity", {})))
    found |= {f"{OF_REAL}[{name}]": value for name, value in _of_real(summary)}
    found |= dict(_of_cost(summary, outcome.directory, moves_bytes=partition.hospitals > 1))
    for yardstick in ("kid_floor", "kid_pca_gaussian", "kid_mean_image"):
        found[f"yardstick_{yardstick}"] = summary.get(yardstick)
    if "epsilon" in summary.get("strategy", {}):
        found["epsilon"] = summary["strategy"]["epsilon"]
    return {name: float(value) for name, value in found.items() if value is not None}


def _of_hospitals(test: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Yield how each hospital is served: by its own generator where it has one, else by the federation's."""
    own = {entry["name"]: entry for entry in test.get("own_generators", [])}
    sites = {entry["name"]: entry.get("kid") for entry in test.get("per_site", [])}
    for name in sites:
        if name in own:
            sites[name] = own[name].get("kid_site")
    known = {name: kid for name, kid in sites.items() if kid is not None}
    for name, kid in known.items():
        yield f"{_SITE}[{name}]", kid
    yield from _mean_and_worst(_SITE, known)
    own_real = _of_sites(test, "real_kid")
    excess = {name: kid - own_real[name] for name, kid in known.items() if name in own_real}
    for name, above in excess.items():
        yield f"{_EXCESS}[{name}]", above
    yield from _mean_and_worst(_EXCESS, excess)
    for name, entry in own.items():
        yield f"{_OWN}[{name}]", entry.get("kid")


def _of_sites(test: Mapping[str, Any], key: str) -> dict[str, float]:
    """Return a figure of each hospital that has it; cells of earlier versions lack what real images score."""
    return {entry["name"]: entry[key] for entry in test.get("per_site", []) if entry.get(key) is not None}


def _mean_and_worst(name: str, of_sites: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Yield the mean and the greatest of a distance over hospitals, where there are any."""
    if of_sites:
        yield f"{name}_mean", float(np.mean(list(of_sites.values())))
        yield f"{name}_worst", max(of_sites.values())


def _of_real(summary: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Yield what real images get in the generator's place: what a figure is read against."""
    test, utility, authenticity = (summary.get(key) or {} for key in ("test", "utility", "authenticity"))
    real = test.get("real") or {}
    yield from ((name, real[name]) for name in (metric.name for metric in METRICS) if name in real)
    everyone, own = _of_sites(test, "all_real_kid"), _of_sites(test, "real_kid")
    for name, kid in own.items():
        yield f"{_SITE}[{name}]", kid
    yield from _mean_and_worst(_SITE, everyone)
    yield from _mean_and_worst(_EXCESS, {name: kid - own[name] for name, kid in everyone.items() if name in own})
    arm = utility.get("arms", {}).get("real", {})
    score = _mean(arm.get("balanced_accuracy"))
    # How often its classifiers take a real test image for what it is.
    yield from (("utility_synthetic", score), ("recognised", score))
    for label, sensitivity in arm.get("sensitivity", {}).items():
        yield f"recognised[{label}]", _mean(sensitivity)
    yield "authentic", _mean(authenticity.get("auth_pct_control"))
    yield "membership_auc", _mean(authenticity.get("membership", {}).get("null_control", {}).get("auc"))


def _of_utility(utility: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    arms = utility.get("arms", {})
    scores = {name: _mean(arm.get("balanced_accuracy")) for name, arm in arms.items()}
    for name, score in scores.items():
        yield f"utility_{name.replace('+', '_')}", score
    if scores.get("real") is not None and scores.get("real+synthetic") is not None:
        yield "utility_gain", float(scores["real+synthetic"]) - float(scores["real"])  # type: ignore[arg-type]
    for name, arm in arms.items():
        for label, sensitivity in arm.get("sensitivity", {}).items():
            yield f"sensitivity_{name.replace('+', '_')}[{label}]", _mean(sensitivity)
    recognised = utility.get("recognised") or {}
    yield "recognised", _mean(recognised.get("mean"))
    for label, share in (recognised.get("share") or {}).items():
        yield f"recognised[{label}]", _mean(share)


def _of_gain(gain: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Yield what each hospital that is judged gains in balanced accuracy on all hospitals' test images."""
    gains = {
        entry["name"]: entry["gain"]["common"]["balanced_accuracy"]["mean"]
        for entry in gain.get("hospitals", [])
        if entry["judged"] is True
    }
    for name, value in gains.items():
        yield f"gain[{name}]", value
    if gains:
        yield "gain_mean", float(np.mean(list(gains.values())))
        yield "gain_worst", min(gains.values())


def _of_authenticity(authenticity: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    yield "authentic", _mean(authenticity.get("auth_pct"))
    yield "membership_auc", _mean(authenticity.get("membership", {}).get("generator", {}).get("auc"))


def _of_cost(
    summary: Mapping[str, Any], directory: RunDirectory, *, moves_bytes: bool
) -> Iterator[tuple[str, float | None]]:
    lines = read_lines(directory.hospitals)
    down = sum(line.get("bytes_down", 0) for line in lines)
    up = sum(line.get("bytes_up", 0) for line in lines)
    # One place that holds all images sends nothing.
    down, up = (down, up) if moves_bytes else (0, 0)
    yield "megabytes_down", down / 1e6
    yield "megabytes_up", up / 1e6
    yield "megabytes", (down + up) / 1e6
    yield "seconds", summary["seconds"]
    for work in ("training", "aggregation", "evaluation"):
        yield f"seconds_{work}", summary["seconds_by_work"].get(work)
    # Without what the first cells do for all: train the extractor, fill the caches.
    yield "seconds_federation", sum(summary["seconds_by_work"].get(work, 0.0) for work in ("training", "aggregation"))
    yield "images", summary["images"]
    # Cells of earlier versions counted images alone.
    yield "evaluations", summary.get("evaluations")
    yield "rounds", summary["rounds"]
    yield "server_megabytes", summary["peak_memory_bytes"]["server"] / 1e6


def _mean(value: Any) -> float | None:
    """Return a figure, or the mean of one that is given with its spread."""
    if isinstance(value, Mapping):
        value = value.get("mean", value.get("value"))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Row:
    """A line of raw.csv."""

    strategy: str
    partition: str
    model: str
    seed: int
    metric: str
    value: float


def raw_rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """Return every figure of every finished cell, and what each hospital gained over training alone."""
    done = [outcome for outcome in outcomes if outcome.summary is not None]
    figures = {outcome.cell.key: cell_figures(outcome) for outcome in done}
    alone = {
        outcome.cell.place: figures[outcome.cell.key]
        for outcome in done
        if outcome.cell.configuration.strategy.name == "alone"
    }
    rows = []
    for outcome in done:
        cell, found = outcome.cell, figures[outcome.cell.key]
        found |= gains_over_alone(found, alone.get(cell.place))
        rows += [
            Row(cell.strategy, cell.partition, cell.model, cell.seed, metric, value) for metric, value in found.items()
        ]
    return rows


def gains_over_alone(figures: Mapping[str, float], alone: Mapping[str, float] | None) -> dict[str, float]:
    """Return by how much KID against all test images is better for a hospital than what it reaches alone.

    Each hospital's own generator where it has one, else the federation's. Mean and least over hospitals.
    """
    if alone is None:
        return {}
    gains = []
    for name, kid in alone.items():
        if not name.startswith(_OWN + "["):
            continue
        reached = figures.get(name, figures.get("kid"))
        if reached is not None:
            gains.append(kid - reached)
    if not gains:
        return {}
    return {"gain_over_alone": float(np.mean(gains)), "gain_over_alone_worst": float(np.min(gains))}


def raw_csv(rows: Iterable[Row]) -> str:
    """Return the rows as csv."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(RAW_COLUMNS)
    for row in rows:
        writer.writerow([row.strategy, row.partition, row.model, row.seed, row.metric, repr(row.value)])
    return out.getvalue()
