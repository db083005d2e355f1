"""EfficientNet-B2, the classifier that studies of synthetic skin lesions commonly use.

Larger than :class:`~federation.models.classifier.SmallCNN` by a factor of fifty, it needs a GPU or
patience, and weights that were trained on ImageNet to be at its best: a few thousand lesions do not
train 8 million weights. Its name says which initial weights it had, because figures with one and with
the other cannot be compared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from federation.errors import InputError
from federation.home import check_home, expand_home
from federation.models.abstract_classifier import Classifier

IMAGENET_URL = "https://download.pytorch.org/models/efficientnet_b2_rwightman-c35c1473.pth"
IMAGENET_SHA256_PREFIX = "c35c1473"
"""First digits of the file's sha256: torchvision publishes them in its name."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
# The network halves its input five times: 64 pixels leave 2x2. 260 is what the paper trains it at.
_LEAST_SIDE = 64
_MOST_SIDE = 260
_HEAD_SIZE = 500


class EfficientNetB2(Classifier):
    """EfficientNet-B2 with a head of 500 units.

    Images are resized (bilinear, antialiased) to max(64, resolution) pixels, at most 260, and normalised
    as ImageNet's. Dropout and stochastic depth are left out, see :class:`Classifier`; augmentation and
    early stopping are what regularises it.

    Parameters
    ----------
    resolution
        Side of the images in pixels.
    num_classes
        Diagnoses to tell apart.
    stream
        CPU generator: all initial weights, or those of the head.
    imagenet_weights
        See :func:`find_imagenet_weights`; None: random initial weights.

    References
    ----------
    Tan & Le 2019, EfficientNet: rethinking model scaling for convolutional neural networks,
    https://arxiv.org/abs/1905.11946
    """

    learning_rate = 5e-4  # with Adam, what federated studies of synthetic melanomas train it with
    batch_size = 32  # half of the small network's: memory at 260 pixels, and time on a processor

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int,
        stream: torch.Generator,
        imagenet_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        from torchvision.models import efficientnet_b2  # slow to import

        self.side = min(max(resolution, _LEAST_SIDE), _MOST_SIDE)
        self.num_classes = num_classes
        self.pretrained = imagenet_weights is not None
        # On the meta device layers have no weights to draw, so that the process's generator is left alone.
        with torch.device("meta"):
            body = efficientnet_b2(weights=None, dropout=0.0, stochastic_depth_prob=0.0)
        num_features = body.classifier[-1].in_features
        self.features = body.features.to_empty(device="cpu")
        self.embedding = skip_init(nn.Linear, num_features, _HEAD_SIZE)
        self.diagnosis = skip_init(nn.Linear, _HEAD_SIZE, num_classes)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_IMAGENET_DEVIATION).reshape(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.deviation: Tensor
        self._initialise(stream)
        if imagenet_weights is not None:
            self.features.load_state_dict(
                {
                    name.removeprefix("features."): value
                    for name, value in imagenet_weights.items()
                    if name.startswith("features.")
                }
            )
        self.to(memory_format=torch.channels_last)

    def _initialise(self, stream: torch.Generator) -> None:
        """Initialise as torchvision does the body (He et al. 2015, by fan-out), with a head that starts undecided."""
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=stream)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
                module.reset_running_stats()
        for layer in (self.embedding, self.diagnosis):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=stream)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.diagnosis.weight.mul_(0.1)

    @property
    def name(self) -> str:
        """``efficientnet-b2-<side>`` and the initial weights."""
        initial = "ImageNet weights" if self.pretrained else "random initial weights"
        return f"efficientnet-b2-{self.side} ({initial})"

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        """Map (n, 3, r, r) in [-1, 1] to logits of the diagnosis (n, num_classes)."""
        if images.shape[-1] != self.side:
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        normalised = (images * 0.5 + 0.5 - self.mean) / self.deviation
        return self.diagnosis(F.relu(self.embedding(self.features(normalised).mean((2, 3))))), None


def find_imagenet_weights(path: str = "", *, allow_downloads: bool = False) -> dict[str, Tensor] | None:
    """Read EfficientNet-B2's ImageNet weights, if they can be had.

    Parameters
    ----------
    path
        ``evaluation.utility-weights``: weights that are named are used or refused, never passed over.
        Empty: the file in the torch hub cache, where torchvision keeps it.
    allow_downloads
        Whether the file may be downloaded where the cache has none.

    Returns
    -------
    torchvision's state dict on the CPU, or None where no file is named, none is in the cache and none may
    be downloaded.

    Raises
    ------
    InputError
        If a named file is missing, a file is not the published one, or the download fails.
    """
    hub = Path(torch.hub.get_dir())
    file = expand_home(path, "evaluation.utility-weights") if path else hub / "checkpoints" / Path(IMAGENET_URL).name
    if not path and not os.access(file, os.R_OK):
        if not allow_downloads:
            return None
        _download(file)
    remedy = f"get {IMAGENET_URL}, or leave evaluation.utility-weights empty and remove the file"
    if path:
        remedy = f"get {IMAGENET_URL}, or leave evaluation.utility-weights empty for random initial weights"
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"EfficientNet-B2 weights {file}: cannot be read ({error.strerror}); {remedy}") from None
    if not found.startswith(IMAGENET_SHA256_PREFIX):
        raise InputError(
            f"EfficientNet-B2 weights {file}: sha256 begins with {found[:8]} and the published file's with "
            f"{IMAGENET_SHA256_PREFIX}; it is not loaded; {remedy}"
        )
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights


def _download(file: Path) -> None:
    check_home(file, "TORCH_HOME")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Verifies the hash before the file gets its name.
        torch.hub.download_url_to_file(IMAGENET_URL, str(file), hash_prefix=IMAGENET_SHA256_PREFIX, progress=False)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"evaluation.utility-classifier: EfficientNet-B2's weights cannot be downloaded from {IMAGENET_URL} "
            f"({error}); put the file at {file}, or set evaluation.allow-downloads=false for random initial weights"
        ) from None
