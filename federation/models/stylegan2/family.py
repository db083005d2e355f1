"""StyleGAN2-ADA as a family: what it is made of, and what makes no sense in its settings; nothing is built here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from federation.models.anatomy import Adversaries, Anatomy, Loss, Part
from federation.models.family import Family
from federation.models.stylegan2.settings import (
    AugmentationSettings,
    StyleGAN2Settings,
    augmentation_transforms,
    conditional_from,
    hidden_labels,
)

if TYPE_CHECKING:
    import torch

    from federation.config import Configuration
    from federation.models.protocol import DrawingNetwork, GenerativeModel

LABEL_WEIGHT = "generator.mapping.label_weight"
"""How much of the class is heard where images are drawn."""
STYLE_LAYERS = ("generator.layers.*.style", "generator.to_rgb.*.style")
"""Where w becomes the scale of each channel: what normalisation layers are in other generators."""


def anatomy(configuration: Configuration) -> Anatomy:
    """Generator, discriminator, the generator's running average, and what augmentation and path lengths carry along."""
    settings = configuration.own(StyleGAN2Settings)
    losses = {
        "loss-generator": Loss(least=0.0, column="loss G"),
        "loss-discriminator": Loss(least=0.0, column="loss D"),
        "logit-real": Loss(),
        "logit-fake": Loss(),
    }
    is_adaptive = settings.augmentation.name == "ada"
    if is_adaptive:
        losses["augmentation-p"] = Loss(least=0.0)
    return Anatomy(
        parts={
            "generator": Part("trained"),
            "discriminator": Part("trained"),
            "generator_ema": Part("average", of="generator", draws=True),
            "training": Part("state"),
        },
        losses=losses,
        objective="loss-discriminator",
        # One image drawn, it and a real one judged; lazy regularisers are not counted.
        evaluations=3.0,
        steadier="raise stylegan2.gamma",
        groups={"mapping": ("generator.mapping",), "normalisation": STYLE_LAYERS, "styles": STYLE_LAYERS},
        shareable_state={
            "ada-p": "" if is_adaptive else "stylegan2.augmentation.name=ada",
            "path-length-mean": "" if settings.path_length_weight > 0 else "stylegan2.path-length-weight=2.0",
        },
        adversaries=Adversaries(
            generator="generator",
            critic="discriminator",
            asks_alike=settings.fake_labels == "uniform",
            apart=tuple(_problems_apart(settings)),
        ),
        paced={LABEL_WEIGHT: conditional_from(settings)} if configuration.model.conditional else {},
        membership="discriminator",
        scoring=("discriminator",),
    )


def _problems_apart(settings: StyleGAN2Settings) -> Iterator[str]:
    """Yield what cannot be while hospitals train the discriminator alone, and the server the generator."""
    if settings.loss != "logistic":
        yield (
            f"stylegan2.loss = {settings.loss!r}: the server trains the generator and has no real images to pair with "
            "generated ones; set stylegan2.loss=logistic"
        )
    if settings.path_length_weight > 0:
        yield (
            f"stylegan2.path-length-weight = {settings.path_length_weight:g}: the server trains the generator, without "
            "this regularisation; set it to 0"
        )
    if settings.augmentation.name == "ada":
        yield (
            "stylegan2.augmentation.name = 'ada': the server, which trains the generator, cannot know how strongly "
            "each hospital augments now; set stylegan2.augmentation.name=fixed"
        )
    for key, value in hidden_labels(settings).items():
        if value > 0:
            yield (
                f"stylegan2.{key} = {value:g}: generator and discriminator are trained in different places, and would "
                "not hear the same labels; set it to 0"
            )


def problems(configuration: Configuration) -> Iterator[str]:
    """See :class:`federation.models.family.Family`."""
    settings, model, training = configuration.own(StyleGAN2Settings), configuration.model, configuration.training
    if settings.heads:
        yield f"stylegan2.heads = {settings.heads!r}: there are no heads yet; leave it empty"
    if settings.channel_base < model.resolution:
        yield (
            f"stylegan2.channel-base = {settings.channel_base}: allowed is at least model.resolution = "
            f"{model.resolution}, so that the last layer has a channel"
        )
    if settings.minibatch_std == 1 or (settings.minibatch_std and training.batch_size % settings.minibatch_std):
        yield (
            f"stylegan2.minibatch-std = {settings.minibatch_std}: allowed is a divisor of training.batch-size = "
            f"{training.batch_size} from 2 on, so that groups are whole and differ within, or 0"
        )
    yield from _conditioning_problems(configuration)
    yield from _augmentation_problems(settings.augmentation)


def _conditioning_problems(configuration: Configuration) -> Iterator[str]:
    settings, training = configuration.own(StyleGAN2Settings), configuration.training
    if not configuration.model.conditional:
        if settings.fake_labels != "data":
            yield (
                f"stylegan2.fake-labels = {settings.fake_labels!r}: model.conditional = false has no class to draw; "
                "leave it out"
            )
        for key, value in hidden_labels(settings).items():
            if value > 0:
                yield f"stylegan2.{key} = {value:g}: model.conditional = false has no class to hide; set it to 0"
    # Hospitals of local-epochs differ in their steps; of local-steps all show as many images.
    shown = configuration.rounds * training.local_steps * training.batch_size
    heard = conditional_from(settings)
    if training.local_epochs == 0 and heard > shown:
        yield (
            f"stylegan2.transition-start-images + stylegan2.transition-images = {heard:g}: a hospital is "
            f"shown {shown:,} images in all (rounds x local-steps x batch-size), so that the class would never be "
            "fully heard; lower them, or set more rounds"
        )


def _augmentation_problems(augmentation: AugmentationSettings) -> Iterator[str]:
    try:
        transforms = augmentation_transforms(augmentation.transforms)
    except ValueError as error:
        yield f"stylegan2.augmentation.transforms = {augmentation.transforms!r}: {error}"
    else:
        if not transforms and augmentation.name in ("ada", "fixed"):
            yield (
                f"stylegan2.augmentation.transforms = {augmentation.transforms!r}: leaves no transform; name one, "
                "e.g. dermoscopy, or set stylegan2.augmentation.name=none"
            )
    if augmentation.name == "fixed" and augmentation.p == 0:
        yield (
            "stylegan2.augmentation.p = 0: stylegan2.augmentation.name = fixed would change nothing; set "
            "stylegan2.augmentation.p=0.2, say"
        )
    if augmentation.p > 0 and augmentation.name in ("none", "diffaugment"):
        yield (
            f"stylegan2.augmentation.p = {augmentation.p:g}: stylegan2.augmentation.name = {augmentation.name} has no "
            "probability; set stylegan2.augmentation.p=0, or stylegan2.augmentation.name=fixed"
        )


def _build(configuration: Configuration, num_classes: int, seed: int, device: torch.device) -> GenerativeModel:
    from federation.models.stylegan2.step import StyleGAN2

    settings = configuration.own(StyleGAN2Settings)
    return StyleGAN2(
        anatomy(configuration),
        configuration.model,
        configuration.training,
        settings,
        num_classes=num_classes,
        seed=seed,
        device=device,
    )


def _build_drawing(configuration: Configuration, num_classes: int) -> DrawingNetwork:
    from federation.models.stylegan2.step import build_generator

    return build_generator(configuration.model, configuration.own(StyleGAN2Settings), num_classes=num_classes)


ARCHITECTURE = frozenset({"latent_size", "mapping_layers", "channel_base", "channel_max", "resampling"})

STYLEGAN2 = Family(StyleGAN2Settings, ARCHITECTURE, anatomy, _build, _build_drawing, problems)
