"""StyleGAN2's generator and discriminator, written from the papers.

Karras et al. 2019 (StyleGAN, arXiv 1812.04948), 2020a (StyleGAN2, arXiv 1912.04958) and 2020b
(StyleGAN2-ADA, arXiv 2006.06676). The style scales the activations rather than the weights
(StyleGAN2, Section 2.2: the two are equivalent), so that a batch shares one ordinary convolution.

Layers change resolution in one of two ways. ``fir`` is the papers': a transposed convolution then the
filter [1, 3, 3, 1], and the filter then a strided convolution. ``bilinear`` is cheaper: images are
enlarged bilinearly *after* a convolution and averaged *before* one.

Weights are fp32. Convolutions run in `compute_dtype`; styles, demodulation, RGB and logits in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from federation.models.stylegan2.preparation import (
    Modulation,
    ReadyConv,
    prepare_convs,
    prepare_modulations,
    scaled,
)
from federation.models.stylegan2.resampling import average_pairs, filter_images

LEAKY_SLOPE = 0.2
# sqrt(2) undoes what a leaky ReLU takes from the variance (StyleGAN2's equalised layers).
ACTIVATION_GAIN = math.sqrt(2.0)


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU in place, without gain: callers fold sqrt(2) into the scale before it, as it commutes."""
    return F.leaky_relu_(x, LEAKY_SLOPE)


class EqualizedLinear(nn.Module):
    """Fully connected layer whose weights are scaled at run time (Karras et al. 2018, Section 4.1).

    Parameters
    ----------
    in_features, out_features
        Sizes of the last axis before and after.
    bias_init
        Initial bias; 1 for a style, so that a new layer leaves activations as they are.
    learning_rate_multiplier
        Learns this many times as fast as other layers (0.01 in the mapping network).
    activate
        Whether a leaky ReLU with gain sqrt(2) follows.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias_init: float = 0.0,
        learning_rate_multiplier: float = 1.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / learning_rate_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / learning_rate_multiplier))
        self.weight_gain = learning_rate_multiplier / math.sqrt(in_features)
        self.bias_gain = learning_rate_multiplier
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_features) to (batch, out_features)."""
        gain = ACTIVATION_GAIN if self.activate else 1.0
        y = F.linear(x, self.weight * (self.weight_gain * gain), self.bias * (self.bias_gain * gain))
        return leaky_relu(y) if self.activate else y


class EqualizedConv(nn.Module):
    """Convolution with 'same' padding whose weights are scaled at run time.

    Parameters
    ----------
    in_channels, out_channels, kernel
        Shape of the weights.
    bias
        Whether a bias is added.
    activate
        Whether a leaky ReLU with gain sqrt(2) follows.
    stride
        2: every other pixel, without padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        bias: bool = True,
        activate: bool = False,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel * kernel)
        self.stride = stride
        self.padding = kernel // 2 if stride == 1 else 0
        self.activate = activate
        self.activation_gain = ACTIVATION_GAIN if activate else 1.0

    def forward(self, x: Tensor, ready: ReadyConv) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width), in x's type.

        `ready` is what :func:`~federation.models.stylegan2.preparation.prepare_convs` made of this layer.
        """
        y = F.conv2d(x, ready.weight, ready.bias, stride=self.stride, padding=self.padding)
        return leaky_relu(y) if self.activate else y


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style (StyleGAN2, Eq. 1 and 3).

    Parameters
    ----------
    in_channels, out_channels, kernel
        Shape of the weights.
    latent_size
        Dimension of w.
    demodulate
        Whether output channels are scaled back to unit variance (Eq. 3); not for ToRGB.
    transposed
        Whether zeros are put between the pixels before: height and width become 2 n + 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        latent_size: int,
        demodulate: bool = True,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.style = EqualizedLinear(latent_size, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel * kernel)
        self.padding = kernel // 2
        self.demodulate = demodulate
        self.transposed = transposed

    def forward(self, x: Tensor, ready: Modulation) -> Tensor:
        """Convolve.

        Parameters
        ----------
        x
            (batch, in_channels, height, width), in the type to compute in.
        ready
            What :func:`~federation.models.stylegan2.preparation.prepare_modulations` made of this layer and a style.

        Returns
        -------
        (batch, out_channels, height, width), or 2 n + 1 of both where transposed, in x's type.
        """
        x = x * ready.style
        if self.transposed:
            y = F.conv_transpose2d(x, ready.weight, stride=2)
        else:
            y = F.conv2d(x, ready.weight, padding=self.padding)
        return y if ready.scale is None else y * ready.scale


