"""Hospitals that do harm: what they do to their images, and to what they send. For simulations alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from data_partitions.dataset import ImageDataset
from federation.config import Configuration
from federation.seeding import numpy_stream, torch_stream
from federation.settings.participation import AttackSettings


def is_attacker(configuration: Configuration, partition_id: int) -> bool:
    """Return whether a hospital is one of those that do harm: the same ones whatever ``seed``."""
    attack = configuration.attack
    if attack.name == "none":
        return False
    settings = configuration.partition
    stream = numpy_stream(settings.seed, "attackers")
    return partition_id in stream.choice(settings.hospitals, size=attack.hospitals, replace=False)


def poison_images(dataset: ImageDataset, configuration: Configuration, site: str) -> None:
    """Change a hostile hospital's images or labels, in place, where the attack is of that kind.

    Parameters
    ----------
    dataset
        Just loaded.
    configuration
        Whose ``attack`` it is.
    site
        Name of the hospital, from which the grain is drawn.
    """
    attack = configuration.attack
    if attack.name == "flipped-labels":
        dataset.labels = len(configuration.class_names) - 1 - dataset.labels
    elif attack.name == "noisy-camera":
        stream = torch_stream(configuration.partition.seed, "noisy camera", site=site)
        grain = torch.randn(dataset.images.shape, generator=stream) * (127.5 * attack.scale)
        noisy = dataset.images.float().cpu() + grain
        dataset.images = noisy.round().clamp(0, 255).to(torch.uint8).to(dataset.images.device)


def falsify_update(
    sent: Mapping[str, Tensor], start: Mapping[str, Tensor], attack: AttackSettings, stream: torch.Generator
) -> dict[str, Tensor]:
    """Return what a hostile hospital sends in place of what it has learned.

    Parameters
    ----------
    sent
        What it would send.
    start
        The entries of networks as they came; what did not come, or goes up as a change itself, counts as zero.
    attack
        What it does.
    stream
        For noise.

    Returns
    -------
    Of the names and shapes of `sent`.
    """
    found = {}
    for name, value in sent.items():
        before = start.get(name, torch.zeros_like(value)).to(value.device)
        update = value.detach() - before
        if attack.name == "sign-flipped":
            update = -attack.scale * update
        elif attack.name == "scaled":
            update = attack.scale * update
        elif attack.name == "free-rider":
            update = torch.zeros_like(update)
        elif attack.name == "random":
            size = update.square().mean().sqrt()
            noise = torch.randn(update.shape, generator=stream, device=stream.device).to(update)
            update = attack.scale * size * noise
        found[name] = before + update
    return found
