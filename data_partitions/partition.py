"""Which hospital holds which training images.

flwr-datasets' partitioners are applied to groups (patients or lesions), not to images, so that no patient is
at two hospitals. They do not shuffle and they drop classes without a word; hence groups are put in an order that
``partition.seed`` keys first, and what would drop a class is refused here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from data_partitions.image_index import ImageIndex
from data_partitions.wording import counted
from federation.diagnoses import find_melanoma_class
from federation.errors import PartitionError
from federation.run_directory import written_atomically
from federation.seeding import derive_seed
from federation.settings.data import PartitionSettings

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner
    from numpy.typing import NDArray

POOLED = "all"
"""Name of the one hospital of centralised training."""

MAX_DRAWS = 20
"""Draws from the Dirichlet distribution before a minimum size is given up."""

NAMED_AT_MOST = 12
"""Sites or hospitals named in an error; a wrong ``data.site-column`` can make thousands."""


@dataclass(frozen=True, eq=False)
class Partition:
    """An assignment of every training image to one hospital. Two are equal if their ``digest`` is."""

    hospitals: tuple[str, ...]
    """Names, sorted; the position is the partition id. Sites, ``hospital-00`` …, or ``all`` for one."""
    rows: Mapping[str, NDArray[np.int64]]
    """Each hospital's row numbers in the index, ascending."""
    classes: tuple[str, ...]
    """Class names in the order of their label."""
    counts: NDArray[np.int64]
    """Images of shape (n_hospitals, n_classes)."""
    num_groups: tuple[int, ...]
    """Patients or lesions at each hospital."""
    settings: PartitionSettings
    """What the partition was made from."""
    digest: str
    """BLAKE2b of every (hospital, image id); does not depend on the order of rows."""

    def name_of(self, partition_id: int) -> str:
        """Return the hospital that Flower numbers `partition_id`.

        Raises
        ------
        PartitionError
            If there is no such number.
        """
        if not 0 <= partition_id < len(self.hospitals):
            raise PartitionError(
                f"partition-id = {partition_id}: the partition has {len(self.hospitals)} hospitals; "
                f"allowed is 0 to {len(self.hospitals) - 1}"
            )
        return self.hospitals[partition_id]

    def rows_of(self, hospital: str) -> NDArray[np.int64]:
        """Return a hospital's row numbers in the index, ascending.

        Raises
        ------
        PartitionError
            If there is no such hospital.
        """
        if hospital not in self.rows:
            raise PartitionError(f"site = {hospital!r}: allowed is one of {_some(self.hospitals)}")
        return self.rows[hospital]

    def manifest(self) -> dict[str, Any]:
        """Return the content of ``partition.json``: settings, counts and the digest, and no image id."""
        return {
            "settings": self.settings.model_dump(by_alias=True),
            "digest": self.digest,
            "images": int(self.counts.sum()),
            "groups": sum(self.num_groups),
            "hospitals": {
                name: {
                    "images": int(counts.sum()),
                    "groups": groups,
                    "classes": dict(zip(self.classes, counts.tolist(), strict=True)),
                }
                for name, counts, groups in zip(self.hospitals, self.counts, self.num_groups, strict=True)
            },
        }


def partition_images(index: ImageIndex, parts: NDArray[np.str_], settings: PartitionSettings) -> Partition:
    """Assign every training image to one hospital.

    Parameters
    ----------
    index
        All images of the federation.
    parts
        Part of each row, from :func:`data_partitions.split.split_parts`.
    settings
        ``partition.*``. ``hospitals = 1`` pools all images, whatever the scheme.

    Returns
    -------
    A partition that is disjoint in images and in groups, and, but for ``prevalence``, complete: a function of the
    images' ids, labels, groups, sites and of the settings alone.

    Raises
    ------
    PartitionError
        If the scheme would drop a class, if there are too few groups or images, if a hospital would hold fewer
        than ``partition.min-images`` images, or if ``natural`` meets another number of sites.

    Notes
    -----
    A group counts as its rarest class, so that the rare classes are spread as the scheme says; a lesion with two
    diagnoses may bring a hospital a further class. A group that stands under two sites belongs to the site that
    holds more of its images, and at a tie to the first by name.
    """
    train_rows = np.flatnonzero(parts == "train")
    groups = _shuffled_groups(index, train_rows, settings.seed)
    if settings.hospitals == 1:
        names: tuple[str, ...] = (POOLED,)
        holders = np.zeros(len(groups), dtype=np.int64)
        if settings.scheme == "prevalence":  # of the images that the hospitals would hold
            holders = np.minimum(_prevalence(groups, settings, index.classes), 0)
    elif settings.scheme == "natural":
        names = tuple(sorted(set(index.sites)))
        holders = _by_site(groups, settings, names, index.missing_sites)
    else:
        _check_enough(groups, settings)
        width = max(2, len(str(settings.hospitals - 1)))
        names = tuple(f"hospital-{number:0{width}d}" for number in range(settings.hospitals))
        holders = _ARTIFICIAL_SCHEMES[settings.scheme](groups, settings, index.classes)
    _check_sizes(groups, holders, names, settings)

    holder_of_group = pd.Series(holders, index=groups["group"])
    holder_of_row = holder_of_group.loc[index.groups[train_rows]].to_numpy()
    rows = {name: train_rows[holder_of_row == number] for number, name in enumerate(names)}
    return _describe(index, rows, settings)


