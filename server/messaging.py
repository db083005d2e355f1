"""Messages to hospitals and their replies, the same under every launcher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from federation.balance import WHOLE
from federation.config import Configuration
from federation.engine.grid import SimulationGrid
from federation.errors import ConfigurationError, HospitalError
from federation.exchange import CLASS_COUNTS, CONFIG, DEPLOYED, DESCRIBE, NUM_EXAMPLES, REFUSED, SITE
from federation.seeding import numpy_stream
from federation.settings.participation import ParticipationSettings
from federation.site import Site
from strategies.configuration import least_replies

POLL_SECONDS = 0.2
"""Between two looks at a remote server for replies; our own engines wait by themselves."""
# Hospitals listed by name on one line.
_MOST_NAMED = 12
# How long to wait for as many nodes as hospitals, when nodes come one by one.
_NODES_SECONDS = 60.0


class ChosenNodes(Grid):
    """A grid that shows some of its nodes only: those that take part in a round, and are there.

    Parameters
    ----------
    grid
        The whole.
    node_ids
        Who takes part.
    """

    def __init__(self, grid: Grid, node_ids: Collection[int]) -> None:
        self._grid = grid
        self._node_ids = node_ids

    def get_node_ids(self) -> Iterable[int]:
        """Return the chosen nodes that are connected."""
        return [node_id for node_id in self._grid.get_node_ids() if node_id in self._node_ids]

    def set_run(self, run: Any) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The whole grid's."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Pass on."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Pass on."""
        return self._grid.send_and_receive(messages, timeout=timeout)


def choose_sites(
    sites: Sequence[Site],
    settings: ParticipationSettings,
    seed: int,
    server_round: int,
    choose: Callable[[Sequence[Site], int, int], list[Site] | None] = lambda sites, number, server_round: None,
    least: int = 1,
) -> list[Site]:
    """Draw who takes part in a round, from seed and round alone.

    Parameters
    ----------
    sites
        All, in the order of names.
    settings
        The fraction, and the chance of each to be away.
    seed, server_round
        Of the draw.
    choose
        A strategy's own way to choose so many of them in a round, in the order of names; None: by chance.
    least
        Hospitals that do not drop out however the draw goes: a round of fewer would end the run, each time anew.

    Returns
    -------
    Those chosen, in the order of names.
    """
    number = max(1, round(settings.fraction * len(sites)))
    chosen = choose(sites, number, server_round)
    if chosen is None and number == len(sites):
        chosen = list(sites)
    if chosen is None:
        stream = numpy_stream(seed, "participation", server_round=server_round)
        chosen = [sites[position] for position in sorted(stream.choice(len(sites), size=number, replace=False))]
    if settings.dropout > 0:
        luck = numpy_stream(seed, "dropping out", server_round=server_round).random(len(chosen))
        least_luck = sorted(luck, reverse=True)[min(least, len(chosen)) - 1]
        chosen = [site for site, drawn in zip(chosen, luck, strict=True) if drawn >= min(settings.dropout, least_luck)]
    return chosen


def fewest_replies(sites: Sequence[Site], configuration: Configuration) -> tuple[int, str]:
    """Return the replies without which a round is none, and why."""
    found = [
        (configuration.participation.min_replies, "participation.min-replies"),
        (least_replies(configuration.strategy), "the strategy needs as many"),
    ]
    if len(sites) > 1 and any(site.is_deployed for site in sites):
        found.append((2, "at real sites a single reply would go to all others as it is"))
    return max(found, key=lambda each: each[0])


def list_sites(sites: Sequence[Site]) -> str:
    """Name hospitals and their images; of many, the first few."""
    return _list_first(sites, lambda some: f"({sum(site.num_images for site in some):,} images)")


def list_shares(sites: Sequence[Site]) -> str:
    """Name hospitals and what they show of all that is shown; of many, the first few."""
    return _list_first(sites, lambda some: f"{sum(site.share for site in some) / WHOLE:.1%}")


def _list_first(sites: Sequence[Site], measure: Callable[[Sequence[Site]], str]) -> str:
    """Name the first few of some hospitals, each with what is measured of it, and the rest together."""
    named = [f"{site.name} {measure([site])}" for site in sites[:_MOST_NAMED]]
    if rest := sites[_MOST_NAMED:]:
        named.append(f"and {len(rest):,} more {measure(rest)}")
    return ", ".join(named)


