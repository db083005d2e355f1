"""What a classifier's predictions on real test images are worth: pooled, within sites, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import recall_score, roc_auc_score

from federation.diagnoses import find_melanoma_class
from federation.metrics.intervals import spread
from federation.metrics.resampling import (
    group_weights,
    resampled_intervals,
    weighted_auroc,
    weighted_balanced_accuracy,
)
from federation.seeding import numpy_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from federation.images import ImageRows

RESAMPLED = ("balanced_accuracy", "macro_auroc", "macro_auroc_within_sites")
"""Figures whose intervals hold the choice of test images too."""

_CALIBRATION_BINS = 15


@dataclass(frozen=True, kw_only=True)
class TestImages:
    """Real images that classifiers are tested on."""

    __test__ = False  # no test of pytest's

    images: NDArray[np.uint8] | ImageRows
    """uint8 (n, r, r, 3)."""
    labels: NDArray[np.int64]
    """(n,)."""
    sites: NDArray[np.object_]
    """(n,): names of sites."""
    groups: NDArray[np.object_]
    """(n,): the patient or lesion of each."""
    seed: int = 0
    """``data.split-seed``: which sets are resampled."""

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """Resampled sets, see :func:`~federation.metrics.resampling.group_weights`: the same for all classifiers."""
        return group_weights(self.groups, self.labels, numpy_stream(self.seed, "test images, resampled"))

    @cached_property
    def site_numbers(self) -> NDArray[np.int64]:
        """(n,) from 0."""
        return np.unique(self.sites.astype(str), return_inverse=True)[1]

    def only(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> TestImages:
        """Return some of them."""
        rows = np.arange(len(self.labels))[rows]
        return TestImages(
            images=self.images[rows],
            labels=self.labels[rows],
            sites=self.sites[rows],
            groups=self.groups[rows],
            seed=self.seed,
        )


def score_predictions(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    *,
    sites: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Score predicted probabilities over the classes that occur in the test.

    Parameters
    ----------
    labels
        (n,), true.
    probabilities
        (n, k), k at least 2. Of classifiers trained on balanced batches they refer to equally frequent classes.
    classes
        k names.
    sites
        (n,) from 0: the site of each image.

    Returns
    -------
    dict
        ``balanced_accuracy``: mean sensitivity over the classes that occur.
        ``macro_auroc``: mean over the same classes of the area under the curve of that class against all
        others; None where only one class occurs.
        ``macro_auroc_within_sites``: the same, but only images of one site are compared with each other, all such
        pairs alike: knowing a site's mix of classes brings nothing. Mean over the classes that have such pairs;
        None where none has, or with fewer than two sites.
        ``melanoma_sensitivity_at_90_specificity``: see :func:`sensitivity_at_specificity`; None where no
        class is melanoma, or no or every test image shows one.
        ``calibration_error``: expected calibration error of the predicted class's probability, 15 bins (Guo et
        al. 2017, arXiv 1706.04599). The priors of balanced batches are not those of the test images, and
        what that difference makes is in it.
        ``sensitivity``: of each class by name; None where it does not occur.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error  # slow to import

    present = np.unique(labels)
    recalls = recall_score(labels, probabilities.argmax(axis=1), labels=present, average=None, zero_division=0.0)
    areas = [roc_auc_score(labels == label, probabilities[:, label]) for label in present] if len(present) > 1 else []
    by_label = {int(label): float(recall) for label, recall in zip(present, recalls, strict=True)}
    calibration_error = multiclass_calibration_error(
        torch.from_numpy(np.clip(probabilities, 0.0, 1.0)),
        torch.from_numpy(np.asarray(labels)),
        num_classes=len(classes),
        n_bins=_CALIBRATION_BINS,
    )
    once = np.ones((1, len(labels)), dtype=np.float32)
    return {
        "balanced_accuracy": float(np.mean(recalls)),
        "macro_auroc": float(np.mean(areas)) if areas else None,
        "macro_auroc_within_sites": _known(_within_sites(labels, probabilities, once, sites)),
        "melanoma_sensitivity_at_90_specificity": _of_melanoma(labels, probabilities, classes),
        "calibration_error": float(calibration_error),
        "sensitivity": {name: by_label.get(label) for label, name in enumerate(classes)},
    }


def _of_melanoma(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], classes: Sequence[str]
) -> float | None:
    """Return the sensitivity for melanoma at 90 % specificity, where there are such images and others."""
    melanoma = find_melanoma_class(classes)
    if melanoma is None:
        return None
    label = list(classes).index(melanoma)
    positive = labels == label
    if positive.all() or not positive.any():
        return None
    return sensitivity_at_specificity(positive, probabilities[:, label], specificity_percent=90)


def _within_sites(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    weights: NDArray[np.floating],
    sites: NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Return the mean over classes of the area within sites, for each set of weights; NaN where there is none."""
    if sites is None or len(np.unique(sites)) < 2:
        return np.full(len(weights), np.nan)
    return macro_auroc(labels, probabilities, weights, sites)


