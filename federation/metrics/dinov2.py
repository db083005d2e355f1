"""DINOv2's class token: features of a network that learned without labels, from a local safetensors file.

Stein et al. 2023 found Fréchet distances on it closer to people's judgement of realism than those on
Inception's features. Preprocessing and the resampling of position embeddings are those of the original
code, which differ a little from timm's defaults, so that figures can be compared with published ones
(which are of ViT-L/14).

References
----------
Oquab et al. 2023, https://arxiv.org/abs/2304.07193; Stein et al. 2023, https://arxiv.org/abs/2306.04675
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from federation.errors import InputError
from federation.home import check_home, expand_home

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 224
_PATCH = 14
_GRID = _SIDE // _PATCH
_BATCH = 32  # images at once: memory only
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_FILE = "model.safetensors"


class _Size(NamedTuple):
    short: str
    model: str  # timm's name, and that of its repository on the Hugging Face hub
    num_features: int
    num_blocks: int


# In the order in which they are looked for: published distances are of the large one, and the giant (4.5 GB)
# is three to four times as slow as that.
_SIZES = (
    _Size("vit-l14", "vit_large_patch14_dinov2.lvd142m", 1024, 24),
    _Size("vit-b14", "vit_base_patch14_dinov2.lvd142m", 768, 12),
    _Size("vit-s14", "vit_small_patch14_dinov2.lvd142m", 384, 12),
    _Size("vit-g14", "vit_giant_patch14_dinov2.lvd142m", 1536, 40),
)
_REMEDY = (
    f"give {_FILE} of https://huggingface.co/timm/{_SIZES[0].model} (or of base, small, giant), set "
    "evaluation.allow-downloads=true (without evaluation.extractor-weights), or set evaluation.extractor=lesion-cnn"
)


class DINOv2Extractor:
    """DINOv2's class token after the final norm; of 384, 768, 1024 or 1536 features.

    Parameters
    ----------
    weights
        Safetensors file with timm's names, see :func:`find_dinov2_weights`. The shapes of its tensors tell
        which of the four sizes it is. Weights are those without registers.
    device
        Where to compute, in float32.

    Raises
    ------
    InputError
        If the file is missing, is not a safetensors file, or does not hold a DINOv2 of a known size.
    """

    resolution: int | None = None
    preprocessing = (
        f"8-bit RGB, resized to {_SIDE}x{_SIDE} by Pillow's bicubic filter (with antialias), "
        "then ImageNet's mean and standard deviation"
    )
    learned_from = ""

    def __init__(self, weights: Path, *, device: torch.device | str = "cpu") -> None:
        shapes = _read_shapes(weights)
        size = _tell_size(weights, shapes)
        network = _build_network(size)
        _check_shapes(weights, shapes, network)
        tensors = safetensors.torch.load_file(weights)
        tensors.pop("mask_token", None)
        tensors["pos_embed"] = resample_positions(tensors["pos_embed"].float(), _GRID)
        network.load_state_dict(tensors)
        self._network = network.requires_grad_(False).eval().to(device)
        self.device = torch.device(device)
        self.num_features = size.num_features
        with weights.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.name = f"dinov2-{size.short}@{self.digest[:4]}"

    @torch.no_grad()
    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map uint8 (n, r, r, 3) to (n, d)."""
        rows = [
            self._network(preprocess(images[start : start + _BATCH]).to(self.device)).cpu().numpy()
            for start in range(0, len(images), _BATCH)
        ]
        return np.concatenate(rows)


