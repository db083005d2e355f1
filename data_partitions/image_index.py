"""The table of all images: what is shown, of whom, from where. Splits and partitions read nothing else."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data_partitions.decoding import decode_image
from data_partitions.image_cache import ImageCache, Progress
from data_partitions.unknown import is_unknown
from data_partitions.wording import counted, first_names
from federation.errors import DataError
from federation.settings.data import DataSettings
from federation.settings.section import composed, join_names, split_names

COLUMNS = ("image_id", "file", "label", "group", "site", "age", "sex", "localisation", "digest")


@dataclass(frozen=True)
class ImageIndex:
    """Every usable image of a source.

    Rows are sorted by ``image_id``, so that they do not depend on the order of a csv or of a folder.
    """

    table: pd.DataFrame
    """One row per image, numbered from 0: ``image_id`` (unique), ``file`` (absolute path; empty if the image
    does not lie in a file of its own), ``label`` (int64, position in `classes`), ``group`` (patient, else
    lesion, else the image itself: never divided), ``site``, ``age`` (years, NaN if unknown), ``sex`` and
    ``localisation`` (empty if unknown), ``digest`` (of the encoded bytes, or of what the image is drawn from)."""
    classes: tuple[str, ...]
    """Class names in the order of their label."""
    notes: tuple[str, ...]
    """What was left out, merged or assumed: a sentence each, with counts and the first names."""
    read_image: Callable[[int], np.ndarray]
    """Row to uint8 (height, width, 3), RGB, upright. Raises DataError if it cannot be decoded, OSError if it
    cannot be read."""
    missing_sites: str = ""
    """See :class:`FoundImages`."""

    def __post_init__(self) -> None:
        assert tuple(self.table.columns) == COLUMNS
        assert self.table.image_id.is_monotonic_increasing
        assert self.table.image_id.is_unique

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> np.ndarray:
        """int64 array of shape (images,)."""
        return self.table.label.to_numpy()

    @property
    def groups(self) -> np.ndarray:
        """Array of str, shape (images,)."""
        return self.table.group.to_numpy(dtype=object)

    @property
    def sites(self) -> np.ndarray:
        """Array of str, shape (images,)."""
        return self.table.site.to_numpy(dtype=object)


def read_bytes_of_file(path: str) -> bytes:
    """Return a file's content."""
    return Path(path).read_bytes()


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """What a source found: not yet hashed, decoded, or checked against the classes."""

    rows: pd.DataFrame
    """One row per image that exists: ``image_id``, ``key`` (what `read_bytes` takes: a path), ``file``, ``stamp``
    (changes when the content does), ``class_name``, ``group`` (empty, or a word for "unknown": its own), ``site``
    (alike: left out), ``age``, ``sex``, ``localisation``."""
    origin: str
    """The folder or dataset, for messages; also the name under which digests are remembered."""
    missing_sites: str = ""
    """Why the images have fewer sites than they could, and what would give them all; empty where they have them."""
    published_classes: Sequence[str] = ()
    """Classes in the order of their label where ``data.classes`` is empty. Empty: the names found, sorted."""
    read_bytes: Callable[[str], bytes] = read_bytes_of_file
    """Key to encoded bytes."""


def build_index(
    found: FoundImages,
    *,
    data: DataSettings,
    resolution: int,
    notes: list[str],
    require_every_class: bool = True,
    progress: Progress | None = None,
) -> ImageIndex:
    """Turn what a source found into the index: check, hash, decode, and merge the groups of identical images.

    Images are decoded here, at the resolution that is asked for next, because one that cannot be decoded
    must be gone before the split.

    Parameters
    ----------
    found
        The images of the source.
    data
        ``classes`` and ``cache_dir`` are used.
    resolution
        Side in pixels of the images that will be asked for.
    notes
        What the source has to tell already; gains what is left out, merged or assumed here.
    require_every_class
        Whether a class without an image is refused. One hospital need not hold every class.
    progress
        Called while images are hashed and decoded.

    Raises
    ------
    DataError
        If classes and images do not agree, no image is left, or images cannot be read.
    """
    rows = _with_plain_names(found.rows.sort_values("image_id", ignore_index=True), notes)
    classes = split_names(data.classes) or tuple(found.published_classes) or tuple(sorted(rows.class_name.unique()))
    _check_classes(rows, classes, found.origin, data, require_every_class)

    cache = ImageCache(data.cache_dir)
    read_bytes = found.read_bytes
    rows["digest"] = cache.digests(found.origin, rows.key.tolist(), rows.stamp.tolist(), read_bytes, progress)
    undecodable = cache.undecodable(rows.digest.tolist(), _reader(rows, read_bytes), resolution, progress)
    if undecodable:
        rows = _without_undecodable(rows, undecodable, notes)
        _check_classes(rows, classes, found.origin, data, require_every_class)

    _note_small(
        rows, cache.sides(rows.digest.tolist(), _reader(rows, read_bytes), resolution, progress), resolution, notes
    )

    rows["group"] = rows.group.where(rows.group != "", rows.image_id)
    rows["label"] = rows.class_name.map({name: label for label, name in enumerate(classes)}).astype("int64")
    _merge_identical(rows, notes)
    return ImageIndex(
        table=rows[list(COLUMNS)],
        classes=classes,
        notes=tuple(notes),
        read_image=_reader(rows, read_bytes),
        missing_sites=found.missing_sites,
    )


