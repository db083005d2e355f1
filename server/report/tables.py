"""Tables as the template takes them: one kind for every section."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from server.report.numerals import MISSING, exact, signed, with_interval
from server.report.run_record import interval, number, widest_interval

MOST_HOSPITALS = 60
"""Hospitals that a table has a row for."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table. Plain text is escaped by the template."""

    content: Markup | str
    sort: float | str | None = None
    """What rows are ordered by; None comes last."""
    heat: float | None = None
    """In [0, 1]: how dark the cell is. None: it has no colour."""
    is_numeric: bool = False
    is_header: bool = False
    span: int = 1
    """Columns that the cell takes."""
    note: str = ""
    """A second, smaller line."""


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    label: str
    note: str = ""
    """A second, smaller line."""
    is_numeric: bool = True


@dataclass(frozen=True)
class Body:
    """Rows that belong together, under a heading of their own where there are several bodies."""

    rows: Sequence[Sequence[Cell]]
    heading: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its caption."""

    name: str
    """Part of the element's id."""
    caption: str
    columns: Sequence[Column]
    bodies: Sequence[Body]
    is_sortable: bool = False
    note: str = ""
    """Below the table."""


def named(name: str, note: str = "") -> Cell:
    """Return the head of a row."""
    return Cell(content=name, sort=name.lower(), is_header=True, note=note)


def words(content: Markup | str, *, span: int = 1) -> Cell:
    """Return a cell of text."""
    return Cell(content=content, sort=str(content).lower(), span=span)


def value(amount: float | None, style: str = "figure", *, heat: float | None = None) -> Cell:
    """Return a cell with a number of the run directory, exact behind what is written."""
    return Cell(content=exact(amount, style), sort=amount, heat=heat, is_numeric=True)


def derived(amount: float | None, written: str, *, heat: float | None = None) -> Cell:
    """Return a cell with a number that was computed for the report from those of the run directory."""
    return Cell(content=written, sort=amount, heat=heat, is_numeric=True)


def spread_cell(entry: object, *, heat: float | None = None, style: str = "figure") -> Cell:
    """Return a cell with a mean over seeds or draws and its interval."""
    mean = number(entry, "mean")
    return Cell(content=with_interval(mean, interval(entry, "interval"), style), sort=mean, heat=heat, is_numeric=True)


def difference_cell(entry: object, *, note: str = "") -> Cell:
    """Return a cell with a difference and its interval; empty where it was not measured."""
    mean = number(entry, "mean")
    if mean is None:
        return nothing()
    return Cell(content=difference_words(entry), sort=mean, is_numeric=True, note=note)


def difference_words(entry: object) -> str:
    """Write a difference with its sign, and its interval in brackets."""
    around = widest_interval(entry)
    ends = "" if around is None else f" [{signed(around[0])}, {signed(around[1])}]"
    return f"{signed(number(entry, 'mean'))}{ends}"


def missing(why: str, *, span: int) -> Cell:
    """Return a cell that says why several figures are not there."""
    return Cell(content=Markup('<span class="missing">{}</span>').format(why), span=span)


def nothing() -> Cell:
    """Return an empty cell."""
    return Cell(content=MISSING, is_numeric=True)


def log_heat(amounts: Sequence[float | None]) -> list[float | None]:
    """Place positive amounts between the smallest, 0, and the largest, 1, on a logarithmic scale.

    An amount that is not positive is as small as the smallest: an unbiased distance may be negative.
    """
    positive = [amount for amount in amounts if amount is not None and amount > 0]
    if not positive:
        return [None if amount is None else 0.0 for amount in amounts]
    low, high = math.log(min(positive)), math.log(max(positive))
    width = high - low
    return [
        None if amount is None else 0.0 if amount <= 0 else (math.log(amount) - low) / width if width > 0 else 0.0
        for amount in amounts
    ]


def of_all_hospitals(shown: int, whole: int, which: str) -> str:
    """Say which hospitals a table shows; nothing where it shows all."""
    return "" if shown == whole else f"The {shown:,} hospitals of {whole:,} {which}."
