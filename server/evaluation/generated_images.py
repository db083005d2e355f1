"""What is kept of generated images that are searched for copies: numbers, hashes, and the closest ones themselves.

Tens of thousands are searched, and they come batch by batch. At any time the pixels of a few hundred are in memory, and
of each that has passed its features and thumbnail: 1.3 KB with the lesion classifier, 26 MB for 20,000 images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from federation.metrics.authenticity import canonical_orientation, orientation_hashes
from federation.metrics.copies import thumbnails
from federation.metrics.features import FeatureExtractor
from federation.metrics.neighbours import nearest_neighbours

if TYPE_CHECKING:
    from numpy.typing import NDArray

AT_ONCE = 500
"""Images whose pixels are looked at together: memory only."""
NUM_CLOSEST_PAIRS = 8
MOST_HASHED = 2000
"""Generated images that are hashed, in eight orientations each: 1 ms an image."""


@dataclass(frozen=True, kw_only=True)
class ClosestPairs:
    """The generated images that lie closest to a training image, closest first."""

    rows: NDArray[np.int64]
    """(p, 2): which generated and which training image."""
    distances: NDArray[np.float64]
    """(p,)."""
    images: NDArray[np.uint8]
    """The generated ones, (p, r, r, 3)."""


NO_PAIRS = ClosestPairs(
    rows=np.zeros((0, 2), dtype=np.int64), distances=np.zeros(0), images=np.zeros((0, 1, 1, 3), dtype=np.uint8)
)


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """What is kept of n generated images, of which the first f have features."""

    features: NDArray[np.floating]
    """(f, d), of images in canonical orientation."""
    thumbnails: NDArray[np.float32]
    """(n, 192), of images in canonical orientation."""
    hashes: NDArray[np.uint64]
    """(h, 8), of the first ones."""
    to_train: NDArray[np.float64]
    """Distance of the nearest training image by features, (f,)."""
    nearest_rows: NDArray[np.int64]
    """Which training image that is, (f,)."""
    closest: ClosestPairs

    def __len__(self) -> int:
        return len(self.thumbnails)


def features_and_thumbnails(
    extractor: FeatureExtractor, images: NDArray[np.uint8]
) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
    """Return both of images (n, r, r, 3), n at least 1, in canonical orientation: (n, d) and (n, 192)."""
    features, small = [], []
    for start in range(0, len(images), AT_ONCE):
        oriented = canonical_orientation(images[start : start + AT_ONCE])
        features.append(extractor.features(oriented))
        small.append(thumbnails(oriented))
    return np.concatenate(features), np.concatenate(small)


def pass_through(
    batches: Iterable[NDArray[np.uint8]],
    extractor: FeatureExtractor,
    train_features: NDArray[np.floating],
    *,
    most_features: int,
) -> GeneratedImages:
    """Look at generated images once, and keep what the search needs.

    Parameters
    ----------
    batches
        uint8 (any number, r, r, 3) each; at least one image in all.
    extractor
        Of the features.
    train_features
        Of the training images, (m, d).
    most_features
        Of how many images features are taken: the first ones. At least 1.
    """
    features, small, hashes, distances, rows = [], [], [], [], []
    closest, passed = NO_PAIRS, 0
    for images in _chunks(batches):
        oriented = canonical_orientation(images)
        small.append(thumbnails(oriented))
        with_features = min(len(images), max(0, most_features - passed))
        if with_features:
            found = extractor.features(oriented[:with_features])
            to_train, nearest = nearest_neighbours(found, train_features)
            features.append(found)
            distances.append(to_train[:, 0])
            rows.append(nearest[:, 0])
            closest = _closer(closest, images[:with_features], passed, to_train[:, 0], nearest[:, 0])
        if passed < MOST_HASHED:
            hashes.append(orientation_hashes(images[: MOST_HASHED - passed]))
        passed += len(images)
    return GeneratedImages(
        features=np.concatenate(features),
        thumbnails=np.concatenate(small),
        hashes=np.concatenate(hashes),
        to_train=np.concatenate(distances),
        nearest_rows=np.concatenate(rows),
        closest=closest,
    )


def _chunks(batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images in chunks of :data:`AT_ONCE`, so that what is computed does not depend on the batches."""
    waiting: list[NDArray[np.uint8]] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count < AT_ONCE:
            continue
        images = np.concatenate(waiting)
        whole = count - count % AT_ONCE
        for start in range(0, whole, AT_ONCE):
            yield images[start : start + AT_ONCE]
        waiting, count = [images[whole:]], count - whole
    if count:
        yield np.concatenate(waiting)


def _closer(
    known: ClosestPairs,
    images: NDArray[np.uint8],
    first: int,
    distances: NDArray[np.float64],
    train_rows: NDArray[np.int64],
) -> ClosestPairs:
    """Return the closest of the known pairs and those of some images, the first of which is number `first`."""
    # No more than so many of these can be among the closest.
    some = np.argsort(distances, kind="stable")[:NUM_CLOSEST_PAIRS]
    pairs = np.stack([first + some, train_rows[some]], axis=1)
    if len(known.rows):
        pairs, images = np.concatenate([known.rows, pairs]), np.concatenate([known.images, images[some]])
    else:
        images = images[some]
    all_distances = np.concatenate([known.distances, distances[some]])
    order = np.argsort(all_distances, kind="stable")[:NUM_CLOSEST_PAIRS]
    return ClosestPairs(rows=pairs[order], distances=all_distances[order], images=images[order])
