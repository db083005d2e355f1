"""Every generative model behind one small protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation.models.protocol import GenerativeModel

if TYPE_CHECKING:
    import torch

    from federation.config import Configuration

__all__ = ["GenerativeModel", "build_model"]


def build_model(configuration: Configuration, *, device: torch.device | str = "cpu") -> GenerativeModel:
    """Build the model that a configuration names, with its initial weights.

    The initial weights depend on ``seed`` alone, so server and hospitals start alike.

    Raises
    ------
    ValueError
        If the model is conditional and ``data.classes`` is empty.
    """
    import torch

    from federation.seeding import derive_seed

    num_classes = len(configuration.class_names) if configuration.model.conditional else 0
    if configuration.model.conditional and num_classes == 0:
        raise ValueError("data.classes is empty: a conditional model needs the names of its classes")
    seed = derive_seed(configuration.seed, "initial weights")
    return configuration.family.build(configuration, num_classes, seed, torch.device(device))