def upsample(x: Tensor) -> Tensor:
    """Double height and width, bilinearly."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ReadyLayer(NamedTuple):
    """What a :class:`SynthesisLayer` works with, made ready with all others."""

    conv: Modulation
    bias: Tensor
    """(out_channels, 1, 1), in the type to compute in."""
    noise_strength: Tensor
    """Scalar, fp32."""


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, up-sampling where asked, per-pixel noise, bias, leaky ReLU.

    Parameters
    ----------
    in_channels, out_channels, latent_size
        Of the convolution.
    up
        ``"none"``, or how height and width are doubled: ``"bilinear"``, ``"fir"``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, latent_size: int, up: str) -> None:
        super().__init__()
        self.conv = ModulatedConv(in_channels, out_channels, 3, latent_size=latent_size, transposed=up == "fir")
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.up = up

    def forward(self, x: Tensor, ready: ReadyLayer, noise: torch.Generator | None) -> Tensor:
        """Map (batch, in_channels, r, r) to (batch, out_channels, r or 2 r, ...).

        `noise` draws one value for each pixel of each sample; None leaves noise out.
        """
        x = self.conv(x, ready.conv)
        if self.up == "fir":
            x = filter_images(x, "after-transposed")
        elif self.up == "bilinear":
            x = upsample(x)
        if noise is None:
            return leaky_relu(x + ready.bias)
        # Drawn where the stream lives and moved: a stream on the processor gives every device the same.
        values = torch.randn(x.shape[0], 1, *x.shape[2:], generator=noise, device=noise.device)
        # The first sum makes a tensor of its own, on which the rest works in place.
        x = x + (values.to(ready.noise_strength) * ready.noise_strength).to(x.dtype)
        return leaky_relu(x.add_(ready.bias))


def normalize_second_moment(x: Tensor) -> Tensor:
    """Scale each row to mean square 1."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def site_codes(num_sites: int, size: int) -> Tensor:
    """Return a row for each hospital, (num_sites, size), of mean square 1: orthogonal, as far as `size` goes.

    A row depends on its number alone. Behind `size` of them rows are random.
    """
    rows: list[Tensor] = []
    for number in range(num_sites):
        row = torch.randn(size, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        if number < size:
            for other in rows:
                row = row - (row @ other) / size * other
        rows.append(row * row.square().mean().rsqrt())
    return torch.stack(rows).float()


class MappingNetwork(nn.Module):
    """From z, and a class and a hospital where they are told, to w.

    A class has a row of an embedding, a hospital a constant row; the sum of the two is told.

    Parameters
    ----------
    latent_size
        Dimension of z and w.
    num_classes
        0: unconditional.
    num_sites
        Hospitals; 0: they are not told.
    num_layers
        Fully connected layers.
    """

    w_mean: Tensor
    label_weight: Tensor
    site_embedding: Tensor | None

    def __init__(self, *, latent_size: int, num_classes: int, num_layers: int, num_sites: int = 0) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.class_embedding = nn.Parameter(torch.randn(num_classes, latent_size)) if num_classes else None
        # Constants: a row that learned would tell all hospitals what its own has sent, as no other moves it; what rows
        # mean is learned by the layers behind. One for each number, whatever the seed.
        self.register_buffer("site_embedding", site_codes(num_sites, latent_size) if num_sites else None)
        first = latent_size * (2 if num_classes or num_sites else 1)
        self.layers = nn.Sequential(
            *(
                EqualizedLinear(
                    first if layer == 0 else latent_size,
                    latent_size,
                    learning_rate_multiplier=0.01,
                    activate=True,
                )
                for layer in range(num_layers)
            )
        )
        # Running mean of w, towards which truncation pulls.
        self.register_buffer("w_mean", torch.zeros(latent_size))
        if num_classes:
            # How much of the class is heard: below 1 only early in transitional conditioning.
            self.register_buffer("label_weight", torch.ones(()))

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None,
        label_weights: Tensor | None = None,
        sites: Tensor | None = None,
    ) -> Tensor:
        """Map latents to w.

        Parameters
        ----------
        z
            (batch, latent_size), standard normal.
        labels
            (batch,) int64, or None without classes.
        label_weights
            (batch,) in [0, 1]: how much of each label is heard, 0 for a hidden one. None: `label_weight` of each.
        sites
            (batch,) int64: rows of hospitals, or None where they are not told.

        Returns
        -------
        (batch, latent_size).
        """
        x = normalize_second_moment(z)
        told: list[Tensor] = []
        if self.class_embedding is not None:
            assert labels is not None, "a conditional generator needs labels"
            heard = self.label_weight if label_weights is None else label_weights[:, None]
            told.append(normalize_second_moment(self.class_embedding[labels]) * heard)
        if self.site_embedding is not None:
            assert sites is not None, "a generator that is told hospitals needs them"
            told.append(normalize_second_moment(self.site_embedding[sites]))
        if told:
            # Of two, the sum has the variance of one.
            x = torch.cat([x, told[0] if len(told) == 1 else (told[0] + told[1]) * math.sqrt(0.5)], dim=1)
        return self.layers(x)