def keep_training_images(partition: Partition, index: ImageIndex, parts: NDArray[np.str_]) -> Partition:
    """Leave to each hospital what it holds of the images that are trained on.

    Parameters
    ----------
    partition
        Of all training images: who holds an image does not depend on which others are left out.
    index, parts
        As for :func:`partition_images`; some images may have left the train part.

    Raises
    ------
    PartitionError
        If a hospital would hold fewer than ``partition.min-images`` images.
    """
    rows = {name: held[parts[held] == "train"] for name, held in partition.rows.items()}
    least = partition.settings.min_images
    small = [f"{name} {len(held):,}" for name, held in rows.items() if len(held) < least]
    if small:
        raise PartitionError(
            f"partition.min-images = {least}: of the classes in data.only too few training images at {_some(small)}; "
            "name more classes, set another partition.scheme, or lower partition.min-images"
        )
    return _describe(index, rows, partition.settings)


def partition_for_site(index: ImageIndex, parts: NDArray[np.str_], site: str, settings: PartitionSettings) -> Partition:
    """Give all training images to one named hospital: a real site that holds nothing but its own.

    Raises
    ------
    PartitionError
        If they are fewer than ``partition.min-images``.
    """
    train_rows = np.flatnonzero(parts == "train")
    if len(train_rows) < settings.min_images:
        raise PartitionError(
            f"site {site!r} holds {len(train_rows)} training images, fewer than partition.min-images = "
            f"{settings.min_images}; add images, or lower partition.min-images for the whole federation"
        )
    return _describe(index, {site: train_rows}, settings)


def write_split_csv(index: ImageIndex, parts: NDArray[np.str_], partition: Partition, path: Path) -> None:
    """Write image_id, part and hospital (empty outside train) of every image, for simulations only."""
    with written_atomically(path) as unfinished:
        split_table_of(index, parts, partition).to_csv(unfinished, index=False, lineterminator="\n")


def split_table_of(index: ImageIndex, parts: NDArray[np.str_], partition: Partition) -> pd.DataFrame:
    """Return image_id, part and hospital (empty outside train) of every image."""
    hospitals = np.full(len(index.table), "", dtype=object)
    for name, rows in partition.rows.items():
        hospitals[rows] = name
    return pd.DataFrame({"image_id": index.table["image_id"], "part": parts, "hospital": hospitals})


def describe_images(index: ImageIndex, parts: NDArray[np.str_]) -> dict[str, Any]:
    """Return what tells these images from others, whatever folder they lie in.

    Returns
    -------
    ``parts``, the number of images in each part, and ``digest``: BLAKE2b of each image's id, part, class, group, site,
    attributes and content. It does not depend on the order of rows.
    """
    names, counts = np.unique(parts, return_counts=True)
    columns = ["image_id", "group", "site", "age", "sex", "localisation", "digest"]
    table = index.table[columns].assign(part=parts, class_name=np.array(index.classes, dtype=object)[index.labels])
    digest = hashlib.blake2b(digest_size=16)
    for row in sorted("\x1f".join(map(str, values)) for values in table.itertuples(index=False)):
        digest.update(f"{row}\x1e".encode())
    return {"parts": dict(zip(names.tolist(), counts.tolist(), strict=True)), "digest": digest.hexdigest()}


