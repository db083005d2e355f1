"""Decoded images: all of them as one memory map, and one hospital's on its device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data_partitions.image_cache import ImageCache, Progress
from data_partitions.image_index import ImageIndex
from federation.batch import Batch
from federation.errors import WireError
from federation.images import to_floats


def load_images(
    index: ImageIndex, resolution: int, cache_dir: str = "", progress: Progress | None = None
) -> np.ndarray:
    """Return every image of an index, decoded at most once per resolution.

    Parameters
    ----------
    index
        The images.
    resolution
        Side in pixels. The centre square is resampled by :func:`data_partitions.decoding.to_square`.
    cache_dir
        ``data.cache-dir``. Empty: the user's cache folder.
    progress
        Called after each image that is decoded or drawn.

    Returns
    -------
    uint8 memory map of shape (images, resolution, resolution, 3), read-only, in the order of the index. Processes
    that map it share its memory.

    Raises
    ------
    DataError
        If the cache cannot be written.
    """
    return ImageCache(cache_dir).pixels(index.table.digest.tolist(), index.read_image, resolution, progress)


_NAMED_ATTRIBUTES = ("sex", "localisation", "site")


class ImageDataset:
    """The images of one hospital, or of one part of the split, on a device.

    They stay 8-bit there (10,000 images of 32 px take 31 MB) and become floats batch by batch.

    Parameters
    ----------
    images
        uint8 array of shape (all images, resolution, resolution, 3).
    labels
        int64 array of shape (all images,).
    rows
        The rows of both that belong to this dataset, shape (n,); at least one.
    device
        Where the images lie and batches are made.
    flips
        Whether each image of a batch is turned and mirrored at random: dermoscopy has no upright.
    balanced
        Whether a batch draws a class that occurs, all alike, and then one of its images, with replacement. Else
        batches go through the images in a random order, pass by pass.
    table
        The index's table, whose attributes of each image go with it in a batch; None: nothing but labels is known.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray,
        *,
        device: torch.device | str = "cpu",
        flips: bool = False,
        balanced: bool = False,
        table: pd.DataFrame | None = None,
    ) -> None:
        if len(rows) == 0:
            raise ValueError("a dataset needs at least one image")
        self.images: Tensor = torch.from_numpy(np.ascontiguousarray(images[rows])).to(device)
        """uint8, shape (n, resolution, resolution, 3)."""
        self.labels: Tensor = torch.from_numpy(np.ascontiguousarray(labels[rows])).to(device)
        """int64, shape (n,)."""
        self.attributes: dict[str, Tensor] = {}
        """What else is known of each image, by name, shape (n,); see :class:`federation.batch.Batch`."""
        self.vocabularies: dict[str, tuple[str, ...]] = {}
        """The names that ``sex``, ``localisation`` and ``site`` count through: of the whole index, so that all
        hospitals of a simulation have the same; the first is the empty one, for unknown."""
        if table is not None:
            self._add_attributes(table, rows)
        self.flips = flips
        self.weights: Tensor | None = None
        """Relative frequency of each image, shape (n,); None: alike."""
        self._generator: torch.Generator | None = None
        self._order = torch.empty(0, dtype=torch.int64)
        if balanced:
            self.balance()

    def __len__(self) -> int:
        return len(self.labels)

    def balance(self, totals: Sequence[int] = ()) -> None:
        """Draw images by their classes from now on.

        Parameters
        ----------
        totals
            Images of each class in a whole federation: an image is drawn in inverse proportion to those of its class,
            so that hospitals that weigh as :func:`federation.balance.shares` says show all classes alike. Empty: this
            dataset's own, and it shows its own classes alike.

        Raises
        ------
        WireError
            If there are fewer of a class than this dataset holds.
        """
        held = torch.bincount(self.labels, minlength=len(totals))
        of_class = torch.tensor(totals, dtype=torch.int64, device=held.device) if totals else held
        if len(of_class) < len(held) or (of_class < held).any():
            raise WireError(
                f"images of each class in the federation: {of_class.tolist()} are fewer than the {held.tolist()} here"
            )
        self.weights = 1.0 / of_class[self.labels].float()

    def _add_attributes(self, table: pd.DataFrame, rows: np.ndarray) -> None:
        device = self.labels.device
        ages = table.age.to_numpy(dtype=np.float32)[rows]
        self.attributes["age"] = torch.from_numpy(ages).to(device)
        for name in _NAMED_ATTRIBUTES:
            values = table[name].to_numpy(dtype=object)
            names = ("", *sorted(set(values) - {""}))
            codes = {value: code for code, value in enumerate(names)}
            of_rows = np.array([codes[value] for value in values[rows]], dtype=np.int64)
            self.vocabularies[name] = names
            self.attributes[name] = torch.from_numpy(of_rows).to(device)

    def sample_batch(self, generator: torch.Generator, batch_size: int) -> Batch:
        """Return the next images of a shuffled pass, or of a balanced draw; a new pass begins where one ends.

        A generator that was not used in the last call begins a new pass, so what a round draws depends on
        its own random stream, not on what the same process drew before.

        Parameters
        ----------
        generator
            Shuffles, turns and mirrors. On the CPU it gives the same batches on every device.
        batch_size
            Number of images; it may exceed that of the dataset, whose images then appear more than once.

        Returns
        -------
        Images channels-last in memory, their labels and attributes.
        """
        return self._take(self._next_rows(generator, batch_size), generator)

    def sample_distinct(self, generator: torch.Generator, count: int) -> Batch:
        """Return `count` different images, at most all, as :meth:`sample_batch` returns them."""
        return self._take(torch.randperm(len(self), generator=generator, device=generator.device)[:count], generator)

    def _take(self, rows: Tensor, generator: torch.Generator) -> Batch:
        rows = rows.to(self.labels.device)
        images = self.images[rows]
        if self.flips:
            images = turn_and_mirror(images, generator)
        attributes = {name: values[rows] for name, values in self.attributes.items()}
        return Batch(to_floats(images), self.labels[rows], attributes)

    def _next_rows(self, generator: torch.Generator, count: int) -> Tensor:
        if self.weights is not None:
            weights = self.weights.to(generator.device)
            return torch.multinomial(weights, count, replacement=True, generator=generator)
        if generator is not self._generator:
            self._generator = generator
            self._order = self._order[:0].to(generator.device)
        while len(self._order) < count:
            epoch = torch.randperm(len(self), generator=generator, device=generator.device)
            self._order = torch.cat([self._order, epoch])
        rows, self._order = self._order[:count], self._order[count:]
        return rows


def turn_and_mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply to each image one of the eight symmetries of the square, all equally likely.

    Parameters
    ----------
    images
        Shape (n, side, side, channels).
    generator
        Draws three fair bits for each image: to mirror left and right, up and down, and along the diagonal.
    """
    bits = torch.randint(0, 2, (3, len(images), 1, 1, 1), generator=generator, device=generator.device)
    sideways, upside_down, diagonal = bits.to(images.device, torch.bool)
    images = torch.where(sideways, images.flip(2), images)
    images = torch.where(upside_down, images.flip(1), images)
    return torch.where(diagonal, images.transpose(1, 2), images)