class Generator(nn.Module):
    """StyleGAN2's generator with skip connections (StyleGAN2, Figure 7b).

    Parameters
    ----------
    resolution
        Side of the images, a power of two from 8.
    latent_size
        Dimension of z and w.
    channels
        Channels at 4, 8, …, resolution.
    num_classes
        0: unconditional.
    num_sites
        Hospitals that it is told; 0: none.
    mapping_layers
        Layers of the mapping network.
    resampling
        ``"bilinear"`` or ``"fir"``.
    """

    def __init__(
        self,
        *,
        resolution: int,
        latent_size: int,
        channels: Sequence[int],
        num_classes: int,
        mapping_layers: int,
        resampling: str,
        num_sites: int = 0,
    ) -> None:
        super().__init__()
        assert resolution == 2 ** (len(channels) + 1)
        self.resolution = resolution
        self.latent_size = latent_size
        self.num_classes = num_classes
        self.compute_dtype = torch.float32
        self.mapping = MappingNetwork(
            latent_size=latent_size, num_classes=num_classes, num_layers=mapping_layers, num_sites=num_sites
        )
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        layers = [SynthesisLayer(channels[0], channels[0], latent_size=latent_size, up="none")]
        for before, after in pairwise(channels):
            layers.append(SynthesisLayer(before, after, latent_size=latent_size, up=resampling))
            layers.append(SynthesisLayer(after, after, latent_size=latent_size, up="none"))
        self.layers = nn.ModuleList(layers)
        self.resampling = resampling
        # A style for each layer, and one for the last ToRGB; the others share that of the layer after them.
        self.num_styles = len(layers) + 1
        self.to_rgb = nn.ModuleList(
            ModulatedConv(count, 3, 1, latent_size=latent_size, demodulate=False) for count in channels
        )
        self.rgb_bias = nn.Parameter(torch.zeros(len(channels), 3))

    def latents(self, count: int, stream: torch.Generator) -> Tensor:
        """Draw z (count, latent_size) where the stream lives, in fp32, and give it the generator's device and type."""
        z = torch.randn(count, self.latent_size, generator=stream, device=stream.device, dtype=torch.float32)
        return z.to(self.constant)

    def repeat(self, w: Tensor) -> Tensor:
        """Give every layer the same style: (batch, latent_size) to (batch, num_styles, latent_size), no copy."""
        return w[:, None].expand(-1, self.num_styles, -1)

    def synthesize(self, styles: Tensor, noise: torch.Generator | None) -> Tensor:
        """Draw images (batch, 3, resolution, resolution), about [-1, 1].

        Parameters
        ----------
        styles
            (batch, num_styles, latent_size): w for each layer; see :meth:`repeat`.
        noise
            Draws the per-pixel noise; None: no noise.
        """
        x = self.constant.to(self.compute_dtype).expand(styles.shape[0], -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        layers, to_rgb = self._prepare(styles)
        image: Tensor | None = None
        for index, layer in enumerate(self.layers):
            x = layer(x, layers[index], noise)
            if index % 2 == 0:  # the last layer of a resolution: 0 at 4 px, then 2, 4, …
                level = index // 2
                rgb = self.to_rgb[level](x, to_rgb[level]).to(styles.dtype)
                rgb = rgb + self.rgb_bias[level][None, :, None, None]
                if image is not None:
                    image = filter_images(image, "up") if self.resampling == "fir" else upsample(image)
                image = rgb if image is None else image + rgb
        assert image is not None
        return image

    def _prepare(self, styles: Tensor) -> tuple[list[ReadyLayer], list[Modulation]]:
        """Make layers and ToRGB ready for styles (batch, num_styles, latent_size)."""
        layers = [layer for layer in self.layers if isinstance(layer, SynthesisLayer)]
        to_rgb = [conv for conv in self.to_rgb if isinstance(conv, ModulatedConv)]
        ws = styles.unbind(1)
        modulations = prepare_modulations(
            [*(layer.conv for layer in layers), *to_rgb],
            # ToRGB follows the last layer of a resolution, and has the style of the next.
            [*ws[: len(layers)], *ws[1::2]],
            [ACTIVATION_GAIN] * len(layers) + [1.0] * len(to_rgb),
            self.compute_dtype,
        )
        gains = [ACTIVATION_GAIN] * len(layers)
        biases = scaled([layer.bias[:, None, None] for layer in layers], gains, self.compute_dtype)
        strengths = scaled([layer.noise_strength for layer in layers], gains, styles.dtype)
        # `strict` is left out: what is behind the layers' modulations is that of ToRGB.
        ready = [ReadyLayer(*parts) for parts in zip(modulations, biases, strengths, strict=False)]
        return ready, modulations[len(layers) :]

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None,
        noise: torch.Generator | None,
        truncation: float = 1.0,
        sites: Tensor | None = None,
    ) -> Tensor:
        """Generate images.

        Parameters
        ----------
        z
            (batch, latent_size), standard normal.
        labels
            (batch,) int64, or None for an unconditional generator.
        noise
            Draws the per-pixel noise; None: no noise.
        truncation
            w is pulled to its mean: 1 leaves it, 0 gives the mean image (StyleGAN, Appendix B).
        sites
            (batch,) int64: rows of hospitals, or None for a generator that is not told them.

        Returns
        -------
        (batch, 3, resolution, resolution) fp32, about [-1, 1].
        """
        w = self.mapping(z, labels, sites=sites)
        if truncation != 1.0:
            w = self.mapping.w_mean.lerp(w, truncation)
        return self.synthesize(self.repeat(w), noise)


