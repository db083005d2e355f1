"""Lesion classifiers: the evaluator's measuring instrument and its test of usefulness.

Trained on diagnosis and site, :class:`SmallCNN` gives the features that KID and FID compare
(:mod:`federation.metrics.features`); trained on diagnosis alone, on synthetic or on real images, a
classifier says how useful synthetic images are (``server.evaluation.utility``). :class:`SmallCNN` must
learn in seconds on a processor, so it is a plain stack of convolutions with batch normalisation (group
normalisation reached .43 balanced accuracy on HAM10000 where batch normalisation reached .50 in the
same steps). :mod:`federation.models.efficientnet` is the network of the literature. Both are trained
by one loop, :func:`fit_classifier`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from federation.errors import InputError, NotFiniteError
from federation.images import ImageRows, to_floats
from federation.models.abstract_classifier import Classifier, ClassifierT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    LabelledImages = tuple[NDArray[np.uint8] | ImageRows, NDArray[np.int64]]
    """Images uint8 (n, r, r, 3), and the label of each, (n,)."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

EMBEDDING_SIZE = 128
# Channels of the last four blocks, which work at 32, 16, 8 and 4 pixels; one more narrow block for
# each doubling of the resolution.
_LAST_CHANNELS = (24, 48, 96, 128)
SLIM_CHANNELS = (16, 32, 64, 128)
"""Of a classifier that tests synthetic images: half the arithmetic, and as good. 300 steps, three seeds, balanced
accuracy and macro AUROC on test images: HAM10000 .540 and .890 (wide: .549, .895), phantoms .760 and .982 (.766,
.984); a seed moves the first by .03."""
_FIRST_CHANNELS = 16
WEIGHT_DECAY = 0.05
_SCORING_BATCH = 64  # images at once between training steps: memory only


