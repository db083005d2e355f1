"""What can be said of images without any network: power by spatial frequency, and how varied their colours are.

A feature extractor sees what it was made to see. These two figures need no extractor, and a generator that
misses half of the power at middle frequencies, or half of the variety of skin, shows it in them by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Bands are two cycles wide up to 16 cycles across the image, so that resolutions can be compared there.
_EVEN_EDGES = tuple(range(2, 17, 2))
_BLOCK = 256  # images at once: memory only


def band_edges(side: int) -> tuple[float, ...]:
    """Return the upper ends of the bands, in cycles across an image of `side` pixels; the first begins at one cycle.

    Two cycles wide up to 16; beyond, two bands an octave, to half the side.
    """
    edges = [edge for edge in _EVEN_EDGES if edge <= side // 2]
    while edges[-1] < side // 2:
        edges.append(edges[-1] * 3 // 2 if edges[-1] & (edges[-1] - 1) == 0 else edges[-1] * 4 // 3)
    return tuple(edges)


class ImageStatistics:
    """Power by band of spatial frequency and mean colours of images that come batch by batch.

    Parameters
    ----------
    side
        Of the images, in pixels: a power of two from 8.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.num_images = 0
        # Without a window, the jump from one border to the opposite one would look like fine detail.
        window = np.hanning(side + 2)[1:-1]
        self._window = np.outer(window, window).astype(np.float32)
        frequencies = np.fft.fftfreq(side) * side
        radius = np.hypot(frequencies[:, None], frequencies[None, : side // 2 + 1].__abs__())
        self._band = np.digitize(radius, (1.0, *(edge for edge in band_edges(side))))  # 0: below a cycle
        self._band[radius > side // 2] = len(band_edges(side)) + 1  # the corners, where only diagonals are
        self._spectrum = np.zeros((side, side // 2 + 1))
        self._colours: list[NDArray[np.float64]] = []

    def update(self, images: NDArray[np.uint8]) -> None:
        """Add uint8 (n, side, side, 3) images."""
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            self._colours.append(block.mean((1, 2), dtype=np.float64))
            grey = block.mean(3, dtype=np.float32)
            grey -= grey.mean((1, 2), keepdims=True)
            self._spectrum += (np.abs(np.fft.rfft2(grey * self._window)) ** 2).sum(0)
            self.num_images += len(block)

    @property
    def band_powers(self) -> NDArray[np.float64]:
        """Mean power of brightness in each band of :func:`band_edges`, (b,); an image's mean brightness is left out."""
        spectrum = self._spectrum / max(1, self.num_images)
        return np.array([spectrum[self._band == band].mean() for band in range(1, len(band_edges(self.side)) + 1)])

    @property
    def colour_deviations(self) -> NDArray[np.float64]:
        """Standard deviation over images of their mean red, green and blue, (3,), in 8-bit steps."""
        return np.asarray(np.concatenate(self._colours).std(axis=0))


def image_statistics(images: NDArray[np.uint8]) -> ImageStatistics:
    """Return the statistics of uint8 (n, r, r, 3) images."""
    found = ImageStatistics(images.shape[1])
    found.update(images)
    return found


def ratios(numerator: Sequence[float] | NDArray[np.float64], denominator: NDArray[np.float64]) -> list[float | None]:
    """Divide; None where the denominator is zero."""
    return [float(a / b) if b > 0 else None for a, b in zip(numerator, denominator, strict=True)]
