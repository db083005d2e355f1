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
    return [
        (name, say, share) for name, say in SHARES.items() if (share := number(found, name)) is not None and share >= 0
    ]


def speed_table(record: RunRecord) -> Table:
    """Lay out the time to each yardstick's KID."""
    rows = []
    for entry in entries(record.summary, "speed", "time_to_kid"):
        head = [named(text(entry, "yardstick")), value(number(entry, "kid"))]
        if entry.get("not_reached") is True:
            rows.append([*head, missing("not reached", span=3)])
        else:
            rows.append(
                [
                    *head,
                    value(number(entry, "round"), "count"),
                    value(number(entry, "images"), "count"),
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
