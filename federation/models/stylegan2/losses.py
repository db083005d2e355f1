"""Losses of the two networks, on logits. All means over the batch, in nats or logit²."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def logistic_generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the generator: -log sigmoid(D(fake)) (Goodfellow et al. 2014, Section 3).

    softplus(-x) is -log sigmoid(x). `fake_logits` is (batch,).
    """
    return F.softplus(-fake_logits).mean()


def logistic_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Binary cross-entropy of the discriminator on logits (batch,) of each kind."""
    return (F.softplus(-real_logits) + F.softplus(fake_logits)).mean()


def relativistic_generator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Relativistic pairing loss of the generator: fakes should outrank the reals they are paired with.

    Logits are (batch,), paired by position.

    References
    ----------
    Jolicoeur-Martineau 2019, arXiv 1807.00734; Huang et al. 2024 (R3GAN), arXiv 2501.05441, Eq. 2.
    """
    return F.softplus(real_logits - fake_logits).mean()


def relativistic_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Relativistic pairing loss of the discriminator; see :func:`relativistic_generator_loss`."""
    return F.softplus(fake_logits - real_logits).mean()


def gradient_penalties(logits: Tensor, images: Sequence[Tensor]) -> list[Tensor]:
    """Mean squared gradient norm of the discriminator at each batch of images.

    At real images this is R1, at generated ones R2.

    Parameters
    ----------
    logits
        (batch,) or their sum: the discriminator's values at all of `images`, still attached to them.
        Each logit must depend on its own image alone, as then one gradient of the sum gives all.
    images
        Batches (batch, channels, height, width) in [-1, 1] that require grad.

    Returns
    -------
    One unweighted penalty for each batch, in logit² per pixel-unit²; multiply by gamma / 2.

    Raises
    ------
    ValueError
        If a batch does not require grad.

    References
    ----------
    Mescheder et al. 2018, arXiv 1801.04406, Eq. 9 and 10.
    """
    for batch in images:
        if not batch.requires_grad:
            raise ValueError("gradient penalty: the images must require grad before the discriminator sees them")
    gradients = torch.autograd.grad(logits.sum(), list(images), create_graph=True)
    return [gradient.square().sum(dim=(1, 2, 3)).mean() for gradient in gradients]
