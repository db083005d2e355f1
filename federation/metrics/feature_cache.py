"""Features of real images are computed once; those of generated images batch by batch.

Inception takes about 0.4 s for an image on a processor core, and the real images are the same in every
evaluation of every run on the same data.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from federation.cache import blocks_of, cache_folder, kept_in, read_checked, write_checked
from federation.metrics.features import FeatureExtractor

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Raised when an extractor computes other features with the same weights and preprocessing.
_FORMAT = 1


def cached_features(
    extractor: FeatureExtractor, images: NDArray[np.uint8], *, cache_dir: str = ""
) -> NDArray[np.floating]:
    """Return the features of real images: stored where they were computed before, else computed and stored.

    They are found again by a hash of the images, of the extractor's weights and preprocessing, and of what
    moves the last bits of its features, so that a stored result has the bits of a new one.

    Parameters
    ----------
    extractor
        Its features of the same images must be the same.
    images
        uint8 (n, r, r, 3), at least one. A memory map is read block by block.
    cache_dir
        ``data.cache-dir``. Empty: the user's cache folder.

    Returns
    -------
    (n, d), of the type that the extractor gives.

    Raises
    ------
    StorageError
        If the cache cannot be written.
    """
    path = cache_folder(cache_dir) / "features" / f"{_key(extractor, images)}.npy"
    try:
        return _read(path, (len(images), extractor.num_features))
    except (OSError, ValueError):
        pass  # absent, or damaged: computed anew
    features = extractor.features(images)
    with kept_in(path.parent):
        _write(path, features)
    return features


def features_of_batches(extractor: FeatureExtractor, batches: Iterable[NDArray[np.uint8]]) -> NDArray[np.floating]:
    """Return the features of images that come batch by batch; no more than a batch of images is kept.

    Parameters
    ----------
    extractor
        Sees one batch at a time.
    batches
        At least one, each uint8 (m, r, r, 3) of any number m > 0 of images.

    Returns
    -------
    (n, d): a row for each image, in the order in which they came.

    Raises
    ------
    ValueError
        If there is no batch.
    """
    return np.concatenate([extractor.features(batch) for batch in batches])


def _key(extractor: FeatureExtractor, images: NDArray[np.uint8]) -> str:
    decides = {
        "format": _FORMAT,
        "extractor": extractor.name,
        "digest": extractor.digest,
        "preprocessing": extractor.preprocessing,
        "shape": images.shape,
        "device": extractor.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    hasher = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=16)
    for block in blocks_of(images):
        hasher.update(block)
    return hasher.hexdigest()


def _write(path: Path, features: NDArray[np.floating]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    write_checked(path, buffer.getvalue())


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.floating]:
    """Read back what :func:`_write` wrote; a ValueError if it is damaged."""
    features: NDArray[np.floating] = np.load(io.BytesIO(read_checked(path)), allow_pickle=False)
    if features.shape != shape:
        raise ValueError(f"{path}: {features.shape} instead of {shape}")
    return features
