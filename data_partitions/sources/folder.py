"""Any folder: images beside a csv whose columns are configured, or one sub-folder per class."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd

from data_partitions.image_index import FoundImages
from data_partitions.sources.csv_files import known_number, known_text, one_row_per_image, read_csv
from data_partitions.sources.image_files import (
    PARTS_OF_OTHERS,
    attach_files,
    find_files,
    note_other_kinds,
    other_kinds,
    require_folder,
    require_names,
)
from data_partitions.unknown import label_problems
from data_partitions.wording import counted, first_names
from federation.errors import DataError
from federation.settings.data import DataSettings
from federation.settings.section import join_names, printable

ONE_SITE = "all"
"""The site of every image where no column names the hospital."""


def find_folder(data: DataSettings, notes: list[str]) -> FoundImages:
    """Read a folder of images.

    With a csv (``data.csv``, else the only one in ``data.root``) each row names an image by its path
    relative to the root or by its file name, with or without suffix; ``data.image-column``,
    ``data.label-column``, ``data.group-column`` and ``data.site-column`` name the columns, and ``age``,
    ``sex`` and ``localisation`` are read where they exist. Without a csv, the class of an image is the name
    of the sub-folder of the root that holds it, at any depth; names of parts (Train, Test) are no classes unless
    ``data.classes`` names them.

    Raises
    ------
    DataError
        If the folder, the csv, a column or every image is missing, it is unclear which csv or file is meant, or a
        class is empty.
    """
    root = require_folder(data.root)
    csv = _choose_csv(root, data)
    rows = _rows_by_sub_folder(root, data, notes) if csv is None else _rows_by_csv(csv, root, data, notes)
    return FoundImages(rows=rows, origin=str(root))


def configured_columns(data: DataSettings) -> dict[str, str]:
    """Return the columns that ``data.*-column`` name, each with its key; an empty name asks for none."""
    columns = {data.image_column: "data.image-column", data.label_column: "data.label-column"}
    if data.group_column:
        columns[data.group_column] = "data.group-column"
    if data.site_column:
        columns[data.site_column] = "data.site-column"
    return columns


def _choose_csv(root: Path, data: DataSettings) -> Path | None:
    if data.csv:
        csv = root / data.csv
        if not csv.is_file():
            raise DataError(f"data.csv = {data.csv!r}: {csv} does not exist; give a path relative to data.root")
        return csv
    found = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv" and not path.name.startswith("."))
    unnamed = [printable(path.name) for path in found if printable(path.name) != path.name]
    if unnamed:
        raise DataError(f"{root}: the name of {first_names(unnamed)} is not UTF-8 text; rename it")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{root}: has several csv files ({names}); set data.csv to the one that describes the images")
    return found[0] if found else None


def _rows_by_csv(csv: Path, root: Path, data: DataSettings, notes: list[str]) -> pd.DataFrame:
    frame = one_row_per_image(read_csv(csv, configured_columns(data)), data.image_column, csv, notes)
    names = frame[data.image_column].str.replace("\\", "/").str.removeprefix("./")
    problems = label_problems(
        f"{csv}: column {data.label_column!r} (data.label-column)",
        frame[data.label_column].tolist(),
        names.tolist(),
        data.class_names,
        "fill it in, or remove those rows",
    )
    if problems:
        raise DataError(problems)
    rows = pd.DataFrame(
        {
            "image_id": names,
            "class_name": frame[data.label_column],
            "group": frame[data.group_column] if data.group_column else "",
            "site": frame[data.site_column] if data.site_column else ONE_SITE,
            "age": known_number(frame, "age"),
            "sex": known_text(frame, "sex"),
            "localisation": known_text(frame, "localisation", "localization"),
        }
    )
    return attach_files(rows, names.tolist(), csv, root, notes, same_name_is_copy=False)


def _rows_by_sub_folder(root: Path, data: DataSettings, notes: list[str]) -> pd.DataFrame:
    content = find_files(root)
    require_names(content, root)
    files = content.images
    loose = [path for path in files if "/" not in path]
    paths = [path for path in files if "/" in path]
    if not paths:
        raise DataError(
            f"{root}: has neither a csv nor a sub-folder with images; name each image's class in a csv, "
            "or put the images of each class into a sub-folder that bears the class's name"
            + other_kinds(content.others, before="; ")
        )
    note_other_kinds(content.others, notes)
    if loose:
        verb = "was" if len(loose) == 1 else "were"
        notes.append(
            f"{counted(len(loose), 'image file')} outside the classes' sub-folders {verb} left out "
            f"({first_names(loose)})"
        )
    _check_level_of_classes(root, paths, data, notes)
    class_names = [path.partition("/")[0] for path in paths]
    problems = label_problems(
        f"{root}: the class, which the sub-folder names,",
        class_names,
        paths,
        data.class_names,
        "rename the sub-folder, or remove it",
    )
    if problems:
        raise DataError(problems)
    return pd.DataFrame(
        {
            "image_id": paths,
            "class_name": class_names,
            "group": "",
            "site": ONE_SITE,
            "age": float("nan"),
            "sex": "",
            "localisation": "",
            "file": [files[path].path for path in paths],
            "key": [files[path].path for path in paths],
            "stamp": [files[path].stamp for path in paths],
        }
    )


def _check_level_of_classes(root: Path, paths: list[str], data: DataSettings, notes: list[str]) -> None:
    """Refuse sub-folders that are plainly no classes; say what may be taken for classes below them.

    Raises
    ------
    DataError
        Where the classes' folders lie a level deeper, and what is on the first level is not named in ``data.classes``.
    """
    tops = sorted({path.partition("/")[0] for path in paths})
    inner = sorted({path.split("/")[1] for path in paths if path.count("/") > 1})
    below = f", each with sub-folders of its own ({first_names(inner)})" if inner else ""
    if not set(tops) & set(data.class_names):
        if all(_is_part(name) for name in tops):
            one = next((name for name in tops if "train" in name.lower()), tops[0])
            remedy = (
                f"set data.root={root / one}, or put all images of a class into one folder"
                if inner
                else "name each image's class in a csv, or put the images of each class into a sub-folder of its own"
            )
            raise DataError(
                f"{root}: its sub-folders are called {first_names(tops)}, which are parts of a set and no classes"
                f"{below}; {remedy}: the images are divided here anyway; if they are classes, name them in "
                "data.classes"
            )
        if len(tops) == 1 and all(path.count("/") > 1 for path in paths):
            named = shlex.quote(f"data.classes={join_names(tops)}")
            raise DataError(
                f"{root}: all images lie in one sub-folder, {tops[0]}, and there in others ({first_names(inner)}); if "
                f"those are the classes, set data.root={root / tops[0]}; if {tops[0]} is the class, set {named}"
            )
    if inner and all(path.count("/") > 1 for path in paths):
        notes.append(
            f"classes are the sub-folders of data.root ({first_names(tops)}), not those below them "
            f"({first_names(inner)})"
        )


def _is_part(name: str) -> bool:
    """Return whether a folder is called train, Test, val_images, training-set, …"""
    words = re.split("[^a-z]+", name.lower())
    return any(word.removesuffix("set") in PARTS_OF_OTHERS for word in words)
