"""A dataset of the Hugging Face hub, or a local folder in its ``imagefolder`` layout."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from data_partitions.image_cache import ImageCache
from data_partitions.image_index import FoundImages, read_bytes_of_file
from data_partitions.sources.csv_files import known_number, known_text
from data_partitions.sources.folder import ONE_SITE, configured_columns
from data_partitions.sources.image_files import (
    PARTS_OF_OTHERS,
    find_files,
    note_other_kinds,
    other_kinds,
    require_folder,
    require_names,
    stamp_of,
)
from data_partitions.unknown import label_problems
from data_partitions.wording import counted, first_names
from federation.errors import DataError
from federation.home import expand_home
from federation.settings.data import DataSettings

if TYPE_CHECKING:
    import datasets


def find_huggingface(data: DataSettings, notes: list[str]) -> FoundImages:
    """Read a dataset through the package ``datasets``.

    ``data.dataset`` names a dataset of the hub, which is downloaded once; if it is empty, ``data.root`` is a
    local folder with a sub-folder per class or a ``metadata.csv``. ``data.image-column``,
    ``data.label-column``, ``data.group-column`` and ``data.site-column`` name the features. Of a local folder, image
    files that are not in ``data.dataset-split`` are counted in a note.

    Raises
    ------
    DataError
        If the dataset cannot be had, lacks a feature, or an image bears no class.
    """
    table = _load(data)
    origin = data.dataset or str(expand_home(data.root, "data.root").absolute())
    _check_features(table, data, origin)

    import datasets

    encoded = table.cast_column(data.image_column, datasets.Image(decode=False))[data.image_column]

    def read_bytes(key: str) -> bytes:
        return encoded[int(key)]["bytes"] if key.isdecimal() else read_bytes_of_file(key)

    if Path(origin).is_dir():
        _note_what_is_in_no_row(Path(origin), (image["path"] for image in encoded if image["path"]), data, notes)
    return FoundImages(rows=_rows(table, encoded, data, origin), origin=origin, read_bytes=read_bytes)


def _note_what_is_in_no_row(root: Path, taken: Iterable[str], data: DataSettings, notes: list[str]) -> None:
    """Count the image files that ``datasets`` left out without a word: it divides by words in names."""
    files = {str(Path(path).absolute()) for path in taken}
    content = find_files(root)
    note_other_kinds([path for path in content.others if str(root / path) not in files], notes)
    left = [path for path, file in content.images.items() if file.path not in files]
    if left:
        verb = "is not in it and was" if len(left) == 1 else "are not in it and were"
        notes.append(
            f"data.dataset-split = {data.dataset_split!r}: {counted(len(left), 'image file')} of the folder {verb} "
            f"left out ({first_names(left)})"
        )


def _check_features(table: datasets.Dataset, data: DataSettings, origin: str) -> None:
    """Refuse a dataset that lacks a feature that the settings name, or holds no images where it should."""
    import datasets

    problems = [
        f"{origin}: has no feature {column!r} ({key}); its features are {', '.join(table.column_names)}; "
        f"set {key} to one of them"
        for column, key in configured_columns(data).items()
        if column not in table.column_names
    ]
    if problems:
        raise DataError(problems)
    if not isinstance(table.features[data.image_column], datasets.Image):
        raise DataError(f"{origin}: feature {data.image_column!r} (data.image-column) does not hold images")


def _rows(table: datasets.Dataset, encoded: Iterable[dict[str, Any]], data: DataSettings, origin: str) -> pd.DataFrame:
    """Return the table's rows as :class:`FoundImages` has them; `encoded` are its images, not decoded."""
    names, files = [], []
    for row, image in enumerate(encoded):
        in_file = image["bytes"] is None  # otherwise the bytes lie inside the dataset's own files
        names.append(os.path.relpath(image["path"], origin) if in_file and not data.dataset else f"{row:07d}")
        files.append(image["path"] if in_file else "")
    labels = _text(table, data.label_column)
    problems = label_problems(
        f"{origin}: feature {data.label_column!r} (data.label-column)",
        labels,
        names,
        data.class_names,
        "choose another feature",
    )
    if problems:
        raise DataError(problems)
    others = pd.DataFrame(
        {
            column: _text(table, column)
            for column in ("age", "sex", "localisation", "localization")
            if column in table.column_names
        },
        index=range(len(table)),
    )
    return pd.DataFrame(
        {
            "image_id": names,
            "class_name": labels,
            "group": _text(table, data.group_column) if data.group_column else "",
            "site": _text(table, data.site_column) if data.site_column else ONE_SITE,
            "age": known_number(others, "age"),
            "sex": known_text(others, "sex"),
            "localisation": known_text(others, "localisation", "localization"),
            "file": files,
            "key": [file or str(row) for row, file in enumerate(files)],
            "stamp": [stamp_of(Path(file).stat()) if file else table._fingerprint for file in files],
        }
    )


def _load(data: DataSettings) -> datasets.Dataset:
    import datasets

    cache_dir = str(ImageCache(data.cache_dir).folder / "huggingface")
    with _no_progress_bars():
        try:
            if data.dataset:
                return datasets.load_dataset(data.dataset, split=data.dataset_split, cache_dir=cache_dir)
            root = require_folder(data.root)
            require_names(find_files(root), root)
            # Without folders for them there are no parts, and a "test" in the name of a file is no test set.
            files = None if _has_folders_of_parts(root) else {"train": "**"}
            return datasets.load_dataset(
                "imagefolder", data_dir=str(root), data_files=files, split=data.dataset_split, cache_dir=cache_dir
            )
        except DataError:
            raise
        # ConnectionError, FileNotFoundError, ValueError, errors of the hub's own client, …
        except Exception as error:
            raise DataError(_explain(data, error)) from error


def _has_folders_of_parts(root: Path) -> bool:
    return any(path.is_dir() and path.name.lower() in PARTS_OF_OTHERS for path in root.iterdir())


def _explain(data: DataSettings, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not data.dataset:
        return (
            f"data.root = {data.root!r}: cannot be read as an imagefolder with data.dataset-split = "
            f"{data.dataset_split!r} ({reason}); it needs a sub-folder per class, "
            "or a metadata.csv with the column file_name"
            + other_kinds(find_files(require_folder(data.root)).others, before="; ")
        )
    return (
        f"data.dataset = {data.dataset!r}, data.dataset-split = {data.dataset_split!r}: cannot be had ({reason}); "
        "check both names and the connection, or download the dataset first on a machine that has one "
        "and set data.root to it, with data.dataset empty"
    )


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silence the bars of ``datasets``, which would break into ours, and leave them as they were."""
    import datasets

    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _text(table: datasets.Dataset, column: str) -> list[str]:
    """Return a feature's values as text: a class label by its name, an absent value as the empty string."""
    import datasets

    feature = table.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return ["" if value is None or value < 0 else feature.int2str(value) for value in table[column]]
    return ["" if value is None else str(value) for value in table[column]]
