"""What crosses the wire arrives bit for bit, and what should not arrive is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import nn

from federation.engine.grid import simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.errors import ConfigurationError, WireError
from federation.exchange import (
    ARRAYS,
    METRICS,
    REQUIRED_METRICS,
    SharingPolicy,
    check_arrays,
    check_reply,
    load_tensors,
    named_tensors,
    pack_arrays,
    private_tensors,
    shared_tensors,
    unpack_arrays,
)


def networks() -> dict[str, nn.Module]:
    class WithBuffers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[1.0, -0.0], [3e-39, torch.pi]]))
            self.scalar = nn.Parameter(torch.tensor(0.5))
            self.register_buffer("w_mean", torch.arange(3.0))
            self.register_buffer("count", torch.tensor(7))

    return {"generator": WithBuffers(), "discriminator": WithBuffers(), "generator_ema": WithBuffers()}


def test_pack_and_unpack_keep_every_bit() -> None:
    tensors = shared_tensors(networks(), SharingPolicy())
    arrays = check_arrays(pack_arrays(tensors), tensors)
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        assert arrays[name].tobytes() == tensor.detach().numpy().tobytes()
        assert arrays[name].shape == tensor.shape


def test_integer_buffers_stay_at_the_hospital() -> None:
    shared = shared_tensors(networks(), SharingPolicy())
    assert [name for name in shared if name.startswith("generator.")] == [
        "generator.weight",
        "generator.scalar",
        "generator.w_mean",
    ]
    assert set(private_tensors(networks(), SharingPolicy())) == {
        "generator.count",
        "discriminator.count",
        "generator_ema.count",
    }


def test_state_of_training_stays_unless_it_is_named() -> None:
    class State(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("ada_p", "ada_sign_sum", "path_length_mean"):
                self.register_buffer(name, torch.zeros(()))

    networks_and_state = {"training": State()}
    assert list(shared_tensors(networks_and_state, SharingPolicy())) == []
    assert list(shared_tensors(networks_and_state, SharingPolicy((), ["ada-p"]))) == ["training.ada_p"]
    assert list(shared_tensors(networks_and_state, SharingPolicy((), ["ada-p", "path-length-mean"]))) == [
        "training.ada_p",
        "training.path_length_mean",
    ]


def test_the_running_average_follows_the_generator() -> None:
    policy = SharingPolicy(["generator.weight"])
    assert set(shared_tensors(networks(), policy)) == {
        "generator.scalar",
        "generator.w_mean",
        "discriminator.weight",
        "discriminator.scalar",
        "discriminator.w_mean",
        "generator_ema.scalar",
        "generator_ema.w_mean",
    }
    assert not any(name.startswith("gen") for name in shared_tensors(networks(), SharingPolicy(["generator"])))


def test_a_policy_about_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"strategy.private = 'discriminater': no network or layer"):
        SharingPolicy(["discriminater"]).check(named_tensors(networks()))


def test_load_copies_into_the_networks() -> None:
    source, target = networks(), networks()
    with torch.no_grad():
        source["generator"].weight.fill_(9.0)
    load_tensors(target, unpack_arrays(pack_arrays(shared_tensors(source, SharingPolicy()))))
    assert torch.equal(target["generator"].weight, torch.full((2, 2), 9.0))


def test_malformed_arrays_are_refused_by_name() -> None:
    expected = shared_tensors({"generator": networks()["generator"]}, SharingPolicy())
    record = pack_arrays(
        {
            "generator.weight": np.array([[1.0, np.nan], [np.inf, 0.0]], dtype=np.float32),
            "generator.scalar": np.zeros((1,), dtype=np.float32),
            "generator.extra": np.zeros(2, dtype=np.float32),
        }
    )
    with pytest.raises(WireError) as caught:
        check_arrays(record, expected)
    assert str(caught.value) == (
        "generator.w_mean: missing; generator.extra: unknown; generator.weight: 2 of 4 values are not finite; "
        "generator.scalar: shape (1,), expected ()"
    )
    wrong_type = pack_arrays({name: tensor.detach().double() for name, tensor in expected.items()})
    with pytest.raises(WireError, match="generator.weight: type float64, expected float32"):
        check_arrays(wrong_type, expected)


def test_bytes_that_are_no_array_are_refused() -> None:
    record = ArrayRecord({"generator.weight": Array("float32", (2, 2), "numpy.ndarray", b"not an array")})
    with pytest.raises(WireError, match="generator.weight: cannot be decoded"):
        check_arrays(record, {"generator.weight": np.zeros((2, 2), dtype=np.float32)})


def reply(metrics: dict[str, float], *, arrays: ArrayRecord | None = None) -> Message:
    grid = InProcessGrid(lambda message, context: message, simulation_nodes(1))
    question = grid.create_message(RecordDict(), "train", 2, "1")
    records = {ARRAYS: pack_arrays({"w": np.zeros(2, np.float32)}) if arrays is None else arrays}
    return Message(RecordDict({**records, METRICS: MetricRecord(metrics)}), reply_to=question)


def test_a_reply_is_checked() -> None:
    expected = {"w": np.zeros(2, np.float32)}
    good = dict.fromkeys(REQUIRED_METRICS, 3)
    check_reply(reply(good), expected, 3)
    with pytest.raises(WireError, match="num-examples = 3: expected 2, as at the start"):
        check_reply(reply(good), expected, 2)
    with pytest.raises(WireError, match="metrics num-examples, .*peak-memory-bytes: missing"):
        check_reply(reply({}), expected, 3)
    with pytest.raises(WireError, match="metric loss = nan: expected a finite number"):
        check_reply(reply({**good, "loss": float("nan")}), expected, 3)
    with pytest.raises(WireError, match="w: missing"):
        check_reply(reply(good, arrays=ArrayRecord()), expected, 3)
    several = reply(good)
    several.content["images"] = ConfigRecord({"file": "x"})
    check_reply(several, expected, 3)
    several.content["more"] = ArrayRecord()
    with pytest.raises(WireError, match="expected one ArrayRecord 'arrays'"):
        check_reply(several, expected, 3)


def test_a_generator_that_the_server_never_sees_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the server would have no generator to judge"):
        SharingPolicy(["generator", "discriminator"]).check(named_tensors(networks()))
