"""Who holds what, and how each hospital fared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from server.report.judgements import (
    shorten,
)
from server.report.losses import losses_of
from server.report.numerals import MISSING, count, duration
from server.report.run_record import RunRecord, number, section, text
from server.report.tables import (
    MOST_HOSPITALS,
    Body,
    Column,
    Table,
    derived,
    named,
    of_all_hospitals,
    value,
    words,
)

_MOST_FAILURES = 60
_MOST_STRIP_ROUNDS = 120


def partition_table(record: RunRecord) -> Table | None:
    """Lay out training images by hospital and class, with divergences."""
    from data_partitions.heterogeneity import effective_classes, jensen_shannon_divergence, total_variation

    hospitals = section(record.partition, "hospitals")
    classes = list(dict.fromkeys(str(name) for entry in hospitals.values() for name in section(entry, "classes")))
    names = [name for name, entry in hospitals.items() if sum(_counts(entry, classes)) > 0]
    if not names or not classes:
        return None
    counts = np.array([_counts(hospitals[name], classes) for name in names], dtype=np.int64)
    jensen, total, effective = (
        measure(counts).tolist() for measure in (jensen_shannon_divergence, total_variation, effective_classes)
    )
    order = np.argsort(-counts.sum(axis=1), kind="stable")[:MOST_HOSPITALS]
    rows = []
    for place in sorted(order.tolist()) if len(names) <= MOST_HOSPITALS else order.tolist():
        images = int(counts[place].sum())
        rows.append(
            [
                named(names[place]),
                *(
                    value(number(hospitals[names[place]], "classes", name), "count", heat=int(held) / images)
                    for name, held in zip(classes, counts[place], strict=True)
                ),
                value(number(hospitals[names[place]], "images"), "count"),
                value(number(hospitals[names[place]], "groups"), "count"),
                derived(jensen[place], f"{jensen[place]:.3f}"),
                derived(total[place], f"{total[place]:.3f}"),
                derived(effective[place], f"{effective[place]:.2f}"),
            ]
        )
    return Table(
        name="partition",
        caption="Training images by hospital and class",
        columns=(
            Column("Hospital", is_numeric=False),
            *(Column(name) for name in classes),
            Column("Images"),
            Column("Groups", "patients or lesions"),
            Column("JSD", "0 alike, 1 apart"),
            Column("TV", "0 alike, 1 apart"),
            Column("Classes", "effective number"),
        ),
        bodies=[Body(rows)],
        is_sortable=True,
        note="Stronger colour: a larger share of the hospital's images. JSD and TV: Jensen-Shannon divergence and "
        "total variation of a hospital's classes from those of all hospitals. "
        + of_all_hospitals(len(rows), len(names), "with most images"),
    )


def _counts(entry: Any, classes: Sequence[str]) -> list[int]:
    return [int(number(entry, "classes", name) or 0) for name in classes]


def hospitals_table(record: RunRecord) -> Table | None:
    """Lay out how each hospital fared."""
    by_site: dict[str, list[dict[str, Any]]] = {}
    for line in record.hospitals:
        by_site.setdefault(text(line, "site"), []).append(line)
    if not by_site:
        return None
    losses = losses_of(record)
    rounds = sorted({int(number(line, "round") or 0) for line in record.hospitals})
    with_strip = len(rounds) <= _MOST_STRIP_ROUNDS
    # Those with troubles first, where not all can be shown.
    sites = sorted(by_site, key=lambda site: sum(text(line, "status") == "ok" for line in by_site[site]))
    shown = sorted(sites[:MOST_HOSPITALS])
    rows = []
    for site in shown:
        lines = by_site[site]
        good = [line for line in lines if text(line, "status") == "ok"]
        statuses = [text(line, "status") for line in lines]
        seconds = [found for line in good if (found := number(line, "seconds")) is not None]
        mean = sum(seconds) / len(seconds) if seconds else None
        last = good[-1] if good else {}
        rows.append(
            [
                named(site),
                *([words(_strip(lines, rounds))] if with_strip else []),
                derived(len(good), count(len(good))),
                *(derived(statuses.count(status), count(statuses.count(status))) for status in _TROUBLES),
                value(number(last, "num_training_images"), "count"),
                derived(mean, duration(mean)),
                *(value(number(last, key)) for key in losses),
            ]
        )
    return Table(
        name="hospitals",
        caption=f"Hospitals over {len(rounds):,} round{'' if len(rounds) == 1 else 's'}",
        columns=(
            Column("Hospital", is_numeric=False),
            *([Column("Rounds", f"{rounds[0]} to {rounds[-1]}", is_numeric=False)] if with_strip else []),
            Column("Used"),
            *(Column(status.capitalize()) for status in _TROUBLES),
            Column("Images held"),
            Column("Time of a round", "mean"),
            *(Column(label, "last") for label in losses.values()),
        ),
        bodies=[Body(rows)],
        is_sortable=True,
        note="Bar: reply used. Cross: the hospital failed. Square: its reply was refused. Ring: it was "
        "late. Dot: it was not asked. " + of_all_hospitals(len(shown), len(by_site), "with most troubles"),
    )


_TROUBLES = ("failed", "refused", "late")
_SIGNS = {status: status for status in ("ok", *_TROUBLES)}


def _strip(lines: Sequence[Mapping[str, Any]], rounds: Sequence[int]) -> Markup:
    """Draw the statuses of a hospital, a sign per round."""
    by_round = {int(number(line, "round") or 0): text(line, "status") for line in lines}
    signs = Markup("").join(
        Markup('<i class="{}"></i>').format(_SIGNS.get(by_round.get(entry, ""), "none")) for entry in rounds
    )
    used = sum(status == "ok" for status in by_round.values())
    return Markup('<span class="strip" role="img" aria-label="{} of {} replies used">{}</span>').format(
        used, len(by_round), signs
    )


def failures_table(record: RunRecord) -> Table | None:
    """Lay out why replies were not used."""
    found = [line for line in record.hospitals if text(line, "status") not in ("ok", "")]
    if not found:
        return None
    shown = found[-_MOST_FAILURES:]
    return Table(
        name="failures",
        caption="Replies that were not used, and why",
        columns=(
            Column("Round"),
            Column("Hospital", is_numeric=False),
            Column("Status", is_numeric=False),
            Column("Reason", is_numeric=False),
        ),
        bodies=[
            Body(
                [
                    [
                        value(number(line, "round"), "count"),
                        named(text(line, "site")),
                        words(text(line, "status")),
                        words(shorten(text(line, "reason")) or MISSING),
                    ]
                    for line in shown
                ]
            )
        ],
        is_sortable=True,
        note=("" if len(shown) == len(found) else f"The last {len(shown):,} of {len(found):,}. ")
        + "hospitals.jsonl has every reason in full.",
    )
