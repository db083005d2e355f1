"""What real images score against each hospital's: without it, who is served worst is largely a matter of the site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from server.evaluation.scores import RealSet, SiteReference
from server.inputs import RunInputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OF_SITES = (
    "Its own: training images of the site. All hospitals': training images of all, as many as there are {part} images."
)
_OF_HOSPITALS = (
    "Its own: one half of its patients or lesions against the other. All hospitals': the {part} images of all."
)


def thinned(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most `most` rows, evenly spread."""
    return rows[:: max(1, -(-len(rows) // most))]


def with_real_images(
    sites: SiteReference,
    real: RealSet,
    train_features: NDArray[np.floating],
    *,
    inputs: RunInputs,
    features: Callable[[NDArray[np.int64]], NDArray[np.floating]],
    part: str,
    are_sites: bool,
) -> SiteReference:
    """Add to what stands for each hospital the real images that are to score against it, of other patients.

    Parameters
    ----------
    sites
        What stands for each hospital.
    real, train_features
        Real images of `part`, and as many training images.
    inputs
        Data, split and partition.
    features
        Of rows of the index.
    part
        Name of the part that `real` is.
    are_sites
        Whether hospitals are the sites of the data, and stand as their images of `part`; else as training images.
    """
    own: dict[str, tuple[NDArray[np.floating], NDArray[np.floating]]] = {}
    if are_sites:
        train = inputs.rows("train")
        of_site = inputs.index.sites[train]
        for name, reference in sites.features.items():
            rows = train[of_site == name]
            if len(rows) and len(reference):
                own[name] = reference, features(thinned(rows, len(reference)))
        return replace(sites, own=own, everyone=train_features, real_say=_OF_SITES.format(part=part))
    for name, reference in sites.features.items():
        rows = thinned(inputs.partition.rows_of(name), len(real.features))
        groups = np.unique(inputs.index.groups[rows], return_inverse=True)[1]
        own[name] = reference[groups % 2 == 0], reference[groups % 2 == 1]
    return replace(sites, own=own, everyone=real.features, real_say=_OF_HOSPITALS.format(part=part))
