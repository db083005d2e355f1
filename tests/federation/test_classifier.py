"""The small lesion classifier and its augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from federation.errors import InputError
from federation.images import to_floats
from federation.models.classifier import (
    SLIM_CHANNELS,
    Classifier,
    SmallCNN,
    augment,
    balanced_accuracy,
    build_classifier,
    fit_classifier,
    predict_probabilities,
    train_classifier,
)
from federation.seeding import numpy_stream, torch_stream

pytestmark = pytest.mark.usefixtures("one_thread")


def draw_discs_and_rings(count: int, seed: int, resolution: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Draw dark discs (class 0) and rings (class 1) of one mean darkness on noisy skin."""
    stream = numpy_stream(seed, "discs and rings")
    labels = stream.integers(0, 2, count)
    grid = np.arange(resolution)
    centre = stream.uniform(0.4, 0.6, (2, count, 1, 1)) * resolution
    distance = np.hypot(grid[None, :, None] - centre[0], grid[None, None, :] - centre[1]) / resolution
    is_ring = labels[:, None, None] == 1
    shape = np.where(is_ring, (distance > 0.24) & (distance < 0.34), distance < 0.24)
    images = np.array([200, 150, 130]) - 90 * shape[..., None] + stream.normal(0, 15, (*shape.shape, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


def all_moves(image: np.ndarray) -> np.ndarray:
    """Every turn, mirror image and shift of up to a sixteenth of the side, the border reflected."""
    side = image.shape[0]
    reach = side // 16
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    shifted = [
        padded[row : row + side, column : column + side]
        for row in range(2 * reach + 1)
        for column in range(2 * reach + 1)
    ]
    return np.stack(
        [np.rot90(mirrored, turns) for view in shifted for mirrored in (view, view[::-1]) for turns in range(4)]
    )


def test_augmentation_without_jitter_moves_pixels_and_nothing_else() -> None:
    image = numpy_stream(0, "image").integers(0, 256, (32, 32, 3), dtype=np.uint8)
    batch = torch.from_numpy(np.repeat(image[None], 400, axis=0))
    moved = augment(batch, torch_stream(0, "augment"), colour_jitter=0.0)
    seen = ((moved.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    candidates = {move.tobytes(): number for number, move in enumerate(all_moves(image))}
    found = [candidates[view.tobytes()] for view in seen]  # KeyError: a pixel is not where it should be
    assert {number % 8 for number in found} == set(range(8))
    assert {number // 8 for number in found} == set(range(25))


def test_augmented_images_stay_in_their_places() -> None:
    images = numpy_stream(0, "images").integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    moved = augment(torch.from_numpy(images), torch_stream(0, "augment"), colour_jitter=0.0)
    seen = ((moved.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    for image, view in zip(images, seen, strict=True):
        assert view.tobytes() in {move.tobytes() for move in all_moves(image)}


def test_embedding_is_of_the_mean_over_places() -> None:
    network = SmallCNN(resolution=32, num_classes=2, stream=torch_stream(0, "weights")).eval()
    images = torch.randn(5, 3, 32, 32, generator=torch_stream(0, "images"))
    mean = network.activations(images)[-1].mean((2, 3))
    assert torch.equal(network.embed(images), torch.relu(network.embedding(mean)))


def test_jitter_is_one_gain_and_one_offset_per_channel_within_bounds() -> None:
    values = np.zeros((2000, 32, 32, 3), dtype=np.uint8)
    values[:, :16] = 255
    jittered = augment(torch.from_numpy(values), torch_stream(0, "augment"), colour_jitter=0.2)
    darkest, lightest = jittered.amin((2, 3)), jittered.amax((2, 3))
    gain, offset = (lightest - darkest) / 2, (lightest + darkest) / 2
    assert torch.allclose(gain, gain[:, :1].expand(-1, 3), atol=1e-6)
    assert 0.8 <= gain.min() < 0.81
    assert 1.19 < gain.max() <= 1.2
    assert -0.2 <= offset.min() < -0.19
    assert 0.19 < offset.max() <= 0.2
    assert np.abs(np.corrcoef(offset.T)[np.triu_indices(3, 1)]).max() < 0.1


def test_input_spans_minus_one_to_one_with_channels_last() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 1, 1, 3).expand(1, 4, 4, 3)
    inputs = to_floats(images)
    assert inputs[0, :, 0, 0].tolist() == pytest.approx([-1.0, 1.0, -0.6])
    assert to_floats(torch.zeros(2, 8, 8, 3, dtype=torch.uint8)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_blocks_go_down_to_four_pixels(resolution: int) -> None:
    network = SmallCNN(resolution=resolution, num_classes=7, num_sites=4, stream=torch_stream(0, "weights")).eval()
    activations = network.activations(torch.zeros(1, 3, resolution, resolution))
    assert activations[0].shape[-1] == resolution
    assert activations[-1].shape[-1] == 4
    diagnosis, site = network(torch.zeros(1, 3, resolution, resolution))
    assert site is not None
    assert diagnosis.shape == (1, 7)
    assert site.shape == (1, 4)


def test_learns_a_shape_that_colours_do_not_tell() -> None:
    images, labels = draw_discs_and_rings(400, seed=0)
    classifier = train_classifier(images, labels, num_classes=2, steps=60, stream=torch_stream(0, "train"))
    unseen, truth = draw_discs_and_rings(200, seed=1)
    probabilities = predict_probabilities(classifier, unseen)
    assert (probabilities.argmax(1) == truth).mean() > 0.95
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(predict_probabilities(classifier, unseen, batch=7), probabilities, atol=1e-5)


def test_same_stream_same_bits_and_global_generators_untouched() -> None:
    images, labels = draw_discs_and_rings(64, seed=0)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    def train(seed: int) -> dict[str, torch.Tensor]:
        stream = torch_stream(seed, "train")
        return train_classifier(images, labels, num_classes=2, steps=3, batch_size=8, stream=stream).state_dict()

    first, again, other = train(0), train(0), train(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["diagnosis.weight"], other["diagnosis.weight"])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize(("balanced", "share"), [(True, 0.5), (False, 0.1)])
def test_balanced_batches_draw_rare_classes_as_often(balanced: bool, share: float) -> None:
    # Nothing can be learnt but how often a class is drawn; class 2 never occurs.
    images = np.full((200, 32, 32, 3), 128, dtype=np.uint8)
    labels = (np.arange(200) % 10 == 0).astype(np.int64)
    classifier = train_classifier(
        images, labels, num_classes=3, steps=60, balanced=balanced, stream=torch_stream(0, "train")
    )
    assert predict_probabilities(classifier, images[:1])[0] == pytest.approx([1 - share, share, 0], abs=0.08)


def test_sites_are_learnt_where_there_are_two() -> None:
    images, labels = draw_discs_and_rings(100, seed=0)
    sites = np.arange(100) % 2
    images[sites == 1] //= 2
    classifier = train_classifier(images, labels, num_classes=2, steps=40, sites=sites, stream=torch_stream(0, "train"))
    _, site_logits = classifier(to_floats(torch.from_numpy(images)))
    assert site_logits is not None
    assert (site_logits.argmax(1).numpy() == sites).mean() > 0.95
    one_site = train_classifier(
        images, labels, num_classes=2, steps=2, sites=np.zeros(100, dtype=np.int64), stream=torch_stream(0, "train")
    )
    assert one_site.site is None


def test_progress_counts_every_step() -> None:
    images, labels = draw_discs_and_rings(16, seed=0)
    calls: list[tuple[str, int, int]] = []
    train_classifier(
        images,
        labels,
        num_classes=2,
        steps=3,
        batch_size=4,
        stream=torch_stream(0, "train"),
        progress=lambda *call: calls.append(call),
        description="work",
    )
    assert calls == [("work", 1, 3), ("work", 2, 3), ("work", 3, 3)]


class Brightness(Classifier):
    """Logits 0 and x, where x is the image's mean: -1 for black, 1 for white."""

    num_classes = 2
    name = "brightness"

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        mean = images.mean((1, 2, 3)) * self.slope
        return torch.stack([torch.zeros_like(mean), mean], dim=1), None


def test_balanced_accuracy_by_hand() -> None:
    # More than are looked at together. White is taken for class 1, black for class 0.
    images, labels = np.zeros((100, 4, 4, 3), dtype=np.uint8), np.zeros(100, dtype=np.int64)
    images[96:], labels[98:] = 255, 1  # of class 0, 96 of 98 are right; of class 1, both
    assert balanced_accuracy(Brightness(), images, labels) == pytest.approx((96 / 98 + 1) / 2)
    images[98] = 0
    assert balanced_accuracy(Brightness(), images, labels) == pytest.approx((96 / 98 + 1 / 2) / 2)


def test_state_that_serves_validation_best_is_kept() -> None:
    images, labels = draw_discs_and_rings(64, seed=0)
    validation, truth = draw_discs_and_rings(40, seed=1)
    stream = torch_stream(0, "train")
    classifier = SmallCNN(resolution=32, num_classes=2, stream=stream)
    states: list[dict[str, torch.Tensor]] = []
    misleading = (validation, 1 - truth)  # the better it learns, the worse it does: the last state is not the best
    fit_classifier(
        classifier,
        images,
        labels,
        steps=20,
        stream=stream,
        batch_size=16,
        validation=misleading,
        evaluations=5,
        progress=lambda *_: states.append({name: value.clone() for name, value in classifier.state_dict().items()}),
    )
    assert len(states) == 20
    kept, looked_at = classifier.state_dict(), (4, 8, 12, 16, 20)
    replica = SmallCNN(resolution=32, num_classes=2, stream=None).eval()
    scores = []
    for step in looked_at:
        replica.load_state_dict(states[step - 1])
        scores.append(balanced_accuracy(replica, *misleading))
    best = max(number for number, score in enumerate(scores) if score == max(scores))
    assert 0 < best < 4
    assert all(torch.equal(kept[name], states[looked_at[best] - 1][name]) for name in kept)


def test_looking_at_validation_images_changes_no_step() -> None:
    images, labels = draw_discs_and_rings(64, seed=0)
    validation = draw_discs_and_rings(40, seed=1)

    def train(**options: Any) -> tuple[list[torch.Tensor], float]:
        stream = torch_stream(0, "train")
        trained = train_classifier(images, labels, num_classes=2, steps=6, batch_size=8, stream=stream, **options)
        return list(trained.state_dict().values()), torch.rand(1, generator=stream).item()

    states: list[list[torch.Tensor]] = []
    without, next_draw = train()
    stream = torch_stream(0, "train")
    classifier = SmallCNN(resolution=32, num_classes=2, stream=stream)
    fit_classifier(
        classifier,
        images,
        labels,
        steps=6,
        batch_size=8,
        stream=stream,
        validation=validation,
        evaluations=6,
        progress=lambda *_: states.append([value.clone() for value in classifier.state_dict().values()]),
    )
    assert all(torch.equal(one, other) for one, other in zip(without, states[-1], strict=True))
    assert torch.rand(1, generator=stream).item() == next_draw
    with_one, draw = train(validation=validation, evaluations=1)  # the last state is all there is to keep
    assert all(torch.equal(one, other) for one, other in zip(without, with_one, strict=True))
    assert draw == next_draw


def test_unknown_classifier_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match="'resnet': choose one of small-cnn, efficientnet-b2"):
        build_classifier("resnet", resolution=32, num_classes=2, stream=torch_stream(0, "weights"))


def test_built_by_name_it_is_the_network_that_is_trained() -> None:
    built = build_classifier("small-cnn", resolution=64, num_classes=3, stream=torch_stream(0, "weights"))
    stream = torch_stream(0, "weights")
    direct = SmallCNN(resolution=64, num_classes=3, last_channels=SLIM_CHANNELS, stream=stream)
    assert built.name == "slim-cnn-64"
    assert all(torch.equal(value, direct.state_dict()[name]) for name, value in built.state_dict().items())
