"""Csv files beside images: read as text, checked for the columns that are needed, one row per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_partitions.unknown import is_unknown
from data_partitions.wording import counted, first_names
from federation.errors import DataError


def find_csv(root: Path, names: Sequence[str]) -> Path | None:
    """Return the first of some file names that lies in a folder; if none does, in other small and large letters."""
    exact = next((root / name for name in names if (root / name).is_file()), None)
    if exact is not None:
        return exact
    wanted = [name.casefold() for name in names]
    alike = [path for path in root.iterdir() if path.name.casefold() in wanted and path.is_file()]
    return min(alike, key=lambda path: (wanted.index(path.name.casefold()), path.name), default=None)


def read_csv(path: Path, columns: Mapping[str, str] | Sequence[str]) -> pd.DataFrame:
    """Read a csv as text, without blanks around values; an absent value is the empty string.

    Parameters
    ----------
    path
        The file.
    columns
        The columns that it must have; as a mapping, with the configuration key that names each (or "").

    Raises
    ------
    DataError
        If the file cannot be read, holds no row or lacks columns (all of them named).
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; save it again as csv in UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(
            f"{path}: is not a csv ({str(error).strip()}); correct that line, or name another file"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make it readable, or name another file") from None
    if not isinstance(
        frame.index, pd.RangeIndex
    ):  # pandas takes what is too much for names of rows, and shifts the rest
        raise DataError(
            f"{path}: its rows have more values than its header has columns; remove the values or separators that are "
            "too many, or name their columns"
        )
    frame.columns = frame.columns.str.strip()
    keys = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "")
    problems = [
        f"{path}: has no column {column!r}{f' ({key})' if key else ''}; its columns are {', '.join(frame.columns)}; "
        + (f"set {key} to one of them" if key else "use the csv as it was published")
        for column, key in keys.items()
        if column not in frame.columns
    ]
    if problems:
        raise DataError(problems)
    if frame.empty:
        raise DataError(f"{path}: has no row below its header; name a csv with a row for each image")
    # A row with too few values is padded with NaN even so.
    return frame.fillna("").apply(lambda column: column.str.strip())


def one_row_per_image(frame: pd.DataFrame, id_column: str, path: Path, notes: list[str]) -> pd.DataFrame:
    """Drop rows that say the same again, with a note; refuse rows that contradict each other.

    Raises
    ------
    DataError
        If an image has no name, or has two rows that differ.
    """
    problems = []
    # Line 1 is the header.
    nameless = [f"line {row + 2}" for row in np.flatnonzero(frame[id_column] == "")]
    if nameless:
        problems.append(
            f"{path}: column {id_column!r} is empty in {counted(len(nameless), 'row')} ({first_names(nameless)}); "
            "fill it in, or remove those rows"
        )
    repeated = frame.duplicated()
    if repeated.any():
        names = frame.loc[repeated, id_column].tolist()
        verb = "was" if len(names) == 1 else "were"
        notes.append(f"{counted(len(names), 'repeated row')} of {path.name} {verb} left out ({first_names(names)})")
        frame = frame[~repeated].reset_index(drop=True)
    contradicting = frame.loc[frame[id_column].duplicated() & (frame[id_column] != ""), id_column].unique().tolist()
    if contradicting:
        problems.append(
            f"{path}: {counted(len(contradicting), 'image')} with rows that contradict each other in column "
            f"{id_column!r}: {first_names(contradicting)}; keep one row for each image"
        )
    if problems:
        raise DataError(problems)
    return frame


def known_text(frame: pd.DataFrame, *columns: str) -> pd.Series:
    """Return the first of some columns that the csv has, with words for "unknown" as empty strings."""
    for column in columns:
        if column in frame:
            return frame[column].mask(is_unknown(frame[column]), "")
    return pd.Series("", index=frame.index, dtype=str)


def known_number(frame: pd.DataFrame, *columns: str) -> pd.Series:
    """Return the first of some columns that the csv has as floats, NaN where it is not a number."""
    return pd.to_numeric(known_text(frame, *columns), errors="coerce").astype("float64")
