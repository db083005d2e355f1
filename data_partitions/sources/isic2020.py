"""ISIC 2020: 33,126 dermoscopic images of 2,056 patients, benign or malignant.

Rotemberg et al. 2021, https://doi.org/10.1038/s41597-021-00815-z; CC BY-NC 4.0.
"""

from __future__ import annotations

import pandas as pd

from data_partitions.image_index import FoundImages
from data_partitions.sources.csv_files import find_csv, known_number, known_text, one_row_per_image, read_csv
from data_partitions.sources.image_files import attach_files, require_folder
from data_partitions.wording import first_names
from federation.errors import DataError
from federation.settings.data import DataSettings

CLASSES = ("benign", "malignant")

GROUND_TRUTH = ("ISIC_2020_Training_GroundTruth.csv", "ISIC_2020_Training_GroundTruth_v2.csv")


def find_isic2020(data: DataSettings, notes: list[str]) -> FoundImages:
    """Read ISIC 2020 as published.

    ``data.root`` holds ``ISIC_2020_Training_GroundTruth.csv`` and, in any sub-folders, an
    ``<image_name>.jpg`` for each row. The group is the patient, the class the ``target``. The published csv
    names no hospital, so all images have the site ``isic2020`` unless ``data.site-column`` names a column.

    Raises
    ------
    DataError
        If the folder, the csv, a column or every image is missing, a target is neither 0 nor 1, or it is unclear
        which image a row means.
    """
    root = require_folder(data.root)
    csv = find_csv(root, GROUND_TRUTH)
    if csv is None:
        raise DataError(
            f"{root}: has no {GROUND_TRUTH[0]}; set data.root to the folder that holds it beside the images"
        )
    columns = dict.fromkeys(("image_name", "patient_id", "target"), "")
    if data.site_column:
        columns[data.site_column] = "data.site-column"
    frame = one_row_per_image(read_csv(csv, columns), "image_name", csv, notes)
    wrong = sorted(set(frame.target) - {"0", "1"})
    if wrong:
        raise DataError(f"{csv}: column 'target' holds {first_names(wrong)}; allowed are 0 (benign) and 1 (malignant)")
    rows = pd.DataFrame(
        {
            "image_id": frame.image_name,
            "class_name": frame.target.map({"0": CLASSES[0], "1": CLASSES[1]}),
            "group": frame.patient_id,
            "site": frame[data.site_column] if data.site_column else "isic2020",
            "age": known_number(frame, "age_approx"),
            "sex": known_text(frame, "sex"),
            "localisation": known_text(frame, "anatom_site_general_challenge"),
        }
    )
    rows = attach_files(rows, frame.image_name.tolist(), csv, root, notes, same_name_is_copy=True)
    return FoundImages(rows=rows, origin=str(root), published_classes=CLASSES)
