"""The VAE's own settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from federation.settings.section import Section


class VAESettings(Section):
    """The VAE's own."""

    latent_size: int = Field(default=32, ge=2, le=1024)
    """Dimension of z."""
    channel_base: int = Field(default=1024, ge=32, le=65_536)
    """A layer at resolution r has min(channel-base / r, channel-max) channels."""
    channel_max: int = Field(default=64, ge=8, le=1024)
    """Most channels of a layer."""
    beta: float = Field(default=1.0, gt=0, le=1000)
    """Weight of the divergence from the prior; 1 is the evidence lower bound."""
    variance: Literal["optimal", "fixed"] = "optimal"
    """Variance of the pixels about the decoder's image. ``optimal``: the one that fits the batch best, so that it needs
    no tuning (Rybkin et al. 2021); the loss can be negative. ``fixed``: ``pixel-deviation`` squared."""
    pixel_deviation: float = Field(default=1.0, gt=0, le=10)
    """``fixed``: standard deviation of a pixel, where pixels are from -1 to 1."""
