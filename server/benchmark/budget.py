"""What a run will cost, before it is run."""

from __future__ import annotations

from federation.config import Configuration
from federation.exchange import count_bytes as bytes_of
from federation.exchange import pack_arrays
from federation.models import build_model
from federation.sharing import shared_tensors
from strategies.building import build_local_rule
from strategies.sharing import sharing_policy


def planned_images(configuration: Configuration) -> float:
    """Return the real images that a run shows, on average; with ``training.local-epochs``, epochs of all hospitals."""
    training = configuration.training
    hospitals = configuration.asked_hospitals()
    rounds = configuration.rounds * (1.0 - configuration.participation.dropout)
    if training.local_epochs > 0:
        return rounds * training.local_epochs * hospitals / configuration.partition.hospitals
    return rounds * hospitals * training.local_steps * training.batch_size


def planned_evaluations(configuration: Configuration) -> float:
    """Return the passes of an image through a network that a run takes; see :func:`planned_images`."""
    return planned_images(configuration) * configuration.anatomy.evaluations


def planned_bytes(configuration: Configuration) -> int:
    """Return the bytes of a round, down and up, over all hospitals that are asked; 0 where nothing is exchanged.

    Generators that are handed over to be judged are not counted, and centralised training exchanges nothing.
    """
    if configuration.strategy.name == "centralised":
        return 0
    # The networks' sizes hardly depend on how many classes there are, and their names not at all.
    named = configuration if configuration.class_names else configuration.with_values({"data.classes": "a,b"})
    model = build_model(named)
    rule = build_local_rule(named)
    shared = shared_tensors(model.networks, sharing_policy(named, 0))
    both = (rule.down(shared, model.networks), rule.up(shared, model.networks))
    return configuration.asked_hospitals() * sum(bytes_of(pack_arrays(entries)) for entries in both if entries)