class SmallCNN(Classifier):
    """Convolution, batch normalisation and ReLU at each resolution down to 4 pixels, then an embedding.

    Parameters
    ----------
    resolution
        Side of the images in pixels: 32, 64 or 128.
    num_classes
        Diagnoses to tell apart.
    num_sites
        Sites to tell apart with a second head; 0 for none.
    last_channels
        Of the blocks at 32, 16, 8 and 4 pixels; features are of the default.
    stream
        Where initial weights come from. None where they are loaded next: they are then undefined.
    """

    learning_rate = 5e-3  # across initial weights, features differ half as much as with 2e-3
    batch_size = 64

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int,
        num_sites: int = 0,
        last_channels: tuple[int, int, int, int] = _LAST_CHANNELS,
        stream: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.num_classes = num_classes
        self.num_sites = num_sites
        channels = [_FIRST_CHANNELS] * (int(math.log2(resolution)) - 5) + list(last_channels)
        self._kind = "slim-cnn" if last_channels == SLIM_CHANNELS else "small-cnn"
        self.blocks = nn.ModuleList(
            nn.Sequential(
                # skip_init: a layer's own initialisation would draw from the global generator.
                skip_init(nn.Conv2d, before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
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

    @property
    def name(self) -> str:
        """``small-cnn-<resolution>``, or ``slim-cnn-<resolution>``."""
        return f"{self._kind}-{self.resolution}"

    def activations(self, images: Tensor, num_blocks: int | None = None) -> list[Tensor]:
        """Return what each block gives, from full resolution down to 4 pixels.

        Parameters
        ----------
        images
            (n, 3, r, r) float32 in [-1, 1].
        num_blocks
            The first so many alone; None: all of them.

        Returns
        -------
        One non-negative (n, channels, side, side) per block.
        """
        outputs: list[Tensor] = []
        for number, block in enumerate(self.blocks[:num_blocks]):
            images = block(images if number == 0 else F.avg_pool2d(outputs[-1], 2))
            outputs.append(images)
        return outputs

    def embed(self, images: Tensor) -> Tensor:
        """Map (n, 3, r, r) in [-1, 1] to a non-negative embedding (n, 128)."""
        # The mean of (2, 3), to the bit; but the gradient of that would lie in memory in another order than the
        # activations, which costs a layer's time.
        places = self.activations(images)[-1].permute(0, 2, 3, 1).flatten(1, 2)
        return F.relu(self.embedding(places.mean(1)))

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
    # Whole pixels by one number each: three times as fast as by image, row and column.
    first = torch.arange(count, device=device)[:, None, None] * side**2
    places = (first + row_index * side + column_index).flatten()
    moved = images.reshape(-1, 3).index_select(0, places).view(images.shape)

    gain = 1.0 + colour_jitter * (2.0 * torch.rand(count, 1, 1, 1, generator=stream) - 1.0)
    offset = colour_jitter * (2.0 * torch.rand(count, 3, 1, 1, generator=stream) - 1.0)
    return to_floats(moved).mul_(gain.to(device)).add_(offset.to(device))


def build_classifier(
    name: str,
    *,
    resolution: int,
    num_classes: int,
    stream: torch.Generator,
    imagenet_weights: Mapping[str, Tensor] | None = None,
) -> Classifier:
    """Build an untrained classifier by name.

    Parameters
    ----------
    name
        ``small-cnn`` or ``efficientnet-b2``.
    resolution
        Side of the images in pixels: a power of two from 32.
    num_classes
        Diagnoses to tell apart.
    stream
        CPU generator: initial weights.
    imagenet_weights
        ``efficientnet-b2``: see :func:`federation.models.efficientnet.find_imagenet_weights`.

    Raises
    ------
    InputError
        If no classifier has this name.
    """
    from federation.models.efficientnet import EfficientNetB2

    builders: dict[str, Callable[[], Classifier]] = {
        "small-cnn": lambda: SmallCNN(
            resolution=resolution, num_classes=num_classes, last_channels=SLIM_CHANNELS, stream=stream
        ),
        "efficientnet-b2": lambda: EfficientNetB2(
            resolution=resolution, num_classes=num_classes, stream=stream, imagenet_weights=imagenet_weights
        ),
    }
    if name not in builders:
        raise InputError(f"evaluation.utility-classifier = {name!r}: choose one of {', '.join(builders)}")
    return builders[name]()


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
    validation: LabelledImages | None = None,
    evaluations: int = 10,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    description: str = "training a classifier",
) -> SmallCNN:
    """Train a new :class:`SmallCNN`; see :func:`fit_classifier` for the other parameters.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3), r a power of two from 32; at least one.
    num_classes
        Diagnoses.
    sites
        (n,) from 0; with two sites or more, a second head learns them.
    """
    num_sites = 0 if sites is None else len(np.unique(sites))
    network = SmallCNN(
        resolution=images.shape[1],
        num_classes=num_classes,
        num_sites=int(np.max(sites)) + 1 if sites is not None and num_sites > 1 else 0,
        stream=stream,
    ).to(device)
    return fit_classifier(
        network,
        images,
        labels,
        steps=steps,
        stream=stream,
        sites=sites if network.site is not None else None,
        batch_size=batch_size,
        balanced=balanced,
        colour_jitter=colour_jitter,
        validation=validation,
        evaluations=evaluations,
        progress=progress,
        description=description,
    )


@dataclass(frozen=True, kw_only=True)
class AddedImages:
    """Images that are shown in each step beside those that a classifier is trained on, which come as without them."""

    images: NDArray[np.uint8]
    """uint8 (m, r, r, 3); at least one."""
    labels: NDArray[np.int64]
    """(m,). Every class that occurs is drawn equally often."""
    share: float
    """How many there are in a step, for each of the others; greater than 0."""
    stream: torch.Generator
    """CPU generator: which they are, and their augmentation."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What :func:`fit_classifier` trains on, and how often each image is drawn."""

    images: NDArray[np.uint8] | ImageRows
    """uint8 (n, r, r, 3); at least one."""
    labels: Tensor
    """(n,) in [0, num_classes); not every class need occur."""
    sites: Tensor | None
    """(n,) from 0, for a classifier with a head for them."""
    weights: Tensor
    """float32 (n,): how often an image is drawn, beside the others."""

    @classmethod
    def of(
        cls,
        images: NDArray[np.uint8] | ImageRows,
        labels: NDArray[np.int64],
        sites: NDArray[np.int64] | None,
        *,
        num_classes: int,
        balanced: bool,
    ) -> Examples:
        """Take examples as arrays; see the attributes.

        Parameters
        ----------
        balanced
            Whether every class that occurs is drawn equally often; else every image is. With it, probabilities
            are those of equally frequent classes.
        """
        assert len(images) == len(labels) > 0
        all_labels = torch.from_numpy(np.asarray(labels))
        weights = torch.ones(len(labels))
        if balanced:
            weights = 1.0 / torch.bincount(all_labels, minlength=num_classes).to(torch.float32)[all_labels]
        return cls(
            images=images,
            labels=all_labels,
            sites=None if sites is None else torch.from_numpy(np.asarray(sites)),
            weights=weights,
        )

    def class_shares(self, num_classes: int) -> Tensor:
        """Return how often each class is drawn, (num_classes,); the sum is 1."""
        return torch.bincount(self.labels, weights=self.weights, minlength=num_classes) / self.weights.sum()

    def draw(self, size: int, stream: torch.Generator, *, colour_jitter: float, device: torch.device) -> _Batch:
        """Draw images with replacement, and augment them; see :func:`augment`."""
        rows = torch.multinomial(self.weights, size, replacement=True, generator=stream)
        shown = torch.from_numpy(np.ascontiguousarray(self.images[rows.numpy()])).to(device)
        return _Batch(
            augment(shown, stream, colour_jitter=colour_jitter),
            self.labels[rows].to(device),
            None if self.sites is None else self.sites[rows].to(device),
        )


@dataclass(frozen=True)
class _Batch:
    """What a classifier sees in a step."""

    images: Tensor
    labels: Tensor
    sites: Tensor | None


class BatchLoss:
    """The loss of a batch of examples, maybe with added images.

    Every class that is shown weighs alike in the loss where images are added: their number must not make one class
    more likely than another, so that probabilities mean what they mean without them.

    Parameters
    ----------
    examples, added
        What is shown in each step; `added` may be None.
    classifier
        In training.
    size
        Examples in a step, drawn with replacement.
    colour_jitter
        See :func:`augment`. More of it makes features look at structure rather than at colour.
    """

    def __init__(
        self, examples: Examples, added: AddedImages | None, classifier: Classifier, size: int, colour_jitter: float
    ) -> None:
        self._examples = examples
        self._classifier = classifier
        self._size = size
        self._colour_jitter = colour_jitter
        self._device = next(classifier.parameters()).device
        self._added: Examples | None = None
        self._class_weights: Tensor | None = None
        if added is not None:
            num_classes = classifier.num_classes
            self._added = Examples.of(added.images, added.labels, None, num_classes=num_classes, balanced=True)
            self._added_stream, self._added_size = added.stream, max(1, round(size * added.share))
            expected = size * examples.class_shares(num_classes)
            expected += self._added_size * self._added.class_shares(num_classes)
            self._class_weights = torch.where(expected > 0, 1.0 / expected, 0.0).to(self._device)

    def __call__(self, stream: torch.Generator) -> Tensor:
        """Draw a batch and return its cross-entropy; with sites, the sum of the two heads'."""
        jitter, device = self._colour_jitter, self._device
        batch = self._examples.draw(self._size, stream, colour_jitter=jitter, device=device)
        images, labels = batch.images, batch.labels
        if self._added is not None:
            more = self._added.draw(self._added_size, self._added_stream, colour_jitter=jitter, device=device)
            images, labels = torch.cat([images, more.images]), torch.cat([labels, more.labels])
        diagnosis_logits, site_logits = self._classifier(images)
        loss = F.cross_entropy(diagnosis_logits, labels, weight=self._class_weights)
        if site_logits is not None and batch.sites is not None:
            loss = loss + F.cross_entropy(site_logits[: self._size], batch.sites)
        return loss


class BestState:
    """The state of a classifier in training that is best on images of groups it is not trained on.

    It is that of greatest :func:`balanced_accuracy` among some evaluations, the later of equals. Every step is
    taken all the same: the one-cycle learning rate falls to nought at the end, where the state usually is best,
    after up to three evaluations of ten that did not improve. Cross-entropy would choose another state: it
    punishes confidence, which a classifier trained on synthetic images alone has too much of. On HAM10000 it
    then took the first, second and seventh of ten, at .47 balanced accuracy on test images where the last had
    .49, and so made synthetic images look worse than they are; with this rule it is .50.

    Parameters
    ----------
    classifier
        In training mode.
    validation
        Images and labels of groups that are not trained on. Without them no state is chosen: the last stays.
    steps
        Training steps there will be.
    evaluations
        How often `validation` is looked at, evenly spread over the steps; the last is at the end.
    """

    def __init__(
        self,
        classifier: Classifier,
        validation: LabelledImages | None,
        *,
        steps: int,
        evaluations: int,
    ) -> None:
        self._classifier = classifier
        self._validation = validation
        self._looked_at = {steps * (number + 1) // evaluations for number in range(evaluations)}
        self._greatest = -math.inf
        self._state: dict[str, Tensor] | None = None

    def look(self, step: int) -> None:
        """Keep the state after this step, counted from 1, if it is one to look at and none was better."""
        if self._validation is None or step not in self._looked_at:
            return
        score = balanced_accuracy(self._classifier.eval(), *self._validation)
        self._classifier.train()
        if score >= self._greatest:
            self._greatest = score
            self._state = {name: value.clone() for name, value in self._classifier.state_dict().items()}

    def restore(self) -> None:
        """Give the classifier its best state, if one was kept."""
        if self._state is not None:
            self._classifier.load_state_dict(self._state)


def fit_classifier(
    classifier: ClassifierT,
    images: NDArray[np.uint8] | ImageRows,
    labels: NDArray[np.int64],
    *,
    steps: int,
    stream: torch.Generator,
    sites: NDArray[np.int64] | None = None,
    batch_size: int | None = None,
    balanced: bool = True,
    colour_jitter: float = 0.1,
    added: AddedImages | None = None,
    validation: LabelledImages | None = None,
    evaluations: int = 10,
    progress: Progress | None = None,
    description: str = "training a classifier",
) -> ClassifierT:
    """Train a classifier with standard augmentation (:func:`augment`), on the device where it is.

    AdamW with a one-cycle learning rate and cross-entropy; with sites, the sum of the two heads'.

    Parameters
    ----------
    classifier
        With its initial weights; it is trained in place.
    images, labels, sites, balanced
        See :meth:`Examples.of`.
    steps
        Training steps, at least 2.
    stream
        CPU generator: batches and augmentation.
    batch_size, colour_jitter, added, validation, evaluations
        See :class:`BatchLoss` (None: the classifier's own size) and :class:`BestState`.
    progress, description
        Called after each step, and what it is told.

    Returns
    -------
    The classifier, in evaluation mode.

    Raises
    ------
    NotFiniteError
        If the loss is not finite at the end.
    """
    examples = Examples.of(images, labels, sites, num_classes=classifier.num_classes, balanced=balanced)
    optimizer, schedule = _begin_training(classifier, steps)
    best = BestState(classifier, validation, steps=steps, evaluations=evaluations)
    batch_loss = BatchLoss(examples, added, classifier, batch_size or classifier.batch_size, colour_jitter)
    loss = torch.zeros(())
    for step in range(steps):
        loss = batch_loss(stream)
        _descend(loss, optimizer, schedule)
        best.look(step + 1)
        if progress is not None:
            progress(description, step + 1, steps)
    if not math.isfinite(loss.item()):
        raise NotFiniteError(f"{description}: the loss is {loss.item()} after {steps} steps")
    best.restore()
    return classifier.eval()


def _begin_training(classifier: Classifier, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Set training mode; return AdamW, and a learning rate that rises and falls once in so many steps."""
    classifier.train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=classifier.learning_rate, weight_decay=WEIGHT_DECAY)
    return optimizer, OneCycleLR(optimizer, classifier.learning_rate, total_steps=max(steps, 10))


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: LRScheduler) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()


def balanced_accuracy(
    classifier: Classifier, images: NDArray[np.uint8] | ImageRows, labels: NDArray[np.int64]
) -> float:
    """Return the mean over the classes that occur of the share of their images that is classified rightly.

    Parameters
    ----------
    classifier
        In evaluation mode.
    images, labels
        uint8 (n, r, r, 3) and (n,); at least one.
    """
    right = predict_probabilities(classifier, images, batch=_SCORING_BATCH).argmax(axis=1) == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


@torch.no_grad()
def predict_probabilities(
    classifier: Classifier, images: NDArray[np.uint8] | ImageRows, *, batch: int = 256
) -> NDArray[np.float32]:
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
        classifier(_to_inputs(images[start : start + batch], device))[0].softmax(1).cpu().numpy()
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(drawn) if drawn else np.zeros((0, classifier.num_classes), dtype=np.float32)


def _to_inputs(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    return to_floats(torch.from_numpy(np.ascontiguousarray(images)).to(device))
