"""What a KID means: the same distance for images that are as good, and as poor, as is easily had.

A run's KID is read against these. The floor is what real images of other patients score. Above the
mean image nothing has been learnt; below the Gaussian, more than colours and their blurry
correlations; the blurred images are real ones that lost their detail.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA

from federation.metrics.features import FeatureExtractor
from federation.metrics.fidelity import kid
from federation.seeding import derive_seed, numpy_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Images to which principal components are fitted: memory (100 million pixel values at 128 px).
_MOST_FOR_COMPONENTS = 2000


def measure_yardsticks(
    extractor: FeatureExtractor,
    *,
    validation_images: NDArray[np.uint8],
    train_images: NDArray[np.uint8],
    seed: int,
    validation_features: NDArray[np.floating] | None = None,
    only: Collection[str] = (),
) -> dict[str, float]:
    """Return the KID against real validation images of images whose quality is known.

    Parameters
    ----------
    extractor
        The one that judges the generator.
    validation_images
        uint8 (n, r, r, 3), real: the reference.
    train_images
        uint8 (m, r, r, 3), real, of other patients or lesions.
    seed
        ``data.split-seed``: yardsticks do not move with the run's seed.
    validation_features
        Features of `validation_images`, where they are known already.
    only
        Keys of what is measured; empty: all.

    Returns
    -------
    dict
        ``kid_floor``: real training images (two disjoint sets of patients, so near 0).
        ``kid_blurred_16``, ``kid_blurred_8``: the validation images, by way of 16 and of 8 pixels.
        ``kid_pca_gaussian``: a Gaussian on 64 principal components of the training images' pixels.
        ``kid_mean_image``: the mean training image, repeated.
    """
    reference = extractor.features(validation_images) if validation_features is None else validation_features
    count = len(validation_images)
    found = {}
    for name, images in yardstick_images(validation_images, train_images, seed=seed, only=only):
        features = extractor.features(images)
        # The mean image is one image, however often it is repeated.
        features = np.repeat(features, count, axis=0) if len(images) == 1 else features
        found[name] = kid(reference, features, seed=seed)[0]
    return found


def yardstick_images(
    validation_images: NDArray[np.uint8],
    train_images: NDArray[np.uint8],
    *,
    seed: int,
    only: Collection[str] = (),
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the key and the images of each yardstick of :func:`measure_yardsticks`; of the mean image a single one."""
    count = len(validation_images)
    chosen = numpy_stream(seed, "yardsticks, real images").permutation(len(train_images))[:count]
    samples: dict[str, Callable[[], NDArray[np.uint8]]] = {
        "kid_floor": lambda: train_images[np.sort(chosen)],
        "kid_blurred_16": lambda: blurred(validation_images, 16),
        "kid_blurred_8": lambda: blurred(validation_images, 8),
        "kid_pca_gaussian": lambda: pca_gaussian(train_images, count, seed=seed),
        "kid_mean_image": lambda: mean_image(train_images, 1),
    }
    for name, make in samples.items():
        if not only or name in only:
            yield name, make()


def mean_image(images: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Repeat the mean of (n, r, r, 3) images `count` times."""
    mean = np.rint(images.mean(axis=0, dtype=np.float64)).astype(np.uint8)
    return np.repeat(mean[None], count, axis=0)


def blurred(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Shrink uint8 (n, r, r, 3) images to `side` pixels by averaging, and enlarge them again, bicubic."""
    resolution = images.shape[1]
    return np.stack(
        [
            np.asarray(
                Image.fromarray(image)
                .resize((side, side), Image.Resampling.BOX)
                .resize((resolution, resolution), Image.Resampling.BICUBIC)
            )
            for image in images
        ]
    )


def noisy(images: NDArray[np.uint8], deviation: float, *, seed: int) -> NDArray[np.uint8]:
    """Add independent Gaussian noise to each value of uint8 (n, r, r, 3) images; `deviation` in 8-bit steps."""
    stream = numpy_stream(seed, "yardsticks, noise")
    noise = stream.standard_normal(images.shape, dtype=np.float32)
    return np.clip(np.rint(images + deviation * noise), 0, 255).astype(np.uint8)


def jpeg_compressed(images: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress uint8 (n, r, r, 3) images as JPEG (4:2:0) of a quality from 1 to 95, and decode them again."""
    found = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
        with Image.open(buffer) as decoded:
            found.append(np.asarray(decoded))
    return np.stack(found)


def pca_gaussian(images: NDArray[np.uint8], count: int, *, seed: int, num_components: int = 64) -> NDArray[np.uint8]:
    """Draw images from a Gaussian on the principal components of pixels.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3), to which mean and components are fitted; at most 2,000 of them are used.
    count
        Images drawn.
    seed
        Decides which images are used, and what is drawn.
    num_components
        Principal components; no more than n - 1 have a variance.

    Returns
    -------
    uint8 (count, r, r, 3), clipped and rounded.
    """
    stream = numpy_stream(seed, "yardsticks, PCA Gaussian")
    if len(images) > _MOST_FOR_COMPONENTS:
        images = images[np.sort(stream.choice(len(images), _MOST_FOR_COMPONENTS, replace=False))]
    pixels = images.reshape(len(images), -1).astype(np.float32)
    pca = PCA(
        min(num_components, len(images) - 1),
        svd_solver="randomized",
        random_state=derive_seed(seed, "yardsticks, components") % 2**32,
    ).fit(pixels)
    scores = stream.standard_normal((count, len(pca.explained_variance_))) * np.sqrt(pca.explained_variance_)
    drawn = pca.inverse_transform(scores.astype(np.float32))
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8).reshape(count, *images.shape[1:])
