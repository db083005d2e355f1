"""HAM10000: 10,015 dermoscopic images of 7,470 lesions from four collections in Vienna and Queensland.

Tschandl, Rosendahl, Kittler 2018, https://doi.org/10.1038/sdata.2018.161; CC BY-NC 4.0.
"""

from __future__ import annotations

import pandas as pd

from data_partitions.image_index import FoundImages
from data_partitions.sources.csv_files import find_csv, known_number, known_text, one_row_per_image, read_csv
from data_partitions.sources.image_files import attach_files, require_folder
from data_partitions.unknown import label_problems
from federation.errors import DataError
from federation.settings.data import DataSettings

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
METADATA = ("HAM10000_metadata.csv", "HAM10000_metadata")  # Dataverse offers it without a suffix


def find_ham10000(data: DataSettings, notes: list[str]) -> FoundImages:
    """Read HAM10000 as published, or as one ``labels.csv`` with the same columns.

    ``data.root`` holds ``HAM10000_metadata.csv`` or ``labels.csv`` and, in any sub-folders, an
    ``<image_id>.jpg`` for each row. The group is the lesion, the site the collection (``dataset``).

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
    frame = one_row_per_image(read_csv(csv, ("image_id", "dx", "lesion_id", "dataset")), "image_id", csv, notes)
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
            "site": frame.dataset,
            "age": known_number(frame, "age"),
            "sex": known_text(frame, "sex"),
            "localisation": known_text(frame, "localization"),
        }
    )
    rows = attach_files(rows, frame.image_id.tolist(), csv, root, notes, same_name_is_copy=True)
    return FoundImages(rows=rows, origin=str(root), published_classes=CLASSES)
