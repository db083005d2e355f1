"""Several generators as one: each image is drawn by one of them, chosen by chance.

What a federation has whose hospitals keep generators of their own: the mixture Σ_i p_i(y) G_i(z, y), with p_i(y) a
hospital's share of the images of class y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from federation.models.protocol import GenerativeModel


@dataclass(frozen=True)
class Component:
    """One generator of a mixture."""

    name: str
    """Of the hospital."""
    arrays: Mapping[str, np.ndarray]
    """Entries ``generator_ema.*``."""
    weights: NDArray[np.float64]
    """How often it is chosen for each class, or, of one entry, for any image. Relative to the other components."""


class Mixture:
    """A mixture of generators of one architecture, behind the part of a model's protocol that draws.

    Parameters
    ----------
    model
        Lends its network; its running average is overwritten.
    components
        At least one.
    """

    def __init__(self, model: GenerativeModel, components: Sequence[Component]) -> None:
        self.model = model
        self.components = tuple(components)
        self.num_classes = model.num_classes
        self.device = model.device
        # (components, classes) or (components, 1)
        self.weights = torch.from_numpy(np.stack([component.weights for component in components]))

    @torch.no_grad()
    def use(self, component: Component) -> GenerativeModel:
        """Return the model with one component's generator."""
        entries = self.model.networks["generator_ema"].state_dict()
        for name, value in component.arrays.items():
            entries[name.removeprefix("generator_ema.")].copy_(torch.from_numpy(np.array(value)))
        return self.model

    def generate(self, labels: Tensor | None, count: int, stream: torch.Generator, truncation: float = 1.0) -> Tensor:
        """Draw images; see :class:`federation.models.protocol.GenerativeModel`."""
        chosen = choose_components(self.weights, labels, count, stream)
        images: Tensor | None = None
        for number, component in enumerate(self.components):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            drawn = self.use(component).generate(
                None if labels is None else labels.cpu()[rows], len(rows), stream, truncation
            )
            if images is None:
                images = torch.empty((count, *drawn.shape[1:]), dtype=drawn.dtype, device=drawn.device)
            images[rows.to(drawn.device)] = drawn
        assert images is not None
        return images


def choose_components(weights: Tensor, labels: Tensor | None, count: int, stream: torch.Generator) -> Tensor:
    """Return which component draws each image, (count,) int64 on the CPU.

    Parameters
    ----------
    weights
        (components, classes), or (components, 1) for any class.
    labels
        (count,), or None.
    count
        Images.
    stream
        Where the choice comes from.
    """
    of_any = weights[:, :1].expand(-1, count)
    odds = of_any if labels is None or weights.shape[1] == 1 else weights[:, labels.cpu()]
    # A class that no component has: all of them, alike.
    odds = torch.where(odds.sum(dim=0) > 0, odds, torch.ones_like(odds))
    shares = odds.T / odds.sum(dim=0)[:, None]
    drawn = torch.rand(count, generator=stream, device=stream.device, dtype=torch.float64).cpu()
    # The first component whose cumulated share is above the draw.
    return (shares.cumsum(dim=1) <= drawn[:, None]).sum(dim=1).clamp(max=len(weights) - 1)
