"""Hospitals with models of three numbers, and rounds of a strategy on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from federation.arrays import ArrayRecord as FlatRecord
from federation.config import Configuration, parse_assignments
from federation.engine.grid import simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.exchange import ARRAYS, METRICS, NUM_EXAMPLES, pack_arrays, unpack_arrays
from federation.site import Site
from server.messaging import ChosenNodes
from strategies.aggregation import Federation
from strategies.building import build_strategy
from strategies.configuration import resolve
from strategies.federated_strategy import FederatedStrategy

Arrays = dict[str, np.ndarray]

TRAINABLE = frozenset({"generator.w", "discriminator.w"})
"""The others are a buffer of the generator, ``generator.b``, and the running average of both."""


@dataclass
class Hospital:
    """What a hospital sends in a round, and what it has said of itself."""

    arrays: Arrays
    num_examples: int = 1
    class_counts: tuple[int, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    """``num-steps``, ``num-images`` and losses are 1 unless they are named here."""
    is_deployed: bool = False


def model(
    w: Sequence[float] = (0, 0, 0),
    *,
    b: float = 0,
    ema: Sequence[float] = (0, 0, 0),
    ema_b: float = 0,
    d: Sequence[float] = (0, 0, 0),
) -> Arrays:
    """Three numbers of each network; the buffer is a scalar, as noise strengths are."""
    values = {
        "generator.w": w,
        "generator.b": b,
        "discriminator.w": d,
        "generator_ema.w": ema,
        "generator_ema.b": ema_b,
    }
    return {name: np.array(value, np.float32) for name, value in values.items()}


def line(*values: float) -> list[Arrays]:
    """Models that differ in one number of the generator."""
    return [model([value, 0, 0]) for value in values]


@lru_cache
def configured(*assignments: str) -> Configuration:
    """The default configuration with eleven hospitals, so that every strategy has enough, and `assignments`."""
    return resolve([parse_assignments(["partition.hospitals=11", *assignments])])


def strategy(
    *assignments: str, trainable: frozenset[str] = TRAINABLE, class_rows: tuple[str, ...] = ()
) -> FederatedStrategy:
    return build_strategy(
        Federation(configuration=configured(*assignments), trainable=trainable, class_rows=class_rows)
    )


def sites_of(hospitals: Sequence[Hospital]) -> list[Site]:
    """Hospitals as the server knows them, a to z."""
    return [
        Site(
            name=chr(ord("a") + number),
            node_id=number + 2,
            num_images=one.num_examples,
            class_counts=one.class_counts,
            is_deployed=one.is_deployed,
        )
        for number, one in enumerate(hospitals)
    ]


def read_only(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """A record in one piece of memory that belongs to somebody else, as under Ray: writing to it raises."""
    record = pack_arrays(arrays)
    assert isinstance(record, FlatRecord)
    assert record.flat is not None
    record.flat.flags.writeable = False
    return record


def ask(
    rule: FederatedStrategy,
    current: Mapping[str, np.ndarray],
    hospitals: Sequence[Hospital],
    server_round: int = 1,
    *,
    asked: Sequence[int] | None = None,
) -> list[Message]:
    """Let all hospitals know one another; return what the strategy sends to each of those positions, or to all."""
    sites = sites_of(hospitals)
    rule.meet(sites)
    chosen = {site.node_id for number, site in enumerate(sites) if asked is None or number in asked}
    grid = InProcessGrid(lambda message, context: message, simulation_nodes(len(hospitals)))
    return list(rule.configure_train(server_round, read_only(current), ConfigRecord(), ChosenNodes(grid, chosen)))


def answer(message: Message, hospital: Hospital) -> Message:
    """What a hospital sends back."""
    numbers = {"num-steps": 1, "num-images": 1, "loss-generator": 1.0, "loss-discriminator": 1.0} | hospital.metrics
    metrics = MetricRecord({NUM_EXAMPLES: hospital.num_examples, **numbers})
    return Message(RecordDict({ARRAYS: read_only(hospital.arrays), METRICS: metrics}), reply_to=message)


def play(
    rule: FederatedStrategy,
    current: Mapping[str, np.ndarray],
    hospitals: Sequence[Hospital],
    server_round: int = 1,
    *,
    absent: Sequence[int] = (),
    asked: Sequence[int] | None = None,
) -> Arrays:
    """Play a round with those at the positions `asked`, or with all; those that are `absent` do not reply."""
    positions = range(len(hospitals)) if asked is None else asked
    messages = ask(rule, current, hospitals, server_round, asked=asked)
    replies = [
        answer(message, hospitals[number])
        for number, message in zip(positions, messages, strict=True)
        if number not in absent
    ]
    record, _ = rule.aggregate_train(server_round, replies)
    assert record is not None
    return unpack_arrays(record)
