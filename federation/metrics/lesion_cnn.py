"""A small lesion classifier as a feature extractor: trained in a quarter of a minute, kept in the cache.

Features are the mean and the standard deviation of every channel of every block: early blocks see edges and texture,
late ones lesions. Principal components of the images it was trained on, half whitened
(:mod:`federation.metrics.components`), reduce them to 64.

It trains on images of at most 64 pixels, to which larger ones are reduced, so that it costs the same at any
resolution. Of larger images its first two blocks look at the finer detail as well.

Until format 2 the components were wholly whitened, and training took twice the steps with twice the changes of colour.
It overlooked what a federated generator lacked: real images with half of their power at middle frequencies and half of
the variety of skin scored a quarter of what a Gaussian of pixels did, and now score as much. ``docs/evaluation.md``
has the table, and ``benchmarks/extractor_ordering.py`` shows how images are ordered, which the embedding alone did less
steadily: with the network's initial weights its judgement of smooth images moved threefold.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from federation.cache import cache_folder, kept_in
from federation.errors import InputError
from federation.images import to_floats
from federation.metrics.components import half_whitened
from federation.metrics.extractor_files import read_extractor, write_extractor
from federation.models.classifier import Progress, SmallCNN, train_classifier
from federation.seeding import torch_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORMAT = 2
_STEM = "lesion-cnn"
_READABLE = (1, 2)  # a run that is resumed keeps its network, whichever version trained it
MIN_IMAGES = 16
"""Fewer than this many teach a classifier nothing."""
_LARGEST_TRAINED = 64  # pixels
_LARGEST_SEEN = 256  # pixels, by the first blocks
_FINE_BLOCKS = 2
_BATCH = 100  # images at once: memory only
_MOST_FITTED = 2000  # images that components are fitted to
# Whatever changes the weights belongs here or in `_training_key`: a stored extractor is found by it.
_RECIPE: dict[str, Any] = {
    "format": _FORMAT,
    "steps": 250,
    "batch_size": 64,
    # With more, the network learns to overlook colours, and so a generator whose skin is all alike.
    "colour_jitter": 0.1,
    "deviation": "two-pass",
    "components": "half-whitened",
    "largest_trained": _LARGEST_TRAINED,
}


class LesionCNNExtractor:
    """Half-whitened statistics of a lesion classifier's activations; see the module's text.

    Parameters
    ----------
    network
        Trained on diagnosis and site.
    mean
        Of the activations' statistics, (k,) float64.
    projection
        (k, d) float64: maps centred statistics to features.
    about
        What it was trained on, for the reader of the json file.
    side
        Of the images that it takes, in pixels; None: the network's own.
    """

    learned_from = "the extractor part"

    def __init__(
        self,
        network: SmallCNN,
        mean: Tensor,
        projection: Tensor,
        about: dict[str, Any],
        side: int | None = None,
    ) -> None:
        self.network = network.eval()
        self.mean = mean
        self.projection = projection
        self.about = about
        self.digest = _digest(self._tensors())
        self._side = side or network.resolution
        self.name = f"lesion-cnn-{self._side}@{self.digest[:4]}"
        self.num_features = projection.shape[1]
        self.resolution: int | None = self._side
        reduced = f", reduced to {network.resolution}x{network.resolution}; first blocks at full size"
        self.preprocessing = (
            f"8-bit RGB, {self._side}x{self._side}, scaled to [-1, 1]"
            f"{reduced if self._side > network.resolution else '; no resizing'}"
        )
        self.device = next(network.parameters()).device

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Map uint8 (n, r, r, 3) to (n, d), r the resolution that it was trained at.

        Raises
        ------
        ValueError
            If the images have another size.
        """
        side = self._side
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"{self.name} takes images of shape ({side}, {side}, 3), not {images.shape[1:]}")
        return ((_activation_statistics(self.network, images) - self.mean) @ self.projection).numpy()

    def save(self, folder: Path, stem: str = _STEM) -> None:
        """See :func:`~federation.metrics.extractor_files.write_extractor`."""
        description = {
            "format": _FORMAT,
            "name": self.name,
            "blake2b": self.digest,
            "resolution": self.network.resolution,
            "side": self._side,
            "num_classes": self.network.num_classes,
            "num_sites": self.network.num_sites,
            **self.about,
        }
        write_extractor(folder, stem, self._tensors(), description)

    @classmethod
    def load(cls, folder: Path, stem: str = _STEM, *, device: torch.device | str = "cpu") -> LesionCNNExtractor:
        """See :func:`~federation.metrics.extractor_files.read_extractor`."""

        def build(description: dict[str, Any], tensors: dict[str, Tensor]) -> LesionCNNExtractor:
            network = SmallCNN(
                resolution=description["resolution"],
                num_classes=description["num_classes"],
                num_sites=description["num_sites"],
                stream=None,
            )
            weights = {
                name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")
            }
            network.load_state_dict(weights)
            known = ("format", "name", "blake2b", "resolution", "side", "num_classes", "num_sites")
            about = {name: value for name, value in description.items() if name not in known}
            side = description.get("side")  # format 1 has none: its network saw images as they were
            return cls(network.to(device), tensors["mean"], tensors["projection"], about, side)

        return read_extractor(folder, stem, build, _READABLE)

    def _tensors(self) -> dict[str, Tensor]:
        weights = {f"network.{name}": value.cpu().contiguous() for name, value in self.network.state_dict().items()}
        return {**weights, "mean": self.mean, "projection": self.projection}


def has_lesion_cnn(folder: Path) -> bool:
    """Return whether :meth:`LesionCNNExtractor.save` has written to a folder, be it whole or not."""
    return any(folder.glob(f"{_STEM}.*"))


