"""StyleGAN2-ADA as a family: what it is made of, and what makes no sense in its settings; nothing is built here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from federation.models.anatomy import Adversaries, Anatomy, Loss, Part
from federation.models.family import Family
from federation.models.stylegan2.settings import (
    LABEL_WEIGHT,
    StyleGAN2Settings,
    augmentation_transforms,
    conditional_from,
    hidden_labels,
)

if TYPE_CHECKING:
    import torch

    from federation.config import Configuration
    from federation.models.protocol import DrawingNetwork, GenerativeModel

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
    if settings.channel_max > settings.channel_base // 4:
        why = (
            f"stylegan2.channel-base = {settings.channel_base} gives no layer more than {settings.channel_base // 4}; "
            "lower it, or leave it out"
        )
        yield from settings.in_vain("stylegan2", ("channel_max",), why, "stylegan2.channel-base")
    if settings.gamma == 0:
        why = "stylegan2.gamma = 0 is no penalty; leave it out, or raise stylegan2.gamma"
        yield from settings.in_vain("stylegan2", ("penalty_every",), why, "stylegan2.gamma")
    if settings.path_length_weight == 0:
        why = "stylegan2.path-length-weight = 0 is no regularisation; leave it out, or set that to 2.0"
        fields = ("path_length_every", "path_length_decay")
        yield from settings.in_vain("stylegan2", fields, why, "stylegan2.path-length-weight")
    yield from _conditioning_problems(configuration)
    yield from _augmentation_problems(configuration)


def _conditioning_problems(configuration: Configuration) -> Iterator[str]:
    settings, training = configuration.own(StyleGAN2Settings), configuration.training
    if not configuration.model.conditional:
        why = "model.conditional = false has no class to draw; leave it out"
        yield from settings.in_vain("stylegan2", ("fake_labels",), why, "model.conditional")
        why = "model.conditional = false has no class to hide; set it to 0"
        fields = ("label_dropout", "transition_start_images", "transition_images")
        yield from settings.in_vain("stylegan2", fields, why, "model.conditional")
    # Hospitals of local-epochs differ in their steps; of local-steps all show as many images.
    shown = configuration.rounds * training.local_steps * training.batch_size
    heard = conditional_from(settings)
    if training.local_epochs == 0 and heard > shown:
        yield (
            f"stylegan2.transition-start-images + stylegan2.transition-images = {heard:g}: a hospital is "
            f"shown {shown:,} images in all (rounds x local-steps x batch-size), so that the class would never be "
            "fully heard; lower them, or set more rounds"
        )


def _augmentation_problems(configuration: Configuration) -> Iterator[str]:
    augmentation = configuration.own(StyleGAN2Settings).augmentation
    name, training = augmentation.name, configuration.training
    if name != "ada":
        why = (
            f"stylegan2.augmentation.name = {name} does not adapt; leave it out, or set stylegan2.augmentation.name=ada"
        )
        fields = ("ada_target", "ada_every", "ada_kimg")
        yield from augmentation.in_vain("stylegan2.augmentation", fields, why, "stylegan2.augmentation.name")
    elif training.local_epochs == 0 and configuration.rounds * training.local_steps < augmentation.ada_every:
        yield (
            f"stylegan2.augmentation.ada-every = {augmentation.ada_every}: a hospital takes "
            f"{configuration.rounds * training.local_steps} steps in all (rounds x local-steps), so that the "
            "probability would never be adapted; lower it, or set more rounds"
        )
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
        if name in ("none", "diffaugment"):
            why = (
                f"stylegan2.augmentation.name = {name} does not choose from them; leave it out, or set "
                "stylegan2.augmentation.name=ada or fixed"
            )
            yield from augmentation.in_vain(
                "stylegan2.augmentation", ("transforms",), why, "stylegan2.augmentation.name"
            )
    if augmentation.name == "fixed" and augmentation.p == 0:
        yield (
            "stylegan2.augmentation.p = 0: stylegan2.augmentation.name = fixed would change nothing; set "
            "stylegan2.augmentation.p=0.2, say"
        )
    if name in ("none", "diffaugment"):
        why = (
            f"stylegan2.augmentation.name = {name} has no probability; set stylegan2.augmentation.p=0, or "
            "stylegan2.augmentation.name=fixed"
        )
        yield from augmentation.in_vain("stylegan2.augmentation", ("p",), why, "stylegan2.augmentation.name")


def _build(configuration: Configuration, num_classes: int, seed: int, device: torch.device) -> GenerativeModel:
    from federation.models.stylegan2.step import StyleGAN2

    settings = configuration.own(StyleGAN2Settings)
    return StyleGAN2(
        anatomy(configuration),
        configuration.model,
        configuration.training,
        settings,
        num_classes=num_classes,
        num_sites=configuration.num_sites,
        seed=seed,
        device=device,
    )


def _build_drawing(configuration: Configuration, num_classes: int) -> DrawingNetwork:
    from federation.models.stylegan2.step import build_generator

    return build_generator(
        configuration.model,
        configuration.own(StyleGAN2Settings),
        num_classes=num_classes,
        num_sites=configuration.num_sites,
    )


ARCHITECTURE = frozenset({"latent_size", "mapping_layers", "channel_base", "channel_max", "resampling"})

STYLEGAN2 = Family(StyleGAN2Settings, ARCHITECTURE, anatomy, _build, _build_drawing, problems, knows_sites=True)
