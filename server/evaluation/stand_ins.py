"""What is put in the generator's place: synthetic images that anybody could have, and that must not look like help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from federation.seeding import derive_seed, numpy_stream
from server.evaluation.yardsticks import pca_gaussian

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from federation.images import ImageRows

# Images of a class to which a Gaussian is fitted: memory.
_MOST_OF_A_CLASS = 1000


def draw_class_gaussians(
    images: NDArray[np.uint8] | ImageRows,
    labels: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    seed: int,
) -> dict[int, NDArray[np.uint8]]:
    """Draw images of each class from a Gaussian on the principal components of its pixels.

    Parameters
    ----------
    images
        Real ones, uint8 (n, r, r, 3), to which the Gaussians are fitted; of a class at most 1,000 are used.
    labels
        (n,).
    counts
        How many to draw of each class, (num_classes,); of a class without images none are drawn.
    seed
        Decides which images are used, and what is drawn.

    Returns
    -------
    By label, uint8 (count, r, r, 3): means and a class's 64 greatest variations. The one image of a class of one is
    repeated.
    """
    found = {}
    for label in np.flatnonzero(counts).tolist():
        rows = np.flatnonzero(labels == label)
        if not len(rows):
            continue
        if len(rows) > _MOST_OF_A_CLASS:
            stream = numpy_stream(seed, f"class Gaussian, {label}")
            rows = np.sort(stream.choice(rows, _MOST_OF_A_CLASS, replace=False))
        of_class = images[rows]
        if len(rows) == 1:
            found[label] = np.repeat(of_class, counts[label], axis=0)
        else:
            found[label] = pca_gaussian(
                of_class, int(counts[label]), seed=derive_seed(seed, f"class Gaussian, {label}")
            )
    return found


def permute_labels(labels: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Deal the labels of images out anew, (n,): as many of each class, and none that says what is seen."""
    return numpy_stream(seed, "permuted labels").permutation(labels)
