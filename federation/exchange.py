"""What crosses the wire: named networks to Flower records and back, and the check of what arrives.

A message holds one ArrayRecord with an entry for each tensor, whose key begins with the part of the model
(``generator.*``, ``decoder_ema.*``), one ConfigRecord with the whole configuration on the way to a hospital, and one
MetricRecord with numbers on the way back. Never an image.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
from torch import Tensor

from federation.errors import WireError
from federation.models.anatomy import Loss

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

    from federation.settings.training import TrainingSettings

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
IMAGES_SHOWN = "images-shown"
"""Images that the federation has shown at one hospital, on average, before this round: its clock."""
SEND_OWN_GENERATOR = "send-own-generator"
"""Key that asks for what is a hospital's own of the parts that draw, to judge it."""
SITE = "site"
"""Key of a hospital's name."""
CLASS_COUNTS = "class-counts"
"""Key of the number of training images of each class, where it is asked for."""
CLASS_TOTALS = "class-totals"
"""Key of the number of training images of each class in the whole federation, where classes are balanced over it."""
SITE_NUMBER = "site-number"
"""Key of a hospital's place among all, by name: its row where a generator is told hospitals."""
DEPLOYED = "deployed"
"""Key that says whether a node is a real site and not a simulated one."""
DESCRIBE = "query.describe"
"""Message type that asks a node who it is."""
PREFLIGHT = "query.preflight"
"""Message type that asks a node what a training step costs."""

TRAIN = "train"
"""Message type that asks a node to train."""
REFUSED = 1001
"""Code of the error reply of a hospital whose policy forbids what it is asked."""
SITE_FAILED = 1002
"""Code of the error reply of a real site where something went wrong: its words name no file and no image."""
RUN_DIRECTORY_FAILED = 1003
"""Code of the error reply of a simulated hospital that cannot write to the run directory, which is everybody's, or does
not find there what it left."""

REQUIRED_METRICS = (NUM_EXAMPLES, "num-steps", "num-images", "num-evaluations")
"""What every reply says: all but the first follows from the settings. Others are a hospital's to tell."""
_OF_MACHINE = ("train-seconds", "seconds", "worker-pid", "peak-memory-bytes")
"""What a reply may say of the machine that it comes from."""


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


def _least(metric: str, losses: Mapping[str, Loss]) -> float:
    """Return the least value of a metric: strategies divide by these, or weigh by them."""
    if metric in ("num-steps", "num-images"):
        return 1
    if metric in losses:
        return losses[metric].least
    return 0 if metric == "mmd" else -math.inf


def check_reply(
    reply: Message,
    expected: Mapping[str, Tensor | np.ndarray],
    num_examples: int,
    losses: Mapping[str, Loss],
    required: Collection[str] = (),
    training: TrainingSettings | None = None,
) -> None:
    """Check a hospital's reply to a training message, by the settings and what the hospital said at the start.

    Never by what others sent: the first of them that deviates would decide what is right.

    Parameters
    ----------
    reply
        With content, not an error.
    expected
        Entries with the names, shapes and types that should arrive.
    num_examples
        Training images that the hospital named when it was first asked: its weight cannot grow later.
    losses
        Of the family: what a reply may say of them, and what cannot be negative.
    required
        Names of metrics that the strategy needs beside :data:`REQUIRED_METRICS`.
    training
        What the hospital was told to do: it cannot have taken other steps, by which strategies divide. None: not looked
        at.

    Raises
    ------
    WireError
        If it does not hold exactly one ArrayRecord and one MetricRecord, a metric is missing, unknown, not
        finite or too small, the weight or the number of steps is another one, or :func:`check_arrays` refuses the
        arrays.
    """
    from flwr.app import ArrayRecord, MetricRecord

    arrays = [name for name, record in reply.content.items() if isinstance(record, ArrayRecord)]
    numbers = [name for name, record in reply.content.items() if isinstance(record, MetricRecord)]
    if arrays != [ARRAYS] or numbers != [METRICS]:
        raise WireError(
            f"records {sorted(reply.content)}: expected one ArrayRecord {ARRAYS!r} and one MetricRecord {METRICS!r}"
        )
    _check_numbers(metrics_of(reply), num_examples, losses, required, training)
    if not _is_as_expected(arrays_of(reply), expected):
        check_arrays(arrays_of(reply), expected)


def _check_numbers(
    metrics: MetricRecord,
    num_examples: int,
    losses: Mapping[str, Loss],
    required: Collection[str],
    training: TrainingSettings | None,
) -> None:
    """See :func:`check_reply`."""
    missing = [name for name in (*REQUIRED_METRICS, *required) if name not in metrics]
    if missing:
        raise WireError(f"metrics {', '.join(missing)}: missing")
    known = {*REQUIRED_METRICS, *_OF_MACHINE, *losses, *required}
    if unknown := sorted(name for name in metrics if name not in known):
        raise WireError(
            f"metrics {', '.join(unknown)}: unknown; this run knows {', '.join(sorted(known))}: does the hospital run "
            "another version?"
        )
    if metrics[NUM_EXAMPLES] != num_examples:
        raise WireError(f"{NUM_EXAMPLES} = {metrics[NUM_EXAMPLES]!r}: expected {num_examples}, as at the start")
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise WireError(f"metric {name} = {value!r}: expected a finite number")
        least = _least(name, losses)
        if value < least:
            raise WireError(f"metric {name} = {value!r}: expected at least {least}")
    if training is not None:
        steps = training.count_steps(num_examples)
        for name, count in (("num-steps", steps), ("num-images", steps * training.batch_size)):
            if metrics[name] != count:
                raise WireError(f"metric {name} = {metrics[name]!r}: expected {count}, by the settings of training")


def count_bytes(record: ArrayRecord) -> int:
    """Return the bytes of a record's arrays as they cross the wire."""
    from federation.arrays import ArrayRecord as FlatRecord

    return record.num_bytes if isinstance(record, FlatRecord) else sum(len(array.data) for array in record.values())
