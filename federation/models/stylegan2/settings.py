"""StyleGAN2's own settings, and how their texts are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from federation.settings.section import Section, split_names

AUGMENTATION_TRANSFORMS = (
    "x-flip",
    "rotate90",
    "integer-translation",
    "scale",
    "rotation",
    "anisotropic-scale",
    "fractional-translation",
    "brightness",
    "contrast",
    "luma-flip",
    "hue",
    "saturation",
)
"""Transforms of adaptive augmentation, in the order in which they are applied."""

AUGMENTATION_SETS: dict[str, tuple[str, ...]] = {
    # Pixel blitting, general geometry, colour: what the paper found best on small sets (its "bgc").
    "bgc": AUGMENTATION_TRANSFORMS,
    # Colour is diagnostic: no other hue, and no light lesion on dark skin.
    "dermoscopy": tuple(name for name in AUGMENTATION_TRANSFORMS if name not in ("luma-flip", "hue")),
}


class AugmentationSettings(Section):
    """What the discriminator sees of real and of generated images alike, against overfitting of small sets."""

    name: Literal["none", "ada", "fixed", "diffaugment"] = "none"
    """``ada``: each transform with a probability p that a controller adapts to the discriminator's overfitting.
    ``fixed``: with the probability ``p``. ``diffaugment``: colour, translation and cutout, always."""
    transforms: str = "dermoscopy"
    """``ada``, ``fixed``: sets (``bgc``, ``dermoscopy``) and transforms, separated by commas; a minus leaves one
    out. E.g. ``bgc,-hue`` or ``x-flip,rotate90``."""
    p: float = Field(default=0.0, ge=0, le=1)
    """``fixed``: the probability. ``ada``: where it starts."""
    ada_target: float = Field(default=0.6, ge=-1, lt=1)
    """``ada``: p rises while the discriminator's sign on real images is above this on average: 1 is sure, 0 a guess.
    With the relativistic loss it is the sign of real minus generated."""
    ada_every: int = Field(default=4, ge=1)
    """``ada``: steps from one adjustment to the next."""
    ada_kimg: float = Field(default=500.0, gt=0)
    """``ada``: thousands of images shown at a hospital in which p could rise from 0 to 1."""


class StyleGAN2Settings(Section):
    """StyleGAN2's own."""

    latent_size: int = Field(default=128, ge=8, le=1024)
    """Dimension of z and of w."""
    mapping_layers: int = Field(default=2, ge=1, le=16)
    """Fully connected layers from z to w (2 in StyleGAN2-ADA's settings, 8 in its paper256)."""
    channel_base: int = Field(default=1024, ge=32, le=65_536)
    """A layer at resolution r has min(channel-base / r, channel-max) channels."""
    channel_max: int = Field(default=64, ge=8, le=1024)
    """Most channels of a layer."""
    resampling: Literal["bilinear", "fir"] = "bilinear"
    """How layers change resolution. ``fir``: StyleGAN2's filters [1, 3, 3, 1]. ``bilinear``: convolve, then
    enlarge bilinearly; average pairs of pixels, then convolve."""
    minibatch_std: int = Field(default=0, ge=0, le=256)
    """Images in a group of the discriminator's minibatch standard deviation (4 in StyleGAN2-ADA's ``auto``, 8 in
    ``paper256``, 32 in ``cifar``). 0: none, as in R3GAN."""
    heads: str = ""
    """Reserved for further outputs of the networks, e.g. of classes or codes. There are none yet: leave it empty."""
    loss: Literal["relativistic", "logistic"] = "relativistic"
    """``relativistic``: relativistic pairing with R1 and R2 (R3GAN). ``logistic``: non-saturating
    logistic with R1 (StyleGAN2)."""
    gamma: float = Field(default=2.0, ge=0)
    """Weight of the gradient penalties: gamma / 2 times the mean squared gradient norm. Batches of a hospital are
    small: with .1, averaged discriminators learned less of the classes."""
    penalty_every: int = Field(default=16, ge=1)
    """Steps from one gradient penalty to the next (lazy regularisation)."""
    style_mixing: float = Field(default=0.0, ge=0, le=1)
    """Share of fakes whose later layers take their style from another latent (0.9 in StyleGAN2, 0 in R3GAN)."""
    path_length_weight: float = Field(default=0.0, ge=0)
    """Weight of path-length regularisation of the generator (2 in StyleGAN2). 0: none, as in R3GAN."""
    path_length_every: int = Field(default=4, ge=1)
    """Steps from one path-length regularisation to the next; each works on half a batch."""
    path_length_decay: float = Field(default=0.01, gt=0, le=1)
    """Share of a new value in the running mean of path lengths."""
    fake_labels: Literal["data", "uniform"] = "data"
    """Classes asked of the generator in training: drawn from the hospital's own images, or all alike."""
    label_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of images, real and generated, whose class is hidden from both networks: what classes have in
    common is learned from all of them. Helps where few images per class let a conditional GAN collapse."""
    transition_start_images: float = Field(default=0.0, ge=0)
    """Images shown at one hospital before the class begins to be blended in (transitional conditioning): by the
    federation's count, so that a hospital that was away hears what all hear; by its own, if its mapping network is."""
    transition_images: float = Field(default=0.0, ge=0)
    """Images over which the class is blended in, from not at all to fully. With both 0: conditional at once."""
    augmentation: AugmentationSettings = AugmentationSettings()
    """What the discriminator sees of real and of generated images alike."""


def augmentation_transforms(text: str) -> tuple[str, ...]:
    """Read ``stylegan2.augmentation.transforms``: sets and transforms, in turn added or, behind a minus, left out.

    Returns
    -------
    Names among :data:`AUGMENTATION_TRANSFORMS`, in that order.

    Raises
    ------
    ValueError
        Naming the first name that is neither a transform nor a set, and those that there are.
    """
    chosen: set[str] = set()
    for item in split_names(text):
        name = item.removeprefix("-").strip()
        if name not in AUGMENTATION_SETS and name not in AUGMENTATION_TRANSFORMS:
            allowed = ", ".join((*AUGMENTATION_SETS, *AUGMENTATION_TRANSFORMS))
            raise ValueError(f"{name!r} is no transform; allowed are {allowed}, each left out with a minus before it")
        names = AUGMENTATION_SETS.get(name, (name,))
        chosen = chosen - set(names) if item.startswith("-") else chosen | set(names)
    return tuple(name for name in AUGMENTATION_TRANSFORMS if name in chosen)


LABEL_WEIGHT = "generator.mapping.label_weight"
"""Name of the entry that says how much of the class is heard where images are drawn."""


def conditional_from(settings: StyleGAN2Settings) -> float:
    """Return the images shown from which on the class is fully heard."""
    return settings.transition_start_images + settings.transition_images


def hidden_labels(settings: StyleGAN2Settings) -> dict[str, float]:
    """Return the settings that hide the class of some images from the networks, by key."""
    return {
        "label-dropout": settings.label_dropout,
        "transition-start-images": settings.transition_start_images,
        "transition-images": settings.transition_images,
    }
