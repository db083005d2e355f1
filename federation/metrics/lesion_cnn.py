"""A small lesion classifier as a feature extractor: trained in half a minute, kept in the cache.

Features are the mean and the standard deviation of every channel of every block: early blocks see
edges and texture, late ones lesions. A principal component analysis of the images it was trained on
reduces them to 64 uncorrelated features of unit variance. So KID's kernel, (x·y / d + 1)³, weighs
them alike and none can outgrow the others, and FID has more images than features.
``benchmarks/extractor_ordering.py`` shows that it orders images rightly, which the embedding alone
did less steadily: with the network's initial weights its judgement of smooth images moved threefold.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from federation.cache import cache_folder, kept_in
from federation.errors import InputError
from federation.images import to_floats
from federation.models.classifier import Progress, SmallCNN, train_classifier
from federation.run_directory import to_json, write_text, written_atomically
from federation.seeding import torch_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORMAT = 1
_NUM_FEATURES = 64
_MIN_IMAGES = 16
_BATCH = 100  # images at once: memory only
# Whatever changes the weights belongs here or in `_training_key`: a stored extractor is found by it.
_RECIPE: dict[str, Any] = {
    "format": _FORMAT,
    "steps": 500,
    "batch_size": 64,
    "colour_jitter": 0.2,
    "deviation": "two-pass",
}
# A channel that (nearly) never fires must not be blown up to unit variance: its deviation counts as
# at least this share of the median channel's.
_LEAST_DEVIATION = 0.1


class LesionCNNExtractor:
    """Whitened statistics of a lesion classifier's activations; see the module's text.

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
    """

    learned_from = "the extractor part"

    def __init__(self, network: SmallCNN, mean: Tensor, projection: Tensor, about: dict[str, Any]) -> None:
        self.network = network.eval()
        self.mean = mean
        self.projection = projection
        self.about = about
        self.digest = _digest(self._tensors())
        self.name = f"lesion-cnn-{network.resolution}@{self.digest[:4]}"
        self.num_features = projection.shape[1]
        self.resolution: int | None = network.resolution
        self.preprocessing = f"8-bit RGB, {network.resolution}x{network.resolution}, scaled to [-1, 1]; no resizing"
        self.device = next(network.parameters()).device

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Map uint8 (n, r, r, 3) to (n, d), r the resolution that it was trained at.

        Raises
        ------
        ValueError
            If the images have another size.
        """
        side = self.network.resolution
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"{self.name} takes images of shape ({side}, {side}, 3), not {images.shape[1:]}")
        return ((_activation_statistics(self.network, images) - self.mean) @ self.projection).numpy()

    def save(self, folder: Path, stem: str = "lesion-cnn") -> None:
        """Write ``<stem>.safetensors`` and ``<stem>.json``, the json last."""
        with written_atomically(folder / f"{stem}.safetensors") as temporary:
            safetensors.torch.save_file(self._tensors(), temporary)
        description = {
            "format": _FORMAT,
            "name": self.name,
            "blake2b": self.digest,
            "resolution": self.network.resolution,
            "num_classes": self.network.num_classes,
            "num_sites": self.network.num_sites,
            **self.about,
        }
        write_text(folder / f"{stem}.json", to_json(description, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, stem: str = "lesion-cnn", *, device: torch.device | str = "cpu") -> LesionCNNExtractor:
        """Read back what :meth:`save` wrote.

        Raises
        ------
        InputError
            If a file is missing, damaged, or does not belong to the other.
        """
        path = folder / f"{stem}.json"
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            tensors = safetensors.torch.load_file(folder / f"{stem}.safetensors")
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
            known = ("format", "name", "blake2b", "resolution", "num_classes", "num_sites")
            about = {name: value for name, value in description.items() if name not in known}
            extractor = cls(network.to(device), tensors["mean"], tensors["projection"], about)
            intact = extractor.digest == description["blake2b"] and description["format"] == _FORMAT
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            raise InputError(f"extractor {path}: cannot be read ({error}); remove it and its weights") from None
        if not intact:
            raise InputError(f"extractor {path}: its weights are other ones; remove both files")
        return extractor

    def _tensors(self) -> dict[str, Tensor]:
        weights = {f"network.{name}": value.cpu().contiguous() for name, value in self.network.state_dict().items()}
        return {**weights, "mean": self.mean, "projection": self.projection}


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
    if len(images) < _MIN_IMAGES:
        raise InputError(
            f"the extractor part has {len(images)} images and the lesion classifier needs at least {_MIN_IMAGES}: "
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
        images,
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
    statistics = _activation_statistics(network, images)
    mean, deviation = statistics.mean(0), statistics.std(0)
    scale = 1.0 / deviation.clamp_min(_LEAST_DEVIATION * float(deviation.median()))
    _, singular_values, components = torch.linalg.svd((statistics - mean) * scale, full_matrices=False)
    # Half as many as images at most: the variance of later components is a matter of these very images.
    count = min(_NUM_FEATURES, len(images) // 2)
    whitening = components[:count].T * (len(images) ** 0.5 / singular_values[:count])
    about = {
        "num_images": len(images),
        "split_seed": split_seed,
        "recipe": _RECIPE,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return LesionCNNExtractor(network, mean, (scale[:, None] * whitening).contiguous(), about)


@torch.no_grad()
def _activation_statistics(network: SmallCNN, images: NDArray[np.uint8]) -> Tensor:
    """Return mean and standard deviation over pixels of every channel of every block, (n, k) float64 on the CPU."""
    device = next(network.parameters()).device
    rows = []
    for start in range(0, len(images), _BATCH):
        # A copy: a memory map that cannot be written makes torch warn.
        batch = torch.from_numpy(np.array(images[start : start + _BATCH], order="C")).to(device)
        found = [part for block in network.activations(to_floats(batch)) for part in _mean_and_deviation(block)]
        rows.append(torch.cat(found, dim=1))
    return torch.cat(rows).to("cpu", torch.float64)


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
