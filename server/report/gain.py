"""What each hospital gains: the first thing that a hospital asks of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from server.report.curves import Estimate, Picture, draw_estimates
from server.report.numerals import figure
from server.report.run_record import entries, interval, not_measured, number, section, text, widest_interval
from server.report.tables import (
    MOST_HOSPITALS,
    Body,
    Cell,
    Column,
    Table,
    difference_cell,
    difference_words,
    missing,
    named,
    of_all_hospitals,
    value,
)
from server.report.tables import words as words_cell

_NOTHING = ("gains nothing", "gain nothing")
_JUNK = {
    "own": "own images",
    "own+permuted": "permuted labels",
    "own+gaussian": "Gaussians",
}


def gain_sentence(gain: Mapping[str, Any]) -> str:
    """Say what a hospital gets: whose classifiers become better, whose worse, and of whom it cannot be told."""
    judged = [entry for entry in entries(gain, "hospitals") if entry.get("judged") is True]
    if not judged:
        return "No hospital could be judged: " + (not_measured(section(gain, "mean")) or "none is named") + "."
    kinds: dict[str, list[str]] = {"gain": [], "lose": [], "nothing": [], "open": []}
    for entry in judged:
        kinds[_kind(_gain_of(entry))].append(text(entry, "name"))
    mean = section(gain, "mean", "balanced_accuracy")
    whose = f"the {len(judged)} hospitals" if len(judged) > 1 else "the one hospital that could be judged"
    verdict = {
        "gain": "gain",
        "lose": "lose",
        "nothing": "gain nothing",
        "open": "gain nothing that can be told from chance",
    }[_kind(mean)]
    part = text(gain, "part") or "test"
    sentences = [
        f"By generated images beside their own, classifiers of {whose} {verdict}: {difference_words(mean)} in balanced "
        f"accuracy on all hospitals' {part} images, on average, above the best of own images, permuted labels and "
        "Gaussians."
    ]
    for kind, verb, verbs in (("gain", "gains", "gain"), ("lose", "loses", "lose"), ("nothing", *_NOTHING)):
        if names := kinds[kind]:
            sentences.append(f"{_join(names)} {verb if len(names) == 1 else verbs}.")
    if kinds["open"] and len(judged) > 1:
        sentences.append(f"Of {_join(kinds['open'])} it cannot be told.")
    sentences += _beside_others(gain, judged)
    return " ".join(sentences)


def _beside_others(gain: Mapping[str, Any], judged: list[dict[str, Any]]) -> Iterator[str]:
    """Say what is better than generated images beside own ones, and how far these go."""
    mean = section(gain, "mean", "balanced_accuracy")
    share, junk = number(mean, "share_of_way_to_pooled"), number(mean, "share_of_best_junk")
    if share is not None and junk is not None and _kind(mean) == "gain":
        yield (
            f"They cover {_percent(share)} of the way from own images alone to all hospitals' images in one place; the "
            f"best of what needs no generator covers {_percent(junk)}."
        )
    reached = [number(entry, "arms", "own+synthetic", "common", "balanced_accuracy", "mean") for entry in judged]
    federated = number(gain, "references", "federated", "common", "balanced_accuracy", "mean")
    known = [amount for amount in reached if amount is not None]
    if federated is not None and known and federated > sum(known) / len(known):
        yield (
            f"A classifier that hospitals train by federated averaging reaches {figure(federated)} without a "
            f"generator, more than theirs with one ({figure(sum(known) / len(known))})."
        )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def _kind(entry: Mapping[str, Any]) -> str:
    """Return ``gain``; ``lose``, against own images; ``nothing``, where junk is better; ``open``, as with one seed."""
    above, above_own = interval(entry, "whole_interval"), interval(entry, "over_own", "whole_interval")
    if above is None:
        return "open"
    if above[0] > 0:
        return "gain"
    if above_own is not None and above_own[1] < 0:
        return "lose"
    return "nothing" if above[1] < 0 else "open"


def _gain_of(entry: Mapping[str, Any], view: str = "common", name: str = "balanced_accuracy") -> dict[str, Any]:
    return section(entry, "gain", view, name)


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _gain_cell(entry: Mapping[str, Any]) -> Cell:
    over = text(entry, "over")
    return difference_cell(entry, note=f"above {_JUNK[over]}" if over in _JUNK else "")


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
        _gain_cell(_gain_of(entry)),
        _gain_cell(_gain_of(entry, "held")),
        _gain_cell(_gain_of(entry, "others")),
        _gain_cell(_gain_of(entry, "own")),
        _gain_cell(_gain_of(entry, "common", "macro_auroc")),
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
                _gain_cell(section(mean, "balanced_accuracy")),
                *blank,
                _gain_cell(section(mean, "macro_auroc")),
            ]
        )
    pooled, federated = (
        figure(number(gain, "references", name, "common", "balanced_accuracy", "mean"))
        for name in ("pooled", "federated")
    )
    seeds = " and training seeds" if (number(gain, "num_seeds") or 1) > 1 else ""
    part = text(gain, "part") or "test"
    shown = of_all_hospitals(min(len(hospitals), MOST_HOSPITALS), len(hospitals), "that come first")
    return Table(
        name="gain",
        caption="Classifiers on a hospital's own images, with and without generated ones beside them",
        columns=(
            Column("Hospital", is_numeric=False),
            Column("Own images"),
            Column("Alone", "balanced accuracy"),
            Column("With generated", "balanced accuracy"),
            Column("Gain", f"all {part} images"),
            Column("of classes it has", "told from each other"),
            Column("of other classes"),
            Column("on its own patients"),
            Column("Gain in AUROC", f"all {part} images"),
        ),
        bodies=[Body(rows)],
        is_sortable=True,
        note=f"Intervals: 95 %, over test lesions{seeds}; one generator is judged. For comparison, all hospitals' "
        f"images in one place reach {pooled}, a classifier that hospitals train by federated averaging {federated}. "
        f"{shown}".strip(),
    )


def gain_picture(gain: Mapping[str, Any]) -> Picture | None:
    """Draw the gain of each hospital with its interval."""
    rows = []
    for entry in entries(gain, "hospitals")[:MOST_HOSPITALS]:
        found = _gain_of(entry)
        mean = number(found, "mean")
        if mean is not None:
            rows.append(
                Estimate(text(entry, "name"), mean, widest_interval(found), is_main=entry.get("judged") is True)
            )
    return draw_estimates(
        "gain-picture",
        "What each hospital gains",
        rows,
        axis="gain in balanced accuracy",
        reference=("no gain", 0.0),
    )
