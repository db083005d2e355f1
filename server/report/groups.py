"""Figures of each class and of each hospital."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.report.numerals import figure, with_interval
from server.report.run_record import RunRecord, entries, interval, not_measured, number, section, text
from server.report.scores import BETTER, SCORES
from server.report.tables import (
    MOST_HOSPITALS,
    Body,
    Cell,
    Column,
    Table,
    derived,
    log_heat,
    missing,
    named,
    value,
)


def groups_table(record: RunRecord, key: str, heading: str) -> Table | str:
    """Lay out the test figures of each class or hospital, or say why there are none."""
    test = section(record.summary, "test")
    why = record.why_missing("test")
    if why:
        return _validation_table(record, key, heading, why) or why
    found = entries(test, key)[:MOST_HOSPITALS]
    if not found:
        return not_measured(test.get(key)) or "summary.json holds no such figures."
    names = [name for name in SCORES if any(name in entry for entry in found)]
    if not names:
        names = ["kid"]
    real_columns = [column for column in _REAL_COLUMNS if any(_real_kid(entry, column) is not None for entry in found)]
    heats = {
        name: _distance_from_real(name, [number(entry, name) for entry in found], number(test, "real", name))
        for name in names
    }
    rows = []
    for place, entry in enumerate(found):
        head = [
            named(text(entry, "name")),
            value(number(entry, "num_real"), "count"),
            *([value(number(entry, "num_generated"), "count")] if key == "per_class" else []),
        ]
        if not_measured(entry):
            rows.append([*head, missing(not_measured(entry), span=len(names) + len(real_columns))])
            continue
        cells = []
        for name in names:
            amount, around = number(entry, name), interval(entry, f"{name}_interval")
            cells.append(
                Cell(content=with_interval(amount, around), sort=amount, heat=heats[name][place], is_numeric=True)
            )
            if name == "kid":
                cells += [_real_cell(entry, column) for column in real_columns]
        rows.append([*head, *cells])
    columns = [
        Column(heading, is_numeric=False),
        Column("Real images"),
        *([Column("Generated")] if key == "per_class" else []),
    ]
    for name in names:
        columns.append(Column(SCORES[name][0], BETTER[SCORES[name][1]]))
        if name == "kid":
            columns += [Column(*_REAL_COLUMNS[column]) for column in real_columns]
    say, real_say = text(test, f"{key}_say"), text(test, f"{key}_real_say")
    return Table(
        name=key.replace("_", "-"),
        caption=f"Test figures of each {heading.lower()} ({text(test, 'extractor')})",
        columns=columns,
        bodies=[Body(rows)],
        is_sortable=True,
        note=(f"Reference: {say}. " if say else "")
        + (f"Real images in the generator's place: {real_say} {_READ_SITES} " if real_columns and real_say else "")
        + "Stronger colour: farther from real images, within the column; KID and FID on a logarithmic scale.",
    )


_REAL_COLUMNS = {
    "excess": ("KID above own real", "0 is as its own real images"),
    "real_kid": ("KID of its own real images", ""),
    "all_real_kid": ("KID of all hospitals' real images", ""),
}
"""What a hospital's KID is read against: heading and how it is read, by the key of the summary."""

_READ_SITES = (
    "A hospital is far from others' images where it differs from them, as the last of the three says: that is its own, "
    "and no fault of the generator."
)


def _real_kid(entry: Any, column: str) -> float | None:
    if column != "excess":
        return number(entry, column)
    kid, real = number(entry, "kid"), number(entry, "real_kid")
    return None if kid is None or real is None else kid - real


def _real_cell(entry: Any, column: str) -> Cell:
    amount = _real_kid(entry, column)
    return derived(amount, figure(amount)) if column == "excess" else value(amount)


def _validation_table(record: RunRecord, key: str, heading: str, why: str) -> Table | None:
    """Lay out the last validation KID of each class or hospital, where a run has no test figures."""
    source = {"per_class": "kid_by_class", "per_site": "kid_by_site"}[key]
    last = record.scores[-1] if record.scores else {}
    by_name = section(last, source)
    if not by_name:
        return None
    amounts = {str(name): number(by_name, name) for name in list(by_name)[:MOST_HOSPITALS]}
    heats = log_heat(list(amounts.values()))
    return Table(
        name=key.replace("_", "-"),
        caption=f"Validation KID of each {heading.lower()} at round {number(last, 'round')} ({record.extractor})",
        columns=(Column(heading, is_numeric=False), Column("KID", "lower is better")),
        bodies=[
            Body(
                [
                    [named(name), missing("n too small", span=1) if amount is None else value(amount, heat=heat)]
                    for (name, amount), heat in zip(amounts.items(), heats, strict=True)
                ]
            )
        ],
        is_sortable=True,
        note=f"In place of test figures: {why}",
    )


def _distance_from_real(name: str, amounts: Sequence[float | None], real: float | None) -> list[float | None]:
    """Place figures between those of real images, 0, and 1; `real` is what real images have, where it is known."""
    if name in ("kid", "fid"):
        return log_heat(amounts)
    if SCORES[name][1] in ("one", "real"):
        # More than real images have is as far off as less.
        like_real = real if real is not None and SCORES[name][1] == "real" else 1.0
        return [None if amount is None else min(1.0, abs(like_real - amount)) for amount in amounts]
    return [None if amount is None else min(1.0, max(0.0, 1 - amount)) for amount in amounts]


def sites_summary(record: RunRecord) -> Table | None:
    """Lay out KID and FID of everything beside their means over hospitals."""
    test = section(record.summary, "test")
    keys = {
        "fid_all": ("FID against all hospitals together", None),
        "fid_avg": ("Mean of the FIDs against each hospital", "num_fid_avg_sites"),
        "kid": ("KID against all hospitals together", None),
        "kid_avg": ("Mean of the KIDs against each hospital", "num_kid_avg_sites"),
    }
    rows = [
        [named(label), value(number(test, key)), value(number(test, sites), "count") if sites else derived(None, "all")]
        for key, (label, sites) in keys.items()
        if number(test, key) is not None
    ]
    if not any(number(test, key) is not None for key in ("fid_avg", "kid_avg")):
        return None
    return Table(
        name="sites-summary",
        caption="One distance to all hospitals together, or the mean of the distances to each",
        columns=(Column("Figure", is_numeric=False), Column("Value"), Column("Hospitals large enough")),
        bodies=[Body(rows)],
        note="The two FIDs may rank generators differently; the two KIDs agree. Rank by KID.",
    )
