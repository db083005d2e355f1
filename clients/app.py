"""The ClientApp: unpack, call, pack. Nothing else."""

from __future__ import annotations

import os
import resource
import time
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


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this node is and how many training images it holds."""
    configuration, _, _ = _unpack_config(message)
    hospital = _load_hospital(configuration, Identity.from_node_config(context.node_config))
    record = ConfigRecord({"site": hospital.site, NUM_EXAMPLES: len(hospital.dataset)})
    return Message(RecordDict({CONFIG: record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global networks on this hospital's images for a round."""
    start = time.perf_counter()
    configuration, server_round, checkpoint_rounds = _unpack_config(message)
    # Set here, by every launcher: the number of threads changes the last bits.
    torch.set_num_threads(configuration.training.threads)
    hospital = _load_hospital(configuration, Identity.from_node_config(context.node_config))
    model, initial, policy = _load_model(configuration)

    # Take the global networks, and what this hospital kept for itself.
    shared = shared_tensors(model.networks, policy)
    load_tensors(model.networks, check_arrays(message.content.array_records[ARRAYS], shared))
    state = hospital.private_state.load(before_round=server_round)
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
    hospital.private_state.save(server_round, model.private_state() | private, checkpoint_rounds)
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


def _unpack_config(message: Message) -> tuple[Configuration, int, list[int]]:
    """Return the configuration, the round, and the rounds that the server can go back to."""
    record: dict[str, Any] = dict(message.content.config_records[CONFIG])
    server_round, checkpoint_rounds = record.pop(SERVER_ROUND, 0), record.pop(CHECKPOINT_ROUNDS, [])
    return resolve([Layer("server", record)]), server_round, checkpoint_rounds


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
