"""One training step of StyleGAN2 as the papers write it: plain, slow, to be checked line by line.

What `federation.models.stylegan2` does fast must have this result. Tests compare the two in fp64, and
``step_ablation.py`` takes this for its slowest variant. Nothing here is shared with that package but names and
shapes of parameters, the configuration, and the order in which random numbers are drawn. Hence: weights are
modulated sample by sample in one grouped convolution; filters are depthwise convolutions of an image with zeros
put in; each loss has forward passes of its own; Adam and the running average are written out. Tensors are
(batch, channels, height, width) in memory too, in whatever type the parameters have.

Sources, cited beside the lines: Karras et al. 2018 (progressive growing, arXiv 1710.10196), 2019 (StyleGAN,
arXiv 1812.04948), 2020a (StyleGAN2, arXiv 1912.04958), 2020b (StyleGAN2-ADA, arXiv 2006.06676); Huang et al. 2024
(R3GAN, arXiv 2501.05441); Mescheder et al. 2018 (arXiv 1801.04406); Miyato & Koyama 2018 (arXiv 1802.05637);
Kingma & Ba 2015 (Adam, arXiv 1412.6980).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from federation.config import Configuration
from federation.models.stylegan2.settings import StyleGAN2Settings
from federation.settings.training import TrainingSettings

Tensors = Mapping[str, Tensor]
"""Tensors by the names of a network's ``state_dict()``."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""From images and a random stream to what the discriminator sees of them."""

BUFFERS = ("mapping.w_mean", "mapping.label_weight")
"""Entries of the generator that no gradient moves."""


