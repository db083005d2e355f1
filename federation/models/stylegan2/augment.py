"""Augmentation of what the discriminator sees, written from the papers.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (arXiv 2006.06676): a random
transform that leaves enough images alone does not leak into the generator, and its probability can follow how
far the discriminator overfits. Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training"
(arXiv 2006.10738): a fixed, always-on set.

All are affine in the image, so gradients and gradients of gradients (R1) pass through. Nothing waits for a
value to come back from the device; whether a transform applies is decided by comparing draws there.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from federation.models.stylegan2.settings import AUGMENTATION_TRANSFORMS

# In the order of application: seven of geometry, then colour.
TRANSFORMS = AUGMENTATION_TRANSFORMS
GEOMETRIC_TRANSFORMS, COLOUR_TRANSFORMS = TRANSFORMS[:7], TRANSFORMS[7:]
DIFF_AUGMENT_POLICY: tuple[str, ...] = ("colour", "translation", "cutout")


def augment(images: Tensor, p: Tensor | float, transforms: Collection[str], stream: torch.Generator) -> Tensor:
    """Apply each of `transforms` to each image with probability `p`, independently.

    Geometric transforms are composed and sampled once; so are the colour transforms.

    Parameters
    ----------
    images
        (batch, 3, r, r), about [-1, 1], fp32 or fp64; r a power of two, so that pixel centres are exact.
    p
        In [0, 1]; a number or a 0-d tensor on the images' device. 0 gives the images back bit for bit.
    transforms
        Names from ``TRANSFORMS``, in any order. Each draws the same numbers whichever others of its kind
        (geometric, colour) stand beside it.
    stream
        Of all draws.

    Returns
    -------
    Tensor like `images`; contiguous, unless nothing had to be done.

    Raises
    ------
    ValueError
        If a name is not in ``TRANSFORMS``.

    Notes
    -----
    Departures from the paper: it resamples through a sym6 wavelet filter at twice the resolution, we bilinearly,
    so fractional motion blurs a little and strong shrinking aliases. Flips, quarter turns and whole-pixel shifts
    move pixels exactly, as in the paper. The border is mirrored at the pixel's edge, not at its centre.
    Image-space filtering and corruption (its last two groups) are left out: they did not help there.

    On a GPU the gradient of the sampling is summed in no fixed order: not reproducible to the last bit.

    References
    ----------
    Karras et al. 2020, arXiv 2006.06676, Section 2.3 and Appendix B.
    """
    _check_names(transforms, TRANSFORMS, "augmentation transform")
    if any(name in transforms for name in GEOMETRIC_TRANSFORMS):
        images = _resample(images, _inverse_geometry(images, p, transforms, stream), padding_mode="reflection")
    if any(name in transforms for name in COLOUR_TRANSFORMS):
        matrix, offset = _colour_map(images, p, transforms, stream)
        images = torch.baddbmm(offset, matrix, images.flatten(2)).reshape(images.shape)
    return images


def diff_augment(images: Tensor, stream: torch.Generator, policy: Collection[str] = DIFF_AUGMENT_POLICY) -> Tensor:
    """Apply DiffAugment's transforms to every image.

    Parameters
    ----------
    images
        (batch, 3, r, r), about [-1, 1], fp32 or fp64; r a power of two.
    stream
        Of all draws.
    policy
        Any of "colour" (brightness, saturation, contrast), "translation" (whole pixels, up to 1/8 of the side,
        zeros move in), "cutout" (a square of half the side around a random corner of pixels becomes 0).

    Returns
    -------
    Tensor like `images`.

    Raises
    ------
    ValueError
        If a name is none of these.

    References
    ----------
    Zhao et al. 2020, arXiv 2006.10738, Section 3.
    """
    _check_names(policy, DIFF_AUGMENT_POLICY, "DiffAugment policy")
    batch, _, side, _ = images.shape
    device = stream.device
    factors = torch.rand(3, batch, 1, 1, 1, generator=stream, device=device).to(images)
    shifts = torch.randint(-(side // 8), side // 8 + 1, (2, batch), generator=stream, device=device).to(images)
    # A square of an even side has its centre between pixels: the image's two ends are among the places for it.
    centres = torch.randint(side + 1, (2, batch), generator=stream, device=device).to(images)
    if "colour" in policy:
        brightness, saturation, contrast = factors
        images = images + (brightness - 0.5)
        grey = images.mean(dim=1, keepdim=True)
        images = (images - grey) * (2 * saturation) + grey
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = (images - mean) * (contrast + 0.5) + mean
    if "translation" in policy:
        images = _resample(images, _translate(*(-2 / side * shifts)), padding_mode="zeros")
    if "cutout" in policy:
        pixels = torch.arange(side, device=images.device, dtype=images.dtype)
        distance = pixels - centres[:, :, None]
        inside_x, inside_y = (distance >= -(side // 4)) & (distance < side // 4)
        images = images.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)
    return images


def adapted_probability(p: Tensor, mean_sign: Tensor, *, target: float, num_images: int, ada_kimg: float) -> Tensor:
    """Move the probability of augmentation by one step towards the target.

    Parameters
    ----------
    p
        0-d, in [0, 1]: the probability so far.
    mean_sign
        0-d, in [-1, 1]: mean sign of the discriminator's logits on real images since the last step (the paper's
        r_t). Near 1 the discriminator knows its training images by heart.
    target
        Value of `mean_sign` to hold; 0.6 in the paper.
    num_images
        Real images seen since the last step.
    ada_kimg
        Thousands of images in which `p` can rise from 0 to 1; 500 in the paper.

    Returns
    -------
    p + sign(mean_sign - target) num_images / (1000 ada_kimg), clamped to [0, 1]; 0-d.

    References
    ----------
    Karras et al. 2020, arXiv 2006.06676, Section 3, Eq. 1.
    """
    return (p + torch.sign(mean_sign - target) * (num_images / (1000 * ada_kimg))).clamp(0.0, 1.0)


def _check_names(names: Collection[str], choices: tuple[str, ...], kind: str) -> None:
    unknown = [name for name in names if name not in choices]
    if unknown:
        raise ValueError(f"unknown {kind} {', '.join(map(repr, unknown))}; choose from {', '.join(choices)}")


def _inverse_geometry(
    images: Tensor, p: Tensor | float, transforms: Collection[str], stream: torch.Generator
) -> Tensor:
    """Draw a transform for each image: the map from a place in the result to its place in the image.

    Returns
    -------
    (batch, 3, 3): G⁻¹ on homogeneous (x, y), in [-1, 1] from the left upper to the right lower corner. Exactly
    the identity where nothing applies.
    """
    batch, _, side, _ = images.shape
    uniform = torch.rand(14, batch, generator=stream, device=stream.device).to(images)
    normal = torch.randn(4, batch, generator=stream, device=stream.device).to(images)
    # P(turned before or after the anisotropic scaling) = p.
    p_rotation = 1 - (1 - p) ** 0.5
    flipped, turned, moved, scaled, stretched, shifted = (uniform[:6] < p).to(images)
    turned_before, turned_after = (uniform[6:8] < p_rotation).to(images)
    flip, turn, right, down, before, after = uniform[8:]
    scale, stretch, shift_right, shift_down = normal

    # G = Tₙ … T₁, so G⁻¹ = T₁⁻¹ … Tₙ⁻¹. Every parameter is multiplied by whether it applies, as 0 is "no change".
    inverses: list[Tensor] = []
    if "x-flip" in transforms:
        flip = (2 * flip).floor() * flipped  # U{0, 1}
        inverses.append(_scale(1 - 2 * flip, torch.ones_like(flip)))
    if "rotate90" in transforms:
        turn = (4 * turn).floor() * turned  # U{0, 3}
        inverses.append(_rotate(math.pi / 2 * turn).round())  # 0 and ±1 exactly
    if "integer-translation" in transforms:
        right, down = (torch.stack([right, down]) * 0.25 - 0.125) * moved
        inverses.append(_translate(-2 / side * (right * side).round(), -2 / side * (down * side).round()))
    if "scale" in transforms:
        scale = torch.exp2(-0.2 * scale * scaled)
        inverses.append(_scale(scale, scale))
    if "rotation" in transforms:
        inverses.append(_rotate(math.pi * (2 * before - 1) * turned_before))
    if "anisotropic-scale" in transforms:
        stretch = 0.2 * stretch * stretched
        inverses.append(_scale(torch.exp2(-stretch), torch.exp2(stretch)))
    if "rotation" in transforms:
        inverses.append(_rotate(math.pi * (2 * after - 1) * turned_after))
    if "fractional-translation" in transforms:
        inverses.append(_translate(-2 * 0.125 * shift_right * shifted, -2 * 0.125 * shift_down * shifted))
    return reduce(torch.matmul, inverses)


def _colour_map(
    images: Tensor, p: Tensor | float, transforms: Collection[str], stream: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw an affine map of RGB for each image.

    Returns
    -------
    matrix, offset
        (batch, 3, 3) and (batch, 3, 1): a pixel x becomes matrix x + offset. Exactly the identity and 0 where
        nothing applies.
    """
    batch = images.shape[0]
    uniform = torch.rand(7, batch, 1, 1, generator=stream, device=stream.device).to(images)
    normal = torch.randn(3, batch, 1, 1, generator=stream, device=stream.device).to(images)
    brightened, contrasted, reflected, turned, saturated = (uniform[:5] < p).to(images)
    flip, hue = uniform[5:]
    brightness, contrast, saturation = normal

    # With v = (1, 1, 1) / √3, the luma axis: `luma` is v vᵀ, `chroma` I - v vᵀ, `cross` x ↦ v × x.
    identity = torch.eye(3, device=images.device, dtype=images.dtype)
    luma = torch.full_like(identity, 1 / 3)
    chroma = identity - luma
    cross = (identity.roll(1, dims=0) - identity.roll(-1, dims=0)) / math.sqrt(3)

    # Each linear map is I + (what it changes): I exactly where it does not apply.
    matrix = identity.expand(batch, 3, 3)
    if "contrast" in transforms:
        matrix = matrix * torch.exp2(0.5 * contrast * contrasted)
    if "luma-flip" in transforms:
        flip = (2 * flip).floor() * reflected  # U{0, 1}
        matrix = (identity - 2 * flip * luma) @ matrix  # Householder reflection
    if "hue" in transforms:
        angle = math.pi * (2 * hue - 1) * turned
        # Rodrigues' formula, with cross² = -chroma.
        matrix = (identity + (angle.cos() - 1) * chroma + angle.sin() * cross) @ matrix
    if "saturation" in transforms:
        matrix = (identity + (torch.exp2(saturation * saturated) - 1) * chroma) @ matrix
    # Brightness comes first: C (x + b) = C x + C b.
    brightness = 0.2 * brightness * (brightened if "brightness" in transforms else torch.zeros_like(brightened))
    return matrix, matrix @ brightness.expand(batch, 3, 1)


