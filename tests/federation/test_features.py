"""Which extractor is chosen, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import torch

from federation.errors import InputError
from federation.metrics import features, inception, lesion_cnn
from federation.metrics.features import DINOv2Extractor, FeatureExtractor, build_extractor, find_inception_weights
from federation.metrics.inception import download_inception_weights
from federation.seeding import numpy_stream
from federation.settings.evaluation import EvaluationSettings

HUB_FOLDER = "models--timm--vit_small_patch14_dinov2.lvd142m"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever weights the machine has, they are not found."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asserted with this holds for any weights."""
    monkeypatch.setitem(lesion_cnn._RECIPE, "steps", 4)


def build(settings: EvaluationSettings, tmp_path: Path, count: int = 40) -> tuple[FeatureExtractor, str]:
    images = numpy_stream(0, "part").integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return build_extractor(
        settings,
        images=images,
        labels=np.arange(count) % 3,
        sites=np.arange(count) % 2,
        num_classes=3,
        split_seed=0,
        cache_dir=str(tmp_path / "cache"),
    )


def save_small_dinov2(path: Path) -> Path:
    import timm

    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model("vit_small_patch14_dinov2.lvd142m", num_classes=0, img_size=224)
    safetensors.torch.save_file(network.state_dict(), path)
    return path