class DiscriminatorBlock(nn.Module):
    """Two convolutions and a shortcut, halving the resolution (StyleGAN2, Figure 7c)."""

    def __init__(self, in_channels: int, out_channels: int, *, resampling: str) -> None:
        super().__init__()
        self.resampling = resampling
        self.conv0 = EqualizedConv(in_channels, in_channels, 3, activate=True)
        self.conv1 = EqualizedConv(in_channels, out_channels, 3, activate=True, stride=2 if resampling == "fir" else 1)
        self.shortcut = EqualizedConv(in_channels, out_channels, 1, bias=False)

    def convs(self) -> list[tuple[EqualizedConv, float]]:
        """Return the convolutions, and the factor on the result of each.

        Both branches carry 1 / sqrt(2), so that their sum keeps the variance.
        """
        return [(self.conv0, 1.0), (self.conv1, math.sqrt(0.5)), (self.shortcut, math.sqrt(0.5))]

    def forward(self, x: Tensor, ready: Sequence[ReadyConv]) -> Tensor:
        """Map (batch, in_channels, r, r) to (batch, out_channels, r / 2, r / 2).

        `ready` is what :func:`~federation.models.stylegan2.preparation.prepare_convs` made of :meth:`convs`.
        """
        y = self.conv0(x, ready[0])
        if self.resampling == "fir":
            x, y = filter_images(x, "down"), filter_images(y, "before-strided")
        else:
            x, y = average_pairs(x), average_pairs(y)
        return self.shortcut(x, ready[2]) + self.conv1(y, ready[1])


