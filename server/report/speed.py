"""Where time and bytes went."""

from __future__ import annotations

from server.report.run_record import RunRecord, entries, number, section, text
from server.report.tables import (
    MOST_HOSPITALS,
    Body,
    Column,
    Table,
    missing,
    named,
    of_all_hospitals,
    value,
)

SHARES = {
    "training": "hospitals train",
    "transport": "networks travel, workers wait",
    "aggregation": "updates are combined",
    "evaluation": "generators are judged",
    "other": "reading, saving, starting",
}


def shares(record: RunRecord) -> list[tuple[str, str, float]]:
    """Return name, words and share of each kind of work."""
    found = section(record.summary, "speed", "shares")
    known = [
        (name, say, share) for name, say in SHARES.items() if (share := number(found, name)) is not None and share >= 0
    ]
    # Real sites need not tell how long they computed: then the two are one time between sending and the last reply.
    if known and number(found, "training") is None and number(found, "transport") is None:
        together = max(0.0, 1 - sum(share for _, _, share in known))
        known.insert(0, ("training and transport", "not every hospital told how long it trained", together))
    return known


def speed_table(record: RunRecord) -> Table:
    """Lay out the time to each yardstick's KID."""
    rows = []
    found = entries(record.summary, "speed", "time_to_kid")
    # An earlier version counted images alone.
    counts_evaluations = any(number(entry, "evaluations") is not None for entry in found)
    for entry in found:
        head = [named(text(entry, "yardstick")), value(number(entry, "kid"))]
        if entry.get("not_reached") is True:
            rows.append([*head, missing("not reached", span=3 + counts_evaluations)])
        else:
            rows.append(
                [
                    *head,
                    value(number(entry, "round"), "count"),
                    value(number(entry, "images"), "count"),
                    *([value(number(entry, "evaluations"), "count")] if counts_evaluations else []),
                    value(number(entry, "seconds"), "seconds"),
                ]
            )
    return Table(
        name="time-to-kid",
        caption="When validation KID first fell below that of images of known quality",
        columns=(
            Column("Yardstick", is_numeric=False),
            Column("Its KID"),
            Column("Round"),
            Column("Images shown"),
            *([Column("Evaluations", "of a network, image by image")] if counts_evaluations else []),
            Column("Time"),
        ),
        bodies=[Body(rows)],
        note=f"{text(record.summary, 'extractor')}. Only evaluated rounds are looked at.",
    )


def bytes_table(record: RunRecord) -> Table:
    """Lay out what each hospital sent and received."""
    found = entries(record.summary, "speed", "bytes")
    shown = sorted(found, key=lambda entry: -(number(entry, "up") or 0))[:MOST_HOSPITALS]
    return Table(
        name="bytes",
        caption="Bytes over the whole run",
        columns=(
            Column("Hospital", is_numeric=False),
            Column("Up", "from the hospital"),
            Column("Down", "to the hospital"),
        ),
        bodies=[
            Body(
                [
                    [
                        named(text(entry, "site")),
                        value(number(entry, "up"), "bytes"),
                        value(number(entry, "down"), "bytes"),
                    ]
                    for entry in shown
                ]
            )
        ],
        is_sortable=True,
        note=of_all_hospitals(len(shown), len(found), "that sent most"),
    )