def save_inception(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save initial weights, and let them pass for the published file."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Initial(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None: ...

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({}, path)
    with torch.random.fork_rng(devices=[]):
        network = Initial("initial", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(network.state_dict(), path)
    for module in (features, inception):
        monkeypatch.setattr(module, "INCEPTION_SHA256", inception.weights_sha256(path))
    return path


@pytest.mark.usefixtures("few_steps")
def test_auto_falls_back_and_says_why(tmp_path: Path) -> None:
    extractor, reason = build(EvaluationSettings(), tmp_path)
    weights = tmp_path / "hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"
    assert find_inception_weights() == weights
    assert reason == (
        f"{extractor.name}, trained on 40 images kept for it, since no Inception weights can be read at {weights}, "
        f"no DINOv2 weights in {tmp_path / 'huggingface'}, and evaluation.allow-downloads is false"
    )
    asked, reason = build(EvaluationSettings(extractor="lesion-cnn", allow_downloads=True), tmp_path)
    assert asked.name == extractor.name
    assert reason.endswith("since evaluation.extractor asks for it")


def test_auto_takes_inception_then_dinov2_from_their_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "huggingface" / HUB_FOLDER
    dinov2 = save_small_dinov2(folder / "snapshots" / "4f2c" / "model.safetensors")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("4f2c")
    extractor, reason = build(EvaluationSettings(), tmp_path)
    assert isinstance(extractor, DINOv2Extractor)
    assert reason == (
        f"{extractor.name}, with the weights in {dinov2}, since no Inception weights can be read at "
        f"{find_inception_weights()}, and evaluation.allow-downloads is false"
    )
    assert build(EvaluationSettings(extractor="dinov2"), tmp_path)[0].digest == extractor.digest

    weights = save_inception(find_inception_weights(), monkeypatch)
    extractor, reason = build(EvaluationSettings(), tmp_path)
    assert extractor.digest == inception.weights_sha256(weights)
    assert reason == f"inception-v3@{extractor.digest[:4]}, with the weights in {weights}"


def test_auto_tells_by_its_content_which_network_a_file_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Names say nothing.
    dinov2 = save_small_dinov2(tmp_path / "inception.pth")
    weights = save_inception(tmp_path / "dinov2", monkeypatch)
    extractor, reason = build(EvaluationSettings(extractor_weights=str(dinov2)), tmp_path)
    assert reason == f"dinov2-vit-s14@{extractor.digest[:4]}, with the weights in {dinov2}"
    extractor, reason = build(EvaluationSettings(extractor_weights=str(weights)), tmp_path)
    assert reason == f"inception-v3@{extractor.digest[:4]}, with the weights in {weights}"
    # The one is not taken for the other when it is named.
    with pytest.raises(InputError, match=r"Inception weights .*inception\.pth: sha256 is"):
        build(EvaluationSettings(extractor="inception-v3", extractor_weights=str(dinov2)), tmp_path)
    with pytest.raises(InputError, match=r"DINOv2 weights .*dinov2: not a safetensors file"):
        build(EvaluationSettings(extractor="dinov2", extractor_weights=str(weights)), tmp_path)


def test_auto_refuses_other_files_and_names_both(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    settings = EvaluationSettings(extractor_weights=str(path))
    allowed = (
        "give Inception's published file (sha256 6726825d0af5f729…) or a safetensors file of DINOv2, or set "
        "evaluation.extractor=lesion-cnn without evaluation.extractor-weights"
    )
    with pytest.raises(InputError) as missing:
        build(settings, tmp_path)
    assert str(missing.value) == (
        f"evaluation.extractor-weights {path}: cannot be read (No such file or directory); {allowed}"
    )
    path.write_bytes(b"not these")
    with pytest.raises(InputError) as wrong:
        build(settings, tmp_path)
    assert str(wrong.value) == (
        f"evaluation.extractor-weights {path}: neither Inception's published file (its sha256 is e5be27a64e06683c…) "
        f"nor a safetensors file; it is not loaded; {allowed}"
    )


def test_inception_weights_that_are_asked_for_are_used_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "inception.pth"
    settings = EvaluationSettings(extractor="inception-v3", extractor_weights=str(path))
    with pytest.raises(InputError) as missing:
        build(settings, tmp_path)
    assert f"Inception weights {path}: cannot be read (No such file or directory); get https://" in str(missing.value)
    assert "evaluation.extractor=lesion-cnn" in str(missing.value)
    path.write_bytes(b"not these")
    with pytest.raises(InputError) as wrong:
        build(settings, tmp_path)
    assert "the published file's is 6726825d0af5f729…; it is not loaded" in str(wrong.value)


def test_networks_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights-inception-2015-12-05-6726825d\.pth: cannot be read"):
        build(EvaluationSettings(extractor="inception-v3"), tmp_path)
    with pytest.raises(InputError) as missing:
        build(EvaluationSettings(extractor="dinov2"), tmp_path)
    assert str(missing.value) == (
        f"evaluation.extractor=dinov2: there are no DINOv2 weights in {tmp_path / 'huggingface'}; give "
        "model.safetensors of https://huggingface.co/timm/vit_large_patch14_dinov2.lvd142m (or of base, small, giant), "
        "set evaluation.allow-downloads=true (without evaluation.extractor-weights), or set "
        "evaluation.extractor=lesion-cnn"
    )


@pytest.mark.parametrize("extractor", ["auto", "inception-v3", "dinov2"])
def test_a_download_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extractor: str) -> None:
    monkeypatch.setattr(inception, "INCEPTION_URL", (tmp_path / "no-such-weights.pth").as_uri())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    network = "DINOv2" if extractor == "dinov2" else "Inception"
    with pytest.raises(InputError, match=f"evaluation.extractor: {network}'s weights cannot be downloaded from"):
        build(EvaluationSettings(extractor=extractor, allow_downloads=True), tmp_path)
    assert not list(tmp_path.rglob("*.pth"))


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="the extractor part has 15 images and the lesion classifier needs at least 16"
    ):
        build(EvaluationSettings(extractor="lesion-cnn"), tmp_path, count=15)


def test_an_unknown_extractor_is_refused_with_the_choices(tmp_path: Path) -> None:
    settings = EvaluationSettings.model_construct(extractor="clip", extractor_weights="")  # past validation
    with pytest.raises(ValueError, match="'clip': choose one of auto, inception-v3, dinov2, lesion-cnn"):
        build(settings, tmp_path)


@pytest.mark.usefixtures("few_steps")
def test_what_extractors_say_about_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dinov2 = save_small_dinov2(tmp_path / "dinov2")
    weights = save_inception(tmp_path / "inception", monkeypatch)
    said = {}
    for name, path in (("lesion-cnn", ""), ("inception-v3", str(weights)), ("dinov2", str(dinov2))):
        extractor = build(EvaluationSettings(extractor=name, extractor_weights=path), tmp_path)[0]
        assert extractor.name.endswith(f"@{extractor.digest[:4]}")
        assert extractor.device == torch.device("cpu")
        side = extractor.resolution or 40
        assert extractor.features(np.zeros((1, side, side, 3), dtype=np.uint8)).shape == (1, extractor.num_features)
        said[name] = extractor.num_features, extractor.resolution, extractor.learned_from, extractor.preprocessing
    assert said == {
        "lesion-cnn": (20, 32, "the extractor part", "8-bit RGB, 32x32, scaled to [-1, 1]; no resizing"),
        "inception-v3": (
            2048,
            None,
            "",
            "8-bit RGB, resized to 299x299 by bilinear interpolation as TensorFlow 1 does it (no antialias), "
            "then (x - 128) / 128",
        ),
        "dinov2": (
            384,
            None,
            "",
            "8-bit RGB, resized to 224x224 by Pillow's bicubic filter (with antialias), then ImageNet's mean and "
            "standard deviation",
        ),
    }


@pytest.mark.usefixtures("few_steps")
def test_a_hub_of_another_user_has_no_weights_for_this_one(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sudo leaves HOME as it was: a folder that may not even be looked into."""
    (user / "hub").mkdir(mode=0)
    monkeypatch.setenv("TORCH_HOME", str(user))
    extractor, _ = build(EvaluationSettings(), user)
    assert extractor.name.startswith("lesion-cnn-32@")


def test_nothing_is_downloaded_into_a_folder_called_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="this user has no home folder, .* set the environment variable TORCH_HOME"):
        download_inception_weights(Path("~/.cache/torch/hub/checkpoints/weights.pth"), show_progress=False)
    assert list(tmp_path.iterdir()) == []
