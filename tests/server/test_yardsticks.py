"""Images of known quality."""

from __future__ import annotations

import numpy as np
import pytest

from federation.seeding import numpy_stream
from server.evaluation.yardsticks import blurred, mean_image, measure_yardsticks, pca_gaussian


class MeanColour:
    """The simplest extractor: an image's mean red, green and blue, in [-1, 1]."""

    name = "mean-colour"

    def features(self, images: np.ndarray) -> np.ndarray:
        return images.mean((1, 2)) / 127.5 - 1


def draw(count: int, seed: int, resolution: int = 32) -> np.ndarray:
    stream = numpy_stream(seed, "images")
    colours = stream.normal(128, 30, (count, 1, 1, 3)) + stream.normal(0, 10, (count, resolution, resolution, 3))
    return np.clip(colours, 0, 255).astype(np.uint8)


def test_mean_image_is_rounded() -> None:
    images = np.zeros((3, 2, 2, 3), dtype=np.uint8)
    images[0], images[1, 0] = 100, 255
    repeated = mean_image(images, 5)
    assert repeated.shape == (5, 2, 2, 3)
    assert repeated.dtype == np.uint8
    assert np.all(repeated[:, 0] == 118)
    assert np.all(repeated[:, 1] == 33)


def test_blurring_to_the_same_side_changes_nothing_and_less_keeps_flat_images() -> None:
    images = draw(4, 0)
    assert np.array_equal(blurred(images, 32), images)
    flat = np.full((2, 32, 32, 3), [10, 100, 250], dtype=np.uint8)
    assert np.array_equal(blurred(flat, 8), flat)
    details = [np.abs(np.diff(blurred(images, side).astype(int), axis=1)).mean() for side in (32, 16, 8)]
    assert details[0] > 2 * details[1] > 4 * details[2]
    np.testing.assert_allclose(blurred(images, 8).mean((1, 2)), images.mean((1, 2)), atol=1.5)


def test_gaussian_has_the_mean_and_the_covariance_of_the_images() -> None:
    # Two directions of variance: brightness of the left half (deviation 20) and of the right half (5).
    stream = numpy_stream(0, "halves")
    halves = 128 + stream.normal(size=(3000, 2)) * [20, 5]
    images = np.rint(halves).astype(np.uint8)[:, None, [0] * 16 + [1] * 16, None].repeat(32, 1).repeat(3, 3)
    drawn = pca_gaussian(images, 4000, seed=0, num_components=2)
    assert drawn.shape == (4000, 32, 32, 3)
    assert drawn.dtype == np.uint8
    left, right = drawn[:, 5, 3, 1].astype(float), drawn[:, 5, 28, 1].astype(float)
    assert left.mean() == pytest.approx(128, abs=1.5)
    assert right.mean() == pytest.approx(128, abs=0.5)
    assert left.std() == pytest.approx(20, rel=0.06)
    assert right.std() == pytest.approx(5, rel=0.06)
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.06
    assert np.abs(drawn[:, :, :16].astype(int) - drawn[:, :1, :1, :1]).max() <= 1  # no other direction


def test_gaussian_of_few_images_repeats_and_leaves_global_generators_alone() -> None:
    images = draw(10, 0)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = pca_gaussian(images, 6, seed=1)
    assert np.array_equal(first, pca_gaussian(images, 6, seed=1))
    assert not np.array_equal(first, pca_gaussian(images, 6, seed=2))
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_yardsticks_on_mean_colours() -> None:
    validation, train = draw(800, 0), draw(900, 1)
    extractor = MeanColour()
    found = measure_yardsticks(extractor, validation_images=validation, train_images=train, seed=0)
    assert list(found) == ["kid_floor", "kid_blurred_16", "kid_blurred_8", "kid_pca_gaussian", "kid_mean_image"]
    # Mean colours see neither blur nor what a Gaussian lacks, but they see that one colour is not all.
    spread = np.mean(extractor.features(train).var(0)) ** 2  # the leading term of KID, 3 tr(C²) / d²
    assert found["kid_mean_image"] == pytest.approx(spread, rel=0.3)
    for name in ("kid_floor", "kid_blurred_16", "kid_blurred_8", "kid_pca_gaussian"):
        assert abs(found[name]) < spread / 2, name
    known = measure_yardsticks(
        extractor,
        validation_images=validation,
        train_images=train,
        seed=0,
        validation_features=extractor.features(validation),
    )
    assert known == found