def _with_plain_names(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Spell names in one way, and take words for "unknown" for what they are."""
    for column in ("class_name", "group", "site"):
        rows[column] = rows[column].map(composed)
    rows["class_name"] = rows.class_name.str.strip()  # of a sub-folder, say: settings hold no blanks around a name
    rows = _with_known_site(rows, notes)
    _forget_unknown_groups(rows, notes)
    return rows


def _forget_unknown_groups(rows: pd.DataFrame, notes: list[str]) -> None:
    """Take words for "unknown" for no group, with a note: else all images without a patient would be of one."""
    nameless = is_unknown(rows.group) & (rows.group != "")
    if not nameless.any():
        return
    words = ", ".join(sorted(set(rows.group[nameless])))
    verb = "is of a group of its own" if nameless.sum() == 1 else "are each of a group of their own"
    images = first_names(rows.image_id[nameless].tolist())
    notes.append(f"{counted(int(nameless.sum()), 'image')} whose group is given as {words} {verb} ({images})")
    rows["group"] = rows.group.mask(nameless, "")


def _with_known_site(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Leave out the rows without a site, with a note."""
    nameless = is_unknown(rows.site)
    without_site = rows.image_id[nameless].tolist()
    if not without_site:
        return rows
    verb = "was" if len(without_site) == 1 else "were"
    notes.append(f"{counted(len(without_site), 'row')} without a site {verb} left out ({first_names(without_site)})")
    return rows[~nameless].reset_index(drop=True)


def _without_undecodable(rows: pd.DataFrame, undecodable: Mapping[str, str], notes: list[str]) -> pd.DataFrame:
    """Leave out the rows whose digest is among those that cannot be decoded, with a note that says why not."""
    broken = rows[rows.digest.isin(undecodable)]
    verb = "was" if len(broken) == 1 else "were"
    reasons = [f"{key}: {undecodable[digest]}" for key, digest in zip(broken.key, broken.digest, strict=True)]
    notes.append(
        f"{counted(len(broken), 'image')} that cannot be decoded {verb} left out ({first_names(reasons, '; ')})"
    )
    return rows.drop(broken.index).reset_index(drop=True)


def _note_small(rows: pd.DataFrame, sides: Sequence[int], resolution: int, notes: list[str]) -> None:
    """Say which images are enlarged: what they lack is learned as if it were the skin."""
    small = [f"{name} of {side} px" for name, side in zip(rows.image_id, sides, strict=True) if side < resolution]
    if small:
        verb = "is" if len(small) == 1 else "are"
        notes.append(
            f"{counted(len(small), 'image')} {verb} smaller than {resolution} px and {verb} enlarged "
            f"({first_names(small)})"
        )


def _reader(rows: pd.DataFrame, read_bytes: Callable[[str], bytes]) -> Callable[[int], np.ndarray]:
    return functools.partial(_read_row, rows.key.tolist(), read_bytes)


def _read_row(keys: list[str], read_bytes: Callable[[str], bytes], row: int) -> np.ndarray:
    return decode_image(read_bytes(keys[row]))


def _check_classes(
    rows: pd.DataFrame, classes: Sequence[str], origin: str, data: DataSettings, require_every_class: bool
) -> None:
    if rows.empty:
        raise DataError(f"{origin}: no usable image is left; see data.root and data.source = {data.source}")
    counts = rows.class_name.value_counts().to_dict()
    problems = []
    unnamed = sorted(set(counts) - set(classes))
    if unnamed:
        given = f"data.classes = {data.classes!r}" if data.classes else f"the classes of {data.source}"
        problems.append(
            f"{origin}: there are images of classes that {given} does not name: "
            f"{', '.join(f'{name} ({counts[name]:,})' for name in unnamed)}; "
            f"name every class, e.g. {_assigned([*classes, *unnamed])}, or remove those rows"
        )
    empty = [name for name in classes if name not in counts]
    if empty and require_every_class:
        problems.append(
            f"{origin}: a class with no image: {', '.join(empty)}; allowed are only classes that have images: "
            f"set {_assigned([name for name in classes if name in counts])}"
        )
    if problems:
        raise DataError(problems)


def _assigned(classes: Sequence[str]) -> str:
    """Return what a shell takes after ``--set``."""
    return shlex.quote(f"data.classes={join_names(classes)}")


def _merge_identical(rows: pd.DataFrame, notes: list[str]) -> None:
    """Give byte-identical images, and all images of their groups, one group: the smallest name."""
    identical = rows[rows.digest.duplicated(keep=False)]
    if identical.empty:
        return
    sets = [members for _, members in identical.groupby("digest", sort=False)]
    merged: dict[str, str] = {}

    def representative(group: str) -> str:
        while group in merged:
            group = merged[group]
        return group

    for members in sets:
        groups = sorted({representative(group) for group in members.group})
        merged.update(dict.fromkeys(groups[1:], groups[0]))
    rows["group"] = [representative(group) for group in rows.group]

    names = [" = ".join(members.image_id) for members in sets]
    verb = "shares" if len(sets) == 1 else "share"
    notes.append(f"{counted(len(sets), 'set')} of byte-identical images {verb} a group ({first_names(names)})")
    contradicting = [" = ".join(members.image_id) for members in sets if members.label.nunique() > 1]
    if contradicting:
        verb = "bears" if len(contradicting) == 1 else "bear"
        notes.append(
            f"{counted(len(contradicting), 'set')} of byte-identical images {verb} different classes "
            f"({first_names(contradicting)})"
        )