def macro_auroc(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    weights: NDArray[np.floating],
    sites: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return the mean over the classes that occur of the area of each against all others, for each set of weights.

    Parameters
    ----------
    labels
        (n,), true.
    probabilities
        (n, k).
    weights
        (r, n): how often each image counts.
    sites
        See :func:`~federation.metrics.resampling.weighted_auroc`.

    Returns
    -------
    (r,): of a set that lacks a class, over the others; NaN where none has a pair.
    """
    areas = [weighted_auroc(labels == label, probabilities[:, label], weights, sites) for label in np.unique(labels)]
    there = ~np.isnan(areas)
    return np.where(there.any(axis=0), np.nansum(areas, axis=0) / np.maximum(there.sum(axis=0), 1), np.nan)


def _known(values: NDArray[np.float64]) -> float | None:
    return None if np.isnan(values[0]) else float(values[0])


def sensitivity_at_specificity(
    positive: NDArray[np.bool_], scores: NDArray[np.floating], *, specificity_percent: int
) -> float:
    """Return the share of positive images that score above the threshold for a specificity.

    An image is called positive if its score is above the threshold. The threshold is the smallest that calls
    at least `specificity_percent` of the negative images negative: the ⌈percent · n / 100⌉-th smallest of their
    n scores. It is set on the very images that are scored, as is usual for a point of their ROC curve: at a
    threshold that is fixed beforehand the specificity would be another.

    Parameters
    ----------
    positive
        (n,); at least one image of each kind.
    scores
        (n,), greater for likelier positives.
    specificity_percent
        In [1, 100].
    """
    negative_scores = np.sort(scores[~positive])
    threshold = negative_scores[-(-specificity_percent * len(negative_scores) // 100) - 1]
    return float((scores[positive] > threshold).mean())


def resampled_figures(test: TestImages, probabilities: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """Return each figure of :data:`RESAMPLED` in each resampled set of test images, (r,); NaN where it is not defined.

    Parameters
    ----------
    test
        The images.
    probabilities
        (n, k), predicted for them.
    """
    labels, weights = test.labels, test.weights
    return {
        "balanced_accuracy": weighted_balanced_accuracy(probabilities.argmax(axis=1) == labels, labels, weights),
        "macro_auroc": macro_auroc(labels, probabilities, weights),
        "macro_auroc_within_sites": _within_sites(labels, probabilities, weights, test.site_numbers),
    }


def spread_of_seeds(
    scores: Sequence[Mapping[str, Any]], resampled: Sequence[Mapping[str, NDArray[np.float64]]], *, seed: int
) -> dict[str, Any]:
    """Sum up what classifiers of several seeds reach.

    Parameters
    ----------
    scores
        What :func:`score_predictions` gave for each seed.
    resampled
        What :func:`resampled_figures` gave for each.
    seed
        Decides which seeds are drawn for intervals.

    Returns
    -------
    Each figure's spread over seeds, see :func:`~federation.metrics.intervals.spread`; those of :data:`RESAMPLED` with
    the intervals of :func:`~federation.metrics.resampling.resampled_intervals` too.
    """

    def over_seeds(values: list[float | None]) -> dict[str, Any] | None:
        # Which classes occur in the test, and so what is None, does not depend on the seed.
        known = [value for value in values if value is not None]
        return spread(known, bounds=(0, 1)) if known else None

    found: dict[str, Any] = {
        name: over_seeds([score[name] for score in scores]) for name in scores[0] if name != "sensitivity"
    }
    for name in RESAMPLED:
        if found[name] is not None:
            sets = np.stack([figures[name] for figures in resampled], axis=1)
            found[name] |= resampled_intervals(sets, numpy_stream(seed, f"seeds, resampled, {name}"), bounds=(0, 1))
    found["sensitivity"] = {
        name: over_seeds([score["sensitivity"][name] for score in scores]) for name in scores[0]["sensitivity"]
    }
    return found


def differences(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    resampled: tuple[Sequence[Mapping[str, NDArray[np.float64]]], Sequence[Mapping[str, NDArray[np.float64]]]],
    *,
    seed: int,
) -> dict[str, Any]:
    """Return how much the first is above the second, paired by seed and by test image.

    Parameters
    ----------
    first, second
        What :func:`spread_of_seeds` returned.
    resampled
        What :func:`resampled_figures` gave for each seed of the first, and of the second.
    seed
        See :func:`spread_of_seeds`.

    Returns
    -------
    For each figure of :data:`RESAMPLED` the spread over seeds and the intervals of test images, and of both; None
    where it was not measured.
    """
    found: dict[str, Any] = {}
    for name in RESAMPLED:
        if first[name] is None or second[name] is None:
            found[name] = None
            continue
        apart = np.subtract(first[name]["values"], second[name]["values"])
        sets = np.stack([one[name] - other[name] for one, other in zip(*resampled, strict=True)], axis=1)
        found[name] = spread(apart.tolist(), bounds=(-1, 1)) | resampled_intervals(
            sets, numpy_stream(seed, f"seeds, resampled, {name}"), bounds=(-1, 1)
        )
    return found


def guess_from_sites(
    train_labels: NDArray[np.int64],
    train_sites: NDArray[np.object_],
    test_sites: NDArray[np.object_],
    *,
    num_classes: int,
) -> NDArray[np.float64]:
    """Return what the site of an image alone says about its class: a yardstick that sees no image.

    Parameters
    ----------
    train_labels, train_sites
        (n,) each, of the real training images.
    test_sites
        (m,).
    num_classes
        k.

    Returns
    -------
    (m, k): probabilities by Bayes' rule for equally frequent classes, as those of classifiers trained on balanced
    batches: the share of a class's training images that are of the site, over the sum for all classes. Equal for all
    classes at a site without training images.
    """
    counts = np.bincount(train_labels, minlength=num_classes)
    found = np.full((len(test_sites), num_classes), 1.0 / num_classes)
    for site in np.unique(test_sites.astype(str)):
        of_site = np.bincount(train_labels[train_sites.astype(str) == site], minlength=num_classes)
        likelihood = of_site / np.maximum(counts, 1)
        if likelihood.sum() > 0:
            found[test_sites.astype(str) == site] = likelihood / likelihood.sum()
    return found
