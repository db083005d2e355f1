"""Classifiers trained on synthetic images and tested on real ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from federation.seeding import numpy_stream
from server.evaluation.utility import score_predictions, train_on_synthetic_test_on_real


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread: the same bits everywhere, and no threads that wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_stripes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Narrow stripes (class 0), wide stripes (1) or none (2), turned at random, of one mean colour."""
    stream = numpy_stream(seed, "stripes")
    labels = stream.integers(0, 3, count)
    width = np.array([2, 8, 64])[labels]
    stripes = ((np.arange(32)[None, :] + 64) // width[:, None]) % 2 * 2.0 - 1.0
    stripes[labels == 2] = 0
    images = 128 + 50 * np.broadcast_to(stripes[:, :, None, None], (count, 32, 32, 3))
    turned = stream.random(count) < 0.5
    images = np.where(turned[:, None, None, None], images.transpose(0, 2, 1, 3), images)
    return np.clip(images + stream.normal(0, 15, images.shape), 0, 255).astype(np.uint8), labels


def test_scores_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    probabilities = np.array(
        [[0.9, 0.1, 0], [0.8, 0.2, 0], [0.4, 0.6, 0], [0.7, 0.1, 0.2], [0.3, 0.5, 0.2], [0.5, 0.3, 0.2]]
    )
    scores = score_predictions(labels, probabilities, ["nv", "mel", "df"])
    assert scores["recall"] == {"nv": 0.75, "mel": 0.5, "df": None}
    assert scores["balanced_accuracy"] == 0.625
    # Pairs of one positive and one negative that are ordered rightly: 7 of 8 for nv (.4 < .5), and
    # for mel .5 beats .1, .2, .1 but not .6; .3 the same: 6 of 8.
    assert scores["macro_auroc"] == pytest.approx((7 / 8 + 6 / 8) / 2)


def test_predictions_of_an_absent_class_count_as_wrong_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_predictions(np.array([1, 1]), np.array([[0, 0, 1], [0, 1, 0]]), ["nv", "mel", "df"])
    assert scores == {"balanced_accuracy": 0.5, "macro_auroc": None, "recall": {"nv": None, "mel": 0.5, "df": None}}


def test_good_synthetic_images_serve_and_mislabelled_ones_do_not() -> None:
    real, real_labels = draw_stripes(300, 0)
    test, test_labels = draw_stripes(200, 1)
    good, good_labels = draw_stripes(300, 2)

    def measure(labels: np.ndarray) -> dict:
        return train_on_synthetic_test_on_real(
            synthetic_images=good,
            synthetic_labels=labels,
            real_images=real,
            real_labels=real_labels,
            test_images=test,
            test_labels=test_labels,
            classes=["narrow", "wide", "none", "never"],
            steps=50,
            seed=0,
        )

    serving, misleading = measure(good_labels), measure((good_labels + 1) % 3)
    assert serving["real"] == misleading["real"]
    assert serving["real"]["balanced_accuracy"] > 0.9
    assert serving["real"]["macro_auroc"] > 0.95
    assert serving["synthetic"]["balanced_accuracy"] > 0.9
    assert misleading["synthetic"]["balanced_accuracy"] < 0.1
    assert serving["real"]["num_train_images"] == serving["synthetic"]["num_train_images"] == 300
    assert serving["num_test_images"] == 200
    assert serving["steps"] == 50
    assert serving["classes_without_test_images"] == ["never"]
