"""The second extractor: what it depends on, how it is kept, that it sees texture and colour alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from federation.errors import InputError
from federation.metrics.fidelity import kid
from federation.metrics.random_filters import RandomFiltersExtractor, fit_random_filters, has_random_filters
from federation.seeding import numpy_stream

pytestmark = pytest.mark.usefixtures("one_thread")


def draw(count: int, seed: int, side: int = 32) -> np.ndarray:
    """Smooth blobs, as photographs are smooth, with a little texture."""
    stream = numpy_stream(seed, "blobs")
    coarse = stream.normal(128, 40, (count, 4, 4, 3)).repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    return np.clip(coarse + stream.normal(0, 6, (count, side, side, 3)), 0, 255).astype(np.uint8)


def test_it_follows_the_images_and_the_split_alone_and_is_kept(tmp_path: Path) -> None:
    images = draw(80, 0)
    first, again = (fit_random_filters(images, split_seed=0) for _ in range(2))
    assert first.name == again.name == f"random-filters-32@{first.digest[:4]}"
    assert first.digest == again.digest
    assert fit_random_filters(images, split_seed=1).digest != first.digest
    assert fit_random_filters(images[::2], split_seed=0).digest != first.digest
    assert not has_random_filters(tmp_path)
    first.save(tmp_path)
    assert has_random_filters(tmp_path)
    loaded = RandomFiltersExtractor.load(tmp_path)
    assert loaded.name == first.name
    assert loaded.about["num_images"] == 80
    assert np.array_equal(loaded.features(images), first.features(images))
    weights = tmp_path / "random-filters.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(InputError, match=r"random-filters\.json: its weights are other ones"):
        RandomFiltersExtractor.load(tmp_path)


def test_a_row_is_of_its_image_alone_and_wrong_sizes_and_few_images_are_refused() -> None:
    extractor = fit_random_filters(draw(40, 0), split_seed=0)
    images = draw(110, 1)
    rows = extractor.features(images)
    assert rows.shape == (110, 20)
    np.testing.assert_allclose(extractor.features(images[105:106]), rows[105:106], atol=1e-4)
    with pytest.raises(ValueError, match=r"takes images of shape \(32, 32, 3\), not \(64, 64, 3\)"):
        extractor.features(np.zeros((1, 64, 64, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="at least 16 images, and here are 15"):
        fit_random_filters(images[:15], split_seed=0)


def test_it_sees_noise_lost_texture_and_lost_colours() -> None:
    extractor = fit_random_filters(draw(300, 0), split_seed=0)
    real, other = draw(300, 1), draw(300, 2)
    reference = extractor.features(real)

    def distance(images: np.ndarray) -> float:
        return kid(reference, extractor.features(np.clip(images, 0, 255).astype(np.uint8)))[0]

    floor = abs(distance(other))
    noise = numpy_stream(3, "noise").normal(0, 8, other.shape)
    means = other.mean((1, 2), keepdims=True)
    for name, images in {
        "noise": other + noise,
        "no texture": other.reshape(300, 16, 2, 16, 2, 3).mean((2, 4)).repeat(2, 1).repeat(2, 2),
        "half the colours": other - 0.9 * (means - means.mean(0)),
    }.items():
        assert distance(images) > 3 * floor + 0.01, name


def test_images_beyond_128_pixels_are_reduced_and_fewer_are_fitted() -> None:
    large = draw(20, 0, side=256)
    extractor = fit_random_filters(large, split_seed=0)
    assert extractor.resolution == 256
    assert "reduced to 128x128" in extractor.preprocessing
    averaged = large.reshape(20, 128, 2, 128, 2, 3).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    exact = np.abs(extractor.features(np.rint(averaged).astype(np.uint8)) - extractor.features(large))
    assert exact.max() < 0.2
