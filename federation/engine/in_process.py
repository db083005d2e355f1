"""Hospitals one after the other in this process, where a debugger can follow."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterable, Mapping

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from federation.engine.grid import APP_ERROR, SimulationGrid


class InProcessGrid(SimulationGrid):
    """A Grid that calls the ClientApp when a reply is asked for.

    Parameters
    ----------
    client_app
        What hospitals run.
    node_configs
        The configuration of each node, by node id.
    """

    def __init__(self, client_app: ClientApp, node_configs: Mapping[int, Mapping[str, int]]) -> None:
        super().__init__(node_configs)
        self._client_app = client_app
        self._contexts = {node_id: self.new_context(node_id) for node_id in self.node_configs}
        self._waiting: deque[Message] = deque()

    def _enqueue(self, message: Message) -> None:
        if message.metadata.dst_node_id in self._distrusting:
            self._distrusting.discard(message.metadata.dst_node_id)
            self._waiting.appendleft(message)
        else:
            self._waiting.append(message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the next waiting message among `message_ids`; return its reply alone."""
        wanted = set(message_ids)
        message = next((message for message in self._waiting if message.metadata.message_id in wanted), None)
        if message is None:
            return []
        self._waiting.remove(message)
        return [call_client_app(self._client_app, message, self._contexts[message.metadata.dst_node_id])]


def call_client_app(client_app: ClientApp, message: Message, context: Context) -> Message:
    """Run a ClientApp; what it raises becomes an error reply with the traceback."""
    try:
        return client_app(message, context)
    except Exception:  # whatever a hospital raises is reported, and must not end the others
        return Message(Error(code=APP_ERROR, reason=traceback.format_exc()), reply_to=message)