def _describe(index: ImageIndex, rows: Mapping[str, NDArray[np.int64]], settings: PartitionSettings) -> Partition:
    """Count and hash an assignment."""
    image_ids = index.table["image_id"].to_numpy(dtype=object)
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(rows):
        for image_id in sorted(image_ids[rows[name]]):
            digest.update(f"{name}\x1f{image_id}\x1e".encode())
    names = tuple(sorted(rows))
    num_classes = len(index.classes)
    return Partition(
        hospitals=names,
        rows=rows,
        classes=index.classes,
        counts=np.stack([np.bincount(index.labels[rows[name]], minlength=num_classes) for name in names]),
        num_groups=tuple(len(np.unique(index.groups[rows[name]])) for name in names),
        settings=settings,
        digest=digest.hexdigest(),
    )


def _shuffled_groups(index: ImageIndex, train_rows: NDArray[np.int64], seed: int) -> pd.DataFrame:
    """Return a row per group with its id, number of images, class and site, in an order that the seed keys."""
    labels = index.labels[train_rows]
    # Classes from the rarest to the most frequent; the rarest of a group has the least rank.
    rarest_first = np.argsort(np.bincount(labels, minlength=len(index.classes)), kind="stable")
    rank = np.argsort(rarest_first)
    images = pd.DataFrame(
        {"group": index.groups[train_rows], "rank": rank[labels], "site": index.sites[train_rows]}, dtype=object
    ).astype({"rank": np.int64})
    groups = images.groupby("group", sort=True).agg(images=("rank", "size"), rank=("rank", "min"))
    groups["label"] = rarest_first[groups["rank"]]
    shares = images.groupby(["group", "site"]).size().reset_index(name="images")
    largest_first = shares.sort_values(["group", "images", "site"], ascending=[True, False, True])
    groups["site"] = largest_first.drop_duplicates("group").set_index("group")["site"]
    order = _keyed_order(list(groups.index), seed)
    return groups.reset_index().drop(columns="rank").iloc[order].reset_index(drop=True)


def _keyed_order(groups: list[str], seed: int) -> NDArray[np.int64]:
    """Order groups by a keyed hash of each, as the split does: NumPy promises no equal shuffles in all versions."""
    return np.argsort([derive_seed(seed, f"order of group {group}") for group in groups])


def _by_site(
    groups: pd.DataFrame, settings: PartitionSettings, sites: tuple[str, ...], missing_sites: str
) -> NDArray[np.int64]:
    # One comparison; flwr-datasets' NaturalIdPartitioner gives the same (a test compares) behind a progress bar.
    holders = np.searchsorted(np.array(sites, dtype=object), groups["site"].to_numpy(dtype=object))
    if settings.hospitals != len(sites):
        sizes = _sizes(groups, holders, len(sites))
        named = _some([f"{site} {size:,}" for site, size in zip(sites, sizes, strict=True)])
        remedy = (
            "set partition.hospitals=1, or another partition.scheme, e.g. dirichlet"
            if len(sites) == 1
            else f"set partition.hospitals={len(sites)}, or 1 to pool them"
        )
        raise PartitionError(
            f"partition.hospitals = {settings.hospitals}: the data has {counted(len(sites), 'site')} ({named} training "
            f"images); {remedy}" + (f"; {missing_sites}" if missing_sites else "")
        )
    return holders


