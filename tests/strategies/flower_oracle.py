"""Flower's own strategies as rules over some entries: what ours are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flwr.app
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from federation.arrays import Array
from federation.engine.grid import assemble_message
from federation.exchange import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES

FLOWER_KEYS: dict[str, Any] = {"weighted_by_key": NUM_EXAMPLES, "arrayrecord_key": ARRAYS, "configrecord_key": CONFIG}
"""What Flower's strategies must be told of our messages."""


def flower_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """A record that Flower may take apart; the arrays themselves are not copied."""
    record = ArrayRecord()
    for name, value in arrays.items():
        record[name] = Array(value)
    return record


def flower_reply(message: Message, arrays: Mapping[str, np.ndarray], metrics: Mapping[str, float]) -> Message:
    """A reply from where `message` is from, of these arrays and numbers alone."""
    content = RecordDict({ARRAYS: flower_record(arrays), METRICS: MetricRecord(dict(metrics))})
    return assemble_message(content, message.metadata)


def aggregate_with(strategy: FedAvg, server_round: int, messages: Sequence[Message]) -> dict[str, np.ndarray]:
    """What a strategy of Flower's makes of replies, as arrays."""
    record, _ = strategy.aggregate_train(server_round, messages)
    assert isinstance(record, flwr.app.ArrayRecord)
    return {name: array.numpy() for name, array in record.items()}
