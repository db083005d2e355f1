"""The Gaussian VAE as a family: what it is made of, and what makes no sense in its settings; nothing is built here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from federation.models.anatomy import Anatomy, Loss, Part
from federation.models.family import Family
from federation.models.vae.settings import VAESettings

if TYPE_CHECKING:
    import torch

    from federation.config import Configuration
    from federation.models.protocol import DrawingNetwork, GenerativeModel


def anatomy(configuration: Configuration) -> Anatomy:
    """Encoder, decoder, and the running average of each."""
    settings = configuration.own(VAESettings)
    # No density is above 1 where the deviation is at least 1 / sqrt(2 pi).
    bounded = settings.variance == "fixed" and settings.pixel_deviation >= 1 / math.sqrt(2 * math.pi)
    least = 0.0 if bounded else -math.inf
    return Anatomy(
        parts={
            "encoder": Part("trained"),
            "decoder": Part("trained"),
            "encoder_ema": Part("average", of="encoder"),
            "decoder_ema": Part("average", of="decoder", draws=True),
        },
        losses={
            "loss-negative-elbo": Loss(least=least, column="-ELBO"),
            "loss-reconstruction": Loss(least=least, column="recon."),
            "loss-divergence": Loss(least=0.0),
        },
        objective="loss-negative-elbo",
        evaluations=2.0,
        groups={"mapping": ("decoder.mapping",), "normalisation": ("encoder.*norm*", "decoder.*norm*")},
        has_latent_space=True,
        membership="evidence lower bound",
        scoring=("encoder", "decoder"),
    )


def problems(configuration: Configuration) -> Iterator[str]:
    """See :class:`federation.models.family.Family`."""
    settings, model = configuration.own(VAESettings), configuration.model
    if model.resolution > 128:
        yield f"model.resolution = {model.resolution}: model.name = vae takes 32, 64 or 128 px; choose one of them"
    if settings.channel_base < model.resolution:
        yield (
            f"vae.channel-base = {settings.channel_base}: allowed is at least model.resolution = {model.resolution}, "
            "so that the last layer has a channel"
        )
    if settings.channel_max > settings.channel_base // 4:
        why = (
            f"vae.channel-base = {settings.channel_base} gives no layer more than {settings.channel_base // 4}; lower "
            "it, or leave it out"
        )
        yield from settings.in_vain("vae", ("channel_max",), why, "vae.channel-base")
    if settings.variance == "optimal":
        why = "vae.variance = optimal finds it by itself; leave it out, or set vae.variance=fixed"
        yield from settings.in_vain("vae", ("pixel_deviation",), why, "vae.variance")


def _build(configuration: Configuration, num_classes: int, seed: int, device: torch.device) -> GenerativeModel:
    from federation.models.vae.step import GaussianVAE

    return GaussianVAE(
        anatomy(configuration),
        configuration.model,
        configuration.training,
        configuration.own(VAESettings),
        num_classes=num_classes,
        seed=seed,
        device=device,
    )


def _build_drawing(configuration: Configuration, num_classes: int) -> DrawingNetwork:
    from federation.models.vae.networks import build_decoder

    return build_decoder(configuration.model, configuration.own(VAESettings), num_classes=num_classes)


ARCHITECTURE = frozenset({"latent_size", "channel_base", "channel_max"})

VAE = Family(VAESettings, ARCHITECTURE, anatomy, _build, _build_drawing, problems)
