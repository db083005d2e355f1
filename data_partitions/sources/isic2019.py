"""ISIC 2019: 25,331 dermoscopic images, of which Fed-ISIC2019 gives 23,247 to six centres.

Codella et al. 2018 (MSK), Tschandl et al. 2018 (HAM10000), Combalia et al. 2019 (BCN20000); CC BY-NC 4.0.
Centres: du Terrail et al. 2022, FLamby, https://arxiv.org/abs/2210.04620
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from data_partitions.image_index import FoundImages
from data_partitions.sources.csv_files import find_csv, known_number, known_text, one_row_per_image, read_csv
from data_partitions.sources.ham10000 import METADATA as HAM10000_METADATA
from data_partitions.sources.ham10000 import without_collections
from data_partitions.sources.image_files import attach_files, require_folder
from data_partitions.unknown import is_unknown, label_problems
from data_partitions.wording import counted, first_names
from federation.errors import DataError
from federation.settings.data import DataSettings

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")

CENTRES = {
    "0": "bcn20000_barcelona",
    "1": "vidir_molemax",
    "2": "vidir_modern",
    "3": "rosendahl_queensland",
    "4": "msk4_new_york",
    "5": "vienna_dias",
}
"""Fed-ISIC2019's number of a centre to its name."""

_HAM_CENTRES = {
    "vidir_molemax": "vidir_molemax",
    "vidir_modern": "vidir_modern",
    "rosendahl": "rosendahl_queensland",
    "vienna_dias": "vienna_dias",
}
_LESION_CENTRES = {"BCN_": "bcn20000_barcelona", "MSK4": "msk4_new_york", "HAM_": "ham10000"}

GROUND_TRUTH = "ISIC_2019_Training_GroundTruth.csv"
_METADATA = "ISIC_2019_Training_Metadata.csv"
_SPLIT = ("fed_isic2019_train_test_split.csv", "train_test_split.csv", "train_test_split")


def find_isic2019(data: DataSettings, notes: list[str]) -> FoundImages:
    """Read ISIC 2019 as published, or as one ``labels.csv``.

    ``data.root`` holds either the one-hot ground truth and the metadata of the challenge, or a
    ``labels.csv`` (``image_id``, ``dx``, ``lesion_id``, and ``center`` or one site), and an ``<image>.jpg`` for each
    row in any sub-folders. The group is the lesion, else the image; the site is Fed-ISIC2019's centre. As published
    the set has no centres: they come from Fed-ISIC2019's split where that csv lies in the root too, else from
    the lesion ids and, for the parts of HAM10000, from its metadata. Rows without a centre are left out.

    Raises
    ------
    DataError
        If the folder, a csv, a column or every image is missing, a one-hot row is none, or it is unclear which image
        a row means.
    """
    root = require_folder(data.root)
    csv = find_csv(root, (GROUND_TRUTH, "labels.csv"))
    if csv is None:
        raise DataError(
            f"{root}: has neither {GROUND_TRUTH} nor labels.csv; set data.root to the folder that holds "
            "one of them beside the images"
        )
    is_published = csv.name.casefold() == GROUND_TRUTH.casefold()
    rows, missing_sites = _published_rows(csv, root, notes) if is_published else _labelled_rows(csv, data, notes)
    if missing_sites:
        notes.append(missing_sites)
    rows = attach_files(rows, rows.image_id.tolist(), csv, root, notes, same_name_is_copy=True)
    return FoundImages(rows=rows, origin=str(root), published_classes=CLASSES, missing_sites=missing_sites)


def _labelled_rows(csv: Path, data: DataSettings, notes: list[str]) -> tuple[pd.DataFrame, str]:
    """Return the rows, and why they have fewer sites than they could."""
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
            "site": _centre_names(frame.center, csv) if "center" in frame else "isic2019",
            "age": known_number(frame, "age"),
            "sex": known_text(frame, "sex"),
            "localisation": known_text(frame, "localization"),
        }
    )
    return rows, "" if "center" in frame else f"all images have one site: {csv.name} has no column 'center'"


