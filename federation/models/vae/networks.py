"""Encoder and decoder of a Gaussian variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114).

Both are residual (He et al. 2016, arXiv 1603.05027: normalise, activate, convolve), halving or doubling the resolution
between 4 px and that of the images. Group normalisation (Wu & He 2018, arXiv 1803.08494) looks at one image at a time:
nothing here depends on the rest of a batch, and there are no running statistics to average between hospitals.

Weights are scaled at run time (Karras et al. 2018, arXiv 1710.10196, Section 4.1), so that one step size of Adam suits
layers of every size, and the same one as in the other families.

Weights are fp32. Convolutions run in `compute_dtype`; latents, posterior and images in fp32.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from federation.models.vae.settings import VAESettings
    from federation.settings.training import ModelSettings

LEAKY_SLOPE = 0.2
# What a leaky ReLU takes from the variance (He et al. 2015, arXiv 1502.01852, Eq. 15).
ACTIVATION_GAIN = math.sqrt(2 / (1 + LEAKY_SLOPE**2))
# How much faster weights move, for their scale, than by Adam's step size. HAM10000 at 32 px, held-out images after 500
# steps of 8: a bound of 0.53, 0.57 and 0.57 nats per pixel value with 2, 4 and 8.
LEARNING_RATE_MULTIPLIER = 4.0
# Channels that are normalised together: of one alone, the colour of the skin would be lost.
GROUP_CHANNELS = 16
# log(variance) of q(z | x) stays between minus and plus this: a posterior from e^-10 to e^10 wide.
LOG_VARIANCE_BOUND = 20.0


def layer_channels(resolution: int, settings: VAESettings) -> list[int]:
    """Return the number of channels at 4, 8, …, `resolution` px."""
    resolutions = [4]
    while resolutions[-1] < resolution:
        resolutions.append(2 * resolutions[-1])
    return [min(settings.channel_base // side, settings.channel_max) for side in resolutions]


def build_encoder(model: ModelSettings, settings: VAESettings, *, num_classes: int) -> Encoder:
    """Build an encoder with weights from the process's random numbers: fork and seed them, or load weights."""
    return Encoder(
        resolution=model.resolution,
        latent_size=settings.latent_size,
        channels=layer_channels(model.resolution, settings),
        num_classes=num_classes,
    )


def build_decoder(model: ModelSettings, settings: VAESettings, *, num_classes: int) -> Decoder:
    """Build a decoder with weights from the process's random numbers: fork and seed them, or load weights."""
    return Decoder(
        resolution=model.resolution,
        latent_size=settings.latent_size,
        channels=layer_channels(model.resolution, settings),
        num_classes=num_classes,
    )


class ScaledLinear(nn.Module):
    """Fully connected layer whose weights are scaled at run time.

    Parameters
    ----------
    in_features, out_features
        Sizes of the last axis before and after.
    initial
        Standard deviation of what comes out of a new layer, where what goes in has mean square 1.
    """

    def __init__(self, in_features: int, out_features: int, *, initial: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * (initial / LEARNING_RATE_MULTIPLIER))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.weight_gain = LEARNING_RATE_MULTIPLIER / math.sqrt(in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_features) to (batch, out_features)."""
        return F.linear(x, self.weight * self.weight_gain, self.bias)


class ScaledConv(nn.Module):
    """Convolution with 'same' padding whose weights are scaled at run time.

    Parameters
    ----------
    in_channels, out_channels, kernel
        Shape of the weights.
    initial
        Standard deviation of what comes out of a new layer, where what goes in has mean square 1.
    bias
        Whether a bias is added.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, initial: float = 1.0, bias: bool = True
    ) -> None:
        super().__init__()
        # A small start is in the weights, not in their scale: it takes nothing from the speed of learning.
        weight = torch.randn(out_channels, in_channels, kernel, kernel) * (initial / LEARNING_RATE_MULTIPLIER)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = LEARNING_RATE_MULTIPLIER / math.sqrt(in_channels * kernel * kernel)
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width), in x's type."""
        weight = (self.weight * self.weight_gain).to(x.dtype, memory_format=torch.channels_last)
        return F.conv2d(x, weight, None if self.bias is None else self.bias.to(x.dtype), padding=self.padding)


class ActivatedNorm(nn.Module):
    """Group normalisation and a leaky ReLU, in x's type and shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        # Whole groups of at least GROUP_CHANNELS, or one of all.
        self.groups = math.gcd(channels, max(channels // GROUP_CHANNELS, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same."""
        y = F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype))
        return F.leaky_relu_(y, LEAKY_SLOPE)


class EncoderBlock(nn.Module):
    """A residual convolution, half the resolution, another residual convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm0 = ActivatedNorm(in_channels)
        self.conv0 = ScaledConv(in_channels, in_channels, 3, initial=ACTIVATION_GAIN)
        self.norm1 = ActivatedNorm(in_channels)
        self.conv1 = ScaledConv(in_channels, out_channels, 3, initial=ACTIVATION_GAIN)
        self.shortcut = _shortcut(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, r, r) to (batch, out_channels, r / 2, r / 2)."""
        x = F.avg_pool2d(x + self.conv0(self.norm0(x)), 2)
        return self.shortcut(x) + self.conv1(self.norm1(x))


class DecoderBlock(nn.Module):
    """A residual convolution, twice the resolution, another residual convolution: :class:`EncoderBlock` mirrored."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm0 = ActivatedNorm(in_channels)
        self.conv0 = ScaledConv(in_channels, out_channels, 3, initial=ACTIVATION_GAIN)
        self.norm1 = ActivatedNorm(out_channels)
        self.conv1 = ScaledConv(out_channels, out_channels, 3, initial=ACTIVATION_GAIN)
        self.shortcut = _shortcut(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, r, r) to (batch, out_channels, 2 r, 2 r)."""
        x = self.shortcut(x) + self.conv0(self.norm0(x))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return x + self.conv1(self.norm1(x))


