"""What crosses the wire: named networks to Flower records and back, and the check of what arrives.

A message holds one ArrayRecord with keys ``generator.*``, ``discriminator.*``, ``generator_ema.*``,
one ConfigRecord with the whole configuration on the way to a hospital, and one MetricRecord with
numbers on the way back. Never an image.

What becomes of each entry:

============================================  ==========================================================
weights, biases, noise strengths              averaged, or private where ``strategy.private`` names them
running mean of w, EMA of the generator       averaged, like the generator they belong to
integer buffers                               private: a mean of counters is no counter
``training.ada_p``, ``.path_length_mean``     private, or averaged where ``strategy.averaged-state`` says so
signs counted since p was last adapted        private
private parts of the EMA of the generator     in simulations sent when a round is judged, never averaged
Adam's moments, number of steps               private, and never a named tensor of the wire
random streams                                none is carried: each is made anew from seed, round and site
============================================  ==========================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from federation.config import NETWORKS, Configuration
from federation.errors import ConfigurationError, WireError

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
NUM_EXAMPLES = "num-examples"
"""Key of the weight of a reply: the number of training images at the hospital."""
SERVER_ROUND = "server-round"
CHECKPOINT_ROUNDS = "checkpoint-rounds"
"""Rounds that the server can go back to: hospitals keep their own state of these."""
LAST_ROUND = "last-round"
"""The last round in which this hospital's reply was taken, 0 for none: the state it goes on from."""
SEND_OWN_GENERATOR = "send-own-generator"
"""Key that asks for the parts of the generator that are a hospital's own, to judge them."""
OWN = "own."
"""Before the names of those parts; they are never averaged."""
CLASS_COUNTS = "class-counts"
"""Key of the number of training images of each class, where a strategy needs it."""
DEPLOYED = "deployed"
"""Key that says whether a node is a real site and not a simulated one."""
DESCRIBE = "query.describe"
"""Message type that asks a node who it is."""
PREFLIGHT = "query.preflight"
"""Message type that asks a node what a training step costs."""

REQUIRED_METRICS = (
    NUM_EXAMPLES,
    "num-steps",
    "num-images",
    "train-seconds",
    "seconds",
    "worker-pid",
    "peak-memory-bytes",
)
"""What every reply says beside its losses."""

# Beside the networks: what training carries from step to step.
_TRAINING_STATE = "training"

# What is judged follows what is trained: an average of G is private where G is.
_FOLLOWS = {"generator_ema": "generator"}


class SharingPolicy:
    """Which entries of the networks are averaged, and which stay at a hospital.

    Parameters
    ----------
    private
        Prefixes of entries that never leave a hospital, e.g. ``("discriminator",)`` or
        ``("generator.mapping",)``, in which ``*`` stands for anything. A part of the generator takes the same
        part of its running average with it. Everything else is averaged, buffers such as the running mean of w
        included, except integer buffers: those stay where they are, as a mean of counters is no counter.
    averaged_state
        State of training that is averaged too, e.g. ``("ada-p",)``; all else of it stays.
    """

    def __init__(self, private: Iterable[str] = (), averaged_state: Iterable[str] = ()) -> None:
        self.private = tuple(private)
        self.averaged_state = frozenset(f"{_TRAINING_STATE}.{name.replace('-', '_')}" for name in averaged_state)
        for follower, leader in _FOLLOWS.items():
            parts = [prefix.partition(".") for prefix in self.private]
            self.private += tuple(follower + dot + rest for head, dot, rest in parts if fnmatchcase(leader, head))

    def is_shared(self, name: str, value: Tensor) -> bool:
        """Whether the entry called `name` (``network.parameter``) crosses the wire."""
        if not value.is_floating_point():
            return False
        if name.startswith(_TRAINING_STATE + "."):
            return name in self.averaged_state
        return not self.is_private(name)

    def is_private(self, name: str) -> bool:
        """Whether `private` names this entry."""
        return any(_is_within(name, prefix) for prefix in self.private)

    def keeps_generator(self) -> bool:
        """Whether hospitals have a generator, or a part of one, of their own."""
        heads = {prefix.split(".")[0] for prefix in self.private}
        # Of a pattern it is what stands before the first star that rules a network out.
        stems = {head.split("*")[0] for head in heads if "*" in head}
        return bool(heads & {"generator", "generator_ema"}) or any(
            stem.startswith("generator") or "generator".startswith(stem) for stem in stems
        )

    def check(self, names: Iterable[str]) -> None:
        """Refuse a prefix that no entry has.

        Raises
        ------
        ConfigurationError
            Naming the prefix and the networks that there are.
        """
        names = [name for name in names if not name.startswith(_TRAINING_STATE + ".")]
        for prefix in self.private:
            if not any(_is_within(name, prefix) for name in names):
                networks = sorted({name.split(".")[0] for name in names})
                raise ConfigurationError(
                    f"strategy.private = {prefix!r}: no network or layer has this name; "
                    f"give a network ({', '.join(networks)}) or the beginning of a parameter's name"
                )


