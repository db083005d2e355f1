"""Hospitals side by side on long-lived Ray workers."""

from __future__ import annotations

import importlib
import logging
import math
import os
import signal
import socket
import sys
import time
import traceback
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Error, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp

from federation.arrays import Array
from federation.engine.grid import APP_ERROR, TOO_LATE, WORKER_DIED, SimulationGrid, Workload, assemble_message
from federation.engine.in_process import call_client_app
from federation.engine.ray_processes import RayProcesses
from federation.errors import ConfigurationError, RunError
from federation.exchange import count_bytes
from federation.interruption import handlers_kept
from federation.machine import total_bytes

# A worker allocates and frees the same large tensors at every step; giving them back to the system in
# between costs about a tenth of the training time.
_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(64 * 2**20)}
# The longest wait before the caller gets to look around, and we to see if Ray still lives.
_WAIT_SECONDS = 1.0
_CONNECT_SECONDS = 5.0
# A worker is up after seconds; on a busy machine it takes longer.
_START_SECONDS = 300.0
# Workers that die one after the other before they have done anything: it is not the hospital's fault.
_MOST_FAILED_STARTS = 3
# Bytes of finished replies that nobody has taken, from which on messages go out in the order they came in.
_LEAST_HELD_BYTES = 256 * 2**20
# Of two waiting hospitals whose times differ by less than this share, the one that the worker knows goes first.
_ALIKE = 0.1
# Where hospitals take less time than this, they are not sorted by it.
_SHORT_SECONDS = 1.0
TRAIN = "train"


class _Worker:
    """Runs in its own process and keeps what the ClientApp caches: images, networks."""

    def __init__(self, client_app: ClientApp, gpu_share: float) -> None:
        self.client_app = client_app
        if 0 < gpu_share < 1:
            import torch

            # What a hospital asks for beyond its share fails there, and not at its neighbour.
            torch.cuda.set_per_process_memory_fraction(gpu_share)

    def ready(self) -> int:
        """Return the process id, once the process is up and has imported what it needs."""
        if "torch" in sys.modules:
            # The first optimizer would import it, for seconds: before the clock of a message runs.
            importlib.import_module("torch._dynamo")
        return os.getpid()

    def handle(
        self,
        call: tuple[Metadata, RecordDict, Context, tuple[str, ...]],
        *array_records: ArrayRecord,
    ) -> tuple[Message, RecordDict, float]:
        """Return the reply, the node's state after it, and the seconds it took.

        `array_records` lie in Ray's object store; their names, and all other records, come along with the call.
        """
        start = time.perf_counter()
        metadata, others, context, names = call
        content = RecordDict({**others, **dict(zip(names, array_records, strict=True))})
        reply = call_client_app(self.client_app, assemble_message(content, metadata), context)
        return reply, context.state, time.perf_counter() - start


@dataclass(eq=False)
class _Slot:
    """A place for a worker: when one dies, another takes it.

    It gets one message at a time: of one that died with two, nobody could say which of them killed it.
    """

    actor: Any
    ready: Any
    """Reference to the worker's process id."""
    process_id: int = 0
    """0 while it starts."""
    is_fresh: bool = True
    """Whether the worker has not been given any message."""
    busy_seconds: float = 0.0
    num_messages: int = 0


@dataclass(eq=False)
class _Attempt:
    """A message on its way through a worker."""

    message: Message
    slot: _Slot
    reference: Any
    """To what the worker returns."""
    started: float
    """By the monotonic clock, as is the deadline."""
    deadline: float


