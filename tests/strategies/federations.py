"""Real federations of tiny models, played round by round without a judge, and everything that went over the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord

from clients.app import app
from federation.config import Configuration, parse_assignments
from federation.engine.grid import simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.exchange import (
    CHECKPOINT_ROUNDS,
    LAST_ROUND,
    SEND_OWN_GENERATOR,
    SITE_NUMBER,
    arrays_of,
    check_reply,
    config_of,
    metrics_of,
    pack_arrays,
    unpack_arrays,
)
from federation.models import GenerativeModel, build_model
from federation.sharing import named_tensors, own_drawing, shared_tensors
from federation.site import Site
from server.app import describe_federation
from server.messaging import collect_replies, describe_sites
from strategies.building import build_local_rule, build_strategy
from strategies.configuration import numbers_in_use, resolve
from strategies.federated_strategy import FederatedStrategy
from strategies.sharing import sharing_policy

Arrays = dict[str, np.ndarray]

TINY = (
    "data.phantom-images=400",
    "data.classes=akiec,bcc,bkl,df,mel,nv,vasc",
    "partition.scheme=dirichlet",
    "partition.alpha=1.0",
    "partition.hospitals=3",
    "partition.min-images=8",
    "rounds=2",
    "training.local-steps=2",
    "training.batch-size=4",
    "training.precision=fp32",
    "training.learning-rate=0.01",
    # Rules weigh by images; tests of balancing say so.
    "training.balanced-classes=none",
)
FAMILIES = {
    "stylegan2": (
        "stylegan2.channel-max=8",
        "stylegan2.channel-base=32",
        "stylegan2.latent-size=8",
        "stylegan2.mapping-layers=1",
    ),
    "vae": ("model.name=vae", "vae.channel-max=8", "vae.channel-base=32", "vae.latent-size=4"),
}


@dataclass(frozen=True)
class Reply:
    """What one hospital sent."""

    arrays: Arrays
    metrics: dict[str, float]

    @property
    def images(self) -> float:
        """Its training images, n_i."""
        return self.metrics["num-examples"]


@dataclass(frozen=True)
class Round:
    """What a round was."""

    number: int
    before: Arrays
    """The global entries that hospitals started from."""
    sent: dict[str, Arrays]
    """What each hospital was sent, by site."""
    replies: dict[str, Reply]
    """In the order of site names."""
    after: Arrays
    """The next global entries."""


@dataclass
class Federation:
    """A federation, and the rounds that it has played."""

    configuration: Configuration
    model: GenerativeModel
    strategy: FederatedStrategy
    sites: list[Site]
    trained: frozenset[str]
    rounds: list[Round] = field(default_factory=list)


def settings(family: str, run_dir: Path, cache_dir: str, *assignments: str) -> Configuration:
    return resolve(
        [
            parse_assignments(
                [f"run-dir={run_dir}", f"data.cache-dir={cache_dir}", *TINY, *FAMILIES[family], *assignments]
            )
        ]
    )


def play(configuration: Configuration) -> Federation:
    """Play all rounds."""
    number = configuration.partition.hospitals
    grid = InProcessGrid(app, simulation_nodes(number))
    model = build_model(configuration)
    description = describe_federation(configuration, model)
    found = Federation(configuration, model, build_strategy(description), [], description.trainable)
    found.sites = describe_sites(grid, configuration)
    found.strategy.meet(found.sites)
    record = pack_arrays(shared_tensors(model.networks, sharing_policy(configuration, 0)))
    for server_round in range(1, configuration.rounds + 1):
        policy = sharing_policy(configuration, server_round)
        wants_own = policy.keeps_drawing()
        config = ConfigRecord(dict(configuration.to_flat()))
        config[CHECKPOINT_ROUNDS], config[SEND_OWN_GENERATOR] = [], wants_own
        messages = list(found.strategy.configure_train(server_round, record, config, grid))
        names = {site.node_id: site.name for site in found.sites}
        numbers = {site.node_id: site.number for site in found.sites}
        for message in messages:
            config_of(message)[LAST_ROUND] = server_round - 1
            config_of(message)[SITE_NUMBER] = numbers[message.metadata.dst_node_id]
        sent = {names[m.metadata.dst_node_id]: unpack_arrays(arrays_of(m)) for m in messages}
        replies = sorted(collect_replies(grid, messages), key=lambda reply: names[reply.metadata.src_node_id])
        expected = build_local_rule(configuration).up(shared_tensors(model.networks, policy), model.networks)
        if wants_own:
            expected |= own_drawing(model.networks, policy)
        of_site = {site.name: site for site in found.sites}
        for reply in replies:
            assert not reply.has_error(), reply.error.reason
            site = of_site[names[reply.metadata.src_node_id]]
            check_reply(
                reply,
                expected,
                site.num_images,
                model.anatomy.losses,
                numbers_in_use(configuration),
                configuration.training,
            )
        recorded = {
            names[reply.metadata.src_node_id]: Reply(
                unpack_arrays(arrays_of(reply)),
                {name: float(str(value)) for name, value in metrics_of(reply).items()},
            )
            for reply in replies
        }
        before = unpack_arrays(record)
        result, _ = found.strategy.aggregate_train(server_round, replies)
        assert result is not None
        record = result
        found.rounds.append(Round(server_round, before, sent, recorded, unpack_arrays(record)))
    return found


def all_entries(model: GenerativeModel) -> set[str]:
    """Return the names of all floating-point entries of networks."""
    states = model.anatomy.of_kind("state")
    return {
        name
        for name, value in named_tensors(model.networks).items()
        if value.is_floating_point() and name.split(".")[0] not in states
    }
