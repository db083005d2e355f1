"""The ClientApp: unpack, call, pack. Nothing else."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from clients.attack import falsify_update, is_attacker, poison_images
from clients.hospital import Hospital, Identity, load_hospital
from clients.local_training import train_locally
from federation.config import Configuration, Layer, resolve
from federation.exchange import (
    ARRAYS,
    CHECKPOINT_ROUNDS,
    CLASS_COUNTS,
    CONFIG,
    DEPLOYED,
    LAST_ROUND,
    METRICS,
    NUM_EXAMPLES,
    SEND_OWN_GENERATOR,
    SERVER_ROUND,
    check_arrays,
    load_tensors,
    named_tensors,
    own_generator,
    pack_arrays,
    private_tensors,
    shared_tensors,
    sharing_policy,
)
from federation.models import GenerativeModel, build_model
from federation.seeding import torch_stream
from federation.strategy_facts import reads_class_counts
from strategies import build_local_rule

app = ClientApp()

_NETWORK, _STRATEGY = "network.", "strategy."
_OURS = (_NETWORK, _STRATEGY)
# Steps that a preflight times, and seconds after which it begins no other: with lazy regularisation one step in
# several costs more than the rest.
_PREFLIGHT_STEPS, _PREFLIGHT_SECONDS = 16, 3.0


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this node is and how many training images it holds."""
    configuration = _unpack_config(message).configuration
    hospital = _load_hospital(configuration, Identity.from_node_config(context.node_config))
    record = ConfigRecord(
        {
            "site": hospital.site,
            NUM_EXAMPLES: len(hospital.dataset),
            DEPLOYED: bool(Identity.from_node_config(context.node_config).site),
        }
    )
    if reads_class_counts(configuration.strategy):
        counts = torch.bincount(hospital.dataset.labels.cpu(), minlength=len(configuration.class_names))
        record[CLASS_COUNTS] = counts.tolist()
    return Message(RecordDict({CONFIG: record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global networks on this hospital's images for a round."""
    start = time.perf_counter()
    asked = _unpack_config(message)
    configuration, server_round = asked.configuration, asked.server_round
    # Set here, by every launcher: the number of threads changes the last bits.
    torch.set_num_threads(configuration.training.threads)
    identity = Identity.from_node_config(context.node_config)
    hospital = _load_hospital(configuration, identity)
    model, initial = _load_model(configuration)
    policy = sharing_policy(configuration, server_round)
    rule = build_local_rule(configuration.strategy)

    # Take the global networks, what the strategy sends beside them, and what this hospital kept for itself.
    entries = named_tensors(model.networks)
    shared = shared_tensors(model.networks, policy)
    global_entries = shared_tensors(model.networks, sharing_policy(configuration, 0))
    sent = rule.down(global_entries, model.networks)
    arrived = check_arrays(message.content.array_records[ARRAYS], sent)
    state = hospital.private_state.load(asked.last_round, server_round)
    load_tensors(model.networks, {name: value for name, value in initial.items() if name not in arrived})
    load_tensors(model.networks, {name: value for name, value in arrived.items() if name in entries})
    # What a strategy carries to the server and back, though it is this hospital's own, is as it arrived.
    carried = sent.keys() - global_entries.keys()
    own = {name: value for name, value in private_tensors(model.networks, policy).items() if name not in carried}
    load_tensors(model.networks, {name: value for name, value in _with_prefix(state, _NETWORK).items() if name in own})
    model.load_private_state({name: value for name, value in state.items() if not name.startswith(_OURS)})
    extra = {name: torch.from_numpy(value.copy()) for name, value in arrived.items() if name not in entries}
    rule.begin(model, shared, extra, _with_prefix(state, _STRATEGY))
    hostile = not identity.site and is_attacker(configuration, identity.partition_id)
    # What a strategy sends beside the networks goes up as a change already, e.g. SCAFFOLD's control variates.
    before = {name: value for name, value in arrived.items() if name in entries and hostile}
    start_tensors = {name: torch.from_numpy(value.copy()) for name, value in before.items()}

    # Train. On a GPU numbers are drawn there: a step then never waits for the processor.
    stream = torch_stream(
        configuration.seed, "local training", server_round=server_round, site=hospital.site, device=_device()
    )
    model.correct_gradients = rule.correct if rule.corrects else None
    result = train_locally(
        model, hospital.dataset, configuration.training, stream, discriminator_only=rule.discriminator_only
    )
    model.correct_gradients = None
    said = rule.end(model, hospital.dataset, stream)

    # Keep what is private, send the rest.
    kept = {
        **model.private_state(),
        **{_NETWORK + name: value for name, value in own.items()},
        **{_STRATEGY + name: value for name, value in rule.state().items()},
    }
    hospital.private_state.save(server_round, kept, asked.checkpoint_rounds)
    up = rule.up(shared, model.networks)
    if hostile:
        up = falsify_update(up, start_tensors, configuration.attack, stream)
    if asked.send_own_generator:  # for the judge alone: no other hospital learns from it
        up |= own_generator(model.networks, policy)
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
            **said,
        }
    )
    content = RecordDict({ARRAYS: pack_arrays(up), METRICS: metrics})
    return Message(content, reply_to=message)


@app.query("preflight")
def preflight(message: Message, context: Context) -> Message:
    """Take training steps on this hospital's images; say what they cost. Nothing of them stays."""
    configuration = _unpack_config(message).configuration
    torch.set_num_threads(configuration.training.threads)
    hospital = _load_hospital(configuration, Identity.from_node_config(context.node_config))
    # The model is the one that training will use, already warm: a round overwrites every entry of it.
    model, _ = _load_model(configuration)
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
    send_own_generator: bool
    """Whether the server judges the round, and needs what is this hospital's own of the generator for it."""


def _unpack_config(message: Message) -> _Asked:
    record: dict[str, Any] = dict(message.content.config_records[CONFIG])
    server_round, last_round = record.pop(SERVER_ROUND, 0), record.pop(LAST_ROUND, 0)
    checkpoint_rounds, send_own = record.pop(CHECKPOINT_ROUNDS, []), bool(record.pop(SEND_OWN_GENERATOR, False))
    return _Asked(resolve([Layer("server", record)]), server_round, last_round, checkpoint_rounds, send_own)


def _with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# A long-lived worker keeps the images of its hospitals and one model, whose every entry a round overwrites.
@lru_cache(maxsize=64)
def _load_hospital(configuration: Configuration, identity: Identity) -> Hospital:
    hospital = load_hospital(configuration, identity, _device())
    if not identity.site and is_attacker(configuration, identity.partition_id):
        poison_images(hospital.dataset, configuration, hospital.site)
    return hospital


@lru_cache(maxsize=1)
def _load_model(configuration: Configuration) -> tuple[GenerativeModel, dict[str, Tensor]]:
    """Return the model and the initial values of all its entries."""
    model = build_model(configuration, device=_device())
    return model, {name: value.clone() for name, value in named_tensors(model.networks).items()}