def preprocess(images: NDArray[np.uint8]) -> Tensor:
    """Map uint8 (n, r, r, 3) to what DINOv2 takes, float32 (n, 3, 224, 224).

    Resized as 8-bit images, so rounded and clipped, which is how published distances were computed.
    """
    resized = np.stack(
        [
            np.asarray(Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
            for image in np.asarray(images)
        ]
    )
    pixels = torch.from_numpy(resized).permute(0, 3, 1, 2).to(torch.float32).div_(255)
    mean, deviation = (torch.tensor(values).reshape(3, 1, 1) for values in (_MEAN, _DEVIATION))
    return (pixels - mean) / deviation


def resample_positions(embedding: Tensor, side: int) -> Tensor:
    """Resample the position embeddings of patches to another grid as DINOv2's own code does.

    Parameters
    ----------
    embedding
        Of the class token, then of n x n patches: (1, 1 + n², d) float32.
    side
        Patches along a side of the new grid.

    Returns
    -------
    (1, 1 + side², d). Bicubic, without antialias, by a factor of (side + 0.1) / n: the original adds 0.1
    against rounding, which moves the sampling points, and the published weights were used with it.
    """
    before = math.isqrt(embedding.shape[1] - 1)
    if before == side:
        return embedding
    grid = embedding[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
    factor = (side + 0.1) / before
    grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def find_dinov2_weights(path: str = "") -> Path | None:
    """Return where DINOv2's weights are: `path`, else a file of timm's in the Hugging Face hub cache, else None.

    The large network is looked for first, then base, small and giant.
    """
    if path:
        return expand_home(path, "evaluation.extractor-weights")
    import huggingface_hub

    for size in _SIZES:
        found = huggingface_hub.try_to_load_from_cache(f"timm/{size.model}", _FILE)
        if isinstance(found, str):
            return Path(found)
    return None


def hub_cache() -> Path:
    """Return the Hugging Face hub cache, where :func:`find_dinov2_weights` looks."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def download_dinov2_weights() -> Path:
    """Download the weights of DINOv2 ViT-L/14 (1.2 GB) into the Hugging Face hub cache.

    Raises
    ------
    InputError
        If that is not possible.
    """
    import huggingface_hub

    check_home(hub_cache(), "HF_HOME")
    repository = f"timm/{_SIZES[0].model}"
    try:
        return Path(huggingface_hub.hf_hub_download(repository, _FILE))
    except Exception as error:  # the errors of the hub's client and of its HTTP library have no common base
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"evaluation.extractor: DINOv2's weights cannot be downloaded from https://huggingface.co/{repository} "
            f"({reason}); name a local copy of its {_FILE} in evaluation.extractor-weights, or set "
            "evaluation.extractor=lesion-cnn"
        ) from None


def missing_dinov2_weights() -> InputError:
    """Return the error of a machine that has no weights of DINOv2."""
    return InputError(f"evaluation.extractor=dinov2: there are no DINOv2 weights in {hub_cache()}; {_REMEDY}")


def is_safetensors(path: Path) -> bool:
    """Tell if a file is a safetensors file, by its header.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with path.open("rb"):
        pass
    try:
        with safetensors.safe_open(path, framework="pt"):
            return True
    except safetensors.SafetensorError:
        return False


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the header alone."""
    try:
        if not is_safetensors(path):
            raise InputError(f"DINOv2 weights {path}: not a safetensors file; it is not loaded; {_REMEDY}")
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"DINOv2 weights {path}: cannot be read ({error.strerror}); {_REMEDY}") from None


def _tell_size(path: Path, shapes: dict[str, tuple[int, ...]]) -> _Size:
    token = shapes.get("cls_token", ())
    blocks = {match[1] for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
    for size in _SIZES:
        if token == (1, 1, size.num_features) and len(blocks) == size.num_blocks:
            return size
    found = f"cls_token of shape {token} and {len(blocks)} blocks" if token else "no tensor cls_token"
    known = ", ".join(f"{size.num_features} features and {size.num_blocks} blocks" for size in _SIZES)
    raise InputError(f"DINOv2 weights {path}: not a DINOv2 of a known size ({found}; known: {known}); {_REMEDY}")


def _build_network(size: _Size) -> nn.Module:
    import timm  # slow to import

    # Initial weights, which are then overwritten, come from the global generator.
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = timm.create_model(size.model, pretrained=False, num_classes=0, img_size=_SIDE)
    return network


def _check_shapes(path: Path, shapes: dict[str, tuple[int, ...]], network: nn.Module) -> None:
    expected: dict[str, Any] = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    # Published weights have positions of 37 x 37 patches; any square can be resampled.
    positions = shapes.get("pos_embed", ())
    if len(positions) == 3 and positions[1] > 1 and math.isqrt(positions[1] - 1) ** 2 == positions[1] - 1:
        expected["pos_embed"] = (1, positions[1], expected["pos_embed"][2])
    # A token that stands for hidden patches in training, and in the original's files.
    found = {name: shape for name, shape in shapes.items() if name != "mask_token"}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise InputError(
                f"DINOv2 weights {path}: not a DINOv2: tensor {name} is {found.get(name, 'absent')} and should be "
                f"{expected.get(name, 'absent')}; {_REMEDY}"
            )