def _resample(images: Tensor, inverse: Tensor, *, padding_mode: str) -> Tensor:
    """Look up each pixel of the result at `inverse` of its place, bilinearly.

    `images` is (batch, channels, r, r), `inverse` (batch, 3, 3) on (x, y, 1) with x and y in [-1, 1].
    """
    side = images.shape[-1]
    # Exact: odd multiples of 1 / r. linspace, which F.affine_grid uses, rounds.
    centres = (2 * torch.arange(side, device=images.device, dtype=images.dtype) + 1) / side - 1
    x_axis, y_axis, origin = inverse[:, None, None, :2].unbind(dim=-1)
    grid = x_axis * centres[:, None] + (y_axis * centres[:, None, None] + origin)
    return _GridSample.apply(images, grid, padding_mode)


class _GridSample(torch.autograd.Function):
    """Bilinear sampling at a grid without gradient: linear in the images, so its second derivative is itself.

    PyTorch has a second derivative of its own only from 2.12 on.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor, padding_mode: str) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape, ctx.padding_mode = images.shape, padding_mode
        return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _GridSampleAdjoint.apply(gradient, grid, ctx.shape, ctx.padding_mode), None, None


class _GridSampleAdjoint(torch.autograd.Function):
    """What sampling sends back to the images."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, grid: Tensor, shape: torch.Size, padding_mode: str) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.padding_mode = padding_mode
        # Of the images only the shape counts: their values would matter to the gradient of the grid alone.
        images = gradient.new_empty(1).expand(shape)
        padding = {"zeros": 0, "reflection": 2}[padding_mode]
        return torch.ops.aten.grid_sampler_2d_backward(gradient, images, grid, 0, padding, False, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (grid,) = ctx.saved_tensors
        return _GridSample.apply(gradient, grid, ctx.padding_mode), None, None, None


def _scale(x: Tensor, y: Tensor) -> Tensor:
    """Return homogeneous matrices (batch, 3, 3) that scale by `x` across and `y` down, each (batch,)."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=-1))


def _rotate(angle: Tensor) -> Tensor:
    """Return homogeneous matrices (batch, 3, 3) that turn x into y at a quarter turn; `angle` is (batch,)."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))


def _translate(x: Tensor, y: Tensor) -> Tensor:
    """Return homogeneous matrices (batch, 3, 3) that move by `x` across and `y` down, each (batch,)."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([one, zero, x, zero, one, y, zero, zero, one], dim=-1).unflatten(-1, (3, 3))
