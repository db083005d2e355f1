"""What a run will cost, before it is run."""

from __future__ import annotations

from federation.config import Configuration
from federation.exchange import count_bytes as bytes_of
from federation.exchange import pack_arrays, shared_tensors, sharing_policy
from federation.models import build_model
from strategies import build_local_rule


def planned_images(configuration: Configuration) -> float:
    """Return the real images that a run shows, on average; with ``training.local-epochs``, epochs of all hospitals."""
    training = configuration.training
    hospitals = configuration.asked_hospitals()
    rounds = configuration.rounds * (1.0 - configuration.participation.dropout)
    if training.local_epochs > 0:
        return rounds * training.local_epochs * hospitals / configuration.partition.hospitals
    return rounds * hospitals * training.local_steps * training.batch_size


def planned_bytes(configuration: Configuration) -> int:
    """Return the bytes of a round, down and up, over all hospitals that are asked; 0 where nothing is exchanged.

    Generators that are handed over to be judged are not counted, and centralised training exchanges nothing.
    """
    if configuration.strategy.name == "centralised":
        return 0
    # The networks' sizes hardly depend on how many classes there are, and their names not at all.
    named = configuration if configuration.class_names else configuration.with_values({"data.classes": "a,b"})
    model = build_model(named)
    rule = build_local_rule(configuration.strategy)
    shared = shared_tensors(model.networks, sharing_policy(configuration, 0))
    both = (rule.down(shared, model.networks), rule.up(shared, model.networks))
    return configuration.asked_hospitals() * sum(bytes_of(pack_arrays(entries)) for entries in both if entries)
