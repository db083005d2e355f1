"""Where a study's synthetic images come from: one generator of all classes, or a pair without classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from federation.models.final import FinalGenerator
from federation.seeding import numpy_stream
from server.evaluation.supply import GeneratorSupply, ImageSupply

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH = 256  # images at once: memory only


class Source(ImageSupply, Protocol):
    """Gives images to a judge, and images of one class or of all others to who tells the two apart."""

    def of_class(self, is_class: bool, count: int, purpose: str) -> NDArray[np.uint8]:
        """Return uint8 (count, r, r, 3), of the class or of the rest."""


class ConditionalSource(GeneratorSupply):
    """A generator that knows all classes; the rest is asked for in the proportions of real images.

    Parameters
    ----------
    generator, seed, threads
        See :class:`~server.evaluation.supply.GeneratorSupply`.
    label
        The class that is told from the rest.
    labels
        (n,), of real training images.
    """

    def __init__(
        self, generator: FinalGenerator, *, seed: int, threads: int, label: int, labels: NDArray[np.int64]
    ) -> None:
        super().__init__(generator, seed=seed, threads=threads)
        self._label, self._rest, self._own_seed = label, labels[labels != label], seed

    def of_class(self, is_class: bool, count: int, purpose: str) -> NDArray[np.uint8]:
        """See :class:`Source`."""
        stream = numpy_stream(self._own_seed, f"classes of the rest, {purpose}")
        labels = np.full(count, self._label) if is_class else stream.choice(self._rest, count)
        return np.concatenate(list(self.batches(labels, purpose)))


class PairSource:
    """Two generators without classes: one of the class, one of the rest. Nothing says which class the rest shows.

    Parameters
    ----------
    of_class, of_rest
        See :func:`federation.models.final.load_final`.
    seed, threads
        See :class:`~server.evaluation.supply.GeneratorSupply`.
    label
        The class that the first was trained on.
    """

    knows_classes = False
    num_images: int | None = None

    def __init__(
        self, of_class: FinalGenerator, of_rest: FinalGenerator, *, seed: int, threads: int, label: int
    ) -> None:
        self._of_class = GeneratorSupply(of_class, seed=seed, threads=threads)
        self._of_rest = GeneratorSupply(of_rest, seed=seed, threads=threads)
        self._label = label

    def has_class(self, label: int) -> bool:
        """See :class:`~server.evaluation.supply.ImageSupply`."""
        return False

    def batches(self, labels: NDArray[np.int64], purpose: str) -> Iterator[NDArray[np.uint8]]:
        """Yield images in the order of `labels`, each from the generator that it falls to."""
        falls_to_first = labels == self._label
        first, rest = (
            _Reader(supply.batches(labels[rows], f"{purpose}, {name}"))
            for supply, rows, name in (
                (self._of_class, falls_to_first, "class"),
                (self._of_rest, ~falls_to_first, "rest"),
            )
        )
        for start in range(0, len(labels), _BATCH):
            rows = falls_to_first[start : start + _BATCH]
            parts = [reader.take(int(mask.sum())) for reader, mask in ((first, rows), (rest, ~rows)) if mask.any()]
            order = np.argsort(~rows, kind="stable")
            batch = np.empty((len(rows), *parts[0].shape[1:]), dtype=np.uint8)
            batch[order] = np.concatenate(parts)
            yield batch

    def draw(
        self, labels: NDArray[np.int64], purpose: str, *, whole: bool = False
    ) -> tuple[NDArray[np.int64] | None, Iterator[NDArray[np.uint8]]]:
        """See :class:`~server.evaluation.supply.ImageSupply`: as many of the class as there are labels of it."""
        return None, self.batches(labels, purpose)

    def follows(self, labels: NDArray[np.int64]) -> bool:
        """Return False: the rest has a mix of classes of its own."""
        return False

    def overlap(self, labels: NDArray[np.int64], label: int | None = None) -> float:
        """Return 0: draws are independent."""
        return 0.0

    def of_class(self, is_class: bool, count: int, purpose: str) -> NDArray[np.uint8]:
        """See :class:`Source`."""
        supply = self._of_class if is_class else self._of_rest
        return np.concatenate(list(supply.batches(np.zeros(count, dtype=np.int64), purpose)))


class _Reader:
    """Takes so many images at a time from batches of any size."""

    def __init__(self, batches: Iterator[NDArray[np.uint8]]) -> None:
        self._batches = batches
        self._left: list[NDArray[np.uint8]] = []

    def take(self, count: int) -> NDArray[np.uint8]:
        """Return the next `count` images, at least 1."""
        while sum(map(len, self._left)) < count:
            self._left.append(next(self._batches))
        joined = np.concatenate(self._left)
        self._left = [joined[count:]]
        return joined[:count]
