"""What every generative model offers to hospitals, strategies and the evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class GenerativeModel(Protocol):
    """A generative model: its named networks, one training step on a batch, sample images.

    The names in `networks` are the prefixes of what crosses the wire (``generator.…``).
    """

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Everything the federation may exchange, by name, in a fixed order."""
        ...

    num_classes: int
    """Classes the model is told; 0 for an unconditional model."""
    device: torch.device
    class_rows: tuple[str, ...]
    """Full names of trained entries whose first axis is the class; a running average has the same of its own."""
    correct_gradients: Callable[[str, nn.Module], None] | None
    """Called with a network and its name when its gradients are there, before they move it; may change them."""

    def train_step(self, images: Tensor, labels: Tensor, stream: torch.Generator) -> dict[str, Tensor]:
        """Update every network once.

        Parameters
        ----------
        images
            (batch, 3, r, r) fp32 in [-1, 1], on the model's device.
        labels
            (batch,) int64; ignored by an unconditional model.
        stream
            Where every random number of the step comes from.

        Returns
        -------
        The terms of the losses, each a scalar still on the device.
        """

    def train_discriminator(self, images: Tensor, labels: Tensor, stream: torch.Generator) -> dict[str, Tensor]:
        """Update the discriminator alone, as :meth:`train_step` would, against the generator as it is."""

    def train_generator(
        self,
        labels: Tensor | None,
        batch: int,
        judge: Callable[[Tensor, Tensor | None], Tensor],
        stream: torch.Generator,
        images_shown: int | None = None,
    ) -> Tensor:
        """Update the generator alone, and its running average, by the non-saturating logistic loss.

        Parameters
        ----------
        labels
            (batch,) int64: the classes to ask for, or None for an unconditional model.
        batch
            Images to draw.
        judge
            Maps images (batch, 3, r, r) and their labels to logits (batch,), high for what looks real.
        stream
            Where every random number of the step comes from.
        images_shown
            What the step counts for in the half-life of the running average. None: `batch`.

        Returns
        -------
        The loss, a scalar still on the device.
        """

    def generate(self, labels: Tensor | None, count: int, stream: torch.Generator, truncation: float = 1.0) -> Tensor:
        """Draw `count` images with the network that is judged (the EMA); uint8 (count, r, r, 3)."""

    def private_state(self) -> dict[str, Tensor]:
        """What training needs next round beside the networks: optimiser moments, counters."""

    def load_private_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`private_state` gave."""
