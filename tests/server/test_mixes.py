"""Classifiers of a class against the rest on mixes of real and synthetic images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from server.evaluation.mixes import (
    MIXES,
    MixImages,
    MixOutcome,
    MixTerms,
    _MixTester,
    best_threshold,
    judge_mixes,
    score_against_rest,
)
from server.evaluation.predictions import TestImages


def toy_images(labels: np.ndarray, seed: int, *, contrast: int = 16) -> np.ndarray:
    """Noise; a quadrant in the middle is brighter where the label is 1."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 180, (len(labels), 32, 32, 3))
    images[labels == 1, 8:24, 8:24] += contrast
    return images.astype(np.uint8)


def labelled(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = (np.arange(count) % 4 == 0).astype(np.int64)
    return toy_images(labels, seed), labels


def mix_images() -> MixImages:
    test, labels = labelled(120, 2)
    names = np.array([f"lesion-{number}" for number in range(120)], dtype=object)
    return MixImages(
        train=labelled(100, 0),
        validation=labelled(80, 1),
        test=TestImages(images=test, labels=labels, sites=np.full(120, "site", dtype=object), groups=names),
    )


def judged(tmp_path: Path, *, inverted: bool) -> dict[str, MixOutcome]:
    def draw(is_class: bool, count: int, purpose: str) -> np.ndarray:
        return toy_images(np.full(count, int(is_class != inverted)), 5 + is_class)

    terms = MixTerms(networks={"small-cnn": 40}, seed=3, cache_dir=str(tmp_path), threads=2)
    return judge_mixes(terms, mix_images(), draw)["small-cnn"]


def test_mixes_differ_by_what_synthetic_images_show(tmp_path: Path, one_thread: None) -> None:
    """Good images are as good as real ones; those with the labels of the others teach the contrary."""
    good, wrong = judged(tmp_path, inverted=False), judged(tmp_path, inverted=True)
    assert list(good) == list(MIXES)
    areas = {mix: outcome.figures["auroc"] for mix, outcome in good.items()}
    assert areas["real"] > 0.9
    assert areas["synthetic"] > 0.9
    assert wrong["synthetic"].figures["auroc"] < 0.2
    # What was trained on real images alone knows of no other, and is found again.
    assert good["real"].figures == wrong["real"].figures
    assert len(list((tmp_path / "classifiers").iterdir())) == 1


def test_real_images_are_the_same_in_every_mix_and_synthetic_ones_come_beside_them() -> None:
    images = mix_images()
    drawn = [np.zeros((50, 32, 32, 3), dtype=np.uint8), np.full((50, 32, 32, 3), 255, dtype=np.uint8)]
    tester = _MixTester(MixTerms(networks={}, seed=0), images, drawn, torch.device("cpu"))
    found = {}
    for mix in MIXES:
        shown, labels, added = tester._compose(mix)
        is_real = shown is images.train[0] and labels is images.train[1]
        counts = None if added is None else np.bincount(added.labels, minlength=2).tolist()
        found[mix] = is_real, counts, added and added.share
        if added is not None:
            assert (added.images[:, 0, 0, 0] == 255 * added.labels).all()
    assert found == {
        "real": (True, None, None),
        # Half of a step is of the class: as many synthetic ones are half a step.
        "real+class": (True, [0, 50], 0.5),
        "real+third": (True, [50, 50], 0.5),
        "real+half": (True, [50, 50], 1.0),
        "synthetic": (False, None, None),
    }


def test_the_threshold_is_that_of_the_greatest_f1() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.4, 0.1])
    # At .8, which two images share: two hits of three called, F1 2 * 2 / (3 + 2). At .4 it would be 2 * 3 / (4 + 3).
    assert best_threshold(np.array([True, True, False, False, False]), scores) == 0.8
    assert best_threshold(np.array([True, True, False, True, False]), scores) == 0.4
    assert best_threshold(np.array([False, False, False, False, True]), scores) == 0.1


def test_figures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(200) < 0.2
    scores = np.round(rng.normal(positive, 1.0), 1)
    times = rng.integers(0, 3, (4, 200))
    found = score_against_rest(positive, scores, 0.5, times.astype(np.float32))
    for number, weights in enumerate(times):
        rows = np.repeat(np.arange(200), weights)
        called = scores[rows] >= 0.5
        assert found["f1"][number] == pytest.approx(f1_score(positive[rows], called))
        assert found["auroc"][number] == pytest.approx(roc_auc_score(positive[rows], scores[rows]))
        assert found["balanced_accuracy"][number] == pytest.approx(balanced_accuracy_score(positive[rows], called))
