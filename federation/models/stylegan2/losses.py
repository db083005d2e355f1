"""Losses of the two networks, on logits. All means over the batch, in nats or logit²."""

from __future__ import annotations

import math
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


def gradient_ratio(numerator: Tensor, denominator: Tensor, logits: Tensor) -> Tensor:
    """Return d numerator / d logits over d denominator / d logits, for each logit.

    Parameters
    ----------
    numerator, denominator
        Scalar losses of the same `logits`; both graphs are kept.
    logits
        (batch,).

    Returns
    -------
    (batch,). Finite also where the denominator has vanished: in fp32 for logits beyond 87, where the product
    of both fades from the numerator to 0.
    """
    (above,) = torch.autograd.grad(numerator, logits, retain_graph=True)
    (below,) = torch.autograd.grad(denominator, logits, retain_graph=True)
    # Both losses of the discriminator rise with the logit of a fake: the denominator is not negative.
    return above / below.clamp(min=torch.finfo(below.dtype).tiny)


def gradient_penalties(logits: Tensor, images: Sequence[Tensor]) -> list[Tensor]:
    """Mean squared gradient norm of the discriminator at each batch of images.

    At real images this is R1, at generated ones R2.

    Parameters
    ----------
    logits
        (batch,) or their sum: the discriminator's values at all of `images`, still attached to them.
        One gradient of the sum gives that of every image. Where logits depend on other images too (minibatch
        standard deviation), their part is included, as in the published code.
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


def path_lengths(images: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """How far images move with their styles: the norm of the generator's Jacobian along a random direction.

    Parameters
    ----------
    images
        (batch, channels, height, width), still attached to `styles`.
    styles
        (batch, num_styles, latent_size), w for each layer.
    noise
        Standard normal, of the shape of `images`.

    Returns
    -------
    (batch,): root mean square over the styles of the norm of the gradient of <images, noise> / sqrt(pixels).

    Notes
    -----
    The paper's weight ln 2 / (r² (ln r - ln 2)) at r² pixels is 2 / (r² num_styles): with the mean over styles
    and the division by the root of the pixels taken here, the weight is 2 at every resolution.

    References
    ----------
    Karras et al. 2020a (StyleGAN2), arXiv 1912.04958, Eq. 4 and Appendix B.
    """
    pixels = images.shape[2] * images.shape[3]
    (gradients,) = torch.autograd.grad((images * noise).sum() / math.sqrt(pixels), styles, create_graph=True)
    return gradients.square().sum(dim=2).mean(dim=1).sqrt()
