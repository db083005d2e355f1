"""How a strategy of Flower's own is used as a rule over some entries: it is given records with these alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import flwr.app
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from federation.arrays import Array
from federation.engine.grid import assemble_message
from federation.exchange import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES
from strategies.aggregation import Reply

FLOWER_KEYS: dict[str, Any] = {"weighted_by_key": NUM_EXAMPLES, "arrayrecord_key": ARRAYS, "configrecord_key": CONFIG}
"""What Flower's strategies must be told of our messages."""


def flower_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return a record that Flower may take apart; the arrays themselves are not copied."""
    record = ArrayRecord()
    for name, value in arrays.items():
        record[name] = Array(value)
    return record


def flower_replies(replies: Iterable[Reply]) -> list[Message]:
    """Return replies with the governed entries and the weight alone."""
    return [
        assemble_message(
            RecordDict(
                {ARRAYS: flower_record(reply.values()), METRICS: MetricRecord({NUM_EXAMPLES: reply.num_images})}
            ),
            reply.message.metadata,
        )
        for reply in replies
    ]


def aggregate_with(strategy: FedAvg, server_round: int, messages: list[Message]) -> dict[str, np.ndarray]:
    """Return what a strategy of Flower's makes of replies, as arrays."""
    record, _ = strategy.aggregate_train(server_round, messages)
    assert isinstance(record, flwr.app.ArrayRecord)
    return {name: array.numpy() for name, array in record.items()}
