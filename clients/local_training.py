"""What a hospital does in a round: training steps on its own images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_partitions.dataset import ImageDataset
from federation.errors import NotFiniteError
from federation.models import GenerativeModel
from federation.models.protocol import Adversarial
from federation.models.training import learning_rate_factor
from federation.settings.training import TrainingSettings


@dataclass(frozen=True)
class LocalResult:
    """What a hospital says about its round."""

    num_steps: int
    num_images: int
    """Images shown, steps x batch size."""
    num_evaluations: int
    """Passes of an image through a network."""
    seconds: float
    losses: dict[str, float]
    """Mean of each term over the round's steps."""


def train_locally(
    model: GenerativeModel,
    dataset: ImageDataset,
    settings: TrainingSettings,
    stream: torch.Generator,
    *,
    critic_only: bool = False,
    rounds_done: tuple[int, int] = (0, 1),
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
    critic_only
        Whether the generator stays as it is.
    rounds_done
        Rounds of the federation before this one, and all of them: what a decay of the step size goes by.

    Raises
    ------
    NotFiniteError
        Naming the first step at which a term of the losses is not finite, and each such term of that step.
    """
    start = time.perf_counter()
    num_steps = settings.count_steps(len(dataset))
    step = model.train_step
    if critic_only:
        assert isinstance(model, Adversarial)
        step = model.train_critic
    terms: list[dict[str, Tensor]] = []
    before, rounds = rounds_done
    for number in range(num_steps):
        model.learning_rate_factor = learning_rate_factor(settings, (before + number / num_steps) / rounds)
        terms.append(step(dataset.sample_batch(stream, settings.batch_size), stream))

    losses = _mean_losses(terms, model.anatomy.steadier)
    return LocalResult(
        num_steps=num_steps,
        num_images=num_steps * settings.batch_size,
        num_evaluations=round(num_steps * settings.batch_size * model.anatomy.evaluations),
        seconds=time.perf_counter() - start,
        losses=losses,
    )


def _mean_losses(terms: Sequence[Mapping[str, Tensor]], steadier: str) -> dict[str, float]:
    """Return the mean of each term over the steps that have it.

    Raises
    ------
    NotFiniteError
        See :func:`train_locally`; `steadier` is what of the family's settings may help.
    """
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
        remedies = ["lower training.learning-rate", steadier, "or set training.precision=fp32"]
        raise NotFiniteError(
            f"{' and '.join(not_finite[first])} at local step {first} of {len(terms)}; "
            + ", ".join(remedy for remedy in remedies if remedy)
        )
    return losses
