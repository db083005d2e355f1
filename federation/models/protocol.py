"""What every generative model offers to hospitals, strategies and the evaluator."""

from __future__ import annotations

from collections.abc import Mapping
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

    def generate(self, labels: Tensor | None, count: int, stream: torch.Generator, truncation: float = 1.0) -> Tensor:
        """Draw `count` images with the network that is judged (the EMA); uint8 (count, r, r, 3)."""

    def private_state(self) -> dict[str, Tensor]:
        """What training needs next round beside the networks: optimiser moments, counters."""

    def load_private_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`private_state` gave."""