def load_or_train_lesion_cnn(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    sites: NDArray[np.int64],
    *,
    num_classes: int,
    split_seed: int,
    cache_dir: str = "",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> LesionCNNExtractor:
    """Return the extractor of these images: stored where they were seen before, else trained and stored.

    It depends on the images, their labels and the split's seed; neither on the run's seed nor on who
    holds which images. So runs that differ in those are judged by the same weights.

    Parameters
    ----------
    images, labels, sites
        The extractor part: uint8 (n, r, r, 3), (n,), (n,).
    num_classes
        Diagnoses.
    split_seed
        ``data.split-seed``.
    cache_dir
        ``data.cache-dir``. Empty: the user's cache folder.
    device
        Where to train and to compute.
    progress
        Called after each training step.

    Raises
    ------
    InputError
        If there are fewer than 16 images.
    StorageError
        If the cache cannot be written.
    """
    if len(images) < MIN_IMAGES:
        raise InputError(
            f"the extractor part has {len(images)} images and the lesion classifier needs at least {MIN_IMAGES}: "
            "give more images, or set evaluation.extractor=inception-v3"
        )
    folder = cache_folder(cache_dir) / "extractors"
    key = _training_key(images, labels, sites, num_classes, split_seed, torch.device(device))
    try:
        return LesionCNNExtractor.load(folder, key, device=device)
    except InputError:
        pass  # absent, or damaged: it is trained anew
    extractor = train_lesion_cnn(
        images, labels, sites, num_classes=num_classes, split_seed=split_seed, device=device, progress=progress
    )
    with kept_in(folder):
        extractor.save(folder, key)
    return extractor


def train_lesion_cnn(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    sites: NDArray[np.int64],
    *,
    num_classes: int,
    split_seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> LesionCNNExtractor:
    """Train the extractor; see :func:`load_or_train_lesion_cnn` for the parameters."""
    network = train_classifier(
        reduce_images(images, _LARGEST_TRAINED),
        labels,
        sites=sites,
        num_classes=num_classes,
        steps=_RECIPE["steps"],
        batch_size=_RECIPE["batch_size"],
        colour_jitter=_RECIPE["colour_jitter"],
        stream=torch_stream(split_seed, "lesion-cnn extractor"),
        device=device,
        progress=progress,
        description="training the feature extractor",
    )
    mean, projection = half_whitened(_activation_statistics(network, images[:: -(-len(images) // _MOST_FITTED)]))
    about = {
        "num_images": len(images),
        "split_seed": split_seed,
        "recipe": _RECIPE,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return LesionCNNExtractor(network, mean, projection, about, int(images.shape[1]))


def reduce_images(images: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Reduce uint8 (n, r, r, 3) images to `most` pixels a side by averaging, if they are larger; powers of two."""
    count, side = images.shape[:2]
    factor = side // most
    if factor <= 1:
        return images
    reduced = np.empty((count, most, most, 3), dtype=np.uint8)
    for start in range(0, count, _BATCH):
        block = images[start : start + _BATCH].reshape(-1, most, factor, most, factor, 3)
        reduced[start : start + _BATCH] = np.rint(block.mean((2, 4), dtype=np.float32))
    return reduced


@torch.no_grad()
def _activation_statistics(network: SmallCNN, images: NDArray[np.uint8]) -> Tensor:
    """Return mean and standard deviation over pixels of every channel of every block, (n, k) float64 on the CPU.

    Images larger than those that the network was trained on are reduced for it. Its first blocks see them at their own
    size too, or at 256 pixels where that is less.
    """
    device = next(network.parameters()).device
    rows = []
    for start in range(0, len(images), _BATCH):
        # A copy: a memory map that cannot be written makes torch warn.
        batch = torch.from_numpy(np.array(images[start : start + _BATCH], order="C")).to(device)
        seen = _at_most(to_floats(batch), _LARGEST_SEEN)
        blocks = network.activations(_at_most(seen, network.resolution))
        if seen.shape[-1] > network.resolution:
            blocks += network.activations(seen, _FINE_BLOCKS)
        found = [part for block in blocks for part in _mean_and_deviation(block)]
        rows.append(torch.cat(found, dim=1))
    return torch.cat(rows).to("cpu", torch.float64)


def _at_most(images: Tensor, side: int) -> Tensor:
    """Reduce (n, 3, r, r) images to `side` pixels by averaging, if they are larger."""
    factor = images.shape[-1] // side
    return F.avg_pool2d(images, factor) if factor > 1 else images


def _mean_and_deviation(block: Tensor) -> tuple[Tensor, Tensor]:
    """Over pixels, each (n, channels). In two passes: on a CPU ``Tensor.std`` takes longer than the convolutions."""
    mean = block.mean((2, 3), keepdim=True)
    squares = (block - mean).square_().sum((2, 3))
    return mean[:, :, 0, 0], (squares / (block.shape[2] * block.shape[3] - 1)).sqrt_()


def _training_key(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    sites: NDArray[np.int64],
    num_classes: int,
    split_seed: int,
    device: torch.device,
) -> str:
    """Hash everything that decides the weights, down to what moves their last bits."""
    settings = {
        **_RECIPE,
        "num_classes": num_classes,
        "split_seed": split_seed,
        "shape": images.shape,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    hasher = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for array in (images, np.asarray(labels, dtype=np.int64), np.asarray(sites, dtype=np.int64)):
        hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()


def _digest(tensors: dict[str, Tensor]) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        hasher.update(name.encode())
        hasher.update(np.ascontiguousarray(tensors[name].numpy()).data)
    return hasher.hexdigest()
