"""Networks whose features stand for an image when sets of images are compared.

Every extractor has a name that ends in a hash of its weights, and every figure carries that name:
distances on two extractors' features cannot be compared.

``inception-v3`` (:mod:`federation.metrics.inception`)
    The network of the published FID and KID. Its weights are a download.
``dinov2`` (:mod:`federation.metrics.dinov2`)
    A larger network that learned without labels, closer to people's judgement. Its weights are a download.
``lesion-cnn`` (:mod:`federation.metrics.lesion_cnn`)
    A small classifier of diagnosis and site, trained in a quarter of a minute on images that serve nothing
    else. It is there where nothing can be downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from federation.errors import InputError
from federation.home import expand_home
from federation.metrics.dinov2 import (
    DINOv2Extractor,
    download_dinov2_weights,
    find_dinov2_weights,
    hub_cache,
    is_safetensors,
    missing_dinov2_weights,
)
from federation.metrics.inception import (
    INCEPTION_SHA256,
    InceptionExtractor,
    download_inception_weights,
    find_inception_weights,
    weights_sha256,
)
from federation.metrics.lesion_cnn import LesionCNNExtractor, load_or_train_lesion_cnn, train_lesion_cnn
from federation.models.classifier import Progress
from federation.settings.evaluation import EvaluationSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DINOv2Extractor",
    "FeatureExtractor",
    "InceptionExtractor",
    "LesionCNNExtractor",
    "build_extractor",
    "find_dinov2_weights",
    "find_inception_weights",
    "load_or_train_lesion_cnn",
    "train_lesion_cnn",
]


class FeatureExtractor(Protocol):
    """Maps images to features."""

    name: str
    """Kind, resolution where it matters, and a hash of the weights: ``lesion-cnn-32@3f2a``."""
    digest: str
    """The whole hash of the weights, whose first four digits are in the name."""
    num_features: int
    """Columns of the features."""
    resolution: int | None
    """The only side of images that it takes, in pixels; None for any."""
    preprocessing: str
    """What happens to 8-bit images before the network sees them: FID depends on it."""
    learned_from: str
    """Which of this data set's images it learned from; empty for none that is known."""
    device: torch.device
    """Where it computes."""

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Map uint8 (n, r, r, 3) to (n, d), a row per image that depends on that image alone."""


def build_extractor(
    settings: EvaluationSettings,
    *,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    sites: NDArray[np.int64],
    num_classes: int,
    split_seed: int,
    cache_dir: str = "",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[FeatureExtractor, str]:
    """Build the extractor that ``evaluation.extractor`` names.

    ``auto`` takes, in this order: the file that ``evaluation.extractor-weights`` names, whichever network
    it is of; Inception where its weights are on this machine or may be downloaded; DINOv2 where its weights
    are on this machine; the lesion classifier. It downloads Inception or nothing, and a download that fails
    is an error, so that no bad connection decides which extractor judges.

    Parameters
    ----------
    settings
        ``evaluation``.
    images, labels, sites, num_classes, split_seed, cache_dir, device, progress
        See :func:`load_or_train_lesion_cnn`; unused with Inception and DINOv2.

    Returns
    -------
    extractor
        With its name.
    reason
        A sentence: which one it is, and why.

    Raises
    ------
    InputError
        If it cannot be had: weights that are missing, damaged, or may not be downloaded.
    ValueError
        If ``evaluation.extractor`` is not known.
    """
    lesion_cnn = partial(
        load_or_train_lesion_cnn,
        images,
        labels,
        sites,
        num_classes=num_classes,
        split_seed=split_seed,
        cache_dir=cache_dir,
        device=device,
        progress=progress,
    )
    builder = _Builder(settings, lesion_cnn, len(images), device, show_progress=progress is not None)
    if settings.extractor not in builder.known:
        raise ValueError(f"evaluation.extractor = {settings.extractor!r}: choose one of {', '.join(builder.known)}")
    return builder.known[settings.extractor]()


@dataclass(frozen=True)
class _Builder:
    """Builds each extractor, with a sentence: which one it is, and why."""

    settings: EvaluationSettings
    train: Callable[[], LesionCNNExtractor]
    """Gives the lesion classifier of these images."""
    num_images: int
    """That it is trained on."""
    device: torch.device | str
    show_progress: bool

    @property
    def known(self) -> dict[str, Callable[[], tuple[FeatureExtractor, str]]]:
        """By the name that ``evaluation.extractor`` gives."""
        return {
            "auto": self.auto,
            "inception-v3": self.inception,
            "dinov2": self.dinov2,
            "lesion-cnn": self.lesion_cnn,
        }

    def inception(self) -> tuple[FeatureExtractor, str]:
        # Weights that were asked for by path are used or refused, never passed over.
        path = self.settings.extractor_weights
        weights = find_inception_weights(path)
        if not os.access(weights, os.R_OK) and self.settings.allow_downloads and not path:
            download_inception_weights(weights, show_progress=self.show_progress)
        extractor = InceptionExtractor(weights, device=self.device)
        return extractor, f"{extractor.name}, with the weights in {weights}"

    def dinov2(self) -> tuple[FeatureExtractor, str]:
        weights = find_dinov2_weights(self.settings.extractor_weights)
        if weights is None:
            if not self.settings.allow_downloads:
                raise missing_dinov2_weights()
            weights = download_dinov2_weights()
        extractor = DINOv2Extractor(weights, device=self.device)
        return extractor, f"{extractor.name}, with the weights in {weights}"

    def lesion_cnn(self, reason: str = "evaluation.extractor asks for it") -> tuple[FeatureExtractor, str]:
        extractor = self.train()
        return extractor, f"{extractor.name}, trained on {self.num_images:,} images kept for it, since {reason}"

    def auto(self) -> tuple[FeatureExtractor, str]:
        if self.settings.extractor_weights:
            path = expand_home(self.settings.extractor_weights, "evaluation.extractor-weights")
            return self.known[_network_of_weights(path)]()
        weights = find_inception_weights()
        # The home may be another user's, and not even to be looked into.
        if os.access(weights, os.R_OK) or self.settings.allow_downloads:
            return self.inception()
        no_inception = f"no Inception weights can be read at {weights}"
        if find_dinov2_weights() is not None:
            extractor, sentence = self.dinov2()
            return extractor, f"{sentence}, since {no_inception}, and evaluation.allow-downloads is false"
        return self.lesion_cnn(
            f"{no_inception}, no DINOv2 weights in {hub_cache()}, and evaluation.allow-downloads is false"
        )


def _network_of_weights(path: Path) -> str:
    """Tell by its content which network a file's weights are of."""
    allowed = (
        f"give Inception's published file (sha256 {INCEPTION_SHA256[:16]}…) or a safetensors file of DINOv2, or "
        "set evaluation.extractor=lesion-cnn without evaluation.extractor-weights"
    )
    try:
        if is_safetensors(path):
            return "dinov2"
        found = weights_sha256(path)
    except OSError as error:
        raise InputError(f"evaluation.extractor-weights {path}: cannot be read ({error.strerror}); {allowed}") from None
    if found != INCEPTION_SHA256:
        raise InputError(
            f"evaluation.extractor-weights {path}: neither Inception's published file (its sha256 is {found[:16]}…) "
            f"nor a safetensors file; it is not loaded; {allowed}"
        )
    return "inception-v3"
