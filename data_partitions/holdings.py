"""Who holds which images: from a source's files to the rows of each hospital, for server and hospitals alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_partitions.image_cache import Progress
from data_partitions.image_index import ImageIndex
from data_partitions.partition import Partition, keep_training_images, partition_for_site, partition_images
from data_partitions.sources import load_index
from data_partitions.split import LEFT_OUT, check_split, leave_out_classes, split_parts
from data_partitions.wording import counted
from federation.errors import noted
from federation.settings.data import DataSettings, PartitionSettings


@dataclass(frozen=True)
class Holdings:
    """All images of a source, the part of the split that each is in, and the hospital that holds it."""

    index: ImageIndex
    parts: np.ndarray
    """The part of each row: train, extractor, validation, test or left-out."""
    partition: Partition
    notes: tuple[str, ...]
    """What a user should know about the split: a sentence each; of a real site none."""


def find_holdings(
    data: DataSettings,
    partition: PartitionSettings,
    resolution: int,
    *,
    site: str = "",
    progress: Progress | None = None,
) -> Holdings:
    """Read a source's index, split it, and divide its training images between hospitals.

    Parameters
    ----------
    data, partition
        Which images, and how they are divided.
    resolution
        Side in pixels of the images that will be asked for.
    site
        Name of a real site: the images are its own, all of its training images are held by it, and it need not have
        every class. Empty: all hospitals of a simulation.
    progress
        Called while images are hashed and decoded.

    Raises
    ------
    InputError
        If the data or the partition are not possible.
    """
    index = load_index(data, resolution=resolution, progress=progress, require_every_class=not site)
    parts = split_parts(index.groups, data.split_seed)
    notes = list(index.notes)
    with noted(notes):
        if site:
            parts = leave_out_classes(index, parts, data.only_names, judges=False)
            return Holdings(index, parts, partition_for_site(index, parts, site, partition), ())
        of_split = check_split(index, parts)
        notes += of_split
        held = partition_images(index, parts, partition)
        unheld = np.setdiff1d(np.flatnonzero(parts == "train"), np.concatenate(list(held.rows.values())))
        if data.only_names:
            # Afterwards: a hospital holds the same images of a class whichever others are left out.
            parts = leave_out_classes(index, parts, data.only_names)
            held = keep_training_images(held, index, parts)
            left = counted(int((parts == LEFT_OUT).sum()), "image")
            of_split += (f"{left} of classes that data.only does not name: neither trained on nor judged",)
        if len(unheld):
            # So that whatever is compared with training images is compared with those that are trained on.
            parts = parts.copy()
            parts[unheld] = LEFT_OUT
            of_split += (
                f"{counted(len(unheld), 'training image')} held by no hospital, so that each has its "
                "partition.prevalences",
            )
        return Holdings(index, parts, held, of_split)
