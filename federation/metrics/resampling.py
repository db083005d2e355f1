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
_FEWEST_SETS = 100


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
        (n,): the class of each image. A group belongs to the rarest class among its images, and every class keeps
        its number of groups: the class-wise figures for which this is made take the classes as given, and a rare
        class is not without any.
    stream
        Decides what is drawn.
    replicates
        Resampled sets.

    Returns
    -------
    float32 (replicates, n): how often each image is in each set.
    """
    names, group_of = np.unique(groups.astype(str), return_inverse=True)
    times = np.zeros((replicates, len(names)), dtype=np.float32)
    # From the rarest on: a group that has an image of it is of that class.
    stratum_of = np.full(len(names), -1, dtype=np.int64)
    kinds, counts = np.unique(strata, return_counts=True)
    for stratum in kinds[np.argsort(counts, kind="stable")]:
        having = np.unique(group_of[strata == stratum])
        stratum_of[having[stratum_of[having] < 0]] = stratum
    for stratum in kinds:
        members = np.flatnonzero(stratum_of == stratum)
        if not len(members):
            continue
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
        Of the seeds' chance.
    bounds
        The least and the greatest value that the figure can have.

    Returns
    -------
    ``test_interval``: over test images alone, the seeds being these. ``whole_interval``: over test images and seeds:
    in each resampled set the mean is moved by Student's t of s - 1 degrees of freedom times its standard error over
    seeds. Two or three seeds drawn anew with replacement would never lie further out than they do, and an interval
    of them holds the truth in .6 to .8 of cases. None with one seed, of whose chance nothing is known. Both None where
    the figure is defined in fewer than 100 sets.
    """
    known = replicates[~np.isnan(replicates).any(axis=1)]
    count, seeds = known.shape
    if count < min(_FEWEST_SETS, len(replicates)):
        return {"test_interval": None, "whole_interval": None}

    def ends(values: NDArray[np.floating]) -> list[float]:
        return [float(end) for end in np.clip(np.percentile(values, (2.5, 97.5)), *bounds)]

    means = known.mean(axis=1)
    found: dict[str, Any] = {"test_interval": ends(means), "whole_interval": None}
    if seeds > 1:
        errors = known.std(axis=1, ddof=1) / math.sqrt(seeds)
        found["whole_interval"] = ends(means + errors * stream.standard_t(seeds - 1, count))
    return found
