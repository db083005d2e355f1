"""Between 8-bit images and what networks see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ImageRows:
    """Some images of an array, read when they are asked for: a data set need not fit into memory.

    Parameters
    ----------
    images
        uint8 (n, height, width, 3), for example a memory map.
    rows
        (m,): which of them, in their order here.
    """

    def __init__(self, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        self._images = images
        self._rows = rows
        self.shape = (len(rows), *images.shape[1:])
        """(m, height, width, 3)."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """Return a copy of the images that a slice, a mask or an array of places names."""
        return np.asarray(self._images[self._rows[key]])


def to_floats(images: Tensor) -> Tensor:
    """Map 8-bit images to what the networks see.

    Parameters
    ----------
    images
        uint8, shape (n, height, width, 3).

    Returns
    -------
    float32 in [-1, 1], shape (n, 3, height, width), channels-last in memory.
    """
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Map what the networks draw to 8-bit images.

    Parameters
    ----------
    images
        Shape (n, 3, height, width); -1 is black, 1 is white, values outside are clipped.

    Returns
    -------
    uint8, shape (n, height, width, 3).
    """
    pixels = (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1)
