"""A second opinion on images: random filters of whitened patches, which have learned nothing of lesions.

Neighbouring pixels of a photograph are nearly equal, so that a random filter sees little but brightness. Whitened
patches have as much of fine as of coarse structure, and random filters of them tell textures apart about as well
as trained ones (Coates et al. 2011; Coates & Ng 2012); random networks have served as judges of generated images
(Naeem et al. 2020). At three or more scales, each half as fine as the one before, every filter gives the mean and the
deviation over pixels of what it finds; principal components, half whitened, are the features.

What this extractor sees it sees by chance, and what it misses is something else than what a classifier of
diagnoses need not know: so the two are asked together. Only the covariance of patches is taken from images.

References
----------
Coates, Ng & Lee 2011, https://proceedings.mlr.press/v15/coates11a.html
Naeem et al. 2020, https://arxiv.org/abs/2002.09797
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from federation.errors import InputError
from federation.images import to_floats
from federation.metrics.components import half_whitened
from federation.metrics.extractor_files import read_extractor, write_extractor
from federation.seeding import torch_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORMAT = 1
_STEM = "random-filters"
_KERNEL = 5
_FILTERS = 48  # at each scale
_SMALLEST_SIDE = 8  # below, a filter sees the border more than the image
LARGEST_SIDE = 128
"""Pixels to which larger images are reduced: finer detail is left to the power spectrum."""
_BATCH = 100  # images at once: memory only
_MOST_PATCHES = 100_000  # a covariance of 75 numbers is known well by then
_MOST_OF_PATCHES = 400  # images that patches are taken from
_MOST_PIXELS = 1 << 24  # of images whose components are fitted: seconds, whatever their size
_LEAST_FITTED = 256
# Added to the variances of patches, as a share of their mean: noise of a grey level must not outweigh the lesion.
_REGULARISER = 1.0
_LEAST_IMAGES = 16


class RandomFiltersExtractor:
    """Half-whitened statistics of what random filters find; see the module's text.

    Parameters
    ----------
    side
        Of the images, in pixels.
    weights, biases
        (scales, filters, 3, 5, 5) and (scales, filters) float32.
    mean, projection
        (k,) and (k, d) float64; see :func:`federation.metrics.components.half_whitened`.
    about
        What it was fitted to, for the reader of the json file.
    device
        Where to compute.
    """

    learned_from = "the extractor part"

    def __init__(
        self,
        side: int,
        weights: Tensor,
        biases: Tensor,
        mean: Tensor,
        projection: Tensor,
        about: dict[str, Any],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.resolution: int | None = side
        self.device = torch.device(device)
        self._weights, self._biases = weights.to(self.device), biases.to(self.device)
        self.mean, self.projection = mean, projection
        self.about = about
        self.num_features = projection.shape[1]
        self.digest = self._digest()
        self.name = f"random-filters-{side}@{self.digest[:4]}"
        reduced = f", reduced to {LARGEST_SIDE}x{LARGEST_SIDE}" if side > LARGEST_SIDE else "; no resizing"
        self.preprocessing = f"8-bit RGB, {side}x{side}, scaled to [-1, 1]{reduced}"

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Map uint8 (n, r, r, 3) to (n, d), r the resolution that it was fitted at.

        Raises
        ------
        ValueError
            If the images have another size.
        """
        if images.shape[1:] != (self.resolution, self.resolution, 3):
            raise ValueError(
                f"{self.name} takes images of shape ({self.resolution}, {self.resolution}, 3), not {images.shape[1:]}"
            )
        statistics = _statistics(self._weights, self._biases, images)
        return ((statistics - self.mean) @ self.projection).numpy()

    def save(self, folder: Path, stem: str = _STEM) -> None:
        """See :func:`~federation.metrics.extractor_files.write_extractor`."""
        description = {
            "format": _FORMAT,
            "name": self.name,
            "blake2b": self.digest,
            "resolution": self.resolution,
            **self.about,
        }
        write_extractor(folder, stem, self._tensors(), description)

    @classmethod
    def load(cls, folder: Path, stem: str = _STEM, *, device: torch.device | str = "cpu") -> RandomFiltersExtractor:
        """See :func:`~federation.metrics.extractor_files.read_extractor`."""

        def build(description: dict[str, Any], tensors: dict[str, Tensor]) -> RandomFiltersExtractor:
            known = ("format", "name", "blake2b", "resolution")
            about = {name: value for name, value in description.items() if name not in known}
            return cls(
                description["resolution"],
                tensors["weights"],
                tensors["biases"],
                tensors["mean"],
                tensors["projection"],
                about,
                device=device,
            )

        return read_extractor(folder, stem, build, (_FORMAT,))

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "weights": self._weights.cpu(),
            "biases": self._biases.cpu(),
            "mean": self.mean,
            "projection": self.projection,
        }

    def _digest(self) -> str:
        hasher = hashlib.blake2b(digest_size=16)
        for tensor in self._tensors().values():
            hasher.update(np.ascontiguousarray(tensor.numpy()).data)
        return hasher.hexdigest()