# ---------------------------------------------------------------- layers


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 times sqrt(2), which keeps the variance."""
    return math.sqrt(2) * F.leaky_relu(x, 0.2)


def fully_connected(x: Tensor, weight: Tensor, bias: Tensor, multiplier: float = 1.0) -> Tensor:
    """Equalised learning rate (2018, Section 4.1): weights are divided by sqrt(fan-in) at run time.

    Parameters
    ----------
    x
        (batch, in_features).
    weight, bias
        (out_features, in_features) and (out_features,).
    multiplier
        Of the learning rate: 0.01 in the mapping network (2019, Appendix C).

    Returns
    -------
    (batch, out_features).
    """
    scaled = weight * (multiplier / math.sqrt(weight.shape[1]))
    return x @ scaled.T + bias * multiplier


def scaled_kernel(weight: Tensor) -> Tensor:
    """Equalised learning rate of a convolution: (out, in, k, k) divided by sqrt(in k k)."""
    return weight / math.sqrt(weight.shape[1] * weight.shape[2] * weight.shape[3])


def normalise(x: Tensor) -> Tensor:
    """Scale the rows of (batch, features) to mean square 1 (2018, Section 4.2)."""
    return x / torch.sqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


# ---------------------------------------------------------------- resampling


def insert_zeros(x: Tensor) -> Tensor:
    """Put a zero behind every pixel, across and down: (batch, channels, n, n) to (batch, channels, 2 n, 2 n)."""
    batch, channels, height, width = x.shape
    # Last axis first: one zero behind each pixel of a row, none between rows, one row of zeros behind each row.
    cells = F.pad(x.reshape(batch, channels, height, 1, width, 1), (0, 1, 0, 0, 0, 1))
    return cells.reshape(batch, channels, 2 * height, 2 * width)


def fir(x: Tensor, padding: tuple[int, int], stride: int = 1, gain: float = 1.0) -> Tensor:
    """Filter each channel with [1, 3, 3, 1] across and down, StyleGAN2's filter (why: Zhang 2019, arXiv 1904.11486).

    Parameters
    ----------
    x
        (batch, channels, n, n).
    padding
        Zeros before and behind, on either axis.
    stride
        Keeps every so many pixels.
    gain
        Factor on the filter, whose taps otherwise sum to 1; 4 where 3 of 4 pixels are zeros put in.

    Returns
    -------
    (batch, channels, m, m) with m = (n + before + behind - 4) // stride + 1.
    """
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps) / 64 * gain
    channels = x.shape[1]
    before, behind = padding
    x = F.pad(x, (before, behind, before, behind))
    return F.conv2d(x, kernel.expand(channels, 1, 4, 4), stride=stride, groups=channels)


def enlarge(image: Tensor, resampling: str) -> Tensor:
    """Double height and width."""
    if resampling == "fir":
        return fir(insert_zeros(image), padding=(2, 1), gain=4)
    return F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)


# ---------------------------------------------------------------- generator


def mapping_network(p: Tensors, z: Tensor, labels: Tensor | None, label_weights: Tensor | None) -> Tensor:
    """Map z, and the class where there is one, to w (2019, Figure 1b; with classes as in 2020b).

    Parameters
    ----------
    p
        The generator's parameters.
    z
        (batch, latent_size), standard normal.
    labels
        (batch,) int64; None without classes.
    label_weights
        (batch,): how much of each label is heard. None: ``mapping.label_weight`` of each.

    Returns
    -------
    (batch, latent_size).
    """
    x = normalise(z)
    if labels is not None:
        embedding = normalise(p["mapping.class_embedding"][labels])
        heard = p["mapping.label_weight"] if label_weights is None else label_weights[:, None]
        x = torch.cat([x, embedding * heard], dim=1)
    layer = 0
    while f"mapping.layers.{layer}.weight" in p:
        weight, bias = p[f"mapping.layers.{layer}.weight"], p[f"mapping.layers.{layer}.bias"]
        x = leaky_relu(fully_connected(x, weight, bias, multiplier=0.01))
        layer += 1
    return x


def modulated_convolution(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, zeros_between: bool = False
) -> Tensor:
    """Convolve each sample with weights of its own (2020a, Section 2.2).

    Parameters
    ----------
    x
        (batch, in, n, n).
    weight
        (out, in, k, k), common to all samples.
    style
        (batch, in): the scale of each input channel.
    demodulate
        Whether weights are scaled back to unit norm.
    zeros_between
        Whether zeros are put between pixels first. The stored kernel is then the mirrored one.

    Returns
    -------
    (batch, out, n, n), or (batch, out, 2 n + 1, 2 n + 1) with zeros between.
    """
    batch, channels, _, _ = x.shape
    filters, _, size, _ = weight.shape
    weights = scaled_kernel(weight)[None] * style[:, None, :, None, None]  # 2020a, Eq. 1: w' = s w
    if demodulate:
        norm = torch.sqrt(weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
        weights = weights / norm  # 2020a, Eq. 3: w'' = w' / sqrt(sum w'^2 + epsilon)
    if zeros_between:
        # The last pixel has a zero behind it already, so that 2 and 1 more make 2 zeros on every side.
        x = F.pad(insert_zeros(x), (2, 1, 2, 1))
        weights = weights.flip(3, 4)
    else:
        x = F.pad(x, (size // 2,) * 4)
    # One group for each sample (2020a, Appendix B): channels of all samples side by side in one image.
    x = x.reshape(1, batch * channels, x.shape[2], x.shape[3])
    y = F.conv2d(x, weights.reshape(batch * filters, channels, size, size), groups=batch)
    return y.reshape(batch, filters, y.shape[2], y.shape[3])


def style_of(p: Tensors, layer: str, w: Tensor) -> Tensor:
    """Return the scale of each input channel of a layer, (batch, in), from w (the box A of 2020a, Figure 2)."""
    return fully_connected(w, p[f"{layer}.style.weight"], p[f"{layer}.style.bias"])


def synthesis_network(p: Tensors, styles: Tensor, noise: list[Tensor], resampling: str) -> Tensor:
    """Draw images (2020a, Figure 2d, with the skip connections of Figure 7b).

    Parameters
    ----------
    p
        The generator's parameters.
    styles
        (batch, number of layers + 1, latent_size): w for each layer, and one for the last ToRGB.
    noise
        For each layer (batch, 1, n, n), standard normal.
    resampling
        ``"fir"`` or ``"bilinear"``.

    Returns
    -------
    (batch, 3, resolution, resolution), about [-1, 1].
    """
    x = p["constant"].repeat(len(styles), 1, 1, 1)
    image: Tensor | None = None
    for layer in range(len(noise)):
        name = f"layers.{layer}"
        style, weight = style_of(p, f"{name}.conv", styles[:, layer]), p[f"{name}.conv.weight"]
        is_first_of_resolution = layer % 2 == 1  # layer 0 stands alone at 4 px; then two for each resolution
        if is_first_of_resolution and resampling == "fir":
            x = fir(modulated_convolution(x, weight, style, zeros_between=True), padding=(1, 1), gain=4)
        elif is_first_of_resolution:
            x = enlarge(modulated_convolution(x, weight, style), resampling)
        else:
            x = modulated_convolution(x, weight, style)
        x = x + p[f"{name}.noise_strength"] * noise[layer]
        x = leaky_relu(x + p[f"{name}.bias"][:, None, None])
        if not is_first_of_resolution:
            level = layer // 2
            # ToRGB takes the style of the layer after it.
            style, weight = style_of(p, f"to_rgb.{level}", styles[:, layer + 1]), p[f"to_rgb.{level}.weight"]
            rgb = modulated_convolution(x, weight, style, demodulate=False) + p["rgb_bias"][level][:, None, None]
            image = rgb if image is None else enlarge(image, resampling) + rgb
    assert image is not None
    return image


# ---------------------------------------------------------------- discriminator


def discriminator_block(p: Tensors, name: str, x: Tensor, resampling: str) -> Tensor:
    """Map (batch, in, n, n) to (batch, out, n / 2, n / 2) by two convolutions beside a shortcut (2020a, Figure 7c)."""
    y = leaky_relu(
        F.conv2d(x, scaled_kernel(p[f"{name}.conv0.weight"]), p[f"{name}.conv0.bias"], padding=1),
    )
    kernel, bias = scaled_kernel(p[f"{name}.conv1.weight"]), p[f"{name}.conv1.bias"]
    if resampling == "fir":
        y = leaky_relu(F.conv2d(fir(y, padding=(2, 2)), kernel, bias, stride=2))
        x = fir(x, padding=(1, 1), stride=2)
    else:
        y = leaky_relu(F.conv2d(F.avg_pool2d(y, 2), kernel, bias, padding=1))
        x = F.avg_pool2d(x, 2)
    shortcut = F.conv2d(x, scaled_kernel(p[f"{name}.shortcut.weight"]))
    return (y + shortcut) / math.sqrt(2)  # 2020a, Appendix B: doubles the variance otherwise


def add_minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """Add one channel that says how much neighbouring images differ (2018, Section 3).

    Parameters
    ----------
    x
        (batch, channels, n, n).
    group
        Number of images compared; divides the batch.

    Returns
    -------
    (batch, channels + 1, n, n).
    """
    channels = []
    for start in range(0, len(x), group):
        images = x[start : start + group]
        variance = (images - images.mean(dim=0)).square().mean(dim=0)
        deviation = torch.sqrt(variance + 1e-8).mean()  # over channels and pixels
        channels.append(deviation.expand(len(images), 1, *x.shape[2:]))
    return torch.cat([x, torch.cat(channels)], dim=1)


def discriminator(
    p: Tensors, images: Tensor, labels: Tensor | None, label_weights: Tensor | None, settings: StyleGAN2Settings
) -> Tensor:
    """Judge images: (batch, 3, resolution, resolution) to logits (batch,), high for real ones.

    Parameters
    ----------
    p
        The discriminator's parameters.
    images
        (batch, 3, resolution, resolution), about [-1, 1].
    labels
        (batch,) int64; None without classes.
    label_weights
        (batch,): how much of each label is heard. None: all of it.
    settings
        Its `resampling` and `minibatch_std`.
    """
    x = leaky_relu(F.conv2d(images, scaled_kernel(p["from_rgb.weight"]), p["from_rgb.bias"]))
    block = 0
    while f"blocks.{block}.conv0.weight" in p:
        x = discriminator_block(p, f"blocks.{block}", x, settings.resampling)
        block += 1
    if settings.minibatch_std:
        x = add_minibatch_deviation(x, settings.minibatch_std)
    x = leaky_relu(F.conv2d(x, scaled_kernel(p["conv.weight"]), p["conv.bias"], padding=1))
    features = leaky_relu(fully_connected(x.flatten(1), p["dense.weight"], p["dense.bias"]))
    logits = fully_connected(features, p["output.weight"], p["output.bias"])[:, 0]
    if labels is not None:
        # Miyato & Koyama 2018, Eq. 3, scaled like every other layer.
        projection = (p["class_projection"][labels] * features).sum(dim=1) / math.sqrt(features.shape[1])
        logits = logits + (projection if label_weights is None else projection * label_weights)
    return logits


# ---------------------------------------------------------------- losses


def generator_loss(real: Tensor | None, fake: Tensor) -> Tensor:
    """Return the generator's loss on logits (batch,); without `real`, the logistic one."""
    if real is None:
        return -F.logsigmoid(fake).mean()  # Goodfellow et al. 2014, Section 3: not saturating
    return -F.logsigmoid(fake - real).mean()  # R3GAN, Eq. 2: fakes outrank the real images they are paired with


