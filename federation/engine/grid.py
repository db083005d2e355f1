"""What our simulation engines share: a Flower Grid over nodes of this machine."""

from __future__ import annotations

import itertools
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import DEFAULT_TTL, Context, Message, Metadata, RecordDict
from flwr.serverapp import Grid

# Error codes as in Flower's own ClientApp runner, which are not public.
APP_ERROR = 2
WORKER_DIED = 3
# Ours: an attempt that took longer than it may.
TOO_LATE = 100

_SERVER_NODE_ID = 1
_RUN_ID = 1


def simulation_nodes(num_hospitals: int) -> dict[int, dict[str, int]]:
    """Return the configuration of each node of a simulation, by node id."""
    return {
        node_id: {"partition-id": node_id - 2, "num-partitions": num_hospitals}
        for node_id in range(2, num_hospitals + 2)  # 1 is the server
    }


@dataclass(frozen=True)
class Workload:
    """What a worker has done."""

    busy_seconds: float
    """Spent in the ClientApp's training."""
    num_messages: int


def assemble_message(content: RecordDict, metadata: Metadata) -> Message:
    """Make a message from its parts.

    Flower marks this form of its constructor as internal. It is the only one that works outside of
    Flower's own processes, so it stands here alone.
    """
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload]


class SimulationGrid(Grid):
    """Base of the engines: makes messages, gives them ids, keeps the nodes."""

    def __init__(self, node_configs: Mapping[int, Mapping[str, int]]) -> None:
        self.node_configs = {node_id: dict(config) for node_id, config in node_configs.items()}
        self._run: Any = None
        self._message_numbers = itertools.count(1)
        self._distrusting: set[int] = set()

    def set_run(self, run: Any) -> None:
        """Remember the run."""
        self._run = run

    @property
    def run(self) -> Any:
        """The run given to :meth:`set_run`."""
        return self._run

    def new_context(self, node_id: int) -> Context:
        """Return the context of a node that has not worked yet."""
        return Context(
            run_id=_RUN_ID,
            node_id=node_id,
            node_config=dict(self.node_configs[node_id]),
            state=RecordDict(),
            run_config={},
        )

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message to a node, with an id; `group_id` is the round."""
        metadata = Metadata(
            run_id=_RUN_ID,
            message_id=str(next(self._message_numbers)),
            src_node_id=_SERVER_NODE_ID,
            dst_node_id=dst_node_id,
            reply_to_message_id="",
            group_id=group_id,
            created_at=time.time(),
            ttl=DEFAULT_TTL if ttl is None else ttl,
            message_type=message_type,
        )
        return assemble_message(content, metadata)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self.node_configs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; return their ids."""
        ids = []
        for message in messages:
            self._enqueue(message)
            ids.append(message.metadata.message_id)
        return ids

    @abstractmethod
    def _enqueue(self, message: Message) -> None:
        """Take a message that :meth:`create_message` made."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push messages and wait for their replies, or until `timeout` seconds have passed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    def expect(self, costs: Mapping[int, float]) -> None:
        """Be told how long each node's training takes in relation to the others', before it was measured."""

    def distrust_worker(self, node_id: int) -> None:
        """Let the next message to a node, a second attempt, go before all others, and to a new process."""
        self._distrusting.add(node_id)

    def running(self) -> list[int]:
        """Return the nodes that work on a message at this moment."""
        return []

    def workloads(self) -> list[Workload]:
        """Return what each worker has done so far, training alone; empty where this process does the work."""
        return []

    def close(self) -> None:
        """Release what the engine holds."""
