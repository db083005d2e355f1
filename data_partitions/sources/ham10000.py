"""HAM10000: 10,015 dermoscopic images of 7,470 lesions from four collections in Vienna and Queensland.

Tschandl, Rosendahl, Kittler 2018, https://doi.org/10.1038/sdata.2018.161; CC BY-NC 4.0.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from data_partitions.image_index import FoundImages
from data_partitions.sources.csv_files import find_csv, known_number, known_text, one_row_per_image, read_csv
from data_partitions.sources.image_files import attach_files, require_folder
from data_partitions.unknown import label_problems
from federation.errors import DataError
from federation.settings.data import DataSettings

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
ONE_SITE = "ham10000"
"""The site of all images where the csv does not name the collections."""
METADATA = ("HAM10000_metadata.csv", "HAM10000_metadata")  # Dataverse offers it without a suffix


def find_ham10000(data: DataSettings, notes: list[str]) -> FoundImages:
    """Read HAM10000 as published, or as one ``labels.csv`` with the same columns.

    ``data.root`` holds ``HAM10000_metadata.csv`` or ``labels.csv`` and, in any sub-folders, an
    ``<image_id>.jpg`` for each row. The group is the lesion, the site the collection (``dataset``); a csv
    without that column, as Kaggle has it, makes one site.

    Raises
    ------
    DataError
        If the folder, the csv, a column or every image is missing, or it is unclear which image a row means.
    """
    root = require_folder(data.root)
    csv = find_csv(root, (*METADATA, "labels.csv"))
    if csv is None:
        raise DataError(
            f"{root}: has neither HAM10000_metadata.csv nor labels.csv; set data.root to the folder that holds "
            "one of them beside the images"
        )
    frame = one_row_per_image(read_csv(csv, ("image_id", "dx", "lesion_id")), "image_id", csv, notes)
    problems = label_problems(
        f"{csv}: column 'dx'",
        frame.dx.tolist(),
        frame.image_id.tolist(),
        data.class_names,
        "fill it in, or remove those rows",
    )
    if problems:
        raise DataError(problems)
    rows = pd.DataFrame(
        {
            "image_id": frame.image_id,
            "class_name": frame.dx,
            "group": frame.lesion_id,
            "site": frame.dataset if "dataset" in frame else ONE_SITE,
            "age": known_number(frame, "age"),
            "sex": known_text(frame, "sex"),
            "localisation": known_text(frame, "localization"),
        }
    )
    rows = attach_files(rows, frame.image_id.tolist(), csv, root, notes, same_name_is_copy=True)
    missing_sites = "" if "dataset" in frame else without_collections(csv)
    if missing_sites:
        notes.append(f"all images have one site: {missing_sites}")
    return FoundImages(rows=rows, origin=str(root), published_classes=CLASSES, missing_sites=missing_sites)


def without_collections(csv: Path) -> str:
    """Say that a csv of HAM10000 does not name the collections, and where one is that does."""
    return (
        f"{csv.name} has no column 'dataset', which names the four collections; the csv of Harvard Dataverse has it "
        "(HAM10000_metadata.csv, https://doi.org/10.7910/DVN/DBW86T)"
    )
