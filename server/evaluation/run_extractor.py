"""The feature extractor of a data set: trained, where it must be, on the part that is kept for it."""

from __future__ import annotations

import numpy as np
import torch

from federation.metrics.features import FeatureExtractor, build_extractor
from federation.models.classifier import Progress
from server.inputs import RunInputs


def extractor_of(
    inputs: RunInputs, *, device: torch.device | str = "cpu", progress: Progress | None = None
) -> tuple[FeatureExtractor, str]:
    """Build the extractor that ``evaluation.extractor`` names, for these images.

    Parameters
    ----------
    inputs
        Data, split and settings; the extractor part is used.
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
    rows = inputs.rows("extractor")
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
