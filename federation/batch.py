"""What a training step is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images and what is known of them, all on one device."""

    images: Tensor
    """float32 in [-1, 1], shape (batch, 3, r, r)."""
    labels: Tensor
    """int64, shape (batch,): the class of each."""
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the index knows of each image, each of shape (batch,): ``age`` in years (float32, NaN if unknown),
    ``sex``, ``localisation`` and ``site`` (int64: the place of its name in
    :attr:`data_partitions.dataset.ImageDataset.vocabularies`, where 0 is unknown)."""

    def __len__(self) -> int:
        return len(self.labels)
