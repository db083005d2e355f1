"""How sure a classifier's figures are: test images resampled by patient or lesion, and seeds resampled with them.

Resampled sets are weights: how often each image is in each of them. A figure of all sets is then a few sums.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPLICATES = 500
"""Resampled sets: the ends of a 95 % interval are then known to about a tenth of its width."""


def group_weights(
    groups: NDArray[np.object_],
    strata: NDArray[np.int64],
    stream: np.random.Generator,
    *,
    replicates: int = REPLICATES,
) -> NDArray[np.float32]:
    """Resample groups of images with replacement, within strata.

    Parameters
    ----------
    groups
        (n,): the patient or lesion of each image. Images of one group come together.
    strata
        (n,): the class of each image. A group belongs to the class of its first image, and every class keeps its
        number of groups: the class-wise figures for which this is made take the classes as given, and a class of a
        few lesions is never without any.
    stream
        Decides what is drawn.
    replicates
        Resampled sets.

    Returns
    -------
    float32 (replicates, n): how often each image is in each set.
    """
    _, first, group_of = np.unique(groups.astype(str), return_index=True, return_inverse=True)
    times = np.zeros((replicates, len(first)), dtype=np.float32)
    for stratum in np.unique(strata[first]):
        members = np.flatnonzero(strata[first] == stratum)
        drawn = stream.multinomial(len(members), np.full(len(members), 1 / len(members)), size=replicates)
        times[:, members] = drawn
    return times[:, group_of]


def weighted_balanced_accuracy(
    right: NDArray[np.bool_], labels: NDArray[np.int64], weights: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the mean sensitivity over the classes that occur, for each set of weights.

    Parameters
    ----------
    right
        (n,): whether each image is classified rightly.
    labels
        (n,), true.
    weights
        (r, n).
    """
    recalls = []
    for label in np.unique(labels):
        of_class = labels == label
        there = weights[:, of_class]
        total = there.sum(axis=1, dtype=np.float64)
        recalls.append(np.where(total > 0, there[:, right[of_class]].sum(axis=1) / np.maximum(total, 1e-9), np.nan))
    return np.asarray(np.nanmean(recalls, axis=0))


def weighted_auroc(
    positive: NDArray[np.bool_],
    scores: NDArray[np.floating],
    weights: NDArray[np.floating],
    strata: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return the chance that a positive image scores above a negative one, half for ties, for each set of weights.

    Parameters
    ----------
    positive
        (n,).
    scores
        (n,), greater for likelier positives.
    weights
        (r, n): how often each image counts.
    strata
        (n,) from 0. Given: only pairs of images of one stratum are compared, all such pairs alike.

    Returns
    -------
    (r,); NaN where there is no pair.

    References
    ----------
    Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747
    """
    above, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for stratum in (None,) if strata is None else np.unique(strata):
        chosen = np.arange(len(scores)) if stratum is None else np.flatnonzero(strata == stratum)
        if positive[chosen].all() or not positive[chosen].any():
            continue
        order = chosen[np.argsort(scores[chosen], kind="stable")]
        starts = np.flatnonzero(np.diff(scores[order], prepend=-math.inf))  # of runs of equal scores
        ordered = weights[:, order].astype(np.float64)
        sides = [np.add.reduceat(ordered * side, starts, axis=1) for side in (positive[order], ~positive[order])]
        below = np.cumsum(sides[1], axis=1) - sides[1] / 2
        above += (sides[0] * below).sum(axis=1)
        pairs += sides[0].sum(axis=1) * sides[1].sum(axis=1)
    return np.where(pairs > 0, above / np.maximum(pairs, 1e-9), np.nan)


def resampled_intervals(
    replicates: NDArray[np.floating],
    stream: np.random.Generator,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> dict[str, Any]:
    """Return 95 % intervals of a mean over seeds, from its values in resampled sets of test images.

    Parameters
    ----------
    replicates
        (r, s): the figure of each of s seeds in each resampled set; sets in which it is not defined are left out.
    stream
        Decides which seeds are drawn.
    bounds
        The least and the greatest value that the figure can have.

    Returns
    -------
    ``test_interval``: over test images alone, the seeds being these. ``whole_interval``: over test images and seeds,
    both resampled; a seed's departure from their mean counts √(s / (s - 1)) times, since s seeds drawn from s with
    replacement vary too little by that factor (Efron 1982). None with one seed, of whose chance nothing is known.
    """
    known = replicates[~np.isnan(replicates).any(axis=1)]
    count, seeds = known.shape
    if not count:
        return {"test_interval": None, "whole_interval": None}

    def ends(values: NDArray[np.floating]) -> list[float]:
        return [float(end) for end in np.clip(np.percentile(values, (2.5, 97.5)), *bounds)]

    means = known.mean(axis=1)
    found: dict[str, Any] = {"test_interval": ends(means), "whole_interval": None}
    if seeds > 1:
        drawn = stream.integers(seeds, size=(count, seeds))
        departures = np.take_along_axis(known, drawn, axis=1).mean(axis=1) - means
        found["whole_interval"] = ends(means + departures * math.sqrt(seeds / (seeds - 1)))
    return found
