"""Power by spatial frequency and variety of colours: known waves, known colours."""

from __future__ import annotations

import numpy as np
import pytest

from federation.metrics.image_statistics import ImageStatistics, band_edges, image_statistics, ratios
from federation.seeding import numpy_stream


def test_bands_are_even_to_16_cycles_and_two_an_octave_beyond() -> None:
    assert band_edges(32) == (2, 4, 6, 8, 10, 12, 14, 16)
    assert band_edges(64) == (2, 4, 6, 8, 10, 12, 14, 16, 24, 32)
    assert band_edges(128)[8:] == (24, 32, 48, 64)
    assert band_edges(512)[-2:] == (192, 256)


@pytest.mark.parametrize(("cycles", "band"), [(1, 0), (3, 1), (5, 2), (9, 4), (15, 7)])
def test_a_wave_has_its_power_in_its_own_band(cycles: int, band: int) -> None:
    wave = 128 + 60 * np.sin(2 * np.pi * cycles * np.arange(32) / 32)
    across = np.broadcast_to(wave[None, None, :, None], (2, 32, 32, 3)).astype(np.uint8)
    for images in (across, across.transpose(0, 2, 1, 3)):
        powers = image_statistics(images).band_powers
        assert powers.argmax() == band
        # Half as strong a wave has a quarter of the power.
        weaker = (128 + (images.astype(float) - 128) / 2).astype(np.uint8)
        assert image_statistics(weaker).band_powers[band] / powers[band] == pytest.approx(0.25, abs=0.01)


def test_blur_is_seen_at_high_frequencies_and_batches_do_not_matter() -> None:
    images = numpy_stream(0, "noise").integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    blurred = images.reshape(60, 32, 2, 32, 2, 3).mean((2, 4)).repeat(2, 1).repeat(2, 2).astype(np.uint8)
    found = ratios(image_statistics(blurred).band_powers, image_statistics(images).band_powers)
    assert found[0] == pytest.approx(1, abs=0.1)
    assert found[-1] < 0.25
    statistics = ImageStatistics(64)
    for part in np.split(images, [7, 31]):
        statistics.update(part)
    assert statistics.num_images == 60
    np.testing.assert_allclose(statistics.band_powers, image_statistics(images).band_powers, rtol=1e-5)
    np.testing.assert_allclose(statistics.colour_deviations, image_statistics(images).colour_deviations)


def test_colours_vary_from_image_to_image_and_not_within() -> None:
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    images[:, :, :4] = np.array([[0, 10, 100], [20, 10, 100], [0, 10, 200], [20, 10, 200]])[:, None, None]
    images[:, :, 4:] = images[:, :, :4]
    np.testing.assert_allclose(image_statistics(images).colour_deviations, [10, 0, 50])
    images[:, ::2] += 6  # within an image
    np.testing.assert_allclose(image_statistics(images).colour_deviations, [10, 0, 50])
    assert ratios([1.0, 2.0], np.array([2.0, 0.0])) == [0.5, None]
