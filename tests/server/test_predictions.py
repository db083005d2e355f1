"""What predictions are worth: within sites, with intervals, and beside a guess that sees no image."""

from __future__ import annotations

import numpy as np
import pytest

from federation.seeding import numpy_stream
from server.evaluation.predictions import (
    TestImages,
    differences,
    guess_from_sites,
    resampled_figures,
    score_predictions,
    spread_of_seeds,
)

CLASSES = ("nv", "mel", "bcc")


def draw_test(count: int = 120) -> TestImages:
    stream = numpy_stream(0, "labels")
    return TestImages(
        images=np.zeros((count, 1, 1, 3), dtype=np.uint8),
        labels=stream.integers(3, size=count),
        sites=np.array(["a", "b"], dtype=object)[stream.integers(2, size=count)],
        groups=np.array([f"lesion {number // 2}" for number in range(count)], dtype=object),
    )


def predict(test: TestImages, seed: int, skill: float) -> np.ndarray:
    logits = numpy_stream(seed, "logits").normal(size=(len(test.labels), 3))
    logits[np.arange(len(test.labels)), test.labels] += skill
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True)


def test_a_guess_from_sites_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    sites = np.array(["a", "a", "a", "b", "a", "b", "b"], dtype=object)
    guessed = guess_from_sites(labels, sites, np.array(["b", "a", "elsewhere"], dtype=object), num_classes=4)
    # At b are 1 of 4, 1 of 2, 1 of 1 and none of none; at a 3 of 4 and 1 of 2.
    assert guessed[0] == pytest.approx(np.array([0.25, 0.5, 1.0, 0.0]) / 1.75)
    assert guessed[1] == pytest.approx(np.array([0.75, 0.5, 0.0, 0.0]) / 1.25)
    assert guessed[2].tolist() == [0.25] * 4


def test_a_guess_from_sites_is_worth_nothing_within_sites() -> None:
    test = draw_test()
    train = draw_test(400)
    skewed = np.where(train.labels == 1, "a", train.sites.astype(str)).astype(object)
    guessed = guess_from_sites(train.labels, skewed, test.sites, num_classes=3)
    scores = score_predictions(test.labels, guessed, CLASSES, sites=test.site_numbers)
    assert scores["macro_auroc_within_sites"] == 0.5


def test_resampled_figures_lie_around_the_scores() -> None:
    test = draw_test()
    seeds = [predict(test, seed, 1.0) for seed in range(3)]
    scores = [score_predictions(test.labels, one, CLASSES, sites=test.site_numbers) for one in seeds]
    resampled = [resampled_figures(test, one) for one in seeds]
    for name in ("balanced_accuracy", "macro_auroc", "macro_auroc_within_sites"):
        assert resampled[0][name].mean() == pytest.approx(scores[0][name], abs=0.01)
        assert 0.01 < resampled[0][name].std() < 0.1
    found = spread_of_seeds(scores, resampled, seed=0)
    for name in ("balanced_accuracy", "macro_auroc"):
        low, high = found[name]["test_interval"]
        wide = found[name]["whole_interval"]
        assert low < found[name]["mean"] < high
        assert wide[1] - wide[0] > 0.9 * (high - low)
    assert "test_interval" not in found["calibration_error"]


def test_differences_are_paired() -> None:
    test = draw_test()
    seeds = [predict(test, seed, 1.0) for seed in range(2)]
    better = [predict(test, seed, 1.3) for seed in range(2)]  # the same noise
    spreads, resampled = [], []
    for kind in (better, seeds):
        scores = [score_predictions(test.labels, one, CLASSES, sites=test.site_numbers) for one in kind]
        resampled.append([resampled_figures(test, one) for one in kind])
        spreads.append(spread_of_seeds(scores, resampled[-1], seed=0))
    found = differences(*spreads, (resampled[0], resampled[1]), seed=0)
    apart = found["balanced_accuracy"]
    assert apart["mean"] == pytest.approx(
        spreads[0]["balanced_accuracy"]["mean"] - spreads[1]["balanced_accuracy"]["mean"]
    )
    low, high = apart["test_interval"]
    assert 0 < low < apart["mean"] < high  # though each one's own interval is wider than the difference
    own_low, own_high = spreads[0]["balanced_accuracy"]["test_interval"]
    assert high - low < own_high - own_low
    same = differences(spreads[0], spreads[0], (resampled[0], resampled[0]), seed=0)
    assert same["macro_auroc"]["whole_interval"] == [0, 0]
