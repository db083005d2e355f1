"""Junk that is put in the generator's place."""

from __future__ import annotations

import numpy as np

from federation.seeding import numpy_stream
from server.evaluation.stand_ins import draw_class_gaussians, permute_labels


def test_class_gaussians_have_a_class_s_mean_and_variation() -> None:
    stream = numpy_stream(0, "images")
    labels = np.repeat([0, 2, 3], [200, 100, 1])
    level = np.array([60.0, 0, 180, 90])[labels][:, None, None, None]
    brightness = stream.normal(0, 12, (301, 1, 1, 1))
    images = np.clip(level + brightness + stream.normal(0, 2, (301, 8, 8, 3)), 0, 255).astype(np.uint8)
    drawn = draw_class_gaussians(images, labels, np.array([50, 10, 40, 3]), seed=0)
    assert {label: len(one) for label, one in drawn.items()} == {0: 50, 2: 40, 3: 3}  # of class 1 there is none
    for label in (0, 2):
        means = drawn[label].mean(axis=(1, 2, 3))
        real = images[labels == label].mean(axis=(1, 2, 3))
        assert abs(means.mean() - real.mean()) < 5
        assert 0.7 < means.std() / real.std() < 1.4
    assert (drawn[3] == images[-1]).all()
    assert not np.array_equal(drawn[0], draw_class_gaussians(images, labels, np.array([50, 0, 0, 0]), seed=1)[0])


def test_permuted_labels_are_as_many_of_each() -> None:
    labels = np.repeat([0, 1, 2], 100)
    dealt = permute_labels(labels, seed=0)
    assert np.bincount(dealt).tolist() == [100, 100, 100]
    assert 0.2 < (dealt == labels).mean() < 0.45