def _is_within(name: str, prefix: str) -> bool:
    if "*" in prefix:
        return fnmatchcase(name, prefix) or fnmatchcase(name, prefix + ".*")
    return name == prefix or name.startswith(prefix + ".")


def sharing_policy(configuration: Configuration, server_round: int) -> SharingPolicy:
    """Return what is shared in a round: under ``effgan`` the last rounds are each hospital's own."""
    strategy = configuration.strategy
    if strategy.name == "effgan" and server_round > configuration.rounds - strategy.fine_tune_rounds:
        return SharingPolicy(NETWORKS)
    return SharingPolicy(configuration.private_prefixes, configuration.averaged_state)


def named_tensors(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return every parameter and buffer by its full name, e.g. ``generator.mapping.w_mean``, without a copy."""
    return {
        f"{network}.{name}": value
        for network, module in networks.items()
        for name, value in module.state_dict().items()
    }


def shared_tensors(networks: Mapping[str, nn.Module], policy: SharingPolicy) -> dict[str, Tensor]:
    """Return the entries that cross the wire, in the order of the networks."""
    return {name: value for name, value in named_tensors(networks).items() if policy.is_shared(name, value)}


def private_tensors(networks: Mapping[str, nn.Module], policy: SharingPolicy) -> dict[str, Tensor]:
    """Return the entries that stay at a hospital."""
    return {name: value for name, value in named_tensors(networks).items() if not policy.is_shared(name, value)}


def own_generator(networks: Mapping[str, nn.Module], policy: SharingPolicy) -> dict[str, Tensor]:
    """Return the parts of the generator's running average that are a hospital's own, as they are sent to be judged."""
    return {
        OWN + name: value
        for name, value in named_tensors({"generator_ema": networks["generator_ema"]}).items()
        if value.is_floating_point() and policy.is_private(name)
    }


@torch.no_grad()
def load_tensors(networks: Mapping[str, nn.Module], values: Mapping[str, Tensor | np.ndarray]) -> None:
    """Copy values into the networks' own entries, in place; names must be known and shapes equal."""
    targets = named_tensors(networks)
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            # What another process lent to us cannot be written to, which torch insists on.
            value = torch.from_numpy(value if value.flags.writeable else value.copy())
        targets[name].copy_(value)


def pack_arrays(tensors: Mapping[str, Tensor | np.ndarray]) -> ArrayRecord:
    """Turn named tensors into an ArrayRecord with the same bits, copied: training may go on with them."""
    from federation.arrays import Array, ArrayRecord, layout_of

    arrays = {
        name: value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
        for name, value in tensors.items()
    }
    types = {array.dtype for array in arrays.values()}
    if len(types) == 1:
        flat = np.empty(sum(array.size for array in arrays.values()), types.pop())
        start = 0
        for array in arrays.values():
            flat[start : start + array.size].reshape(array.shape)[...] = array
            start += array.size
        return ArrayRecord(flat, layout_of(arrays))
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = Array(np.array(array, order="C"))
    return record


def arrays_of(message: Message) -> ArrayRecord:
    """Return the networks in a message that holds them; Flower's own way there puts together three dictionaries."""
    return cast("ArrayRecord", message.content[ARRAYS])


def metrics_of(message: Message) -> MetricRecord:
    """Return the numbers in a reply that holds them."""
    return cast("MetricRecord", message.content[METRICS])


def config_of(message: Message) -> ConfigRecord:
    """Return the settings in a message that holds them."""
    return cast("ConfigRecord", message.content[CONFIG])


def own_record(record: ArrayRecord) -> ArrayRecord:
    """Return a record in one piece whose memory is this process's own: the same one where it is so already."""
    from federation.arrays import ArrayRecord as FlatRecord

    if isinstance(record, FlatRecord) and record.flat is not None and record.flat.flags.writeable:
        return record
    return pack_arrays({name: array.numpy() for name, array in record.items()})


def unpack_arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Turn an ArrayRecord into named arrays, writable and of their own memory."""
    return {name: np.array(array.numpy()) for name, array in record.items()}


def check_arrays(record: ArrayRecord, expected: Mapping[str, Tensor | np.ndarray]) -> dict[str, np.ndarray]:
    """Unpack a record after checking its names, shapes, types and values.

    Parameters
    ----------
    record
        What arrived.
    expected
        Entries with the names, shapes and types that should arrive.

    Returns
    -------
    Named arrays, in the order of `expected`.

    Raises
    ------
    WireError
        Naming each missing or unknown entry, each wrong shape or type, and each entry that holds a
        value that is not finite.
    """
    if _is_as_expected(record, expected):
        return {name: array.numpy() for name, array in record.items()}
    problems = [f"{name}: missing" for name in expected if name not in record]
    problems += [f"{name}: unknown" for name in record if name not in expected]
    arrays: dict[str, np.ndarray] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # in sums that look for values that are not finite
        for name, reference in expected.items():
            if name not in record:
                continue
            try:
                array = record[name].numpy()
            except Exception as error:  # bytes that are no array: any decoder error means the same here
                problems.append(f"{name}: cannot be decoded ({error})")
                continue
            wanted_type = _type_of(reference)
            if tuple(array.shape) != tuple(reference.shape):
                problems.append(f"{name}: shape {tuple(array.shape)}, expected {tuple(reference.shape)}")
            elif array.dtype != wanted_type:
                problems.append(f"{name}: type {array.dtype}, expected {wanted_type}")
            elif not _is_finite(array):
                problems.append(
                    f"{name}: {np.count_nonzero(~np.isfinite(array))} of {array.size} values are not finite"
                )
            arrays[name] = array
    if problems:
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise WireError("; ".join(shown))
    return arrays


def _is_finite(array: np.ndarray) -> bool:
    """Return whether all values are finite, in one pass that writes nothing where they are."""
    # One value that is not finite makes the sum so; a sum can also overflow by itself.
    return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def _is_as_expected(record: ArrayRecord, expected: Mapping[str, Tensor | np.ndarray]) -> bool:
    """Look at a record as a whole, where it lies in one piece; False says nothing but that a closer look is needed."""
    from federation.arrays import ArrayRecord as FlatRecord
    from federation.arrays import layout_of

    if not isinstance(record, FlatRecord) or record.flat is None or record.layout != layout_of(expected):
        return False
    if any(_type_of(reference) != record.flat.dtype for reference in expected.values()):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return _is_finite(record.flat)


def _type_of(reference: Tensor | np.ndarray) -> np.dtype:
    if isinstance(reference, np.ndarray):
        return reference.dtype
    return np.dtype(str(reference.dtype).removeprefix("torch."))


def _least(metric: str) -> float:
    """Return the least value of a metric: strategies divide by these, or weigh by them."""
    if metric in ("num-steps", "num-images"):
        return 1
    return 0 if metric.startswith("loss-") or metric == "mmd" else -math.inf


def check_reply(reply: Message, expected: Mapping[str, Tensor | np.ndarray], num_examples: int) -> None:
    """Check a hospital's reply to a training message.

    Parameters
    ----------
    reply
        With content, not an error.
    expected
        Entries with the names, shapes and types that should arrive.
    num_examples
        Training images that the hospital named when it was first asked: its weight cannot grow later.

    Raises
    ------
    WireError
        If it does not hold exactly one ArrayRecord and one MetricRecord, a metric is missing, not
        finite or too small, the weight is another one, or :func:`check_arrays` refuses the arrays.
    """
    from flwr.app import ArrayRecord, MetricRecord

    arrays = [name for name, record in reply.content.items() if isinstance(record, ArrayRecord)]
    numbers = [name for name, record in reply.content.items() if isinstance(record, MetricRecord)]
    if arrays != [ARRAYS] or numbers != [METRICS]:
        raise WireError(
            f"records {sorted(reply.content)}: expected one ArrayRecord {ARRAYS!r} and one MetricRecord {METRICS!r}"
        )
    metrics = metrics_of(reply)
    missing = [name for name in REQUIRED_METRICS if name not in metrics]
    if missing:
        raise WireError(f"metrics {', '.join(missing)}: missing")
    if metrics[NUM_EXAMPLES] != num_examples:
        raise WireError(f"{NUM_EXAMPLES} = {metrics[NUM_EXAMPLES]!r}: expected {num_examples}, as at the start")
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise WireError(f"metric {name} = {value!r}: expected a finite number")
        least = _least(name)
        if value < least:
            raise WireError(f"metric {name} = {value!r}: expected at least {least}")
    if not _is_as_expected(arrays_of(reply), expected):
        check_arrays(arrays_of(reply), expected)


def count_bytes(record: ArrayRecord) -> int:
    """Return the bytes of a record's arrays as they cross the wire."""
    from federation.arrays import ArrayRecord as FlatRecord

    return record.num_bytes if isinstance(record, FlatRecord) else sum(len(array.data) for array in record.values())
