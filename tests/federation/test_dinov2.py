"""DINOv2 from a local file: which size it is, what it computes, what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from federation.errors import InputError
from federation.metrics import dinov2
from federation.metrics.dinov2 import DINOv2Extractor, find_dinov2_weights, preprocess, resample_positions
from federation.seeding import numpy_stream, torch_stream

SMALL = "vit_small_patch14_dinov2.lvd142m"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Random weights of ViT-S/14 at the resolution of the published ones, 37 x 37 patches.

    Layer scales are 1: at their initial 1e-5 the class token would hardly see the image.
    """
    with torch.random.fork_rng(devices=[]):
        initial = timm.create_model(SMALL, num_classes=0).state_dict()
    stream = torch_stream(0, "dinov2")
    return {
        name: torch.ones_like(value)
        if name.endswith(("gamma", "norm1.weight", "norm2.weight", "norm.weight"))
        else torch.randn(value.shape, generator=stream) * 0.05
        for name, value in initial.items()
    }


@pytest.fixture(scope="module")
def weights(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    safetensors.torch.save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def extractor(weights: Path) -> DINOv2Extractor:
    return DINOv2Extractor(weights)


def draw(count: int, side: int = 32) -> np.ndarray:
    return numpy_stream(0, "images").integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_name_follows_the_file_and_the_global_generator_is_untouched(weights: Path) -> None:
    state = torch.get_rng_state()
    extractor = DINOv2Extractor(weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert extractor.digest == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert extractor.name == f"dinov2-vit-s14@{extractor.digest[:4]}"
    assert extractor.num_features == 384


def test_features_are_the_normed_class_token_and_images_stand_alone(
    extractor: DINOv2Extractor, tensors: dict[str, Tensor]
) -> None:
    images = draw(7)
    rows = extractor.features(images)
    assert rows.shape == (7, 384)
    assert rows.dtype == np.float32
    assert np.array_equal(extractor.features(images), rows)
    assert np.abs(rows[0] - rows[1]).mean() > 0.1  # they do see the image
    np.testing.assert_allclose(extractor.features(images[3:4]), rows[3:4], atol=1e-3)

    # The same network, told step by step.
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(SMALL, num_classes=0, img_size=224).eval()
    network.load_state_dict({**tensors, "pos_embed": resample_positions(tensors["pos_embed"], 16)})
    with torch.no_grad():
        patches = network.patch_embed(preprocess(images[:2]))
        tokens = torch.cat([network.cls_token.expand(2, 1, 384), patches], dim=1) + network.pos_embed
        for block in network.blocks:
            tokens = block(tokens)
        token = tokens[:, 0]
        token = (token - token.mean(1, keepdim=True)) / (token.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    np.testing.assert_allclose(rows[:2], (token + tensors["norm.bias"]).numpy(), atol=1e-3)


def test_preprocessing_of_flat_images() -> None:
    image = np.full((1, 32, 32, 3), (0, 128, 255), dtype=np.uint8)
    seen = preprocess(image)
    assert seen.shape == (1, 3, 224, 224)
    assert seen.dtype == torch.float32
    # (0 - .485) / .229, (128 / 255 - .456) / .224, (1 - .406) / .225
    for channel, expected in enumerate((-2.1179039, 0.2051821, 2.64)):
        np.testing.assert_allclose(seen[0, channel].numpy(), expected, atol=1e-5)


def test_preprocessing_is_bicubic_with_antialias() -> None:
    def levels(columns: np.ndarray) -> np.ndarray:
        """Red of the middle row, back on the scale of 8 bits."""
        image = np.broadcast_to(columns[None, None, :, None], (1, len(columns), len(columns), 3)).astype(np.uint8)
        return preprocess(np.ascontiguousarray(image))[0, 0, 112].numpy() * 0.229 * 255 + 0.485 * 255

    # An edge from 50 to 200, enlarged twofold: Keys' kernel with a = -1/2 is .8671875, .2265625, -.0703125 and
    # -.0234375 at distances of 1/4, 3/4, 5/4 and 7/4; an 8-bit image rounds.
    edge = levels(np.repeat([50, 200], 56))
    share = np.array([0, -0.0234375, -0.0703125, 0.2265625 - 0.0234375])
    np.testing.assert_allclose(edge[108:112], 50 + 150 * share, atol=0.51)
    np.testing.assert_allclose(edge[112:116], 200 - 150 * share[::-1], atol=0.51)
    # Every third column white, shrunk threefold: without antialias all would be white.
    shrunk = levels(np.tile([0, 255, 0], 224))
    assert np.abs(shrunk[10:-10] - 85).max() < 6


def keys(x: np.ndarray, a: float) -> np.ndarray:
    """Keys 1981, the cubic convolution kernel."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def test_positions_are_resampled_as_the_original_does() -> None:
    embedding = torch.randn((1, 1 + 37**2, 5), generator=torch_stream(0, "positions"))
    resampled = resample_positions(embedding, 16)
    assert resampled.shape == (1, 1 + 16**2, 5)
    assert torch.equal(resampled[:, 0], embedding[:, 0])
    # Patch i lies at (i + 1/2) * 37 / 16.1 - 1/2 of the 37; cubic convolution with a = -3/4, no antialias.
    position = (np.arange(16) + 0.5) * 37 / 16.1 - 0.5
    taps = np.arange(-2, 39)
    matrix = np.zeros((16, 37))
    np.add.at(matrix.T, np.clip(taps, 0, 36), keys(position[:, None] - taps, -0.75).T)  # the border repeats
    grid = embedding[0, 1:].numpy().reshape(37, 37, 5)
    expected = np.einsum("ia,jb,abd->ijd", matrix, matrix, grid)
    np.testing.assert_allclose(resampled[0, 1:].numpy().reshape(16, 16, 5), expected, atol=1e-4)
    assert resample_positions(resampled, 16) is resampled


def test_a_mask_token_and_half_precision_are_taken(
    extractor: DINOv2Extractor, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "half.safetensors"
    halves = {name: value.half() for name, value in tensors.items()}
    safetensors.torch.save_file({**halves, "mask_token": torch.zeros(1, 384)}, path)
    half = DINOv2Extractor(path)
    assert half.name != extractor.name
    images = draw(1)
    np.testing.assert_allclose(half.features(images), extractor.features(images), atol=0.05)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as refused:
        DINOv2Extractor(path)
    message = str(refused.value)
    assert message.startswith(f"DINOv2 weights {path}: ")
    assert message.endswith("or set evaluation.extractor=lesion-cnn")
    return message.removeprefix(f"DINOv2 weights {path}: ").split("; give ")[0]


def test_other_files_are_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    assert refusal(path) == "cannot be read (No such file or directory)"
    assert refusal(tmp_path) == "cannot be read (Is a directory)"
    torch.save({"cls_token": tensors["cls_token"]}, path)
    assert refusal(path) == "not a safetensors file; it is not loaded"
    path.write_bytes(b"")
    assert refusal(path) == "not a safetensors file; it is not loaded"
    safetensors.torch.save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(path) == "not a safetensors file; it is not loaded"

    known = (
        "known: 1024 features and 24 blocks, 768 features and 12 blocks, 384 features and 12 blocks, "
        "1536 features and 40 blocks"
    )
    safetensors.torch.save_file({"network.weight": torch.zeros(2)}, path)
    assert refusal(path) == f"not a DINOv2 of a known size (no tensor cls_token; {known})"
    eleven = {name: value for name, value in tensors.items() if not name.startswith("blocks.3.")}
    safetensors.torch.save_file(eleven, path)
    assert refusal(path) == (f"not a DINOv2 of a known size (cls_token of shape (1, 1, 384) and 11 blocks; {known})")

    without = {name: value for name, value in tensors.items() if name != "norm.bias"}
    safetensors.torch.save_file(without, path)
    assert refusal(path) == "not a DINOv2: tensor norm.bias is absent and should be (384,)"
    safetensors.torch.save_file({**tensors, "reg_token": torch.zeros(1, 4, 384)}, path)
    assert refusal(path) == "not a DINOv2: tensor reg_token is (1, 4, 384) and should be absent"
    safetensors.torch.save_file({**tensors, "patch_embed.proj.weight": torch.zeros(384, 3, 16, 16)}, path)
    assert refusal(path) == (
        "not a DINOv2: tensor patch_embed.proj.weight is (384, 3, 16, 16) and should be (384, 3, 14, 14)"
    )
    safetensors.torch.save_file({**tensors, "pos_embed": torch.zeros(1, 300, 384)}, path)
    assert refusal(path) == "not a DINOv2: tensor pos_embed is (1, 300, 384) and should be (1, 257, 384)"


def test_weights_are_found_in_the_hub_cache_large_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert find_dinov2_weights() is None
    assert find_dinov2_weights("~/w.safetensors") == Path.home() / "w.safetensors"
    for size in ("small", "large"):
        folder = tmp_path / f"models--timm--vit_{size}_patch14_dinov2.lvd142m"
        (folder / "snapshots" / "1f").mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("1f")
        path = folder / "snapshots" / "1f" / "model.safetensors"
        path.touch()
        assert find_dinov2_weights() == path


@pytest.mark.parametrize(
    ("size", "short", "num_features"),
    [("small", "vit-s14", 384), ("base", "vit-b14", 768), ("large", "vit-l14", 1024), ("giant", "vit-g14", 1536)],
)
def test_each_size_is_told_from_its_shapes(size: str, short: str, num_features: int) -> None:
    with torch.device("meta"):  # shapes alone: the giant has 4.5 GB
        network = timm.create_model(f"vit_{size}_patch14_dinov2.lvd142m", num_classes=0)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    told = dinov2._tell_size(Path("model.safetensors"), shapes)
    assert told[:3] == (short, f"vit_{size}_patch14_dinov2.lvd142m", num_features)
    dinov2._check_shapes(Path("model.safetensors"), shapes, network)
