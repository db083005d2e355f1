"""Train, extractor, validation and test: four parts that no patient crosses.

The part of a group is a keyed hash of (``data.split-seed``, group id) and of nothing else. So the split
moves neither with the run's seed nor with the partition, and a hospital alone computes for its own
groups what the pooled simulation computes for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.table import Table

from data_partitions.image_index import ImageIndex
from federation.errors import DataError
from federation.seeding import derive_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = ("train", "extractor", "validation", "test")
"""What the images of a part are for: training the generator; training the network whose features judge
it; everything that is chosen; the one last test."""

LEFT_OUT = "left-out"
"""In the place of a part: the image is neither trained on nor judged, by what was asked for."""

FRACTIONS = (0.60, 0.15, 0.10, 0.15)
"""Expected share of the groups in each part."""


def split_parts(groups: Sequence[str] | NDArray[np.object_], split_seed: int) -> NDArray[np.str_]:
    """Name the part of each row.

    Parameters
    ----------
    groups
        Group id (patient, lesion or image) of each row.
    split_seed
        ``data.split-seed``.

    Returns
    -------
    Array of shape (n_rows,): one of :data:`PARTS` for each row.

    Notes
    -----
    A group's hash (:func:`federation.seeding.derive_seed`, BLAKE2b), taken as a number in [0, 1), falls
    into one of four intervals whose lengths are :data:`FRACTIONS`.
    """
    numbers, ids = pd.factorize(np.asarray(groups, dtype=object))
    positions = np.array([derive_seed(split_seed, f"split of group {group}") / 2**63 for group in ids], dtype=float)
    parts_of_groups = np.searchsorted(np.cumsum(FRACTIONS[:-1]), positions, side="right")
    return np.array(PARTS)[parts_of_groups[numbers]]


def leave_out_classes(
    index: ImageIndex, parts: NDArray[np.str_], only: Sequence[str], *, judges: bool = True
) -> NDArray[np.str_]:
    """Return the parts where images of some classes alone are trained on and judged.

    Parameters
    ----------
    index
        All images.
    parts
        Of :func:`split_parts`.
    only
        Names of classes; none: all of them.
    judges
        Whether these are the images that the generator is judged with, too. A real site's are not: it need not have
        any of these classes beyond its training images.

    Returns
    -------
    (n_rows,): :data:`LEFT_OUT` for images of other classes, but in the extractor part: what judges learns from all.

    Raises
    ------
    DataError
        If there is no such class, or no other; or, where these images judge, if fewer than two are left in a part.
    """
    if not only:
        return parts
    unknown = [name for name in only if name not in index.classes]
    if unknown:
        raise DataError(
            f"data.only: no class is called {', '.join(unknown)}; the classes are {', '.join(index.classes)}"
        )
    if len(only) == len(index.classes):
        raise DataError("data.only: names every class, and so leaves none out; leave it empty")
    chosen = np.isin(index.labels, [index.classes.index(name) for name in only])
    left = np.where(chosen | (parts == "extractor"), parts, LEFT_OUT)
    few = [part for part in PARTS if part != "extractor" and (parts == part).any() and (left == part).sum() < 2]
    if few and judges:
        raise DataError(
            f"data.only: leaves fewer than two images in the {' and the '.join(few)} part; name more classes, add "
            "images, or set another data.split-seed"
        )
    return left


def split_counts(index: ImageIndex, parts: NDArray[np.str_]) -> NDArray[np.int64]:
    """Count the images of each class in each part; of shape (n_classes, 4)."""
    counts = np.zeros((len(index.classes), len(PARTS)), dtype=np.int64)
    for column, part in enumerate(PARTS):
        counts[:, column] = np.bincount(index.labels[parts == part], minlength=len(index.classes))
    return counts


def check_split(index: ImageIndex, parts: NDArray[np.str_]) -> tuple[str, ...]:
    """Refuse a split of the pooled images that cannot be trained or judged on.

    A hospital alone need not hold every class: this is for the whole federation's images.

    Returns
    -------
    Notes: one sentence for each part but train that lacks classes.

    Raises
    ------
    DataError
        If a class has no image in train, or a part has fewer than two images.
    """
    counts = split_counts(index, parts)
    problems = []
    for name, row in zip(index.classes, counts, strict=True):
        if row[0] > 0:
            continue
        if row.sum() == 0:
            problems.append(f"class {name!r} has no image; add images of it, or leave it out of data.classes")
        else:
            elsewhere = ", ".join(f"{part} {count}" for part, count in zip(PARTS, row, strict=True) if count)
            problems.append(
                f"class {name!r} has no image in the train part ({elsewhere}); "
                "add images of it, leave it out of data.classes, or set another data.split-seed"
            )
    notes = []
    for part, column in zip(PARTS[1:], counts.T[1:], strict=True):
        missing = [name for name, count in zip(index.classes, column, strict=True) if count == 0]
        if column.sum() < 2:  # no score can be computed from one
            number = "one" if column.sum() else "no"
            problems.append(
                f"the {part} part has {number} image: {len(np.unique(index.groups))} groups (patients or lesions) are "
                "too few for four parts; add images, or set another data.split-seed"
            )
        elif missing:
            notes.append(f"the {part} part has no image of {', '.join(missing)}")
    if problems:
        raise DataError(problems)
    return tuple(notes)


def split_table(index: ImageIndex, parts: NDArray[np.str_]) -> Table:
    """Lay out the images of each class in each part, with totals and groups, for ``--dry-run``."""
    counts = split_counts(index, parts)
    table = Table(title="Images by class and part")
    table.add_column("class")
    for part in PARTS:
        table.add_column(part, justify="right")
    shown = [*PARTS, LEFT_OUT] if (parts == LEFT_OUT).any() else list(PARTS)
    if LEFT_OUT in shown:
        table.add_column(LEFT_OUT, justify="right")
        left = np.bincount(index.labels[parts == LEFT_OUT], minlength=len(index.classes))
        counts = np.column_stack([counts, left])
    table.add_column("all", justify="right")
    for name, row in zip(index.classes, counts, strict=True):
        table.add_row(name, *(f"{count:,}" for count in (*row, row.sum())))
    table.add_section()
    table.add_row("images", *(f"{count:,}" for count in (*counts.sum(axis=0), counts.sum())))
    groups = [len(np.unique(index.groups[parts == part])) for part in shown]
    table.add_row("groups", *(f"{count:,}" for count in (*groups, len(np.unique(index.groups)))))
    return table
