"""Hospitals side by side on long-lived Ray workers."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp

from federation.engine.grid import APP_ERROR, WORKER_DIED, SimulationGrid, assemble_message
from federation.engine.in_process import call_client_app

# A worker allocates and frees the same large tensors at every step; giving them back to the system in
# between costs about a tenth of the training time.
_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(64 * 2**20)}
# How long to wait for a reply before the caller gets to look around.
_PULL_SECONDS = 2.0


class _Worker:
    """Runs in its own process and keeps what the ClientApp caches: images, networks."""

    def __init__(self, client_app: ClientApp) -> None:
        self.client_app = client_app

    def ready(self) -> int:
        """Return the process id, once the process is up and the app is imported."""
        return os.getpid()

    def handle(self, metadata: Metadata, content: RecordDict, context: Context) -> tuple[Message, RecordDict]:
        """Return the reply and the node's state after it."""
        reply = call_client_app(self.client_app, assemble_message(content, metadata), context)
        return reply, context.state


class RayGrid(SimulationGrid):
    """A Grid over long-lived Ray actors: each takes the next waiting message when it is free.

    The content of a round's messages, one object for all hospitals, is put once into Ray's object store.

    Parameters
    ----------
    client_app
        What hospitals run.
    node_configs
        The configuration of each node, by node id.
    num_workers
        Actors.
    threads
        CPU threads of each.
    gpus_per_worker
        Share of a GPU of each; 0 for none.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Mapping[int, Mapping[str, int]],
        *,
        num_workers: int,
        threads: int = 1,
        gpus_per_worker: float = 0.0,
    ) -> None:
        import ray

        super().__init__(node_configs)
        self._ray = ray
        self._client_app = client_app
        self._states: dict[int, Context] = {node_id: self.new_context(node_id) for node_id in self.node_configs}
        self._waiting: deque[Message] = deque()
        self._running: dict[Any, tuple[Message, Any]] = {}
        # Messages hold their content: while one waits, its id() is not given to another object.
        self._stored: dict[int, Any] = {}
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "FLWR_TELEMETRY_ENABLED": "0",
            **_MALLOC,
        }
        ray.init(
            address="local",  # never somebody else's cluster that happens to run here
            num_cpus=num_workers,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment},
        )
        self._actor_class = ray.remote(num_cpus=1, num_gpus=gpus_per_worker, max_restarts=0)(_Worker)
        self._idle = [self._start_worker() for _ in range(num_workers)]
        ray.get([worker.ready.remote() for worker in self._idle])

    def _start_worker(self) -> Any:
        return self._actor_class.remote(self._client_app)

    def _enqueue(self, message: Message) -> None:
        self._waiting.append(message)

    def _dispatch(self) -> None:
        while self._idle and self._waiting:
            message = self._waiting.popleft()
            worker = self._idle.pop()
            key = id(message.content)
            if key not in self._stored:
                self._stored[key] = (self._ray.put(message.content), message.content)
            reference = worker.handle.remote(
                message.metadata, self._stored[key][0], self._states[message.metadata.dst_node_id]
            )
            self._running[reference] = (message, worker)
        if not self._waiting and not self._running:
            self._stored.clear()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived; waits for the first a little while."""
        wanted = set(message_ids)
        self._dispatch()
        references = [
            reference for reference, (message, _) in self._running.items() if message.metadata.message_id in wanted
        ]
        if not references:
            return []
        done, _ = self._ray.wait(references, num_returns=1, timeout=_PULL_SECONDS)
        replies = []
        for reference in done:
            message, worker = self._running.pop(reference)
            replies.append(self._finish(reference, message, worker))
        self._dispatch()
        return replies

    def _finish(self, reference: Any, message: Message, worker: Any) -> Message:
        """Return a worker's reply. A dead worker becomes an error reply, and another takes its place."""
        try:
            reply, state = self._ray.get(reference)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.OutOfMemoryError) as error:
            self._idle.append(self._start_worker())
            return Message(Error(code=WORKER_DIED, reason=f"the worker process died: {error}"), reply_to=message)
        except self._ray.exceptions.RayError:
            self._idle.append(worker)
            return Message(Error(code=APP_ERROR, reason=traceback.format_exc()), reply_to=message)
        self._idle.append(worker)
        self._states[message.metadata.dst_node_id].state = state
        return reply

    def close(self) -> None:
        """Stop the workers and Ray."""
        self._ray.shutdown()
