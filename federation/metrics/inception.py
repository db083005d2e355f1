"""Inception-v3 as published FID and KID use it: the network, where its weights are, how they are verified."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from federation.errors import InputError
from federation.home import check_home, expand_home

if TYPE_CHECKING:
    from numpy.typing import NDArray

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_BATCH = 100  # images at once: memory only


class InceptionExtractor:
    """The 2048 features of Inception-v3 that published FID and KID compare, by torch-fidelity.

    Parameters
    ----------
    weights
        File of the weights, see :func:`find_inception_weights`. Its sha256 is verified before it is
        loaded, because the format can hold code.
    device
        Where to compute.

    Raises
    ------
    InputError
        If the file is missing or is not the published one.

    References
    ----------
    Heusel et al. 2017, https://arxiv.org/abs/1706.08500; the network is Szegedy et al. 2015,
    https://arxiv.org/abs/1512.00567, with the weights of TensorFlow's release of December 2015.
    """

    num_features = 2048
    resolution: int | None = None
    # What torch-fidelity's network does with 8-bit images; it takes TensorFlow 1's coordinates, source = i * n / 299.
    preprocessing = (
        "8-bit RGB, resized to 299x299 by bilinear interpolation as TensorFlow 1 does it (no antialias), "
        "then (x - 128) / 128"
    )
    learned_from = ""

    def __init__(self, weights: Path, *, device: torch.device | str = "cpu") -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        _verify_inception_weights(weights)
        # Its layers draw initial weights, which are then overwritten, from the global generator.
        with torch.random.fork_rng(devices=[]):
            self._network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
            ).to(device)
        self.device = torch.device(device)
        self.digest = INCEPTION_SHA256
        self.name = f"inception-v3@{self.digest[:4]}"

    @torch.no_grad()
    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map uint8 (n, r, r, 3) to (n, 2048); resized to 299 pixels as the published metric does."""
        rows = []
        for start in range(0, len(images), _BATCH):
            # A copy: a memory map that cannot be written makes torch warn.
            batch = torch.from_numpy(np.array(images[start : start + _BATCH], order="C")).to(self.device)
            rows.append(self._network(batch.permute(0, 3, 1, 2))[0].cpu().numpy())
        return np.concatenate(rows)


def find_inception_weights(path: str = "") -> Path:
    """Return where Inception's weights are, or would be: `path`, else the torch hub cache."""
    if path:
        return expand_home(path, "evaluation.extractor-weights")
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rsplit("/", 1)[1]


def download_inception_weights(path: Path, *, show_progress: bool) -> None:
    """Download Inception's weights (95 MB) to `path`.

    Raises
    ------
    InputError
        If that is not possible, or what came is not the published file.
    """
    check_home(path, "TORCH_HOME")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Verifies the hash before the file gets its name.
        torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=INCEPTION_SHA256, progress=show_progress)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"evaluation.extractor: Inception's weights cannot be downloaded from {INCEPTION_URL} ({error}); put the "
            f"file at {path}, or set evaluation.extractor=lesion-cnn"
        ) from None


def weights_sha256(path: Path) -> str:
    """Return the sha256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify_inception_weights(path: Path) -> None:
    remedy = (
        f"get {INCEPTION_URL}, set evaluation.allow-downloads=true (without evaluation.extractor-weights), "
        "or set evaluation.extractor=lesion-cnn"
    )
    try:
        found = weights_sha256(path)
    except OSError as error:
        raise InputError(f"Inception weights {path}: cannot be read ({error.strerror}); {remedy}") from None
    if found != INCEPTION_SHA256:
        raise InputError(
            f"Inception weights {path}: sha256 is {found[:16]}… and the published file's is "
            f"{INCEPTION_SHA256[:16]}…; it is not loaded; {remedy}"
        )
