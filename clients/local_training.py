"""What a hospital does in a round: training steps on its own images."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from data_partitions.dataset import ImageDataset
from federation.config import TrainingSettings
from federation.errors import NotFiniteError
from federation.models import GenerativeModel


@dataclass(frozen=True)
class LocalResult:
    """What a hospital says about its round."""

    num_steps: int
    num_images: int
    """Images shown, steps x batch size."""
    seconds: float
    losses: dict[str, float]
    """Mean of each term over the round's steps."""


def train_locally(
    model: GenerativeModel,
    dataset: ImageDataset,
    settings: TrainingSettings,
    stream: torch.Generator,
    *,
    discriminator_only: bool = False,
) -> LocalResult:
    """Train on the hospital's own images.

    Parameters
    ----------
    model
        With the round's global networks and the hospital's private state loaded; changed in place.
    dataset
        The hospital's training images.
    settings
        Steps or epochs, batch size.
    stream
        Of this hospital and round: which images, which latents, which noise.
    discriminator_only
        Whether the generator stays as it is.

    Raises
    ------
    NotFiniteError
        Naming the first step at which a term of the losses is not finite, and each such term of that step.
    """
    start = time.perf_counter()
    num_steps = settings.count_steps(len(dataset))
    step = model.train_discriminator if discriminator_only else model.train_step
    terms: list[dict[str, Tensor]] = []
    for _ in range(num_steps):
        images, labels = dataset.sample_batch(stream, settings.batch_size)
        terms.append(step(images, labels, stream))

    # Read once per round: a look at every step would make a GPU wait for the processor.
    losses: dict[str, float] = {}
    not_finite: dict[int, list[str]] = {}
    for name in sorted({name for found in terms for name in found}):
        steps = [number for number, found in enumerate(terms, start=1) if name in found]
        values = torch.stack([terms[number - 1][name] for number in steps]).double().cpu()
        losses[name] = values.mean().item()
        for position in (~torch.isfinite(values)).nonzero()[:1, 0].tolist():
            not_finite.setdefault(steps[position], []).append(f"{name} is {values[position].item()}")
    if not_finite:
        # What came first is the culprit: a weight that it has spoiled spoils every other term a step later.
        first = min(not_finite)
        raise NotFiniteError(
            f"{' and '.join(not_finite[first])} at local step {first} of {num_steps}; "
            "lower training.learning-rate, raise training.gamma, or set training.precision=fp32"
        )
    return LocalResult(
        num_steps=num_steps,
        num_images=num_steps * settings.batch_size,
        seconds=time.perf_counter() - start,
        losses=losses,
    )
