"""Where the images that are judged come from: an exported generator, or a folder of images.

The judge asks for images of given classes, and for draws that stand for all that the source gives. It
never holds more than a batch of them unless it must.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from federation.models.final import FinalGenerator
from federation.seeding import derive_seed, numpy_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Images at once from a pool: memory only.
_BATCH = 256
# Of a pool a draw takes no more than this share, so that draws differ.
_LARGEST_SHARE = 0.8


class ImageSupply(Protocol):
    """Gives the images that are judged."""

    knows_classes: bool
    """Whether an image of a given class can be had."""
    num_images: int | None
    """How many there are; None where as many as are asked for."""

    def has_class(self, label: int) -> bool:
        """Return whether there is an image of this class."""

    def batches(self, labels: NDArray[np.int64], purpose: str) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 (any number, r, r, 3), an image of each label in their order.

        Labels mean nothing where no classes are known. The same images for the same purpose; another gives others.
        """

    def draw(
        self, labels: NDArray[np.int64], purpose: str, *, whole: bool = False
    ) -> tuple[NDArray[np.int64] | None, Iterator[NDArray[np.uint8]]]:
        """Return the labels (None: unknown) and the batches of about as many images as there are `labels`.

        A generator is asked for these classes. A pool gives images at random, in its own proportions; unless the
        `whole` pool may be taken, no more than four fifths of it, so that draws differ.
        """

    def overlap(self, num_drawn: int) -> float:
        """Return the share of a draw of `num_drawn` images that another draw holds too, on average; in [0, 1)."""


class GeneratorSupply:
    """An exported generator.

    Parameters
    ----------
    generator
        See :func:`federation.models.final.load_final`.
    seed
        Another seed draws other images.
    threads
        CPU threads; their number does not change the images.
    """

    num_images: int | None = None

    def __init__(self, generator: FinalGenerator, *, seed: int, threads: int = 1) -> None:
        self.generator = generator
        self.knows_classes = bool(generator.classes)
        self._seed = seed
        self._threads = threads

    def has_class(self, label: int) -> bool:
        """See :class:`ImageSupply`."""
        return self.knows_classes

    def batches(self, labels: NDArray[np.int64], purpose: str) -> Iterator[NDArray[np.uint8]]:
        """See :class:`ImageSupply`."""
        classes = self.generator.classes
        names = [classes[label] for label in labels] if classes else None
        drawn = self.generator.batches(
            len(labels), class_name=names, seed=derive_seed(self._seed, f"judged, {purpose}"), threads=self._threads
        )
        for batch in drawn:
            yield batch.numpy()

    def draw(
        self, labels: NDArray[np.int64], purpose: str, *, whole: bool = False
    ) -> tuple[NDArray[np.int64] | None, Iterator[NDArray[np.uint8]]]:
        """See :class:`ImageSupply`."""
        return (labels if self.knows_classes else None), self.batches(labels, purpose)

    def overlap(self, num_drawn: int) -> float:
        """Return 0: draws are independent."""
        return 0.0


class PoolSupply:
    """A fixed set of images.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3), at least 2.
    labels
        (n,), or None where classes are unknown.
    seed
        Another seed takes other images.
    """

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, *, seed: int) -> None:
        self.images = images
        self.labels = labels
        self.knows_classes = labels is not None
        self.num_images: int | None = len(images)
        self._seed = seed

    def has_class(self, label: int) -> bool:
        """See :class:`ImageSupply`."""
        return self.labels is not None and bool((self.labels == label).any())

    def batches(self, labels: NDArray[np.int64], purpose: str) -> Iterator[NDArray[np.uint8]]:
        """See :class:`ImageSupply`. Images come again where a class has fewer than are asked for."""
        stream = numpy_stream(self._seed, f"pool, {purpose}")
        rows = np.empty(len(labels), dtype=np.int64)
        if self.labels is None:
            rows[:] = _choose(stream, np.arange(len(self.images)), len(labels))
        else:
            for label in np.unique(labels):
                places = np.flatnonzero(labels == label)
                rows[places] = _choose(stream, np.flatnonzero(self.labels == label), len(places))
        return self._batches(rows)

    def draw(
        self, labels: NDArray[np.int64], purpose: str, *, whole: bool = False
    ) -> tuple[NDArray[np.int64] | None, Iterator[NDArray[np.uint8]]]:
        """See :class:`ImageSupply`."""
        most = len(self.images) if whole else max(2, int(_LARGEST_SHARE * len(self.images)))
        count = min(len(labels), most)
        stream = numpy_stream(self._seed, f"pool, {purpose}")
        rows = np.sort(stream.choice(len(self.images), count, replace=False))
        return (None if self.labels is None else self.labels[rows]), self._batches(rows)

    def overlap(self, num_drawn: int) -> float:
        """See :class:`ImageSupply`."""
        return num_drawn / len(self.images)

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(rows), _BATCH):
            yield np.asarray(self.images[rows[start : start + _BATCH]])


def _choose(stream: np.random.Generator, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose `count` of `rows`: all of them equally often, but for the last time round."""
    assert len(rows) > 0
    rounds = [stream.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate(rounds)[:count]
