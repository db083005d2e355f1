"""Figures in resampled sets of test images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from federation.metrics.resampling import (
    group_weights,
    resampled_intervals,
    weighted_auroc,
    weighted_balanced_accuracy,
)


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_groups_come_whole_and_classes_keep_their_number_of_groups() -> None:
    groups = np.array(["a", "a", "b", "c", "c", "c", "d", "e"], dtype=object)
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    weights = group_weights(groups, labels, stream(), replicates=200)
    assert weights.shape == (200, 8)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, 0] + weights[:, 2] == 2).all()  # two groups of class 0
    assert (weights[:, 3] + weights[:, 6] + weights[:, 7] == 3).all()
    assert weights[:, 0].mean() == pytest.approx(1, abs=0.15)
    assert len(np.unique(weights[:, 3])) > 2


def test_weights_are_repetitions() -> None:
    draw = stream(1)
    labels = draw.integers(3, size=40)
    scores = np.round(draw.random(40), 1)  # with ties
    predicted = draw.integers(3, size=40)
    weights = draw.integers(4, size=(5, 40))
    accuracies = weighted_balanced_accuracy(predicted == labels, labels, weights)
    areas = weighted_auroc(labels == 1, scores, weights)
    for times, accuracy, area in zip(weights, accuracies, areas, strict=True):
        rows = np.repeat(np.arange(40), times)
        assert accuracy == pytest.approx(balanced_accuracy_score(labels[rows], predicted[rows]))
        assert area == pytest.approx(roc_auc_score(labels[rows] == 1, scores[rows]))


def test_within_strata_what_a_stratum_alone_says_is_worth_nothing() -> None:
    positive = np.array([True, True, True, False, True, False, False, False])
    site = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    once = np.ones((1, 8))
    assert weighted_auroc(positive, 1.0 - site, once)[0] == 0.75
    assert weighted_auroc(positive, 1.0 - site, once, site)[0] == 0.5
    # Of 3 pairs at each site those at the second alone are in order: 3 + 0 of 6.
    scores = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.1, 0.2, 0.3])
    assert weighted_auroc(positive, scores, once, site)[0] == 0.5
    assert np.isnan(weighted_auroc(positive, scores, once, positive.astype(int)))  # no pair in any stratum


@pytest.mark.parametrize(("seeds", "deviation"), [(2, 2.0), (3, 2.0), (5, 2.0), (3, 0.2)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int, deviation: float) -> None:
    """A few seeds that vary so much, and test sets that vary by 1 for all of them alike."""
    draw, held = stream(2), {"test_interval": 0, "whole_interval": 0}
    for _ in range(400):
        of_seeds = draw.normal(0, deviation, seeds)
        of_sets = draw.normal(0, 1)
        replicates = (of_seeds + of_sets)[None, :] + draw.normal(0, 1, (200, 1))
        for name, interval in resampled_intervals(replicates, draw).items():
            held[name] += interval[0] < 0 < interval[1]
    assert 0.92 < held["whole_interval"] / 400 < 0.99
    if deviation > 1:
        assert held["test_interval"] / 400 < 0.85


def test_a_group_is_of_its_rarest_class() -> None:
    """A melanoma of a patient whose other images are benign is drawn as one of two melanoma patients, always two."""
    groups = np.array(["p", "p", "p", "q", "r", "s"], dtype=object)
    labels = np.array([0, 0, 1, 1, 0, 0])
    weights = group_weights(groups, labels, stream(), replicates=100)
    assert (weights[:, 2] + weights[:, 3] == 2).all()
    assert (weights[:, 4] + weights[:, 5] == 2).all()


def test_a_figure_that_few_sets_have_has_no_interval() -> None:
    replicates = np.full((500, 2), np.nan)
    replicates[:76] = 0.5
    assert resampled_intervals(replicates, stream()) == {"test_interval": None, "whole_interval": None}


def test_one_seed_says_nothing_of_seeds() -> None:
    found = resampled_intervals(np.linspace(0, 1, 101)[:, None], stream(), bounds=(0.1, 1))
    assert found == {"test_interval": [0.1, 0.975], "whole_interval": None}
    assert resampled_intervals(np.full((5, 2), np.nan), stream()) == {"test_interval": None, "whole_interval": None}
