"""A small lesion classifier: the evaluator's measuring instrument and its test of usefulness.

One network, two uses. Trained on diagnosis and site it gives the features that KID and FID compare
(:mod:`federation.metrics.features`); trained on diagnosis alone, on synthetic or on real images, it
says how useful synthetic images are (``server.evaluation.utility``). It must learn in seconds on a
processor, so it is a plain stack of convolutions with batch normalisation (group normalisation
reached .43 balanced accuracy on HAM10000 where batch normalisation reached .50 in the same steps).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from federation.errors import NotFiniteError
from federation.images import to_floats

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

EMBEDDING_SIZE = 128
# Channels of the last four blocks, which work at 32, 16, 8 and 4 pixels; one more narrow block for
# each doubling of the resolution.
_LAST_CHANNELS = (24, 48, 96, 128)
_FIRST_CHANNELS = 16
_LEARNING_RATE = 5e-3  # across initial weights, features differ half as much as with 2e-3
_WEIGHT_DECAY = 0.05


class SmallCNN(nn.Module):
    """Convolution, batch normalisation and ReLU at each resolution down to 4 pixels, then an embedding.

    Parameters
    ----------
    resolution
        Side of the images in pixels: 32, 64 or 128.
    num_classes
        Diagnoses to tell apart.
    num_sites
        Sites to tell apart with a second head; 0 for none.
    stream
        Where initial weights come from. None where they are loaded next: they are then undefined.
    """

    def __init__(
        self, *, resolution: int, num_classes: int, num_sites: int = 0, stream: torch.Generator | None
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.num_classes = num_classes
        self.num_sites = num_sites
        channels = [_FIRST_CHANNELS] * (int(math.log2(resolution)) - 5) + list(_LAST_CHANNELS)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                # skip_init: a layer's own initialisation would draw from the global generator.
                skip_init(nn.Conv2d, before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
            for before, after in pairwise([3, *channels])
        )
        self.embedding = skip_init(nn.Linear, channels[-1], EMBEDDING_SIZE)
        self.diagnosis = skip_init(nn.Linear, EMBEDDING_SIZE, num_classes)
        self.site = skip_init(nn.Linear, EMBEDDING_SIZE, num_sites) if num_sites else None
        self.to(memory_format=torch.channels_last)
        if stream is not None:
            self._initialise(stream)

    def _initialise(self, stream: torch.Generator) -> None:
        """He et al. 2015 before ReLUs; small weights in the heads, so that training starts undecided."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=stream)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for head in (self.diagnosis, self.site):
            if head is not None:
                with torch.no_grad():
                    head.weight.mul_(0.1)

    def activations(self, images: Tensor) -> list[Tensor]:
        """Return what each block gives, from full resolution down to 4 pixels.

        Parameters
        ----------
        images
            (n, 3, r, r) float32 in [-1, 1].

        Returns
        -------
        One non-negative (n, channels, side, side) per block.
        """
        outputs: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            images = block(images if number == 0 else F.avg_pool2d(outputs[-1], 2))
            outputs.append(images)
        return outputs

    def embed(self, images: Tensor) -> Tensor:
        """Map (n, 3, r, r) in [-1, 1] to a non-negative embedding (n, 128)."""
        return F.relu(self.embedding(self.activations(images)[-1].mean((2, 3))))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map (n, 3, r, r) in [-1, 1] to logits of the diagnosis (n, num_classes) and of the site, if asked."""
        embedding = self.embed(images)
        return self.diagnosis(embedding), None if self.site is None else self.site(embedding)


def augment(images: Tensor, stream: torch.Generator, *, colour_jitter: float) -> Tensor:
    """Turn, mirror, shift and tint each image on its own: standard augmentation for dermoscopy.

    Quarter turns and mirror images are equally likely (a lesion has no upright); shifts are of up to a
    sixteenth of the side, the border reflected; a common gain and one offset per colour channel.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3).
    stream
        On the CPU, whatever the device of the images.
    colour_jitter
        Greatest change of the gain and, as a share of half the range, of each channel's offset.

    Returns
    -------
    float32 (n, 3, r, r), about [-1, 1].
    """
    count, side = images.shape[:2]
    device = images.device
    mirror_rows, mirror_columns, transpose = (
        torch.randint(2, (3, count, 1), generator=stream).to(device=device, dtype=torch.bool).unbind()
    )
    reach = side // 16
    shifts = torch.randint(-reach, reach + 1, (2, count, 1), generator=stream).to(device)
    positions = torch.arange(side, device=device) + shifts  # (2, n, side)
    rows, columns = (side - 1) - ((side - 1) - positions.abs()).abs()  # reflected at both ends
    rows = torch.where(mirror_rows, side - 1 - rows, rows)
    columns = torch.where(mirror_columns, side - 1 - columns, columns)
    # One gather does it all: pixel (i, j) of the result is read at (rows[i], columns[j]), or transposed.
    swap = transpose[:, :, None]
    row_index = torch.where(swap, rows[:, None, :], rows[:, :, None])
    column_index = torch.where(swap, columns[:, :, None], columns[:, None, :])
    moved = images[torch.arange(count, device=device)[:, None, None], row_index, column_index]

    gain = 1.0 + colour_jitter * (2.0 * torch.rand(count, 1, 1, 1, generator=stream) - 1.0)
    offset = colour_jitter * (2.0 * torch.rand(count, 3, 1, 1, generator=stream) - 1.0)
    return to_floats(moved).mul_(gain.to(device)).add_(offset.to(device))


def train_classifier(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    steps: int,
    stream: torch.Generator,
    sites: NDArray[np.int64] | None = None,
    batch_size: int = 64,
    balanced: bool = True,
    colour_jitter: float = 0.1,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    description: str = "training a classifier",
) -> SmallCNN:
    """Train a :class:`SmallCNN` with standard augmentation (:func:`augment`).

    AdamW with a one-cycle learning rate and cross-entropy; with sites, the sum of the two heads'.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3), r a power of two from 32; at least one.
    labels
        (n,) in [0, num_classes); not every class need occur.
    num_classes
        Diagnoses.
    steps
        Training steps, at least 2; all of them are taken.
    stream
        CPU generator: initial weights, batches and augmentation.
    sites
        (n,) from 0; with two sites or more, a second head learns them.
    batch_size
        Images in a step, drawn with replacement.
    balanced
        Whether every class that occurs is drawn equally often; else every image is.
    colour_jitter
        See :func:`augment`. More of it makes features look at structure rather than at colour.
    device
        Where to train.
    progress
        Called after each step.
    description
        What `progress` is told.

    Returns
    -------
    The classifier, in evaluation mode.

    Raises
    ------
    NotFiniteError
        If the loss is not finite at the end.
    """
    assert len(images) == len(labels) > 0
    num_sites = 0 if sites is None else len(np.unique(sites))
    network = SmallCNN(
        resolution=images.shape[1],
        num_classes=num_classes,
        num_sites=int(np.max(sites)) + 1 if sites is not None and num_sites > 1 else 0,
        stream=stream,
    ).to(device)
    network.train()
    all_images, all_labels = torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(np.asarray(labels))
    all_sites = torch.from_numpy(np.asarray(sites)) if network.site is not None else None
    weights = torch.ones(len(labels))
    if balanced:
        weights = 1.0 / torch.bincount(all_labels, minlength=num_classes).to(torch.float32)[all_labels]
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=max(steps, 10))

    loss = torch.zeros(())
    for step in range(steps):
        rows = torch.multinomial(weights, batch_size, replacement=True, generator=stream)
        diagnosis_logits, site_logits = network(
            augment(all_images[rows].to(device), stream, colour_jitter=colour_jitter)
        )
        loss = F.cross_entropy(diagnosis_logits, all_labels[rows].to(device))
        if site_logits is not None and all_sites is not None:
            loss = loss + F.cross_entropy(site_logits, all_sites[rows].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(description, step + 1, steps)
    if not math.isfinite(loss.item()):
        raise NotFiniteError(f"{description}: the loss is {loss.item()} after {steps} steps")
    return network.eval()


@torch.no_grad()
def predict_probabilities(classifier: SmallCNN, images: NDArray[np.uint8], *, batch: int = 256) -> NDArray[np.float32]:
    """Return the probability of each diagnosis.

    Parameters
    ----------
    classifier
        In evaluation mode.
    images
        uint8 (n, r, r, 3).
    batch
        Images at once: memory only.

    Returns
    -------
    float32 (n, num_classes); rows sum to 1.
    """
    device = next(classifier.parameters()).device
    drawn = [
        classifier(to_floats(torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(device)))[0]
        .softmax(1)
        .cpu()
        .numpy()
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(drawn) if drawn else np.zeros((0, classifier.num_classes), dtype=np.float32)
