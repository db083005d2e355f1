"""Everything a run needs before its first round, checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_partitions.dataset import load_images
from data_partitions.holdings import find_holdings
from data_partitions.image_index import ImageIndex
from data_partitions.partition import Partition, describe_images
from federation.config import Configuration
from federation.errors import noted
from federation.seeding import numpy_stream
from federation.settings.section import join_names


@dataclass(frozen=True)
class RunInputs:
    """The images of a run, who holds them, and the configuration made complete by them."""

    configuration: Configuration
    """With ``data.classes`` filled in."""
    index: ImageIndex
    parts: np.ndarray
    """The part of each row: train, extractor, validation, test, or left-out: of no use to this run."""
    partition: Partition
    images: np.ndarray
    """uint8 (n, resolution, resolution, 3), a memory map."""
    notes: tuple[str, ...]
    """What a user should know about these data."""

    def rows(self, part: str) -> np.ndarray:
        """Return the rows of a part, ascending."""
        return np.flatnonzero(self.parts == part)

    def manifest(self) -> dict[str, Any]:
        """Return the content of ``partition.json``: who holds how much, and what tells these images from others."""
        return self.partition.manifest() | {"data": describe_images(self.index, self.parts)}

    def choose(self, part: str, most: int) -> np.ndarray:
        """Return at most `most` rows of a part, ascending, the same whatever ``seed`` is."""
        rows = self.rows(part)
        if len(rows) <= most:
            return rows
        stream = numpy_stream(self.configuration.data.split_seed, f"evaluation images, {part}")
        return np.sort(stream.choice(rows, size=most, replace=False))


def prepare_inputs(configuration: Configuration, progress: Callable[[str, int, int], None] | None = None) -> RunInputs:
    """Read, split and partition the images.

    Parameters
    ----------
    configuration
        May leave ``data.classes`` empty.
    progress
        Called with what is being done, how much is done, and of how much.

    Raises
    ------
    InputError
        If the data, the split or the partition are not possible.
    """
    data, resolution = configuration.data, configuration.model.resolution
    held = find_holdings(data, configuration.partition, resolution, progress=progress)
    index, parts = held.index, held.parts
    configuration = configuration.with_values({"data.classes": join_names(index.classes)})
    notes = (*index.notes, *held.notes)
    with noted(notes):
        images = load_images(index, resolution, data.cache_dir, progress)
    return RunInputs(configuration, index, parts, held.partition, images, notes)
