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
# A draw that is mixed as real images are must have so many, or its figures would be noise.
_FEWEST_MIXED = 100


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
        """Return the labels (None: unknown) and the batches of at most as many images as there are `labels`.

        A generator is asked for these classes. A pool gives images at random, no more than four fifths of a class or
        of all, so that draws differ: as many of each class, in proportion, as there are labels of it where
        :meth:`follows` says so, else in its own proportions. The `whole` pool may be taken where that is asked for.
        """

    def follows(self, labels: NDArray[np.int64]) -> bool:
        """Return whether a draw has the classes that are asked for, in proportion.

        Else what a distance measures is partly the mix of classes, which says nothing of how images look.
        """

    def overlap(self, labels: NDArray[np.int64], label: int | None = None) -> float:
        """Return the share of a draw for `labels`, or of one class of it, that another draw holds too; in [0, 1)."""


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

    def follows(self, labels: NDArray[np.int64]) -> bool:
        """See :class:`ImageSupply`."""
        return self.knows_classes

    def overlap(self, labels: NDArray[np.int64], label: int | None = None) -> float:
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
        stream = numpy_stream(self._seed, f"pool, {purpose}")
        counts = None if whole else self._counts_like(labels)
        if counts is None:
            count = min(len(labels), len(self.images) if whole else self._most())
            rows = np.sort(stream.choice(len(self.images), count, replace=False))
        else:
            chosen = [
                stream.choice(np.flatnonzero(self.labels == label), counts[label], replace=False)
                for label in np.flatnonzero(counts)
            ]
            rows = np.sort(np.concatenate(chosen))
        return (None if self.labels is None else self.labels[rows]), self._batches(rows)

    def follows(self, labels: NDArray[np.int64]) -> bool:
        """See :class:`ImageSupply`."""
        return self._counts_like(labels) is not None

    def overlap(self, labels: NDArray[np.int64], label: int | None = None) -> float:
        """See :class:`ImageSupply`."""
        counts = self._counts_like(labels)
        if counts is None or self.labels is None:
            return min(len(labels), self._most()) / len(self.images)
        held = np.bincount(self.labels, minlength=len(counts))
        shares = counts / np.maximum(held, 1)
        return float(shares[label] if label is not None else (counts * shares).sum() / counts.sum())

    def _most(self) -> int:
        return max(2, int(_LARGEST_SHARE * len(self.images)))

    def _counts_like(self, labels: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return how many images of each class a draw has that is mixed as `labels` are; None where that cannot be."""
        if self.labels is None or not len(labels):
            return None
        wanted = np.bincount(labels, minlength=int(self.labels.max()) + 1)
        held = np.bincount(self.labels, minlength=len(wanted))
        present = wanted > 0
        if (held[present] == 0).any():
            return None
        scale = min(1.0, float((_LARGEST_SHARE * held[present] / wanted[present]).min()))
        counts = np.floor(wanted * scale + 1e-9).astype(np.int64)
        return counts if counts.sum() >= min(_FEWEST_MIXED, len(labels)) else None

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(rows), _BATCH):
            yield np.asarray(self.images[rows[start : start + _BATCH]])


def _choose(stream: np.random.Generator, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose `count` of `rows`: all of them equally often, but for the last time round."""
    assert len(rows) > 0
    rounds = [stream.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate(rounds)[:count]
