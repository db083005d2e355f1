"""Words that stand where a value is not known: NA of R, nan of pandas, NULL of a database, #N/A of Excel, a dash."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd

from data_partitions.wording import counted, first_names

WORDS = (
    "", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "-nan", "nat", "null", "nil", "none", "unknown", "not known",
    "not available", "missing", "-", "--", "?", ".",
)  # fmt: skip
"""In small letters."""


def is_unknown(texts: pd.Series) -> pd.Series:
    """Return where a text is empty or a word for what is not known."""
    return texts.str.strip().str.lower().isin(WORDS)


def label_problems(
    where: str, labels: Sequence[str], names: Sequence[str], classes: Collection[str], remedy: str
) -> list[str]:
    """Say which images have no class.

    Parameters
    ----------
    where
        The file, and the column that names the class.
    labels, names
        Class and name of each image.
    classes
        Names that are classes in any case: "unknown" is one where ``data.classes`` says so.
    remedy
        What to do about it.
    """
    missing: dict[str, list[str]] = {}
    unknown = is_unknown(pd.Series(labels, dtype=str))
    for label, name, is_missing in zip(labels, names, unknown, strict=True):
        if is_missing and label not in classes:
            missing.setdefault(label, []).append(name)
    return [
        f"{where} is {repr(label) if label else 'empty'} for {counted(len(images), 'image')}: {first_names(images)}; "
        + (f"{remedy}, or, if that is a class, name it in data.classes" if label else remedy)
        for label, images in missing.items()
    ]
