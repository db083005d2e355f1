"""Before a simulation's first round: what does a training step cost, and do the workers fit side by side?"""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ConfigRecord, RecordDict

from federation.config import Configuration
from federation.engine.grid import SimulationGrid
from federation.errors import ConfigurationError, HospitalError
from federation.exchange import CONFIG, PREFLIGHT
from federation.machine import available_bytes
from federation.site import Site
from server.messaging import collect_replies, replies_by_node

# What a process takes of a GPU beside its tensors: CUDA's context and the libraries' own memory. Not measured here.
_CONTEXT_BYTES = 600 * 2**20


def check_workers(grid: SimulationGrid, sites: Sequence[Site], configuration: Configuration) -> str:
    """Let every worker take training steps at once; return what it shows in a sentence.

    Raises
    ------
    ConfigurationError
        If so many workers do not fit into memory; says how many do.
    HospitalError
        If a training step fails.
    """
    num_workers = len(grid.workloads())
    # Those with the most images: they need the most memory.
    chosen = sorted(sites, key=lambda site: (-site.num_images, site.name))[:num_workers]
    content = RecordDict({CONFIG: ConfigRecord(dict(configuration.to_flat()))})
    messages = [grid.create_message(content, PREFLIGHT, site.node_id, "preflight") for site in chosen]
    replies = replies_by_node(messages, collect_replies(grid, messages))
    found = []
    for site in chosen:
        reply = replies[site.node_id]
        if reply.has_error():
            raise _failure(site, str(reply.error.reason), num_workers)
        found.append({key: float(str(value)) for key, value in reply.content.config_records[CONFIG].items()})
    step_seconds = max(entry["step-seconds"] for entry in found)
    seconds = [step_seconds * configuration.training.count_steps(site.num_images) for site in sites]
    share = configuration.participation.fraction
    round_seconds = max(max(seconds), share * sum(seconds) / num_workers)

    worker_bytes = max(entry["peak-memory-bytes"] for entry in found)
    room = count_fitting(worker_bytes, num_workers, available_bytes())
    sentence = (
        f"preflight: {step_seconds:.3g} s a training step, {_duration(round_seconds)} a round at least; "
        f"{num_workers} {'worker' if num_workers == 1 else 'workers'} side by side of {worker_bytes / 2**20:,.0f} MiB"
    )
    if configuration.simulation.address:
        return sentence  # memory of other machines is not known here
    if room is not None:
        sentence += f", room for {room}"
        if room < num_workers:
            raise ConfigurationError(
                f"simulation.workers = {num_workers}: each takes {worker_bytes / 2**20:,.0f} MiB in a training step, "
                f"and this machine's memory has room for {room}; set simulation.workers={max(1, room)}, or lower "
                "training.batch-size"
            )
    gpu_bytes, total = max(entry["gpu-peak-bytes"] for entry in found), found[0]["gpu-total-bytes"]
    if total:
        room = int(total // (gpu_bytes + _CONTEXT_BYTES))
        sentence += f"; {gpu_bytes / 2**20:,.0f} MiB of a GPU each, room for {room} on it"
    return sentence


def count_fitting(worker_bytes: float, num_workers: int, available: int | None) -> int | None:
    """Return how many workers fit in all: those that run already, and as many as what is left allows.

    Parameters
    ----------
    worker_bytes
        Peak memory of one.
    num_workers
        That run already.
    available
        Bytes that the machine could still give, beside those workers; None if it does not say.
    """
    if available is None:
        return None
    # A tenth of a worker is left alone: what a round adds to a preflight, and the server's own ups and downs.
    return max(0, num_workers + int((available - 0.1 * worker_bytes * num_workers) // worker_bytes))


def _failure(site: Site, reason: str, num_workers: int) -> Exception:
    if "out of memory" in reason.lower() or "OutOfMemoryError" in reason:
        return ConfigurationError(
            f"simulation.workers = {num_workers}: a training step of hospital {site.name!r} does not fit into memory "
            f"({reason.strip().splitlines()[-1]}); set fewer simulation.workers, more simulation.gpus-per-hospital, or "
            "a smaller training.batch-size"
        )
    return HospitalError(site.name, reason)


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"