class RayGrid(SimulationGrid):
    """A Grid over long-lived Ray actors.

    An ArrayRecord that several messages hold is put once into Ray's object store, where workers read it without
    a copy. A worker that is free takes the hospital that will take longest, as measured before; of several alike,
    one that it knows. Finished replies stay in the object store until the caller lets go of them; when they are
    too many, messages go out in the order in which they came in, so that a caller who takes replies in that order
    needs memory for a few only.

    After a failed attempt, whatever the cause, a new worker takes the place of the old.

    Parameters
    ----------
    client_app
        What hospitals run.
    node_configs
        The configuration of each node, by node id.
    num_workers
        Actors; 0: as many as fit on the cluster, at most one per node.
    threads
        CPU threads of each.
    gpus_per_worker
        Share of a GPU of each; 0 for none.
    deadlines
        How many seconds a worker may take for a message, by the first word of its type, e.g.
        ``{"train": 60, "query": 10}``; absent or 0: as long as it likes.
    address
        Of a running Ray cluster; empty: start Ray on this machine.

    Raises
    ------
    ConfigurationError
        If there is no cluster at the address, none of its machines has room for a worker, or Ray cannot be started on
        this machine.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Mapping[int, Mapping[str, int]],
        *,
        num_workers: int,
        threads: int = 1,
        gpus_per_worker: float = 0.0,
        deadlines: Mapping[str, float] | None = None,
        address: str = "",
    ) -> None:
        if not address:
            _keep_this_process_alive()
        import ray

        super().__init__(node_configs)
        self._ray = ray
        self._client_app = client_app
        self._gpu_share = gpus_per_worker
        self._deadlines = dict(deadlines or {})
        self._is_local = not address
        self._states: dict[int, Context] = {node_id: self.new_context(node_id) for node_id in self.node_configs}
        # Messages in the order in which they came in.
        self._waiting: dict[str, Message] = {}
        self._waiting_nodes: dict[str, int] = {}
        self._running: dict[Any, _Attempt] = {}
        self._starting: dict[Any, _Slot] = {}
        self._idle: list[_Slot] = []
        self._failed_starts = 0
        self._slots: list[_Slot] = []
        self._last_sign = time.monotonic()
        # ArrayRecords in the object store by id(); a record is held with its reference, so its id stays its own.
        self._stored: dict[int, tuple[Any, ArrayRecord]] = {}
        # What each node's last training took, as seen from here: with the way there and back.
        self._seconds: dict[int, float] = {}
        self._costs: dict[int, float] = {}
        self._last_slot: dict[int, _Slot] = {}
        self._held_bytes = 0
        # The store's memory under replies that are in use, and of those that are not; see _keep_memory.
        self._memory_in_use: dict[int, list[Any]] = {}
        self._memory_to_return: list[list[Any]] = []
        self._most_held_bytes = max(_LEAST_HELD_BYTES, total_bytes() // 100)
        self._connect(address, num_workers * threads, threads)
        try:
            if not num_workers:
                num_workers = self._count_fitting(threads)
            self._processes = RayProcesses.of_this_process() if self._is_local else RayProcesses({})
            self._actor_class = ray.remote(
                num_cpus=threads, num_gpus=gpus_per_worker, max_restarts=0, scheduling_strategy="SPREAD"
            )(_Worker)
            self._slots += [self._start_slot() for _ in range(num_workers)]
            self._last_sign = time.monotonic()
            while self._starting:
                self._wait()
        except BaseException:
            ray.shutdown()
            raise

    # ------------------------------------------------------------------ Ray

    def _connect(self, address: str, num_cpus: int, threads: int) -> None:
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "FLWR_TELEMETRY_ENABLED": "0",
            **_MALLOC,
        }
        arguments: dict[str, Any] = {
            "log_to_driver": False,
            "configure_logging": False,
            "logging_level": logging.ERROR,
        }
        # Ray has SIGTERM end this process at once, and at that from within its own code.
        with handlers_kept():
            self._connect_to(address, num_cpus, environment, arguments)

    def _connect_to(self, address: str, num_cpus: int, environment: dict[str, str], arguments: dict[str, Any]) -> None:
        if not address:
            # Memory of replies that were let go of is used again at once, and not a second later: the store then stays
            # small, and its pages stay mapped.
            batch_size = "RAY_free_objects_batch_size"
            environment[batch_size] = os.environ.get(batch_size, "1")
            # Workers inherit it. Given to Ray as their runtime environment, each takes a second longer to start.
            try:
                with _environment(environment):
                    # "local": never somebody else's cluster that happens to run here.
                    self._ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **arguments)
            except Exception as error:  # what Ray raises has no common base; it is the machine's fault, not the run's
                self._ray.shutdown()
                raise ConfigurationError(_why_ray_does_not_start(error)) from None
            return
        try:
            host, _, port = address.rpartition(":")
            if port.isdigit():
                # Ray itself would try for minutes.
                socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
            self._ray.init(address=address, runtime_env={"env_vars": environment}, **arguments)
        except OSError as error:  # ConnectionError, which Ray raises too, is one
            raise ConfigurationError(
                f"simulation.address = {address!r}: no Ray cluster answers there ({str(error).splitlines()[0]}); start "
                "one with ray start --head, or leave simulation.address empty to use this machine alone"
            ) from None

    def _count_fitting(self, threads: int) -> int:
        """Return how many workers the cluster's machines take, at most one per node."""
        fitting = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                resources = node["Resources"]
                room = int(resources.get("CPU", 0)) // threads
                if self._gpu_share:
                    gpus = resources.get("GPU", 0)
                    per_gpu = int(1 / self._gpu_share) if self._gpu_share <= 1 else 1 / self._gpu_share
                    room = min(room, int(gpus * per_gpu))
                fitting += room
        if not fitting:
            raise ConfigurationError(
                f"training.threads = {threads} and simulation.gpus-per-hospital = {self._gpu_share:g}: no machine of "
                "the Ray cluster has room for a worker; lower them, or start the cluster's machines with more"
            )
        return min(fitting, len(self.node_configs))

    def _start_slot(self) -> _Slot:
        actor: Any = self._actor_class.remote(self._client_app, self._gpu_share)
        slot = _Slot(actor, actor.ready.remote())
        self._starting[slot.ready] = slot
        return slot

    def _replace(self, slot: _Slot, *, hangs: bool = False) -> None:
        """End a slot's worker, dead already or not, and start another in its place."""
        self._ray.kill(slot.actor, no_restart=True)
        if hangs and self._is_local:
            # Ray asks a process to end; one that is stopped, or hangs in a system call, does not hear it.
            with suppress(ProcessLookupError):
                os.kill(slot.process_id, signal.SIGKILL)
        slot.actor = self._actor_class.remote(self._client_app, self._gpu_share)
        slot.ready, slot.process_id, slot.is_fresh = slot.actor.ready.remote(), 0, True
        self._starting[slot.ready] = slot

    # ------------------------------------------------------------------ the Grid

    def expect(self, costs: Mapping[int, float]) -> None:
        """Take relative costs, used for nodes whose training has not been timed yet."""
        self._costs = dict(costs)

    def running(self) -> list[int]:
        """Return the nodes that work on a message at this moment."""
        return [attempt.message.metadata.dst_node_id for attempt in self._running.values()]

    def workloads(self) -> list[Workload]:
        """Return what each worker has done so far, training alone."""
        return [Workload(slot.busy_seconds, slot.num_messages) for slot in self._slots]

    def _enqueue(self, message: Message) -> None:
        if message.metadata.dst_node_id in self._distrusting:
            self._wait_first(message)
        else:
            self._waiting[message.metadata.message_id] = message
            self._waiting_nodes[message.metadata.message_id] = message.metadata.dst_node_id

    def _wait_first(self, message: Message) -> None:
        """Let a message wait before all others."""
        self._waiting = {message.metadata.message_id: message, **self._waiting}
        self._waiting_nodes = {message.metadata.message_id: message.metadata.dst_node_id, **self._waiting_nodes}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return replies that have arrived, in the order of their arrival; waits a moment for the first.

        Raises
        ------
        RunError
            If Ray itself died, or workers die as soon as they start.
        """
        wanted = set(message_ids)
        self._return_memory()
        self._dispatch()
        if not any(attempt.message.metadata.message_id in wanted for attempt in self._running.values()) and not (
            self._starting and any(message_id in wanted for message_id in self._waiting)
        ):
            return []
        return self._wait(wanted)

    # ------------------------------------------------------------------ dispatching

    def _dispatch(self) -> None:
        """Give waiting messages to workers that are free."""
        for slot in list(self._idle):
            message = self._choose(slot)
            if message is not None:
                self._idle.remove(slot)
                self._distrusting.discard(message.metadata.dst_node_id)
                self._send(message, slot)
        if self._waiting and self._idle and not self._starting:
            # Only second attempts are left, and no worker is new.
            self._replace(self._idle.pop())
        if not self._waiting and not self._running:
            self._stored.clear()

    def _choose(self, slot: _Slot) -> Message | None:
        """Return the waiting message that a worker should take next; None if there is none for it."""
        if self._distrusting and not slot.is_fresh:
            open_to_it = [key for key, node_id in self._waiting_nodes.items() if node_id not in self._distrusting]
        else:
            open_to_it = list(self._waiting)
        if not open_to_it:
            return None
        first = self._waiting[open_to_it[0]]
        if (
            self._held_bytes > self._most_held_bytes
            or first.metadata.message_type != TRAIN
            or first.metadata.dst_node_id in self._distrusting
        ):
            return first
        seconds = self._expected_seconds(open_to_it)
        longest = max(seconds.values())
        if longest < _SHORT_SECONDS and self._seconds:
            return first  # whatever the order: what differs is chance
        alike = [key for key in open_to_it if seconds[key] >= (1 - _ALIKE) * longest]
        known = (key for key in alike if self._last_slot.get(self._waiting_nodes[key]) is slot)
        return self._waiting[next(known, None) or next(key for key in alike if seconds[key] == longest)]

    def _expected_seconds(self, message_ids: Iterable[str]) -> dict[str, float]:
        """Return how long waiting messages will take: as long as their nodes took before, else by their costs."""
        both = [node_id for node_id in self._seconds if self._costs.get(node_id)] if self._costs else []
        scale = sum(self._seconds[node] for node in both) / sum(self._costs[node] for node in both) if both else 1.0
        found = {}
        for message_id in message_ids:
            node_id = self._waiting_nodes[message_id]
            found[message_id] = self._seconds.get(node_id, scale * self._costs.get(node_id, 0.0))
        return found

    def _send(self, message: Message, slot: _Slot) -> None:
        del self._waiting[message.metadata.message_id], self._waiting_nodes[message.metadata.message_id]
        others = RecordDict()
        names, references = [], []
        for name, record in message.content.items():
            if not isinstance(record, ArrayRecord):
                others[name] = record
                continue
            if id(record) not in self._stored:
                self._check_processes()
                self._stored[id(record)] = (self._ray.put(record), record)
            names.append(name)
            references.append(self._stored[id(record)][0])
        call = (message.metadata, others, self._states[message.metadata.dst_node_id], tuple(names))
        slot.is_fresh = False
        started = time.monotonic()
        allowed = self._deadlines.get(message.metadata.message_type.partition(".")[0], 0.0)
        reference = slot.actor.handle.remote(call, *references)
        self._running[reference] = _Attempt(message, slot, reference, started, started + (allowed or math.inf))

    # ------------------------------------------------------------------ receiving

    def _wait(self, wanted: set[str] | None = None) -> list[Message]:
        """Wait until something happens, for a moment at most; return replies to messages that are wanted."""
        references = [*self._starting]
        for reference, attempt in self._running.items():
            if wanted is None or attempt.message.metadata.message_id in wanted:
                references.append(reference)
        done, _ = self._ray.wait(references, num_returns=1, timeout=self._timeout())
        self._check_ray(bool(done))
        replies = []
        for reference in done:
            if reference in self._starting:
                self._welcome(reference)
            else:
                replies.append(self._finish(reference))
            self._dispatch()
        replies += self._end_late_attempts()
        return replies

    def _check_ray(self, something_came: bool) -> None:
        """See if Ray still lives, and if workers still start."""
        now = time.monotonic()
        if something_came or self._running:
            self._last_sign = now
        self._check_processes()
        if now - self._last_sign > _START_SECONDS:
            raise RunError(
                f"no worker has started within {_START_SECONDS:g} s: Ray has no room for {len(self._slots)} workers; "
                "set fewer simulation.workers, or see with ray status what else runs on the cluster"
            )

    def _check_processes(self) -> None:
        """See if Ray's own processes live.

        Raises
        ------
        RunError
            If one does not. Ray is shut down then: its threads in this process would soon try to get back what is lost,
            and end this process over it while the run is being saved.
        """
        try:
            self._processes.check()
        except RunError:
            self._ray.shutdown()
            raise

    def _timeout(self) -> float:
        """Return how long to wait: until the next attempt would be late, and not so long that nobody looks around."""
        left = [attempt.deadline - time.monotonic() for attempt in self._running.values()]
        return max(0.0, min([_WAIT_SECONDS, *left]))

    def _welcome(self, reference: Any) -> None:
        """Take in a worker that has started, or start another if it died."""
        slot = self._starting.pop(reference)
        try:
            self._check_processes()
            slot.process_id = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._check_processes()
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS:
                raise RunError(f"{self._failed_starts} workers in a row died while they started: {error}") from None
            self._replace(slot)
            return
        self._failed_starts = 0
        self._idle.append(slot)

    def _finish(self, reference: Any) -> Message:
        """Return a worker's reply; in place of one that died, an error."""
        attempt = self._running.pop(reference)
        message, slot = attempt.message, attempt.slot
        node_id = message.metadata.dst_node_id
        try:
            self._check_processes()
            reply, state, seconds = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._check_processes()
            self._replace(slot)
            died = isinstance(error, self._ray.exceptions.RayActorError | self._ray.exceptions.OutOfMemoryError)
            if died:
                return Message(Error(WORKER_DIED, f"the worker process died: {error}"), reply_to=message)
            return Message(Error(APP_ERROR, traceback.format_exc()), reply_to=message)
        self._states[node_id].state = state
        if reply.has_error():
            self._replace(slot)  # who knows what the failure left behind
            return reply
        self._idle.append(slot)
        if message.metadata.message_type == TRAIN:
            slot.busy_seconds += seconds
            slot.num_messages += 1
            self._seconds[node_id] = time.monotonic() - attempt.started
            self._last_slot[node_id] = slot
        self._keep_memory(reply)
        self._count_held(reply)
        return reply

    def _end_late_attempts(self) -> list[Message]:
        """End attempts that have taken longer than they may; return the errors that stand for them."""
        errors = []
        for attempt in list(self._running.values()):
            if time.monotonic() >= attempt.deadline:
                if self._ray.wait([attempt.reference], timeout=0)[0]:
                    continue  # it is there; only we were late to look
                del self._running[attempt.reference]
                self._replace(attempt.slot, hangs=True)
                reason = f"no answer within {attempt.deadline - attempt.started:g} s"
                errors.append(Message(Error(TOO_LATE, reason), reply_to=attempt.message))
        return errors

    def _count_held(self, reply: Message) -> None:
        """Count a reply's bytes until the caller lets go of its records."""
        for record in reply.content.values():  # not .array_records: that ties content and records into a cycle
            if not isinstance(record, ArrayRecord):
                continue
            size = count_bytes(record)
            self._held_bytes += size
            weakref.finalize(record, self._release, size)

    def _release(self, size: int) -> None:
        self._held_bytes -= size

    def _keep_memory(self, reply: Message) -> None:
        """Give a reply's memory back to the store at a moment of ours, and not when the caller lets go of it.

        Giving memory back to a store whose process has died ends this process at once, without a word; so that is done
        where we have just seen that it lives. Of views all have one base, the array around the store's memory.
        """
        for record in reply.content.values():
            if not isinstance(record, ArrayRecord):
                continue
            flat = getattr(record, "flat", None)
            single = [array.numpy() for array in record.values() if isinstance(array, Array)] if flat is None else []
            for values in [flat] if flat is not None else single:
                owner = values if not isinstance(values.base, np.ndarray) else values.base
                if owner.base is not None and id(owner) not in self._memory_in_use:
                    self._memory_in_use[id(owner)] = [owner.base]
                    weakref.finalize(owner, self._let_go_of, id(owner))

    def _let_go_of(self, owner: int) -> None:
        self._memory_to_return.append(self._memory_in_use.pop(owner))

    def _return_memory(self) -> None:
        """Give back to the store what nobody uses any more."""
        self._check_processes()
        self._memory_to_return.clear()

    def close(self) -> None:
        """Stop the workers and Ray."""
        self._ray.shutdown()


def _why_ray_does_not_start(error: Exception) -> str:
    """Say what to do about a machine on which Ray does not start."""
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "")
    folder = os.environ.get(variable, "/tmp")
    if "AF_UNIX" in str(error):
        return (
            f"{variable} = {folder}: is too long for the sockets that Ray makes there; set the environment variable "
            "RAY_TMPDIR to a short folder, e.g. RAY_TMPDIR=/tmp, or simulation.engine=in-process"
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return (
        f"simulation.engine = ray: Ray does not start on this machine ({type(error).__name__}: {reason}); its files "
        f"and logs lie in {folder}/ray: set the environment variable RAY_TMPDIR to another short folder that can be "
        "written, or simulation.engine=in-process"
    )


def _keep_this_process_alive() -> None:
    """Keep Ray, which reads these when it is imported, from ending this process where it loses its own.

    It would do so without a word, before anything could be saved: a minute after its gcs_server has gone; and at once
    without its raylet, if the process named here has gone too, or, if none is named, who started this one, as under
    nohup.
    """
    os.environ["RAY_RAYLET_PID"] = str(os.getpid())
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(10**6))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Add to this process's environment for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
