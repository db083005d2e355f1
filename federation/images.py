"""Between 8-bit images and what networks see."""

from __future__ import annotations

import torch
from torch import Tensor


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
