"""The lesion classifier as extractor: what it depends on, how it is kept, whether it orders images rightly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from federation.config import parse_assignments
from federation.errors import InputError
from federation.metrics import lesion_cnn
from federation.metrics.components import half_whitened
from federation.metrics.lesion_cnn import (
    LesionCNNExtractor,
    load_or_train_lesion_cnn,
    reduce_images,
    train_lesion_cnn,
)
from federation.seeding import numpy_stream
from server.evaluation.run_extractor import extractor_halves, extractor_of
from server.evaluation.yardsticks import measure_yardsticks
from server.inputs import prepare_inputs
from strategies.configuration import resolve

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asserted with this holds for any weights."""
    monkeypatch.setitem(lesion_cnn._RECIPE, "steps", 4)


def draw_part(count: int = 160, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blobs of 3 classes at 2 sites."""
    stream = numpy_stream(seed, "part")
    coarse = stream.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)
    return images, np.arange(count) % 3, np.arange(count) % 2


@pytest.mark.usefixtures("few_steps")
def test_features_are_uncorrelated_and_half_white_on_the_images_they_were_fitted_to() -> None:
    images, labels, sites = draw_part()
    extractor = train_lesion_cnn(images, labels, sites, num_classes=3, split_seed=0)
    rows = extractor.features(images)
    assert rows.shape == (160, 64)
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-6)
    covariance = rows.T @ rows / len(rows)
    np.testing.assert_allclose(covariance - np.diag(covariance.diagonal()), 0, atol=1e-5)
    variances = covariance.diagonal()
    assert variances.mean() == pytest.approx(1, abs=1e-5)
    assert np.all(np.diff(variances) < 1e-5)
    assert variances[0] > 3 * variances[-1]


def test_half_whitening_by_hand() -> None:
    """Two statistics of deviation 4 and 1: standardised they would be alike, so a third follows the first."""
    stream = np.random.default_rng(0)
    one, other = stream.standard_normal((2, 50_000))
    statistics = torch.from_numpy(np.stack([4 * one, 4 * one, 4 * one, 4 * one, other], axis=1))
    mean, projection = half_whitened(statistics)
    rows = ((statistics - mean) @ projection).numpy()
    # Standardised, four of one direction have the deviation 2, and one of the other 1: half whitened the variances
    # are as 2 to 1, and their mean is 1.
    np.testing.assert_allclose(rows.var(0), [4 / 3, 2 / 3], rtol=0.02)


def test_a_large_image_costs_no_more_steps_and_its_finest_detail_is_seen() -> None:
    """Trained at 64 px, of 128 px it still tells sharp images from those that lost what 64 px do not show."""
    stream = numpy_stream(0, "large")
    images = stream.integers(0, 256, (24, 128, 128, 3), dtype=np.uint8)
    assert reduce_images(images, 64).shape == (24, 64, 64, 3)
    assert reduce_images(images, 64)[3, 5, 7, 1] == round(float(images[3, 10:12, 14:16, 1].mean()))
    assert reduce_images(images, 128) is images
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lesion_cnn._RECIPE, "steps", 2)
        extractor = train_lesion_cnn(images, np.arange(24) % 2, np.zeros(24, int), num_classes=2, split_seed=0)
    assert extractor.network.resolution == 64
    assert extractor.resolution == 128
    assert extractor.name.startswith("lesion-cnn-128@")
    coarse = reduce_images(images, 64).repeat(2, axis=1).repeat(2, axis=2)
    assert np.abs(extractor.features(coarse) - extractor.features(images)).max() > 0.5


@pytest.mark.usefixtures("few_steps")
def test_an_extractor_of_an_earlier_version_is_read_with_its_own_projection(tmp_path: Path) -> None:
    images, labels, sites = draw_part(40)
    extractor = train_lesion_cnn(images, labels, sites, num_classes=3, split_seed=0)
    extractor.save(tmp_path)
    path = tmp_path / "lesion-cnn.json"
    earlier = json.loads(path.read_text()) | {"format": 1}
    del earlier["side"]
    path.write_text(json.dumps(earlier))
    loaded = LesionCNNExtractor.load(tmp_path)
    assert loaded.resolution == 32
    assert np.array_equal(loaded.features(images), extractor.features(images))
    path.write_text(json.dumps(earlier | {"format": 3}))
    with pytest.raises(InputError, match="its weights are other ones"):
        LesionCNNExtractor.load(tmp_path)


def test_statistics_of_a_block_are_the_mean_and_the_deviation_over_pixels() -> None:
    block = torch.randn(5, 7, 8, 8, generator=torch.Generator().manual_seed(0)).add_(3.0)
    block[0, 0] = 0.5  # a channel that is the same everywhere has no deviation
    for layout in (block, block.to(memory_format=torch.channels_last)):
        mean, deviation = lesion_cnn._mean_and_deviation(layout)
        torch.testing.assert_close(mean.double(), block.double().mean((2, 3)), rtol=1e-6, atol=0)
        torch.testing.assert_close(deviation.double(), block.double().std((2, 3)), rtol=1e-6, atol=0)


@pytest.mark.usefixtures("few_steps")
def test_each_row_depends_on_its_image_alone() -> None:
    images, labels, sites = draw_part()
    extractor = train_lesion_cnn(images, labels, sites, num_classes=3, split_seed=0)
    rows = extractor.features(images)
    singly = np.concatenate([extractor.features(images[number : number + 1]) for number in (0, 7, 159)])
    np.testing.assert_allclose(singly, rows[[0, 7, 159]], atol=1e-3)
    with pytest.raises(ValueError, match=r"takes images of shape \(32, 32, 3\), not \(64, 64, 3\)"):
        extractor.features(np.zeros((1, 64, 64, 3), dtype=np.uint8))


@pytest.mark.usefixtures("few_steps")
def test_name_follows_the_weights_and_global_generators_are_untouched() -> None:
    images, labels, sites = draw_part()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (
        train_lesion_cnn(images, labels, sites, num_classes=3, split_seed=seed) for seed in (0, 0, 1)
    )
    assert first.name == again.name == f"lesion-cnn-32@{first.digest[:4]}"
    assert first.digest == again.digest != other.digest
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


@pytest.mark.usefixtures("few_steps")
def test_saved_and_loaded_are_the_same_and_damage_is_refused(tmp_path: Path) -> None:
    images, labels, sites = draw_part()
    extractor = train_lesion_cnn(images, labels, sites, num_classes=3, split_seed=0)
    extractor.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lesion-cnn.json", "lesion-cnn.safetensors"]
    loaded = LesionCNNExtractor.load(tmp_path)
    assert loaded.name == extractor.name
    assert loaded.about["num_images"] == 160
    assert np.array_equal(loaded.features(images), extractor.features(images))
    loaded.save(tmp_path, "copy")
    for suffix in ("json", "safetensors"):
        assert (tmp_path / f"copy.{suffix}").read_bytes() == (tmp_path / f"lesion-cnn.{suffix}").read_bytes()

    weights = tmp_path / "copy.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(InputError, match=r"copy\.json: its weights are other ones; remove both files"):
        LesionCNNExtractor.load(tmp_path, "copy")
    weights.write_bytes(damaged[:1000])
    with pytest.raises(InputError, match=r"copy\.json: cannot be read"):
        LesionCNNExtractor.load(tmp_path, "copy")
    with pytest.raises(InputError, match=r"absent\.json: cannot be read"):
        LesionCNNExtractor.load(tmp_path, "absent")


@pytest.mark.usefixtures("few_steps")
def test_trained_once_for_the_same_images(tmp_path: Path) -> None:
    images, labels, sites = draw_part(40)
    steps: list[int] = []

    def obtain(labels: np.ndarray = labels, split_seed: int = 0) -> LesionCNNExtractor:
        steps.clear()
        return load_or_train_lesion_cnn(
            images,
            labels,
            sites,
            num_classes=3,
            split_seed=split_seed,
            cache_dir=str(tmp_path),
            progress=lambda description, done, total: steps.append(done),
        )

    first = obtain()
    assert steps == [1, 2, 3, 4]
    assert first.features(images).shape == (40, 20)
    assert obtain().digest == first.digest
    assert steps == []
    assert obtain(split_seed=1).digest != first.digest
    assert steps
    assert obtain(labels=labels[::-1].copy()).digest != first.digest
    assert steps
    for path in (tmp_path / "extractors").glob("*.safetensors"):
        path.write_bytes(b"")
    assert obtain().digest == first.digest
    assert steps == [1, 2, 3, 4]


def test_two_extractors_learn_from_two_halves_that_no_lesion_crosses(ham10000: Path, cache_dir: str) -> None:
    settings = ["data.source=ham10000", f"data.root={ham10000}", f"data.cache-dir={cache_dir}"]
    inputs = prepare_inputs(resolve([parse_assignments(settings)]))
    first, second = extractor_halves(inputs)
    assert sorted([*first, *second]) == inputs.rows("extractor").tolist()
    assert not set(inputs.index.groups[first]) & set(inputs.index.groups[second])
    assert 0.4 < len(first) / (len(first) + len(second)) < 0.6
    # The extractor part of few images is not divided: halves would teach too little.
    few = inputs.rows("extractor")[:100]
    parts = np.full(len(inputs.parts), "train", dtype=inputs.parts.dtype)
    parts[few] = "extractor"
    for half in extractor_halves(dataclasses.replace(inputs, parts=parts)):
        assert np.array_equal(half, few)


def test_orders_real_dermoscopy_rightly(ham10000: Path, cache_dir: str) -> None:
    """The extractor of a run on HAM10000, which other tests of the session need as well."""
    settings = ["data.source=ham10000", f"data.root={ham10000}", f"data.cache-dir={cache_dir}"]
    inputs = prepare_inputs(resolve([parse_assignments([*settings, "evaluation.extractor=lesion-cnn"])]))
    extractor, _ = extractor_of(inputs)
    found = measure_yardsticks(
        extractor,
        validation_images=inputs.images[inputs.choose("validation", 700)],
        train_images=inputs.images[inputs.choose("train", 1500)],
        seed=0,
    )
    assert abs(found["kid_floor"]) < 0.03
    assert 3 * abs(found["kid_floor"]) < found["kid_blurred_16"] < found["kid_blurred_8"] / 2
    assert found["kid_pca_gaussian"] > 0.15
    assert found["kid_mean_image"] > 3 * max(found["kid_blurred_8"], found["kid_pca_gaussian"])