def collect_replies(grid: Grid, messages: Iterable[Message], seconds: float = 0.0) -> list[Message]:
    """Send messages and wait for a reply to each, or for `seconds` (0: as long as it takes); in order of arrival."""
    deadline = time.monotonic() + (seconds or math.inf)
    message_ids = list(grid.push_messages(messages))
    waiting = {message_id for message_id in message_ids if message_id is not None}
    replies: list[Message] = []
    while waiting and time.monotonic() < deadline:
        arrived = list(grid.pull_messages(waiting))
        for reply in arrived:
            waiting.discard(reply.metadata.reply_to_message_id)
        replies += arrived
        # Our own engines wait by themselves.
        if not arrived and not isinstance(grid, SimulationGrid):
            time.sleep(POLL_SECONDS)
    return replies


def replies_by_node(messages: Sequence[Message], replies: Iterable[Message]) -> dict[int, Message]:
    """Return the reply of each node that was sent a message and answered.

    Matched by the message that was answered: the error reply for a dead node comes from another node.
    """
    sent_to = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    return {sent_to[reply.metadata.reply_to_message_id]: reply for reply in replies}


def wait_for_nodes(grid: Grid, num_hospitals: int, *, resumed: bool = False) -> list[int]:
    """Return the ids of all nodes, once there are as many as hospitals; `resumed`: as when the run began.

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
            remedy = (
                "start as many: a run goes on with the hospitals that it was started with; each may miss rounds, but "
                "must say at the beginning who it is"
                if resumed
                else f"set partition.hospitals={len(node_ids)} or start as many nodes as hospitals"
            )
            raise ConfigurationError(
                f"partition.hospitals = {num_hospitals}, but there are {len(node_ids)} nodes; {remedy}"
            )
        time.sleep(1.0)


def _check_counts(counts: Sequence[int], num_images: int, name: str, configuration: Configuration) -> None:
    """Refuse counts of classes that cannot be.

    Raises
    ------
    ConfigurationError
        Naming the hospital.
    """
    if not counts:
        return
    expected = len(configuration.class_names)
    if len(counts) != expected or min(counts) < 0 or sum(counts) != num_images:
        raise ConfigurationError(
            f"hospital {name!r} tells {list(counts)} images of each class, and {num_images} in all: allowed is a "
            f"number from 0 on for each of the {expected} classes, which add up; its data.classes may be others"
        )


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
    node_ids = wait_for_nodes(grid, configuration.partition.hospitals, resumed=configuration.resume)
    content = RecordDict({CONFIG: ConfigRecord(dict(configuration.to_flat()))})
    messages = [grid.create_message(content, DESCRIBE, node_id, "describe") for node_id in node_ids]
    # In a simulation the engine sees to the time: its hospitals read their images a few at a time.
    seconds = 0.0 if isinstance(grid, SimulationGrid) else configuration.participation.describe_seconds
    replies = replies_by_node(messages, collect_replies(grid, messages, seconds))
    sites = []
    for node_id in node_ids:
        if node_id not in replies:
            raise HospitalError(f"node {node_id}", f"no answer within {seconds:g} s (participation.describe-seconds)")
        reply = replies[node_id]
        if reply.has_error() and reply.error.code == REFUSED:
            raise ConfigurationError(
                [f"node {node_id} refuses this run: {problem}" for problem in str(reply.error.reason).splitlines()]
            )
        if reply.has_error():
            raise HospitalError(f"node {node_id}", str(reply.error.reason))
        record = reply.content.config_records[CONFIG]
        counts: Any = record.get(CLASS_COUNTS, [])
        _check_counts(counts, int(str(record[NUM_EXAMPLES])), str(record[SITE]), configuration)
        sites.append(
            Site(
                name=str(record[SITE]),
                node_id=node_id,
                num_images=int(str(record[NUM_EXAMPLES])),
                class_counts=tuple(int(count) for count in counts),
                is_deployed=bool(record[DEPLOYED]),
            )
        )
    sites.sort(key=lambda site: site.name)
    for before, after in pairwise(sites):
        if before.name == after.name:
            raise ConfigurationError(f"two nodes are called {after.name!r}; give each site a name of its own")
    return [replace(site, number=number) for number, site in enumerate(sites)]