def _dirichlet(groups: pd.DataFrame, settings: PartitionSettings, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Divide each class by proportions of its own (Yurochkin et al. 2019, https://arxiv.org/abs/1905.12022)."""
    return _draw_until_large_enough(groups, groups["label"].to_numpy(), settings)


def _quantity(groups: pd.DataFrame, settings: PartitionSettings, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Divide all groups by one draw of proportions: what Dirichlet does where there is but one class."""
    return _draw_until_large_enough(groups, np.zeros(len(groups), dtype=np.int64), settings)


def _draw_until_large_enough(
    groups: pd.DataFrame, divided_by: NDArray[np.int64], settings: PartitionSettings
) -> NDArray[np.int64]:
    from flwr_datasets.partitioner import DirichletPartitioner

    largest_minimum = 0
    for draw in range(MAX_DRAWS):
        # The partitioner's own minimum counts groups; ours counts images, hence 0 there.
        partitioner = DirichletPartitioner(
            num_partitions=settings.hospitals,
            partition_by="label",
            alpha=settings.alpha,
            min_partition_size=0,
            shuffle=False,
            seed=derive_seed(settings.seed, f"partition, draw {draw}"),
        )
        holders = _apply(partitioner, divided_by)
        minimum = int(_sizes(groups, holders, settings.hospitals).min())
        if minimum >= settings.min_images:
            return holders
        largest_minimum = max(largest_minimum, minimum)
    lower = f", set partition.min-images={largest_minimum} or lower" if largest_minimum else ""
    raise PartitionError(
        f"partition.scheme = {settings.scheme} with partition.alpha = {settings.alpha:g}: in each of {MAX_DRAWS} draws "
        f"a hospital held fewer training images than partition.min-images = {settings.min_images} (at best "
        f"{largest_minimum}); raise partition.alpha{lower}, or set fewer than {settings.hospitals} partition.hospitals"
    )


def _pathological(groups: pd.DataFrame, settings: PartitionSettings, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Give each hospital k classes, and each class to nearly the same number of hospitals.

    Classes in a random order are laid around a circle; hospital 0 takes the first k, hospital 1 the next k, and
    so on. Each class is cut into equal pieces, one for each hospital that takes it. For flwr-datasets these are
    hospitals * k partitions of one class each: its own assignments of several classes drop some where there are
    enough places for all. Where k divides the number of classes, hospitals a full turn apart hold the same classes.
    """
    from flwr_datasets.partitioner import PathologicalPartitioner

    num_hospitals, num_taken = settings.hospitals, settings.classes_per_hospital
    present = np.unique(groups["label"])
    circle = np.array(sorted(present, key=lambda label: derive_seed(settings.seed, f"place of {classes[label]}")))
    num_pieces = num_hospitals * num_taken
    if num_taken > len(present):
        raise PartitionError(
            f"partition.classes-per-hospital = {num_taken}: the training images have {len(present)} classes; "
            f"set partition.classes-per-hospital={len(present)} or lower"
        )
    if num_pieces < len(present):
        dropped = ", ".join(classes[label] for label in sorted(circle[num_pieces:]))
        raise PartitionError(
            f"partition.hospitals = {num_hospitals} with partition.classes-per-hospital = {num_taken}: have room for "
            f"{num_pieces} of {len(present)} classes and would drop {dropped}; set "
            f"partition.hospitals={-(-len(present) // num_taken)} or "
            f"partition.classes-per-hospital={-(-len(present) // num_hospitals)}"
        )
    problems = []
    for place, label in enumerate(circle):
        pieces = len(range(place, num_pieces, len(present)))
        available = int((groups["label"] == label).sum())
        if available < pieces:
            problems.append(
                f"partition.hospitals = {num_hospitals} with partition.classes-per-hospital = {num_taken}: {pieces} "
                f"hospitals would share class {classes[label]!r}, which has {available} groups (patients or lesions) "
                "in the training part; lower one of the two"
            )
    if problems:
        raise PartitionError(problems)
    place_of_label = np.zeros(len(classes), dtype=np.int64)
    place_of_label[circle] = np.arange(len(circle))
    partitioner = PathologicalPartitioner(
        num_partitions=num_pieces,
        partition_by="label",
        num_classes_per_partition=1,
        class_assignment_mode="deterministic",
        shuffle=False,
    )
    return _apply(partitioner, place_of_label[groups["label"]]) // num_taken


def _prevalence(groups: pd.DataFrame, settings: PartitionSettings, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Cut the shuffled groups of one class, and those of all others, into runs; -1 for groups that are left out."""
    name = settings.prevalence_of or find_melanoma_class(classes)
    if name is None or name not in classes:
        found = f"partition.prevalence-of = {settings.prevalence_of!r}: "
        found += "there is no such class" if settings.prevalence_of else "no class is melanoma by its name"
        raise PartitionError(f"{found}; name one of {', '.join(classes)}")
    shares, sizes = np.array(settings.prevalence_shares), np.array(settings.prevalence_sizes)
    is_of_class = (groups["label"] == classes.index(name)).to_numpy()
    parts = ((is_of_class, sizes * shares), (~is_of_class, sizes * (1 - shares)))
    images = groups["images"].to_numpy()
    for rows, wanted, what in ((*parts[0], f"of class {name}"), (*parts[1], f"of another class than {name}")):
        if wanted.sum() > 0 and not images[rows].sum():
            raise PartitionError(
                f"partition.prevalences = {settings.prevalences!r}: there is no training image {what}, and hospitals "
                "shall hold some; choose another partition.scheme, another partition.prevalence-of, or leave data.only "
                "empty"
            )
    # As many images as the scarcer of the two allows.
    scale = min(images[rows].sum() / wanted.sum() for rows, wanted in parts if wanted.sum() > 0)
    holders = np.full(len(groups), -1, dtype=np.int64)
    for rows, wanted in parts:
        ends = np.round(scale * np.cumsum(wanted))
        place = np.searchsorted(ends, np.cumsum(images[rows]), side="left")
        holders[rows] = np.where(place < len(ends), place, -1)
    return holders


def _iid(groups: pd.DataFrame, settings: PartitionSettings, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Cut the shuffled groups into equal runs."""
    from flwr_datasets.partitioner import IidPartitioner

    return _apply(IidPartitioner(num_partitions=settings.hospitals), groups["label"].to_numpy())


def _dominant(groups: pd.DataFrame, settings: PartitionSettings, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Cut the shuffled groups into runs, one of them so many times as long as each other."""
    from flwr_datasets.partitioner import SizePartitioner

    others = max(1, int(len(groups) / (settings.dominance + settings.hospitals - 1)))
    sizes = [len(groups) - others * (settings.hospitals - 1)] + [others] * (settings.hospitals - 1)
    return _apply(SizePartitioner(sizes), groups["label"].to_numpy())


_ARTIFICIAL_SCHEMES: dict[str, Callable[[pd.DataFrame, PartitionSettings, tuple[str, ...]], NDArray[np.int64]]] = {
    "dirichlet": _dirichlet,
    "pathological": _pathological,
    "quantity": _quantity,
    "dominant": _dominant,
    "prevalence": _prevalence,
    "iid": _iid,
}


def _apply(partitioner: Partitioner, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the partition id of each group; `labels` is what the partitioner divides by."""
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"number": np.arange(len(labels)), "label": labels})
    partition_ids = np.full(len(labels), -1)
    for partition_id in range(partitioner.num_partitions):
        partition_ids[partitioner.load_partition(partition_id)["number"][:]] = partition_id
    assert (partition_ids >= 0).all(), "a partitioner dropped groups"
    return partition_ids


def _sizes(groups: pd.DataFrame, holders: NDArray[np.int64], num_hospitals: int) -> NDArray[np.int64]:
    """Images at each hospital."""
    held = holders >= 0
    return np.bincount(holders[held], weights=groups["images"][held], minlength=num_hospitals).astype(np.int64)


def _check_enough(groups: pd.DataFrame, settings: PartitionSettings) -> None:
    """Refuse more hospitals than there can be, whatever the draw."""
    problems = []
    num_images = int(groups["images"].sum())
    if settings.hospitals > len(groups):
        problems.append(
            f"partition.hospitals = {settings.hospitals}: the training part has {len(groups)} groups (patients or "
            f"lesions), and none is divided; set partition.hospitals={len(groups)} or lower"
        )
    if settings.hospitals * settings.min_images > num_images:
        problems.append(
            f"partition.hospitals = {settings.hospitals} with partition.min-images = {settings.min_images}: need "
            f"{settings.hospitals * settings.min_images:,} training images, and there are {num_images:,}; lower one of "
            "the two"
        )
    if problems:
        raise PartitionError(problems)


def _check_sizes(
    groups: pd.DataFrame, holders: NDArray[np.int64], names: tuple[str, ...], settings: PartitionSettings
) -> None:
    """Refuse hospitals with fewer than the least number of images."""
    sizes = _sizes(groups, holders, len(names))
    small = [f"{name} {size:,}" for name, size in zip(names, sizes, strict=True) if size < settings.min_images]
    if not small:
        return
    lower = f"set partition.min-images={sizes.min()}, or " if sizes.min() else ""
    remedy = "pool the sites with partition.hospitals=1" if settings.scheme == "natural" else "set fewer hospitals"
    if len(names) == 1:
        remedy = "add images"
    raise PartitionError(
        f"partition.min-images = {settings.min_images}: too few training images at {_some(small)}; {lower}{remedy}"
    )


def _some(names: list[str] | tuple[str, ...]) -> str:
    """Join names for an error, and say how many are left out."""
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more:,} more" if more > 0 else "")
