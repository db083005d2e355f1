"""Image files below a folder, and which of them a csv means."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import pandas as pd

from data_partitions.wording import counted, first_names
from federation.errors import DataError
from federation.home import expand_home
from federation.settings.section import composed, printable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
_NO_IMAGES = (
    ".csv", ".tsv", ".xls", ".xlsx", ".json", ".jsonl", ".xml", ".toml", ".yaml", ".yml", ".txt", ".md", ".rst", ".pdf",
    ".doc", ".docx", ".html", ".htm", ".py", ".ipynb", ".sh", ".log", ".ini", ".db", ".parquet", ".arrow", ".zip",
    ".tar", ".tgz", ".gz", ".7z",
)  # fmt: skip

PARTS_OF_OTHERS = (
    "train", "training", "test", "testing", "val", "valid", "validation", "validate", "dev", "eval", "evaluation",
    "holdout",
)  # fmt: skip
"""How others call the folders of the parts into which they have divided a set: no classes. In small letters."""


@dataclass(frozen=True)
class ImageFile:
    """A file that looks like an image by its name."""

    path: str
    """Absolute."""
    stamp: str
    """See :func:`stamp_of`."""


def stamp_of(status: os.stat_result) -> str:
    """Return what changes when a file does: its size in bytes and its time of change in nanoseconds."""
    return f"{status.st_size} {status.st_mtime_ns}"


def require_folder(root: str) -> Path:
    """Return ``data.root`` as an absolute path, or raise DataError unless it is a folder."""
    path = expand_home(root, "data.root").absolute()
    if not path.exists():
        raise DataError(f"data.root = {root!r}: there is no such folder; set data.root to the folder of the images")
    if not path.is_dir():
        raise DataError(f"data.root = {root!r} is a file; unpack it, and set data.root to the folder of the images")
    return path


@dataclass(frozen=True)
class FoundFiles:
    """What lies below a folder."""

    images: dict[str, ImageFile]
    """Path relative to the root, with forward slashes, to the file; sorted by path."""
    others: list[str]
    """Such paths of files that might be images of a kind that is not read: neither texts nor tables."""
    nameless: list[str]
    """Image files whose path is not UTF-8 text, and so cannot stand in a table: bytes that are none as ``\\xe9``."""


def find_files(root: Path) -> FoundFiles:
    """Find all image files below a folder, and what may be images of other kinds.

    Linked folders are followed, each once; hidden files and what macOS adds to archives are passed over.
    """
    images: dict[str, ImageFile] = {}
    others, nameless = [], []
    for path, entry in sorted(_walk(str(root), "", set()), key=lambda found: found[0]):
        if not path.lower().endswith(IMAGE_SUFFIXES):
            if not path.lower().endswith(_NO_IMAGES):
                others.append(path)
        elif printable(path) == path:
            images[path] = ImageFile(entry.path, stamp_of(entry.stat()))
        else:
            nameless.append(printable(path))
    return FoundFiles(images, others, nameless)


def require_names(content: FoundFiles, root: Path) -> None:
    """Refuse image files that could not be named.

    Raises
    ------
    DataError
        Naming them.
    """
    if content.nameless:
        whose = "whose path is" if len(content.nameless) == 1 else "whose paths are"
        raise DataError(
            f"{root}: {counted(len(content.nameless), 'image file')} {whose} not UTF-8 text: "
            f"{first_names(content.nameless)}; rename what is not"
        )


def find_image_files(root: Path) -> dict[str, ImageFile]:
    """Return :attr:`FoundFiles.images` alone."""
    return find_files(root).images


def other_kinds(others: Sequence[str], before: str = "") -> str:
    """Say how many files there are of which kinds that are not read, and what to do about it; empty for none."""
    if not others:
        return ""
    kinds = Counter(PurePosixPath(printable(path)).suffix.lower() for path in others)
    counts = [
        counted(number, f"{suffix} file") if suffix else f"{counted(number, 'file')} without a suffix"
        for suffix, number in kinds.most_common()
    ]
    verb = "is" if len(others) == 1 else "are"
    return f"{before}{first_names(counts)} {verb} not read; allowed are {', '.join(IMAGE_SUFFIXES)}; convert them"


def note_other_kinds(others: Sequence[str], notes: list[str]) -> None:
    """Say that files were left out whose names do not show them to be something else than images."""
    named = [path for path in others if PurePosixPath(path).suffix]  # LICENSE, README, …
    if named:
        notes.append(other_kinds(named))


def _walk(folder: str, prefix: str, visited: set[tuple[int, int]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    status = Path(folder).stat()
    if (status.st_dev, status.st_ino) in visited:  # a link to a folder above, or a second link
        return
    visited.add((status.st_dev, status.st_ino))
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); make the folder readable") from error
    for entry in sorted(entries, key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if entry.is_file():  # false for a link that leads nowhere
            yield prefix + entry.name, entry
        elif entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", visited)


@dataclass(frozen=True)
class Matches:
    """Which file each name means."""

    paths: list[str]
    """Relative path for each name; empty where there is no file."""
    copies: list[str]
    """Names that several files bear; the first in the order of paths was taken."""
    unnamed: list[str]
    """Files that no name means."""
    other_case: list[str]
    """Names, each with its file, that are alike but for small and large letters."""
    downsampled: list[str]
    """Such that are alike but for ``_downsampled``."""


def match_names(names: Sequence[str], files: dict[str, ImageFile]) -> Matches:
    """Find the file that each name of a csv means.

    A name is a path relative to the root or, in any sub-folder, a file's name; with or without suffix. It may be
    composed otherwise: a Mac writes an "ä" as two characters. What no name means is looked through again without
    regard to small and large letters, and then to the ending ``_downsampled``, which ISIC 2019's csv has and the
    archive's own downloads have not.
    """
    whole = {composed(path): path for path in files}
    bearers = _bearers(files, composed)
    # A full path is exact, even where another folder holds the same path again below it.
    candidates = [[whole[name]] if name in whole else bearers.get(name, []) for name in map(composed, names)]
    meant = set(chain.from_iterable(candidates))
    other_case: list[str] = []
    downsampled: list[str] = []
    for spell, alike in ((_small_letters, other_case), (_without_ending, downsampled)):
        if len(meant) == len(files) or all(candidates):
            break
        bearers = _bearers([path for path in files if path not in meant], spell)
        for row, name in enumerate(names):
            if not candidates[row] and (found := bearers.get(spell(name))):
                candidates[row] = found
                alike.append(f"{name} = {found[0]}")
        meant = set(chain.from_iterable(candidates))
    return Matches(
        paths=[found[0] if found else "" for found in candidates],
        copies=[name for name, found in zip(names, candidates, strict=True) if len(found) > 1],
        unnamed=[path for path in files if path not in meant],
        other_case=other_case,
        downsampled=downsampled,
    )


def _bearers(paths: Iterable[str], spell: Callable[[str], str]) -> dict[str, list[str]]:
    """Return which files may be meant by a name, spelled in one way."""
    bearers: dict[str, list[str]] = {}
    for path in paths:
        stem = without_suffix(path)
        for alias in {path, stem, path.rpartition("/")[2], stem.rpartition("/")[2]}:
            bearers.setdefault(spell(alias), []).append(path)
    return bearers


def _small_letters(name: str) -> str:
    return composed(name.casefold())


def _without_ending(name: str) -> str:
    name = _small_letters(name)
    stem = without_suffix(name)
    return stem.removesuffix("_downsampled") + name[len(stem) :]


def without_suffix(name: str) -> str:
    """Return a name or path without the suffix of an image file; dots that are no such suffix stay."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot + suffix.lower() in IMAGE_SUFFIXES else name