def discriminator_loss(real: Tensor, fake: Tensor, loss: str) -> Tensor:
    """Return the discriminator's loss on logits (batch,) of each kind."""
    if loss == "logistic":
        return -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean()  # Goodfellow et al. 2014, Eq. 1
    return -F.logsigmoid(real - fake).mean()  # R3GAN, Eq. 2


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Return the mean over images of the squared norm of the gradient (Mescheder et al. 2018, Eq. 9 and 10)."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, styles: Tensor, y: Tensor) -> Tensor:
    """Return |J^T y| for each image (2020a, Eq. 4), (batch,).

    Parameters
    ----------
    images
        (batch, 3, r, r), that came from `styles`.
    styles
        (batch, number of styles, latent_size).
    y
        Like `images`: a random direction, N(0, I) / r, so that lengths do not depend on the resolution.

    Returns
    -------
    (batch,): the norm is the root of the mean over styles of squared norms.
    """
    # 2020a, Section 3.2: J^T y is the gradient of <image, y>.
    (gradient,) = torch.autograd.grad((images * y).sum(), styles, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


# ---------------------------------------------------------------- random numbers


@dataclass(frozen=True)
class Draws:
    """All that is random about a batch of generated images."""

    z: Tensor
    """(batch, latent_size)."""
    labels: Tensor | None
    """(batch,) int64; None without classes."""
    label_weights: Tensor | None
    """(batch,); None: all of each label is heard."""
    other_z: Tensor | None
    """(batch, latent_size): the latents mixed in; None without style mixing."""
    is_other: Tensor | None
    """(batch, number of styles) bool: which layers take their style from `other_z`."""
    noise: list[Tensor]
    """For each layer (batch, 1, n, n)."""


def draw_normal(shape: tuple[int, ...], stream: torch.Generator, like: Tensor) -> Tensor:
    """Draw standard normal numbers in fp32, whatever type is computed in: all types see the same."""
    return torch.randn(shape, generator=stream, device=stream.device, dtype=torch.float32).to(like)


def draw_images(
    labels: Tensor | None,
    label_weights: Tensor | None,
    count: int,
    p: Tensors,
    settings: StyleGAN2Settings,
    stream: torch.Generator,
) -> Draws:
    """Draw latents, style mixing and noise of `count` images."""
    like = p["constant"]
    latent_size = p["mapping.w_mean"].shape[0]
    num_layers = sum(name.endswith("noise_strength") for name in p)
    num_styles = num_layers + 1
    z = draw_normal((count, latent_size), stream, like)
    other_z = is_other = None
    if settings.style_mixing > 0:  # 2019, Section 3.1
        other_z = draw_normal((count, latent_size), stream, like)
        is_mixed, crossover = torch.rand(2, count, generator=stream, device=stream.device).to(like.device)
        first = 1 + torch.floor(crossover * (num_styles - 1))  # at least one layer keeps its own style
        is_other = (torch.arange(num_styles, device=like.device) >= first[:, None]) & (
            is_mixed < settings.style_mixing
        )[:, None]
    sides = [4 * 2 ** ((layer + 1) // 2) for layer in range(num_layers)]  # 4, 8, 8, 16, 16, …
    noise = [draw_normal((count, 1, side, side), stream, like) for side in sides]
    return Draws(z, labels, label_weights, other_z, is_other, noise)


def draw_label_weights(
    count: int, num_steps: int, p: Tensors, settings: StyleGAN2Settings, stream: torch.Generator
) -> tuple[Tensor | None, float]:
    """Draw which labels are hidden; return the weight of each label and what is heard of labels that are not.

    Classes are blended in over time (transitional conditioning, Shahbazi et al. 2022, arXiv 2201.06578).
    """
    start, length = settings.transition_start_images, settings.transition_images
    if start == length == settings.label_dropout == 0:
        return None, float(p["mapping.label_weight"])
    shown = num_steps * count
    heard = 0.0 if shown < start else 1.0
    if length > 0:
        heard = min(max((shown - start) / length, 0.0), 1.0)
    is_kept = torch.rand(count, generator=stream, device=stream.device) >= settings.label_dropout
    return is_kept.to(p["constant"]) * heard, heard


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class State:
    """What training carries from step to step."""

    generator: Tensors
    """Parameters and `BUFFERS`."""
    discriminator: Tensors
    """Parameters."""
    generator_ema: Tensors
    """Running average of the generator, with its buffers."""
    moments: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]
    """Adam's m and v by network and parameter."""
    path_length_mean: Tensor
    """2020a, Eq. 4: a. 0-d."""
    num_steps: int
    """Steps taken."""


@dataclass(frozen=True)
class Step:
    """What one step gives."""

    state: State
    """After the step."""
    gradients: Mapping[str, Tensors]
    """By network and parameter."""
    terms: Tensors
    """Losses, penalties and mean logits, each 0-d."""


def initial_state(generator: Tensors, discriminator: Tensors, generator_ema: Tensors) -> State:
    """Return the state before the first step, from copies of the networks' ``state_dict()``."""
    networks = {"generator": generator, "discriminator": discriminator, "generator_ema": generator_ema}
    copies = {
        network: {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
        for network, tensors in networks.items()
    }
    moments = {
        network: {
            name: (torch.zeros_like(value), torch.zeros_like(value))
            for name, value in copies[network].items()
            if name not in BUFFERS
        }
        for network in ("generator", "discriminator")
    }
    path_length_mean = torch.zeros_like(copies["generator"]["mapping.w_mean"][0])
    return State(**copies, moments=moments, path_length_mean=path_length_mean, num_steps=0)


def generate(p: Tensors, draws: Draws, settings: StyleGAN2Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (batch, 3, r, r), the styles they came from and w (batch, latent_size) before mixing."""
    w = mapping_network(p, draws.z, draws.labels, draws.label_weights)
    styles = w[:, None].repeat(1, len(draws.noise) + 1, 1)
    if draws.other_z is not None and draws.is_other is not None:
        other = mapping_network(p, draws.other_z, draws.labels, draws.label_weights)
        styles = torch.where(draws.is_other[:, :, None], other[:, None], styles)
    return synthesis_network(p, styles, draws.noise, settings.resampling), styles, w


def gradients_of(objective: Tensor, p: Tensors) -> Tensors:
    """Return the gradient by every parameter; 0 by one that has no part in `objective`."""
    names = [name for name in p if name not in BUFFERS]
    gradients = torch.autograd.grad(objective, [p[name] for name in names], allow_unused=True, materialize_grads=True)
    return dict(zip(names, gradients, strict=True))


def adam(
    p: Tensors,
    gradients: Tensors,
    moments: Mapping[str, tuple[Tensor, Tensor]],
    step: int,
    training: TrainingSettings,
) -> tuple[Tensors, Mapping[str, tuple[Tensor, Tensor]]]:
    """Return parameters and moments after Adam's step number `step`, from 1 (Kingma & Ba 2015, Algorithm 1)."""
    updated, new_moments = dict(p), {}
    for name, gradient in gradients.items():
        m, v = moments[name]
        m = training.beta1 * m + (1 - training.beta1) * gradient
        v = training.beta2 * v + (1 - training.beta2) * gradient.square()
        unbiased_m, unbiased_v = m / (1 - training.beta1**step), v / (1 - training.beta2**step)
        updated[name] = p[name].detach() - training.learning_rate * unbiased_m / (unbiased_v.sqrt() + 1e-8)
        new_moments[name] = (m, v)
    return updated, new_moments


def training_step(
    state: State,
    configuration: Configuration,
    images: Tensor,
    labels: Tensor,
    stream: torch.Generator,
    augment: Augment = lambda images, stream: images,
) -> Step:
    """Take one step of both networks; neither changes before both gradients are known.

    Parameters
    ----------
    state
        Before the step; unchanged.
    configuration
        Its ``model``, ``training`` and ``stylegan2`` are read.
    images
        (batch, 3, resolution, resolution) in [-1, 1], real.
    labels
        (batch,) int64; ignored by an unconditional model.
    stream
        Of all random numbers.
    augment
        What the discriminator sees of images. It draws for real and generated images at once where neither a
        penalty nor the minibatch standard deviation forbids to judge both in one pass, else for fakes, then reals.
    """
    training, settings = configuration.training, configuration.own(StyleGAN2Settings)
    images = images.contiguous()
    batch = len(images)
    is_relativistic = settings.loss == "relativistic"
    with_penalty = settings.gamma > 0 and state.num_steps % settings.penalty_every == 0
    with_path_length = settings.path_length_weight > 0 and state.num_steps % settings.path_length_every == 0
    g = {name: value.detach().requires_grad_(name not in BUFFERS) for name, value in state.generator.items()}
    d = {name: value.detach().requires_grad_() for name, value in state.discriminator.items()}

    # All random numbers of the fakes, in order.
    real_labels = fake_labels = label_weights = None
    if "mapping.class_embedding" in g:
        real_labels = fake_labels = labels
        if settings.fake_labels == "uniform":
            num_classes = len(g["mapping.class_embedding"])
            fake_labels = torch.randint(num_classes, labels.shape, generator=stream, device=stream.device)
            fake_labels = fake_labels.to(labels.device)
        label_weights, heard = draw_label_weights(batch, state.num_steps, g, settings, stream)
        g["mapping.label_weight"] = torch.full_like(g["mapping.label_weight"], heard)
    draws = draw_images(fake_labels, label_weights, batch, g, settings, stream)

    # Both losses see the same augmentations: the generator's draws come from a copy of the stream.
    jointly = not with_penalty and not settings.minibatch_std

    def seen(kinds: list[Tensor], stream: torch.Generator) -> list[Tensor]:
        if jointly:
            return list(augment(torch.cat(kinds), stream).chunk(len(kinds)))
        return [augment(kind, stream) for kind in kinds]

    # The generator's loss.
    fakes, _, w = generate(g, draws, settings)
    kinds = [fakes, images] if is_relativistic or jointly else [fakes]
    seen_images = seen(kinds, stream.clone_state())
    fake_logits = discriminator(d, seen_images[0], fake_labels, label_weights, settings)
    real_logits = discriminator(d, seen_images[1], real_labels, label_weights, settings) if is_relativistic else None
    loss_of_generator = generator_loss(real_logits, fake_logits)
    gradients = {"generator": gradients_of(loss_of_generator, g)}

    # The discriminator's loss, on fakes that no gradient follows into the generator.
    with torch.no_grad():
        fakes, _, _ = generate(g, draws, settings)
    fakes.requires_grad_(with_penalty)
    reals = images.detach().requires_grad_(with_penalty)
    seen_fakes, seen_reals = seen([fakes, reals], stream)
    fake_logits = discriminator(d, seen_fakes, fake_labels, label_weights, settings)
    real_logits = discriminator(d, seen_reals, real_labels, label_weights, settings)
    loss_of_discriminator = discriminator_loss(real_logits, fake_logits, settings.loss)
    terms = {
        "loss-generator": loss_of_generator,
        "loss-discriminator": loss_of_discriminator,
        "logit-real": real_logits.mean(),
        "logit-fake": fake_logits.mean(),
    }
    objective = loss_of_discriminator
    if with_penalty:
        # R1 is at real images, R2 at generated ones (R3GAN has both). Taken in every so many steps, each counts
        # for as many (lazy regularisation: 2020a, Section 3.1 and Appendix B).
        terms["penalty-real"] = gradient_penalty(real_logits, reals)
        penalties = terms["penalty-real"]
        if is_relativistic:
            terms["penalty-fake"] = gradient_penalty(fake_logits, fakes)
            penalties = penalties + terms["penalty-fake"]
        objective = objective + settings.gamma / 2 * settings.penalty_every * penalties
    gradients["discriminator"] = gradients_of(objective, d)

    # Path lengths, on half a batch (2020a, Appendix B).
    path_length_mean = state.path_length_mean
    if with_path_length:
        count = max(batch // 2, 1)
        half_labels = None if fake_labels is None else fake_labels[:count]
        half_weights = None if label_weights is None else label_weights[:count]
        half = draw_images(half_labels, half_weights, count, g, settings, stream)
        path_images, styles, _ = generate(g, half, settings)
        y = draw_normal(tuple(path_images.shape), stream, path_images) / configuration.model.resolution
        lengths = path_lengths(path_images, styles, y)
        # The running mean moves first and is a constant in the penalty.
        decay = settings.path_length_decay
        path_length_mean = (1 - decay) * path_length_mean + decay * lengths.detach().mean()
        penalty = (lengths - path_length_mean).square().mean()  # 2020a, Eq. 4: E (|J^T y| - a)^2
        terms["penalty-path-length"] = penalty
        extra = gradients_of(settings.path_length_weight * settings.path_length_every * penalty, g)
        gradients["generator"] = {name: value + extra[name] for name, value in gradients["generator"].items()}

    # Adam.
    num_steps = state.num_steps + 1
    new_generator, generator_moments = adam(g, gradients["generator"], state.moments["generator"], num_steps, training)
    new_discriminator, discriminator_moments = adam(
        d, gradients["discriminator"], state.moments["discriminator"], num_steps, training
    )

    # Running averages: of w, for truncation (2019, Appendix B), with a decay of 0.995; of the generator, with a
    # half-life of at most a share of the images shown so far (2020b, Appendix C).
    new_generator["mapping.w_mean"] = 0.995 * state.generator["mapping.w_mean"] + 0.005 * w.detach().mean(dim=0)
    half_life = min(training.ema_half_life_images, training.ema_ramp * num_steps * batch)
    decay = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
    ema = {
        name: new if name in BUFFERS else decay * state.generator_ema[name] + (1 - decay) * new
        for name, new in new_generator.items()
    }
    return Step(
        state=State(
            generator=new_generator,
            discriminator=new_discriminator,
            generator_ema=ema,
            moments={"generator": generator_moments, "discriminator": discriminator_moments},
            path_length_mean=path_length_mean,
            num_steps=num_steps,
        ),
        gradients=gradients,
        terms={name: term.detach() for name, term in terms.items()},
    )
