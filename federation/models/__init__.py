"""Every generative model behind one small protocol."""

from __future__ import annotations

import torch

from federation.config import Configuration
from federation.models.protocol import GenerativeModel
from federation.models.stylegan2.step import StyleGAN2
from federation.seeding import derive_seed

__all__ = ["GenerativeModel", "build_model"]


def build_model(configuration: Configuration, *, device: torch.device | str = "cpu") -> GenerativeModel:
    """Build the model that a configuration names, with its initial weights.

    The initial weights depend on ``seed`` alone, so server and hospitals start alike.

    Raises
    ------
    ValueError
        If ``model.name`` is not known, or the model is conditional and ``data.classes`` is empty.
    """
    builders = {"stylegan2": StyleGAN2}
    model = configuration.model
    if model.name not in builders:
        raise ValueError(f"model.name = {model.name!r}: choose one of {', '.join(builders)}")
    num_classes = len(configuration.class_names) if model.conditional else 0
    if model.conditional and num_classes == 0:
        raise ValueError("data.classes is empty: a conditional model needs the names of its classes")
    return builders[model.name](
        model,
        configuration.training,
        configuration.augmentation,
        num_classes=num_classes,
        seed=derive_seed(configuration.seed, "initial weights"),
        device=torch.device(device),
    )
