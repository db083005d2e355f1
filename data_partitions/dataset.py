"""Decoded images: all of them as one memory map, and one hospital's on its device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data_partitions.image_cache import ImageCache, Progress
from data_partitions.image_index import ImageIndex
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
    ) -> None:
        if len(rows) == 0:
            raise ValueError("a dataset needs at least one image")
        self.images: Tensor = torch.from_numpy(np.ascontiguousarray(images[rows])).to(device)
        """uint8, shape (n, resolution, resolution, 3)."""
        self.labels: Tensor = torch.from_numpy(np.ascontiguousarray(labels[rows])).to(device)
        """int64, shape (n,)."""
        self.flips = flips
        self.weights = 1.0 / torch.bincount(self.labels)[self.labels].float() if balanced else None
        """Relative frequency of each image, shape (n,); None: alike."""
        self._generator: torch.Generator | None = None
        self._order = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def sample_batch(self, generator: torch.Generator, batch_size: int) -> tuple[Tensor, Tensor]:
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
        images
            float32 in [-1, 1], shape (batch_size, 3, resolution, resolution), channels-last in memory.
        labels
            int64, shape (batch_size,).
        """
        return self._take(self._next_rows(generator, batch_size), generator)

    def sample_distinct(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Return `count` different images, at most all, as :meth:`sample_batch` returns them."""
        return self._take(torch.randperm(len(self), generator=generator, device=generator.device)[:count], generator)

    def _take(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = rows.to(self.labels.device)
        images = self.images[rows]
        if self.flips:
            images = turn_and_mirror(images, generator)
        return to_floats(images), self.labels[rows]

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