def _published_rows(csv: Path, root: Path, notes: list[str]) -> tuple[pd.DataFrame, str]:
    """Return the rows, and why they have fewer sites than they could."""
    truth = one_row_per_image(read_csv(csv, ("image", *CLASSES)), "image", csv, notes)
    truth = truth.assign(class_name=_one_hot_names(truth, csv))
    unknown = truth.image[truth.class_name == "UNK"].tolist()
    if unknown:
        verb = "was" if len(unknown) == 1 else "were"
        notes.append(f"{counted(len(unknown), 'row')} of the class UNK {verb} left out ({first_names(unknown)})")
        truth = truth[truth.class_name != "UNK"]

    metadata_csv = find_csv(root, (_METADATA,))
    if metadata_csv is None:
        raise DataError(f"{root}: has no {_METADATA}, which holds the lesions; put it beside {GROUND_TRUTH}")
    metadata = one_row_per_image(read_csv(metadata_csv, ("image", "lesion_id")), "image", metadata_csv, notes)
    frame = truth[["image", "class_name"]].merge(metadata, how="left", on="image")
    strangers = frame.image[frame.lesion_id.isna()].tolist()
    if strangers:
        raise DataError(
            f"{metadata_csv}: has no row for {counted(len(strangers), 'image')} of {GROUND_TRUTH}: "
            f"{first_names(strangers)}; use both files as they were published"
        )
    sites, missing_sites = _published_sites(frame, root, notes)
    rows = pd.DataFrame(
        {
            "image_id": frame.image,
            "class_name": frame.class_name,
            "group": frame.lesion_id,
            "site": sites,
            "age": known_number(frame, "age_approx"),
            "sex": known_text(frame, "sex"),
            "localisation": known_text(frame, "anatom_site_general"),
        }
    )
    return rows, missing_sites


def _one_hot_names(truth: pd.DataFrame, csv: Path) -> pd.Series:
    """Return the one column of each row that is 1."""
    names = [*CLASSES, "UNK"] if "UNK" in truth else list(CLASSES)
    values = truth[names].apply(pd.to_numeric, errors="coerce")
    wrong = truth.image[~(values.isin([0, 1]).all(axis=1) & (values.sum(axis=1) == 1))].tolist()
    if wrong:
        raise DataError(
            f"{csv}: {counted(len(wrong), 'row')} without exactly one 1 among {', '.join(names)} and 0 elsewhere: "
            f"{first_names(wrong)}; correct those rows, or remove them"
        )
    return values.idxmax(axis=1)


def _centre_names(centres: pd.Series, csv: Path) -> pd.Series:
    """Return the names of Fed-ISIC2019's numbers ("3", "3.0"); empty where it is not known."""
    numbers = centres.mask(is_unknown(centres), "").str.removesuffix(".0")
    wrong = sorted(set(numbers) - set(CENTRES) - {""})
    if wrong:
        raise DataError(
            f"{csv}: column 'center' holds {first_names(wrong)}; allowed are the numbers of Fed-ISIC2019, "
            f"{', '.join(f'{number} ({name})' for number, name in CENTRES.items())}, or nothing"
        )
    return numbers.map(CENTRES).fillna("")


def _published_sites(frame: pd.DataFrame, root: Path, notes: list[str]) -> tuple[pd.Series, str]:
    split = find_csv(root, _SPLIT)
    if split is not None:
        known = one_row_per_image(read_csv(split, ("image", "center")), "image", split, notes)
        centres = dict(zip(known.image, _centre_names(known.center, split), strict=True))
        notes.append(f"sites are the centres of {split.name}")
        return frame.image.map(centres).fillna(""), ""

    sites = frame.lesion_id.str[:4].map(_LESION_CENTRES).fillna("")
    ham10000 = find_csv(root, HAM10000_METADATA)
    if ham10000 is None:
        return sites, (
            "sites come from the lesion ids, and HAM10000 counts as one site; "
            f"to divide it into its four collections put {HAM10000_METADATA[0]} into data.root"
        )
    known = one_row_per_image(read_csv(ham10000, ("image_id",)), "image_id", ham10000, notes)
    if "dataset" not in known:
        return sites, (
            f"sites come from the lesion ids, and HAM10000 counts as one site: {without_collections(ham10000)}"
        )
    notes.append(f"sites come from the lesion ids and, for HAM10000, from {ham10000.name}")
    collections = dict(zip(known.image_id, known.dataset.map(_HAM_CENTRES), strict=True))
    return sites.where(sites != _LESION_CENTRES["HAM_"], frame.image.map(collections).fillna("")), ""