def attach_files(
    rows: pd.DataFrame, names: Sequence[str], csv: Path, root: Path, notes: list[str], *, same_name_is_copy: bool
) -> pd.DataFrame:
    """Give each row of a csv its file, and leave out the rows that have none.

    Parameters
    ----------
    rows
        One row per image.
    names
        What the csv calls each image.
    csv, root
        The csv, and the folder that holds the images.
    notes
        Gains a sentence for what only the csv or only the folder knows, and for copies.
    same_name_is_copy
        Whether files of one name are one image, as ids of a published set are; otherwise they are refused.

    Returns
    -------
    The rows that have a file, with the columns ``file``, ``key`` and ``stamp`` of the index.

    Raises
    ------
    DataError
        If no image is found, or it is unclear which file is meant.
    """
    content = find_files(root)
    files = content.images
    matches = match_names(names, files)
    found = [bool(path) for path in matches.paths]
    if not any(found):
        raise DataError(
            f"{root}: none of the {counted(len(names), 'image')} that {csv.name} names is in this folder or below it, "
            f"e.g. {names[0]}; unpack the images there, or correct data.root" + other_kinds(content.others, before="; ")
        )
    problems = []
    if matches.copies and not same_name_is_copy:
        problems.append(
            f"{csv}: several files have the name of {counted(len(matches.copies), 'image')}: "
            f"{first_names(matches.copies)}; write the path of each image, relative to {root}"
        )
    taken = pd.Series([path for path in matches.paths if path])
    shared = taken[taken.duplicated()].unique().tolist()
    if shared:
        problems.append(f"{csv}: more than one row means {first_names(shared)}; keep one row for each image")
    if problems:
        raise DataError(problems)

    _note_what_does_not_match(names, matches, csv, notes)
    if len(matches.paths) > sum(found):  # else all that the csv names is there, whatever lies beside it
        note_other_kinds(content.others, notes)
    _note_nameless(content.nameless, notes)
    chosen = [files[path] for path in matches.paths if path]
    paths = [file.path for file in chosen]
    return rows[found].reset_index(drop=True).assign(file=paths, key=paths, stamp=[file.stamp for file in chosen])


