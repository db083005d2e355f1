"""What each hospital gains: the first thing that a hospital asks of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.report.curves import Estimate, Picture, draw_estimates
from server.report.numerals import figure, signed
from server.report.run_record import entries, interval, not_measured, number, section, text
from server.report.tables import (
    MOST_HOSPITALS,
    Body,
    Cell,
    Column,
    Table,
    missing,
    named,
    nothing,
    of_all_hospitals,
    value,
)
from server.report.tables import words as words_cell

_JUNK = {
    "own": "its own images",
    "own+permuted": "generated images with permuted labels",
    "own+gaussian": "images drawn from Gaussians",
}


def gain_sentence(gain: Mapping[str, Any]) -> str:
    """Say what a hospital gets: whose classifiers become better, whose worse, and of whom it cannot be told."""
    judged = [entry for entry in entries(gain, "hospitals") if entry.get("judged") is True]
    if not judged:
        return "No hospital could be judged: " + (not_measured(section(gain, "mean")) or "none is named") + "."
    kinds: dict[str, list[str]] = {"gain": [], "lose": [], "open": []}
    for entry in judged:
        kinds[_kind(_gain_of(entry))].append(text(entry, "name"))
    mean = section(gain, "mean", "balanced_accuracy")
    around = interval(mean, "whole_interval") or interval(mean, "test_interval")
    whose = f"the {len(judged)} hospitals" if len(judged) > 1 else "the one hospital that could be judged"
    verdict = {"gain": "gain", "lose": "lose", "open": "gain nothing that can be told from chance"}[_kind(mean)]
    sentences = [
        f"By generated images beside their own, classifiers of {whose} {verdict}: {signed(number(mean, 'mean'))}"
        f"{_between(around)} in balanced accuracy on all hospitals' test images, on average, above the best of what "
        "each could have without the generator."
    ]
    for kind, verb in (("gain", "gains"), ("lose", "loses")):
        if names := kinds[kind]:
            sentences.append(f"{_join(names)} {verb if len(names) == 1 else verb.removesuffix('s')}.")
    if kinds["open"] and len(judged) > 1:
        sentences.append(f"Of {_join(kinds['open'])} it cannot be told.")
    share = number(mean, "share_of_way_to_pooled")
    if share is not None:
        way = f"{100 * share:.0f} %".replace("-", "−")
        sentences.append(f"They cover {way} of the way from own images alone to all hospitals' images in one place.")
    return " ".join(sentences)


def _kind(entry: Mapping[str, Any]) -> str:
    around = interval(entry, "whole_interval") or interval(entry, "test_interval")
    if around is None:
        return "open"
    return "gain" if around[0] > 0 else "lose" if around[1] < 0 else "open"


def _gain_of(entry: Mapping[str, Any], view: str = "common", name: str = "balanced_accuracy") -> dict[str, Any]:
    return section(entry, "gain", view, name)


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _between(around: tuple[float, float] | None) -> str:
    return "" if around is None else f" [{signed(around[0])}, {signed(around[1])}]"


def _signed_cell(entry: Mapping[str, Any]) -> Cell:
    mean = number(entry, "mean")
    if mean is None:
        return nothing()
    around = interval(entry, "whole_interval") or interval(entry, "test_interval")
    over = text(entry, "over")
    return Cell(
        content=f"{signed(mean)}{_between(around)}",
        sort=mean,
        is_numeric=True,
        note=f"above {_JUNK[over]}" if over in _JUNK else "",
    )


def _hospital_row(entry: Mapping[str, Any]) -> list[Cell]:
    held = [str(name) for name in entry.get("held") or ()]
    judged = entry.get("judged")
    return [
        named(text(entry, "name"), f"has {', '.join(held)}" if judged is True else f"not judged: {judged}"),
        value(number(entry, "num_train_images"), "count"),
        *(
            value(number(entry, "arms", arm, "common", "balanced_accuracy", "mean"), "share")
            for arm in ("own", "own+synthetic")
        ),
        _signed_cell(_gain_of(entry)),
        _signed_cell(_gain_of(entry, "held")),
        _signed_cell(_gain_of(entry, "others")),
        _signed_cell(_gain_of(entry, "own")),
        _signed_cell(_gain_of(entry, "common", "macro_auroc")),
    ]


def gain_table(gain: Mapping[str, Any]) -> Table:
    """Lay out what each hospital has and gains."""
    hospitals = entries(gain, "hospitals")
    rows = [_hospital_row(entry) for entry in hospitals[:MOST_HOSPITALS]]
    mean = section(gain, "mean")
    if why := not_measured(mean):
        rows.append([named("Mean"), missing(why, span=8)])
    else:
        blank = [words_cell("") for _ in range(3)]
        rows.append(
            [
                named("Mean", f"of {number(mean, 'num_hospitals'):,} hospitals"),
                *blank,
                _signed_cell(section(mean, "balanced_accuracy")),
                *blank,
                _signed_cell(section(mean, "macro_auroc")),
            ]
        )
    pooled, federated = (
        figure(number(gain, "references", name, "common", "balanced_accuracy", "mean"))
        for name in ("pooled", "federated")
    )
    shown = of_all_hospitals(min(len(hospitals), MOST_HOSPITALS), len(hospitals), "that come first")
    return Table(
        name="gain",
        caption="Classifiers on a hospital's own images, with and without generated ones beside them",
        columns=(
            Column("Hospital", is_numeric=False),
            Column("Own images"),
            Column("Alone", "balanced accuracy"),
            Column("With generated", "balanced accuracy"),
            Column("Gain", "all test images"),
            Column("of classes it has"),
            Column("of other classes"),
            Column("on its own patients"),
            Column("Gain in AUROC", "all test images"),
        ),
        bodies=[Body(rows)],
        is_sortable=True,
        note="Intervals: 95 %, over test lesions and training seeds. For comparison, all hospitals' images in one "
        f"place reach {pooled}, a classifier that hospitals train by federated averaging {federated}. {shown}".strip(),
    )


def gain_picture(gain: Mapping[str, Any]) -> Picture | None:
    """Draw the gain of each hospital with its interval."""
    rows = []
    for entry in entries(gain, "hospitals")[:MOST_HOSPITALS]:
        found = _gain_of(entry)
        mean = number(found, "mean")
        if mean is not None:
            around = interval(found, "whole_interval") or interval(found, "test_interval")
            rows.append(Estimate(text(entry, "name"), mean, around, is_main=entry.get("judged") is True))
    return draw_estimates(
        "gain-picture",
        "What each hospital gains",
        rows,
        axis="gain in balanced accuracy, above the best without the generator",
        reference=("no gain", 0.0),
    )