def _shortcut(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Identity() if in_channels == out_channels else ScaledConv(in_channels, out_channels, 1, bias=False)


class Encoder(nn.Module):
    """From an image, and its class, to the approximate posterior q(z | x): a Gaussian with a diagonal covariance.

    Parameters
    ----------
    resolution
        Side of the images, a power of two from 8.
    latent_size
        Dimension of z.
    channels
        Channels at 4, 8, …, resolution.
    num_classes
        0: unconditional.
    """

    def __init__(self, *, resolution: int, latent_size: int, channels: list[int], num_classes: int) -> None:
        super().__init__()
        assert resolution == 2 ** (len(channels) + 1)
        self.resolution = resolution
        self.compute_dtype = torch.float32
        self.from_rgb = ScaledConv(3, channels[-1], 3)
        # Added to every pixel: all layers but the first hear the class.
        self.class_embedding = nn.Parameter(torch.randn(num_classes, channels[-1])) if num_classes else None
        self.blocks = nn.Sequential(*(EncoderBlock(before, after) for before, after in pairwise(reversed(channels))))
        # Without it, means of high-contrast images went seven standard deviations of the prior away from it, and
        # what was drawn from the prior was pale.
        self.norm = ActivatedNorm(channels[0])
        # Small at first: near the prior.
        self.posterior = ScaledLinear(channels[0] * 16, 2 * latent_size, initial=0.1)

    def forward(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance of q(z | x).

        Parameters
        ----------
        images
            (batch, 3, resolution, resolution) in [-1, 1].
        labels
            (batch,) int64, or None without classes.

        Returns
        -------
        Two of (batch, latent_size), fp32; the second within :data:`LOG_VARIANCE_BOUND`.
        """
        x = self.from_rgb(images.to(self.compute_dtype, memory_format=torch.channels_last))
        if self.class_embedding is not None:
            assert labels is not None, "a conditional encoder needs labels"
            x = x + self.class_embedding[labels].to(x.dtype)[:, :, None, None]
        x = self.norm(self.blocks(x))
        mean, log_variance = self.posterior(x.to(self.posterior.weight.dtype).flatten(1)).chunk(2, dim=1)
        # Smooth, so that no gradient vanishes where a clamp would leave a latent for ever.
        return mean, LOG_VARIANCE_BOUND * torch.tanh(log_variance / LOG_VARIANCE_BOUND)


class Decoder(nn.Module):
    """From a latent, and a class, to the mean of p(x | z): a :class:`federation.models.protocol.DrawingNetwork`.

    What is drawn is the mean image, without the noise of p(x | z): independent from pixel to pixel, it would show
    nothing but how far reconstructions are off.

    Parameters
    ----------
    resolution, latent_size, channels, num_classes
        As of :class:`Encoder`.
    """

    def __init__(self, *, resolution: int, latent_size: int, channels: list[int], num_classes: int) -> None:
        super().__init__()
        assert resolution == 2 ** (len(channels) + 1)
        self.resolution = resolution
        self.latent_size = latent_size
        self.compute_dtype = torch.float32
        self.class_embedding = nn.Parameter(torch.randn(num_classes, latent_size)) if num_classes else None
        self.mapping = ScaledLinear(latent_size * (2 if num_classes else 1), channels[0] * 16)
        self.blocks = nn.Sequential(*(DecoderBlock(before, after) for before, after in pairwise(channels)))
        self.norm = ActivatedNorm(channels[-1])
        # At first an image is grey, not noise of full contrast.
        self.to_rgb = ScaledConv(channels[-1], 3, 3, initial=0.1)

    def latents(self, count: int, stream: torch.Generator) -> Tensor:
        """Draw (count, latent_size) from N(0, I) where the stream lives, in fp32; on the network's device."""
        z = torch.randn(count, self.latent_size, generator=stream, device=stream.device, dtype=torch.float32)
        return z.to(self.mapping.weight)

    def mean_images(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean of p(x | z).

        Parameters
        ----------
        latents
            (batch, latent_size).
        labels
            (batch,) int64, or None without classes.

        Returns
        -------
        (batch, 3, resolution, resolution) fp32, about [-1, 1].
        """
        x = latents
        if self.class_embedding is not None:
            assert labels is not None, "a conditional decoder needs labels"
            x = torch.cat([x, self.class_embedding[labels]], dim=1)
        x = self.mapping(x).unflatten(1, (-1, 4, 4))
        x = self.blocks(x.to(self.compute_dtype, memory_format=torch.channels_last))
        # The last convolution is fp32: towards black and white, bf16 has fewer levels than an image file.
        return self.to_rgb(self.norm(x).to(latents.dtype))

    def forward(
        self,
        latents: Tensor,
        labels: Tensor | None,
        stream: torch.Generator | None = None,
        truncation: float = 1.0,
        sites: Tensor | None = None,
    ) -> Tensor:
        """Draw images; see :meth:`mean_images`.

        Parameters
        ----------
        latents
            Of :meth:`latents`.
        labels
            (batch,) int64, or None without classes.
        stream
            Unused: given the latents, nothing is drawn by chance.
        truncation
            The temperature: the standard deviation of the latents. 1 draws from the prior; 0 gives the mean image of
            the class.
        sites
            None: a VAE is not told hospitals.
        """
        return self.mean_images(latents if truncation == 1.0 else latents * truncation, labels)
