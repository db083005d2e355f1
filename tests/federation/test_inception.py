"""Inception as torch-fidelity has it: preprocessing, verification, and the published weights where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from federation.errors import InputError
from federation.metrics import inception
from federation.metrics.fidelity import fid, kid
from federation.metrics.inception import InceptionExtractor, find_inception_weights
from federation.seeding import numpy_stream, torch_stream
from server.evaluation.yardsticks import blurred


class Initial(FeatureExtractorInceptionV3):
    """Keeps its initial weights."""

    def load_state_dict(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({}, path)
    with torch.random.fork_rng(devices=[]):
        network = Initial("initial", ["2048"], feature_extractor_weights_path=str(path))
    stream = torch_stream(0, "inception")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=stream)
    torch.save(network.state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture
def extractor(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> InceptionExtractor:
    """Random weights that pass for the published ones."""
    monkeypatch.setattr(inception, "INCEPTION_SHA256", inception.weights_sha256(random_weights))
    return InceptionExtractor(random_weights)


def draw(count: int, side: int = 32) -> np.ndarray:
    return numpy_stream(0, "images").integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_agrees_with_torch_fidelity_and_images_stand_alone(extractor: InceptionExtractor, random_weights: Path) -> None:
    images = draw(3)
    published = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(random_weights)
    )
    rows = extractor.features(images)
    assert rows.shape == (3, 2048)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, published(torch.from_numpy(images).permute(0, 3, 1, 2))[0].numpy())
    assert np.abs(rows[0] - rows[1]).max() > 0.01 * np.abs(rows).max()
    np.testing.assert_allclose(extractor.features(images[2:]), rows[2:], rtol=1e-4, atol=1e-5 * np.abs(rows).max())


@pytest.mark.parametrize("side", [32, 512])
def test_images_are_resized_as_the_preprocessing_says(extractor: InceptionExtractor, side: int) -> None:
    images = draw(1, side)
    seen: list[np.ndarray] = []
    first_layer = extractor._network.Conv2d_1a_3x3
    with first_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy())):
        extractor.features(images)

    # TensorFlow 1: pixel i of the result lies at i * n / 299 of the source, without half-pixel centres.
    position = np.arange(299) * side / 299
    low = position.astype(int)
    high, share = np.minimum(low + 1, side - 1), position - low
    rows = images[0, low] * (1 - share)[:, None, None] + images[0, high] * share[:, None, None]
    resized = rows[:, low] * (1 - share)[:, None] + rows[:, high] * share[:, None]
    np.testing.assert_allclose(seen[0][0], ((resized - 128) / 128).transpose(2, 0, 1), atol=1e-4)


def test_a_read_only_memory_map_is_read(extractor: InceptionExtractor, tmp_path: Path) -> None:
    images = draw(2)
    images.tofile(tmp_path / "images")
    mapped = np.memmap(tmp_path / "images", dtype=np.uint8, mode="r", shape=images.shape)
    assert np.array_equal(extractor.features(mapped), extractor.features(images))


def test_other_weights_are_refused_and_the_global_generator_is_untouched(
    random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inception.weights_sha256(random_weights)
    with pytest.raises(InputError) as wrong:
        InceptionExtractor(random_weights)
    assert f"sha256 is {found[:16]}… and the published file's is 6726825d0af5f729…; it is not loaded" in str(
        wrong.value
    )
    monkeypatch.setattr(inception, "INCEPTION_SHA256", found)
    state = torch.get_rng_state()
    assert InceptionExtractor(random_weights).name == f"inception-v3@{found[:4]}"
    assert torch.equal(torch.get_rng_state(), state)


def test_inception_with_the_published_weights() -> None:
    weights = find_inception_weights()
    if not weights.exists():
        pytest.skip(f"Inception's weights are not on this machine: {weights}")
    images = draw(24, 8).repeat(4, axis=1).repeat(4, axis=2)
    extractor = InceptionExtractor(weights)
    assert extractor.name == "inception-v3@6726"
    rows = extractor.features(images)
    assert rows.shape == (24, 2048)
    smooth = extractor.features(blurred(images, 8))
    assert kid(rows[:12], rows[12:])[0] < kid(rows[:12], smooth[12:])[0]
    assert fid(rows, rows) == pytest.approx(0, abs=1e-2)