def minibatch_std(x: Tensor, group: int) -> Tensor:
    """Add a channel that says how much the images of a group differ (Karras et al. 2018, Section 3).

    Parameters
    ----------
    x
        (batch, channels, height, width); neighbours form groups.
    group
        Images in a group; divides the batch.

    Returns
    -------
    (batch, channels + 1, height, width): the standard deviation over the group, averaged over channels and pixels.
    """
    batch, _, height, width = x.shape
    grouped = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(0, (-1, group))
    # The epsilon keeps the gradient of the square root finite where images are equal.
    deviation = (grouped.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    channel = deviation.repeat_interleave(group, output_size=batch).to(x.dtype)
    return torch.cat([x, channel[:, None, None, None].expand(-1, 1, height, width)], dim=1)


class Discriminator(nn.Module):
    """StyleGAN2's residual discriminator with projection conditioning (Miyato & Koyama 2018, Eq. 3).

    Parameters
    ----------
    resolution, channels, num_classes, resampling
        As of :class:`Generator`.
    minibatch_std_group
        Images in a group of :func:`minibatch_std`; 0: without.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: Sequence[int],
        num_classes: int,
        resampling: str,
        minibatch_std_group: int = 0,
    ) -> None:
        super().__init__()
        assert resolution == 2 ** (len(channels) + 1)
        self.resolution = resolution
        self.num_classes = num_classes
        self.minibatch_std_group = minibatch_std_group
        self.compute_dtype = torch.float32
        self.from_rgb = EqualizedConv(3, channels[-1], 1, activate=True)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(channels[level], channels[level - 1], resampling=resampling)
            for level in range(len(channels) - 1, 0, -1)
        )
        self.conv = EqualizedConv(channels[0] + (minibatch_std_group > 0), channels[0], 3, activate=True)
        self.dense = EqualizedLinear(channels[0] * 16, channels[0], activate=True)
        self.output = EqualizedLinear(channels[0], 1)
        self.class_projection = nn.Parameter(torch.zeros(num_classes, channels[0])) if num_classes else None

    def forward(self, images: Tensor, labels: Tensor | None, label_weights: Tensor | None = None) -> Tensor:
        """Judge images.

        Parameters
        ----------
        images
            (batch, 3, resolution, resolution) in [-1, 1].
        labels
            (batch,) int64, or None without classes.
        label_weights
            (batch,) in [0, 1]: how much of each label is heard. None: all of it.

        Returns
        -------
        Logits (batch,), fp32: high for real images.
        """
        x = images.to(self.compute_dtype, memory_format=torch.channels_last)
        blocks = [block for block in self.blocks if isinstance(block, DiscriminatorBlock)]
        convs = [conv for block in blocks for conv in block.convs()]
        ready = prepare_convs([(self.from_rgb, 1.0), *convs, (self.conv, 1.0)], self.compute_dtype)
        x = self.from_rgb(x, ready[0])
        for number, block in enumerate(blocks):
            x = block(x, ready[1 + 3 * number : 4 + 3 * number])
        if self.minibatch_std_group:
            x = minibatch_std(x, self.minibatch_std_group)
        x = self.conv(x, ready[-1])
        features = self.dense(x.to(self.dense.weight.dtype).flatten(1))
        logits = self.output(features).squeeze(1)
        if self.class_projection is not None:
            assert labels is not None, "a conditional discriminator needs labels"
            projection = (features * self.class_projection[labels]).sum(dim=1)
            if label_weights is not None:
                projection = projection * label_weights
            logits = logits + projection / math.sqrt(features.shape[1])
        return logits
