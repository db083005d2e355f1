"""The ClientApp: unpack, call, pack. Nothing else."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from clients.hospital import Hospital, Identity, load_hospital
from clients.local_training import train_locally
from federation.config import Configuration, Layer, resolve
from federation.exchange import (
    ARRAYS,
    CHECKPOINT_ROUNDS,
    CONFIG,
    LAST_ROUND,
    METRICS,
    NUM_EXAMPLES,
    SERVER_ROUND,
    SharingPolicy,
    check_arrays,
    load_tensors,
    pack_arrays,
    private_tensors,
    shared_tensors,
)
from federation.models import GenerativeModel, build_model
from federation.seeding import torch_stream

app = ClientApp()

_NETWORK = "network."
# Steps that a preflight times, and seconds after which it begins no other: with lazy regularisation one step in
# several costs more than the rest.
_PREFLIGHT_STEPS, _PREFLIGHT_SECONDS = 16, 3.0


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this node is and how many training images it holds."""
    configuration = _unpack_config(message).configuration
    hospital = _load_hospital(configuration, Identity.from_node_config(context.node_config))
    record = ConfigRecord({"site": hospital.site, NUM_EXAMPLES: len(hospital.dataset)})
    return Message(RecordDict({CONFIG: record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global networks on this hospital's images for a round."""
    start = time.perf_counter()
    asked = _unpack_config(message)
    configuration, server_round = asked.configuration, asked.server_round
    # Set here, by every launcher: the number of threads changes the last bits.
    torch.set_num_threads(configuration.training.threads)
    hospital = _load_hospital(configuration, Identity.from_node_config(context.node_config))
    model, initial, policy = _load_model(configuration)

    # Take the global networks, and what this hospital kept for itself.
    shared = shared_tensors(model.networks, policy)
    load_tensors(model.networks, check_arrays(message.content.array_records[ARRAYS], shared))
    state = hospital.private_state.load(asked.last_round, server_round)
    kept = {name.removeprefix(_NETWORK): value for name, value in state.items() if name.startswith(_NETWORK)}
    load_tensors(model.networks, kept or initial)
    model.load_private_state({name: value for name, value in state.items() if not name.startswith(_NETWORK)})

    # Train. On a GPU numbers are drawn there: a step then never waits for the processor.
    stream = torch_stream(
        configuration.seed, "local training", server_round=server_round, site=hospital.site, device=_device()
    )
    result = train_locally(model, hospital.dataset, configuration.training, stream)

    # Keep what is private, send the rest.
    private = {_NETWORK + name: value for name, value in private_tensors(model.networks, policy).items()}
    hospital.private_state.save(server_round, model.private_state() | private, asked.checkpoint_rounds)
    metrics = MetricRecord(
        {
            NUM_EXAMPLES: len(hospital.dataset),
            "num-steps": result.num_steps,
            "num-images": result.num_images,
            "train-seconds": result.seconds,
            "seconds": time.perf_counter() - start,
            "worker-pid": os.getpid(),
            "peak-memory-bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            # Penalties come only every so many steps, and every reply must have the same names.
            **{name: value for name, value in result.losses.items() if not name.startswith("penalty")},
        }
    )
    content = RecordDict({ARRAYS: pack_arrays(shared), METRICS: metrics})
    return Message(content, reply_to=message)


@app.query("preflight")
def preflight(message: Message, context: Context) -> Message:
    """Take training steps on this hospital's images; say what they cost. Nothing of them stays."""
    configuration = _unpack_config(message).configuration
    torch.set_num_threads(configuration.training.threads)
    hospital = _load_hospital(configuration, Identity.from_node_config(context.node_config))
    # The model is the one that training will use, already warm: a round overwrites every entry of it.
    model, _, _ = _load_model(configuration)
    model.load_private_state({})
    stream = torch_stream(configuration.seed, "preflight", site=hospital.site, device=_device())
    batch_size = configuration.training.batch_size
    # The first step also regularises, which takes the most memory, and prepares kernels: it is not timed.
    model.train_step(*hospital.dataset.sample_batch(stream, batch_size), stream)
    num_steps, start = 0, time.perf_counter()
    while num_steps < _PREFLIGHT_STEPS and time.perf_counter() - start < _PREFLIGHT_SECONDS:
        losses = model.train_step(*hospital.dataset.sample_batch(stream, batch_size), stream)
        for value in losses.values():
            value.item()  # a GPU is done when its numbers are here
        num_steps += 1
    seconds = time.perf_counter() - start
    on_gpu = _device().type == "cuda"
    record = ConfigRecord(
        {
            "step-seconds": seconds / num_steps,
            "peak-memory-bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "gpu-peak-bytes": torch.cuda.max_memory_reserved() if on_gpu else 0,
            "gpu-total-bytes": torch.cuda.get_device_properties(0).total_memory if on_gpu else 0,
        }
    )
    return Message(RecordDict({CONFIG: record}), reply_to=message)


@dataclass(frozen=True)
class _Asked:
    """What a message says beside the networks."""

    configuration: Configuration
    server_round: int
    last_round: int
    """The last round in which this hospital's reply was taken."""
    checkpoint_rounds: list[int]
    """Rounds that the server can go back to."""


def _unpack_config(message: Message) -> _Asked:
    record: dict[str, Any] = dict(message.content.config_records[CONFIG])
    server_round, last_round = record.pop(SERVER_ROUND, 0), record.pop(LAST_ROUND, 0)
    checkpoint_rounds = record.pop(CHECKPOINT_ROUNDS, [])
    return _Asked(resolve([Layer("server", record)]), server_round, last_round, checkpoint_rounds)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# A long-lived worker keeps the images of its hospitals and one model, whose every entry a round overwrites.
@lru_cache(maxsize=64)
def _load_hospital(configuration: Configuration, identity: Identity) -> Hospital:
    return load_hospital(configuration, identity, _device())


@lru_cache(maxsize=1)
def _load_model(configuration: Configuration) -> tuple[GenerativeModel, dict[str, Tensor], SharingPolicy]:
    """Return the model, the initial values of its private entries, and the policy."""
    model = build_model(configuration, device=_device())
    policy = SharingPolicy(configuration.private_prefixes, configuration.averaged_state)
    initial = {name: value.clone() for name, value in private_tensors(model.networks, policy).items()}
    return model, initial, policy
