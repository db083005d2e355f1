"""What every generative model offers to hospitals, strategies and the evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from federation.models.anatomy import Anatomy

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from federation.batch import Batch
    from federation.models.training import Clock


class DrawingNetwork(Protocol):
    """What images are drawn with: a network from latents to images."""

    resolution: int

    def latents(self, count: int, stream: torch.Generator) -> Tensor:
        """Draw `count` latents where the stream lives, in fp32; (count, …) on the network's device."""

    def __call__(
        self,
        latents: Tensor,
        labels: Tensor | None,
        stream: torch.Generator,
        truncation: float,
        sites: Tensor | None = None,
    ) -> Tensor:
        """Draw an image for each latent.

        Parameters
        ----------
        latents
            Of :meth:`latents`.
        labels
            (count,) int64 on the network's device, or None for an unconditional model.
        stream
            Of whatever else is drawn by chance.
        truncation
            In [0, 1]: 1 draws from the learned distribution, less gives more typical and less varied images.
        sites
            (count,) int64 on the network's device: the hospital whose look each has; None where they are not told.

        Returns
        -------
        (count, 3, r, r); -1 is black, 1 is white.
        """


class GenerativeModel(Protocol):
    """A generative model: its named parts, one training step on a batch, and what draws its images."""

    @property
    def anatomy(self) -> Anatomy:
        """What the parts are."""
        ...

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The parts by name, in the order of the anatomy."""
        ...

    num_classes: int
    """Classes the model is told; 0 for an unconditional model."""
    num_sites: int
    """Hospitals that what draws is told; 0: none."""
    site: int
    """Where there are, the row of the hospital that is trained at; set before a round."""
    device: torch.device
    class_rows: tuple[str, ...]
    """Full names of trained entries whose first axis is the class; running averages have the same of their own."""
    num_steps: int
    """Training steps taken; at a hospital, its own."""
    clock: Clock
    """Whose count of images counts for running averages; set before a round."""
    learning_rate_factor: float
    """Factor on the step sizes of all parts but a critic's; set before a step."""
    site_rows: tuple[str, ...]
    """Full names of entries whose first axis is the hospital; nothing moves them."""
    correct_gradients: Callable[[str, nn.Module], None] | None
    """Called with a part's name and the part when its gradients are there, before they move it; may change them."""

    @property
    def drawing(self) -> DrawingNetwork:
        """What images are drawn with: it shares its entries with the parts that draw."""
        ...

    def train_step(self, batch: Batch, stream: torch.Generator) -> dict[str, Tensor]:
        """Update every trained part, and its running average, once.

        Parameters
        ----------
        batch
            On the model's device.
        stream
            Where every random number of the step comes from.

        Returns
        -------
        The terms of the losses, each a scalar still on the device: those of the anatomy, in every step, and others
        that need not come in every one.
        """

    def membership_scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Say of each image how much it looks like one that was learned from, as far as the scoring parts can tell.

        Parameters
        ----------
        images
            (n, 3, r, r) in [-1, 1], on the model's device.
        labels
            (n,) int64, or None for an unconditional model.

        Returns
        -------
        (n,): a discriminator's logit, the evidence lower bound, a log-likelihood, minus a denoising loss.
        """

    def private_state(self) -> dict[str, Tensor]:
        """What training needs next round beside the parts: optimiser moments, counters."""

    def load_private_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`private_state` gave."""


@runtime_checkable
class Adversarial(Protocol):
    """A model whose two networks can be trained in different places; ``anatomy.adversaries`` names them."""

    def train_critic(self, batch: Batch, stream: torch.Generator) -> dict[str, Tensor]:
        """Update the critic alone, as ``train_step`` would, against the generator as it is."""

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


@runtime_checkable
class LatentSpace(Protocol):
    """A model whose images have latents that can be read off them, and looked at."""

    def encode(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the latents (n, d) of images (n, 3, r, r) in [-1, 1]."""

    def decode(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return the images (n, 3, r, r) of latents (n, d), without chance."""