def has_random_filters(folder: Path) -> bool:
    """Return whether :meth:`RandomFiltersExtractor.save` has written to a folder."""
    return (folder / f"{_STEM}.json").is_file()


def fit_random_filters(
    images: NDArray[np.uint8], *, split_seed: int, device: torch.device | str = "cpu"
) -> RandomFiltersExtractor:
    """Fit the extractor to real images: the covariance of patches, and the principal components.

    It takes a second or two at 32 px, and no more than some seconds at any size, since of larger images fewer are
    taken and those above 128 px are reduced.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3), r a power of two from 32. They serve nothing else.
    split_seed
        ``data.split-seed``: the filters are drawn by it.

    Raises
    ------
    InputError
        If there are fewer than 16 images.
    """
    if len(images) < _LEAST_IMAGES:
        raise InputError(f"random filters are fitted to at least {_LEAST_IMAGES} images, and here are {len(images)}")
    side = int(images.shape[1])
    most = max(_LEAST_FITTED, _MOST_PIXELS // min(side, LARGEST_SIDE) ** 2)
    images = images[:: -(-len(images) // most)]
    stream = torch_stream(split_seed, "random filters")
    weights, biases = _draw_filters(images, stream)
    statistics = _statistics(weights.to(device), biases.to(device), images)
    mean, projection = half_whitened(statistics)
    about = {"num_images": len(images), "split_seed": split_seed, "torch": torch.__version__}
    return RandomFiltersExtractor(side, weights, biases, mean, projection, about, device=device)


def _draw_filters(images: NDArray[np.uint8], stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw filters of whitened patches at each scale: (scales, filters, 3, 5, 5) and (scales, filters)."""
    scale = _reduced(to_floats(torch.from_numpy(np.array(images[:_MOST_OF_PATCHES], order="C"))))
    weights, biases = [], []
    while scale.shape[-1] >= _SMALLEST_SIDE:
        patches = F.unfold(scale, _KERNEL, stride=_stride(scale.shape)).transpose(1, 2).reshape(-1, 3 * _KERNEL**2)
        patches = patches.to(torch.float64)
        mean = patches.mean(0)
        variances, directions = torch.linalg.eigh(torch.cov(patches.T))
        whitening = directions * (variances + _REGULARISER * variances.mean()).rsqrt() @ directions.T
        drawn = torch.randn(_FILTERS, len(mean), generator=stream, dtype=torch.float64)
        filters = drawn / drawn.norm(dim=1, keepdim=True) @ whitening
        weights.append(filters.reshape(_FILTERS, 3, _KERNEL, _KERNEL).to(torch.float32))
        biases.append(-(filters @ mean).to(torch.float32))
        scale = F.avg_pool2d(scale, 2)
    return torch.stack(weights), torch.stack(biases)


def _stride(shape: torch.Size) -> int:
    """Return the distance of patches that leaves about :data:`_MOST_PATCHES` of them."""
    places = shape[0] * (shape[-1] - _KERNEL + 1) ** 2
    return max(1, round((places / _MOST_PATCHES) ** 0.5))


@torch.no_grad()
def _statistics(weights: Tensor, biases: Tensor, images: NDArray[np.uint8]) -> Tensor:
    """Return mean and deviation over pixels of what each filter finds at each scale, (n, k) float64 on the CPU."""
    rows = []
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(np.array(images[start : start + _BATCH], order="C")).to(weights.device)
        scale = _reduced(to_floats(batch))
        found = []
        for filters, bias in zip(weights, biases, strict=True):
            response = F.conv2d(scale, filters, bias).relu_()
            mean = response.mean((2, 3), keepdim=True)
            found += [mean[:, :, 0, 0], (response - mean).square_().mean((2, 3)).sqrt_()]
            scale = F.avg_pool2d(scale, 2)
        rows.append(torch.cat(found, dim=1))
    return torch.cat(rows).to("cpu", torch.float64)


def _reduced(images: Tensor) -> Tensor:
    """Reduce images (n, 3, r, r) above :data:`LARGEST_SIDE` to it, by averaging."""
    factor = images.shape[-1] // LARGEST_SIDE
    return F.avg_pool2d(images, factor) if factor > 1 else images
