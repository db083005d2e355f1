"""The two feature extractors of a data set, each trained, where it must be, on images that are kept for it."""

from __future__ import annotations

import numpy as np
import torch

from federation.metrics.features import FeatureExtractor, build_extractor
from federation.metrics.lesion_cnn import MIN_IMAGES
from federation.metrics.random_filters import RandomFiltersExtractor, fit_random_filters
from federation.models.classifier import Progress
from federation.seeding import derive_seed
from server.inputs import RunInputs

# Images below which a half teaches an extractor too little: both then learn from the whole part.
_LEAST_OF_A_HALF = 8 * MIN_IMAGES


def extractor_halves(inputs: RunInputs) -> tuple[np.ndarray, np.ndarray]:
    """Divide the extractor part in two, by group: rows for the first and for the second extractor, ascending.

    The half of a group is a keyed hash of (``data.split-seed``, group), as its part is. Where a half would have fewer
    than 128 images, both extractors learn from the whole part: then only what they are made of differs.
    """
    rows = inputs.rows("extractor")
    seed = inputs.configuration.data.split_seed
    names, of_row = np.unique(inputs.index.groups[rows].astype(str), return_inverse=True)
    first = np.array([derive_seed(seed, f"extractor of group {name}") % 2 == 0 for name in names], dtype=bool)[of_row]
    if min(first.sum(), (~first).sum()) < _LEAST_OF_A_HALF:
        return rows, rows
    return rows[first], rows[~first]


def extractor_of(
    inputs: RunInputs, *, device: torch.device | str = "cpu", progress: Progress | None = None
) -> tuple[FeatureExtractor, str]:
    """Build the extractor that ``evaluation.extractor`` names, for these images.

    Parameters
    ----------
    inputs
        Data, split and settings; one half of the extractor part is used.
    device
        Where to train and to compute.
    progress
        Called after each training step.

    Returns
    -------
    The extractor, and a sentence: which one it is, and why. See :func:`federation.metrics.features.build_extractor`.

    Raises
    ------
    InputError
        If it cannot be had.
    """
    configuration, index = inputs.configuration, inputs.index
    rows, _ = extractor_halves(inputs)
    return build_extractor(
        configuration.evaluation,
        images=inputs.images[rows],
        labels=index.labels[rows],
        sites=np.unique(index.sites, return_inverse=True)[1][rows],
        num_classes=len(index.classes),
        split_seed=configuration.data.split_seed,
        cache_dir=configuration.data.cache_dir,
        device=device,
        progress=progress,
    )


def second_extractor_of(inputs: RunInputs, *, device: torch.device | str = "cpu") -> RandomFiltersExtractor:
    """Fit the extractor that is asked for a second opinion, to the other half of the extractor part.

    It depends on the images and the split's seed alone, and takes a second: it is not kept in the cache.
    """
    _, rows = extractor_halves(inputs)
    return fit_random_filters(inputs.images[rows], split_seed=inputs.configuration.data.split_seed, device=device)
