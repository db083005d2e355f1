"""Terms of the evidence lower bound, one value for each image, in nats per pixel value.

An image of side r has 3 r² pixel values. Sums over an image are divided by that number, so that they are of order one
at every resolution; multiply by 3 r² for the nats of an image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2_PI = math.log(2 * math.pi)
# An image of 256 grey levels from -1 to 1 is known to no better than the standard deviation of its rounding.
LEAST_DEVIATION = 2 / 255 / math.sqrt(12)


def divergence_from_prior(mean: Tensor, log_variance: Tensor, num_values: int) -> Tensor:
    """Kullback-Leibler divergence of a diagonal Gaussian from N(0, I), for each image.

    Parameters
    ----------
    mean, log_variance
        (batch, latent_size) of the approximate posterior q(z | x); the logarithm is natural.
    num_values
        Pixel values of an image, 3 r².

    Returns
    -------
    (batch,), at least 0, in nats per pixel value.

    References
    ----------
    Kingma & Welling 2014, arXiv 1312.6114, Appendix B.
    """
    # expm1 keeps the digits where the posterior is the prior, as with a latent that has collapsed.
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(dim=1) / num_values


def squared_error(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the mean squared error over the pixel values of each image: (batch, 3, r, r) twice to (batch,)."""
    return (images - reconstructions).square().mean(dim=(1, 2, 3))


def gaussian_negative_log_likelihood(squared_errors: Tensor, deviation: float | Tensor) -> Tensor:
    """Return -log N(x; reconstruction, deviation² I) of each image.

    Parameters
    ----------
    squared_errors
        (batch,): see :func:`squared_error`.
    deviation
        Standard deviation of a pixel value about the reconstruction, where images are from -1 to 1: a number, or a
        tensor that goes with (batch,).

    Returns
    -------
    (batch,) in nats per pixel value; at least 0 where the deviation is at least 1 / sqrt(2 pi), as no density is then
    above 1.

    References
    ----------
    Kingma & Welling 2014, arXiv 1312.6114, Appendix C.2.
    """
    deviation = torch.as_tensor(deviation, dtype=squared_errors.dtype, device=squared_errors.device)
    return 0.5 * (LOG_2_PI + squared_errors / deviation.square()) + deviation.log()


def optimal_deviation(squared_errors: Tensor) -> Tensor:
    """Return the standard deviation that makes reconstructions likeliest.

    Parameters
    ----------
    squared_errors
        Of any shape: one error for each deviation that is asked for. See :func:`squared_error`; its mean over a batch
        gives the one deviation that the batch shares.

    Returns
    -------
    Of the same shape, without gradient: the root (Rybkin et al. 2021, Eq. 5), at least :data:`LEAST_DEVIATION`, so
    that a perfect reconstruction has a finite likelihood and a finite gradient.

    Notes
    -----
    A loss with this deviation has the right gradient although none flows through it: where the deviation is optimal,
    the likelihood does not change with it, and at the bound it does not move.

    References
    ----------
    Rybkin, Daniilidis & Levine 2021, arXiv 2006.13202, Section 4 (optimal sigma-VAE).
    """
    return squared_errors.detach().sqrt().clamp(min=LEAST_DEVIATION)
