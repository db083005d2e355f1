"""Every family of generative models: the one list that a new one is added to."""

from __future__ import annotations

from federation.models.family import Family
from federation.models.stylegan2.family import STYLEGAN2
from federation.models.vae.family import VAE

FAMILIES: dict[str, Family] = {"stylegan2": STYLEGAN2, "vae": VAE}
"""By ``model.name``, which is also the name of the table of its settings."""