def _note_nameless(nameless: Sequence[str], notes: list[str]) -> None:
    """Say which files a csv could not name."""
    if nameless:
        verb = "is not UTF-8 text was" if len(nameless) == 1 else "is not UTF-8 text were"
        notes.append(f"{counted(len(nameless), 'image file')} whose path {verb} left out ({first_names(nameless)})")


def note_differences(matches: Matches, csv: Path, notes: list[str]) -> None:
    """Say which names differ from their files, and in what."""
    for differing, what in (
        (matches.other_case, "small and large letters"),
        (matches.downsampled, "the ending _downsampled"),
    ):
        if differing:
            verb = "differs" if len(differing) == 1 else "differ"
            notes.append(
                f"{counted(len(differing), 'name')} of {csv.name} {verb} from the file taken for it in {what} "
                f"({first_names(differing)})"
            )


def _note_what_does_not_match(names: Sequence[str], matches: Matches, csv: Path, notes: list[str]) -> None:
    """Say which rows have no file, which files no row, and of which image there are several files."""
    note_differences(matches, csv, notes)
    missing = [name for name, path in zip(names, matches.paths, strict=True) if not path]
    if missing:
        verb = "has no image file and was" if len(missing) == 1 else "have no image file and were"
        notes.append(f"{counted(len(missing), 'row')} of {csv.name} {verb} left out ({first_names(missing)})")
    if matches.unnamed:
        verb = "was" if len(matches.unnamed) == 1 else "were"
        notes.append(
            f"{counted(len(matches.unnamed), 'image file')} that {csv.name} does not name {verb} left out "
            f"({first_names(matches.unnamed)})"
        )
    if matches.copies:
        verb = "lies" if len(matches.copies) == 1 else "lie"
        notes.append(
            f"{counted(len(matches.copies), 'image')} {verb} in several folders; the first was taken "
            f"({first_names(matches.copies)})"
        )
