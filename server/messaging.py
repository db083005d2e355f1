"""Messages to hospitals and their replies, the same under every launcher."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from federation.config import Configuration
from federation.errors import ConfigurationError, HospitalError
from federation.exchange import CONFIG, DESCRIBE, NUM_EXAMPLES

# Between two looks at a remote server for replies; our own engines wait by themselves.
_POLL_SECONDS = 0.2
# How long to wait for as many nodes as hospitals, when nodes come one by one.
_NODES_SECONDS = 60.0


@dataclass(frozen=True)
class Site:
    """A hospital as the server knows it."""

    name: str
    node_id: int
    num_images: int
    """Its training images: its weight in an average."""


def collect_replies(
    grid: Grid, messages: Iterable[Message], on_reply: Callable[[Message], None] = lambda reply: None
) -> list[Message]:
    """Send messages and wait for a reply to each, in order of arrival."""
    message_ids = list(grid.push_messages(messages))
    waiting = {message_id for message_id in message_ids if message_id is not None}
    replies: list[Message] = []
    while waiting:
        arrived = list(grid.pull_messages(waiting))
        for reply in arrived:
            waiting.discard(reply.metadata.reply_to_message_id)
            on_reply(reply)
        replies += arrived
        if not arrived:
            time.sleep(_POLL_SECONDS)
    return replies


def replies_by_node(messages: Sequence[Message], replies: Iterable[Message]) -> dict[int, Message]:
    """Return the reply of each node that was sent a message and answered.

    Matched by the message that was answered: the error reply for a dead node comes from another node.
    """
    sent_to = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    return {sent_to[reply.metadata.reply_to_message_id]: reply for reply in replies}


def wait_for_nodes(grid: Grid, num_hospitals: int) -> list[int]:
    """Return the ids of all nodes, once there are as many as hospitals.

    Raises
    ------
    ConfigurationError
        If there are more nodes than hospitals, or fewer after a minute.
    """
    deadline = time.monotonic() + _NODES_SECONDS
    while True:
        node_ids = sorted(grid.get_node_ids())
        if len(node_ids) == num_hospitals:
            return node_ids
        if len(node_ids) > num_hospitals or time.monotonic() > deadline:
            raise ConfigurationError(
                f"partition.hospitals = {num_hospitals}, but there are {len(node_ids)} nodes; set "
                f"partition.hospitals={len(node_ids)} or start as many nodes as hospitals"
            )
        time.sleep(1.0)


def describe_sites(grid: Grid, configuration: Configuration) -> list[Site]:
    """Ask every node who it is; return the hospitals in the order of their names.

    Node ids are random and replies come in any order, so that only names can order a federation.

    Raises
    ------
    HospitalError
        If a node cannot read its data.
    ConfigurationError
        If two nodes have one name, or the number of nodes is not that of the hospitals.
    """
    node_ids = wait_for_nodes(grid, configuration.partition.hospitals)
    content = RecordDict({CONFIG: ConfigRecord(dict(configuration.to_flat()))})
    messages = [grid.create_message(content, DESCRIBE, node_id, "describe") for node_id in node_ids]
    replies = replies_by_node(messages, collect_replies(grid, messages))
    sites = []
    for node_id, reply in replies.items():
        if reply.has_error():
            raise HospitalError(f"node {node_id}", str(reply.error.reason))
        record = reply.content.config_records[CONFIG]
        sites.append(Site(name=str(record["site"]), node_id=node_id, num_images=int(str(record[NUM_EXAMPLES]))))
    sites.sort(key=lambda site: site.name)
    for before, after in pairwise(sites):
        if before.name == after.name:
            raise ConfigurationError(f"two nodes are called {after.name!r}; give each site a name of its own")
    return sites
