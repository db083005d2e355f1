"""EfficientNet-B2: its input, its initial weights, and the file of ImageNet weights."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from federation.errors import InputError
from federation.images import to_floats
from federation.models import efficientnet
from federation.models.classifier import build_classifier, fit_classifier, predict_probabilities
from federation.models.efficientnet import EfficientNetB2, find_imagenet_weights
from federation.seeding import numpy_stream, torch_stream

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache: where torchvision would keep the file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / "efficientnet_b2_rwightman-c35c1473.pth"


def build(seed: int = 0, resolution: int = 64, weights: dict[str, torch.Tensor] | None = None) -> EfficientNetB2:
    return EfficientNetB2(
        resolution=resolution, num_classes=3, stream=torch_stream(seed, "weights"), imagenet_weights=weights
    )


@pytest.mark.parametrize(("resolution", "side"), [(32, 64), (64, 64), (128, 128), (512, 260)])
def test_side_and_name(resolution: int, side: int) -> None:
    assert build(resolution=resolution).name == f"efficientnet-b2-{side} (random initial weights)"


def test_image_is_resized_normalised_and_pooled() -> None:
    from torchvision.transforms.functional import normalize, resize

    network = build().eval()
    seen: list[torch.Tensor] = []
    network.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 3, 128, 128, generator=torch_stream(0, "images"))
    logits, sites = network(images * 2 - 1)
    assert sites is None
    expected = normalize(resize(images, [64, 64], antialias=True), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)
    features = network.features(seen[0])
    assert features.shape == (2, 1408, 2, 2)
    assert torch.equal(logits, network.diagnosis(F.relu(network.embedding(features.mean((2, 3))))))
    assert network.embedding.weight.shape == (500, 1408)
    assert network.diagnosis.weight.shape == (3, 500)


def test_initial_weights_come_from_the_stream_alone() -> None:
    from torchvision.models import efficientnet_b2

    before = torch.get_rng_state()
    first, again, other = (build(seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["features.0.0.weight"], other["features.0.0.weight"])
    # As torchvision's own: the same names, shapes, and size of the weights of every layer.
    with torch.random.fork_rng():
        reference = efficientnet_b2(weights=None).features.state_dict()
    assert {f"features.{name}" for name in reference} == {name for name in first if name.startswith("features.")}
    for name, value in reference.items():
        ours = first[f"features.{name}"]
        assert ours.shape == value.shape
        if value.numel() > 1000:
            assert float(ours.std()) == pytest.approx(float(value.std()), rel=0.15)
        elif "weight" not in name or value.dim() == 1:
            assert torch.equal(ours, value), name  # biases and batch normalisation


def test_few_steps_learn_and_leave_the_global_generator_alone() -> None:
    labels = np.arange(24) % 2
    images = numpy_stream(0, "noise").integers(0, 40, (24, 32, 32, 3)).astype(np.uint8)
    images[labels == 1] += 200
    before = torch.get_rng_state()
    stream = torch_stream(0, "train")
    classifier = build_classifier("efficientnet-b2", resolution=32, num_classes=2, stream=stream)

    def loss() -> float:
        # By the batch's own statistics: running ones need more steps than these.
        logits = classifier.train()(to_floats(torch.from_numpy(images)))[0]
        return F.cross_entropy(logits, torch.from_numpy(labels)).item()

    assert loss() == pytest.approx(math.log(2), abs=0.1)
    fit_classifier(classifier, images, labels, steps=16, stream=stream, batch_size=8)
    assert not classifier.training
    assert predict_probabilities(classifier, images).shape == (24, 2)
    assert loss() < 0.45
    assert torch.equal(torch.get_rng_state(), before)


def test_published_file_alone_is_loaded(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import efficientnet_b2

    assert find_imagenet_weights() is None
    with torch.random.fork_rng():
        weights = efficientnet_b2(weights=None).state_dict()
    torch.save(weights, hub)
    digest = hashlib.sha256(hub.read_bytes()).hexdigest()
    with pytest.raises(
        InputError,
        match=f"{hub.name}: sha256 begins with {digest[:8]} and the published file's with c35c1473; it is not loaded",
    ):
        find_imagenet_weights()

    # As if this file were the published one.
    monkeypatch.setattr(efficientnet, "IMAGENET_SHA256_PREFIX", digest[:8])
    found = find_imagenet_weights()
    assert found is not None
    network, untrained = build(0, weights=found), build(0)
    assert network.name == "efficientnet-b2-64 (ImageNet weights)"
    for name, value in network.features.state_dict().items():
        assert torch.equal(value, weights[f"features.{name}"])
    assert torch.equal(network.diagnosis.weight, untrained.diagnosis.weight)

    named = tmp_path / "named.pth"
    with pytest.raises(InputError, match=r"named\.pth: cannot be read \(No such file or directory\); get https://"):
        find_imagenet_weights(str(named))
    named.write_bytes(hub.read_bytes())
    assert find_imagenet_weights(str(named)) is not None
