"""Which source a folder is the layout of."""

from __future__ import annotations

from collections.abc import Collection

from data_partitions.sources import ham10000, isic2019, isic2020
from data_partitions.sources.csv_files import find_csv, read_csv
from data_partitions.sources.image_files import require_folder
from federation.errors import DataError

_LABELS = "labels.csv"
# Columns of a csv of one's own by the names that they usually have.
_NEEDED: dict[str, tuple[str, ...]] = {
    "data.image-column": ("image", "image_id", "image_name", "file", "filename"),
    "data.label-column": ("label", "dx", "diagnosis", "target", "class"),
}
_USEFUL: dict[str, tuple[str, ...]] = {
    "data.group-column": ("patient_id", "lesion_id", "group"),
    "data.site-column": ("site", "hospital", "center", "centre"),
}


def recognise_layout(root: str, given: Collection[str] = ()) -> dict[str, str]:
    """Say which ``data.*`` settings read a folder.

    HAM10000, ISIC 2019 and ISIC 2020 are known by the names of their published csv, or by the columns of a
    ``labels.csv``; anything else is read as ``folder``.

    Parameters
    ----------
    root
        The folder.
    given
        Dotted keys that are set already: their columns are not looked for.

    Returns
    -------
    Dotted keys and values: ``data.source``, ``data.root`` and, for ``folder``, the columns.

    Raises
    ------
    DataError
        If there is no such folder, or its csv has no columns that can be told apart.
    """
    folder = require_folder(root)
    found = {"data.root": str(folder)}
    # ISIC 2019 first: where its own csv lies, HAM10000's may lie beside it to name the sites.
    published: dict[str, tuple[str, ...]] = {
        "isic2019": (isic2019.GROUND_TRUTH,),
        "isic2020": isic2020.GROUND_TRUTH,
        "ham10000": ham10000.METADATA,
    }
    for source, names in published.items():
        if find_csv(folder, names) is not None:
            return {"data.source": source, **found}
    if (labels := find_csv(folder, (_LABELS,))) is None:
        return {"data.source": "folder", **found}
    columns = set(read_csv(labels, ()).columns)
    if {"image_id", "dx", "lesion_id", "center"} <= columns:
        return {"data.source": "isic2019", **found}
    if {"image_id", "dx", "lesion_id", "dataset"} <= columns:
        return {"data.source": "ham10000", **found}
    settings = {"data.source": "folder", **found}
    problems = []
    for key, candidates in _NEEDED.items():
        if key in given:
            continue
        column = next((name for name in candidates if name in columns), None)
        if column is None:
            problems.append(
                f"{labels}: no column is {' or '.join(candidates)}; its columns are {', '.join(sorted(columns))}; name "
                f"the column with --set {key}=COLUMN"
            )
        else:
            settings[key] = column
    if problems:
        raise DataError(problems)
    for key, candidates in _USEFUL.items():
        column = next((name for name in candidates if name in columns), None)
        if column is not None:
            settings[key] = column
    return settings
