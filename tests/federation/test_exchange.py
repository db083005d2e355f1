"""What crosses the wire arrives bit for bit, and what should not arrive is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import nn

from federation.config import STYLE_LAYERS, parse_assignments, resolve
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
    own_generator,
    pack_arrays,
    private_tensors,
    shared_tensors,
    sharing_policy,
    unpack_arrays,
)
from federation.models import GenerativeModel, build_model


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
    for name, least in (("num-steps", 1), ("num-images", 1), ("loss-discriminator", 0), ("mmd", 0)):
        check_reply(reply({**good, name: least}), expected, 3)
        with pytest.raises(WireError, match=f"metric {name} = {least - 0.5}: expected at least {least}"):
            check_reply(reply({**good, name: least - 0.5}), expected, 3)
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


# ---------------------------------------------------------------- what is private


def test_a_private_generator_is_allowed_and_known_to_be_kept() -> None:
    """Hospitals with generators of their own are judged as a mixture: see federation.models.mixture."""
    policy = SharingPolicy(["generator", "discriminator"])
    policy.check(named_tensors(networks()))
    assert policy.keeps_generator()
    assert list(shared_tensors(networks(), policy)) == []
    assert SharingPolicy(["generator.scalar"]).keeps_generator()
    assert not SharingPolicy(["discriminator"]).keeps_generator()
    assert not SharingPolicy().keeps_generator()


def stylegan2(*assignments: str) -> GenerativeModel:
    settings = ["data.classes=a,b", "model.channel-max=8", "model.latent-size=8", *assignments]
    return build_model(resolve([parse_assignments(settings)]))


def test_a_star_stands_for_anything_between_the_parts_of_a_name() -> None:
    policy = SharingPolicy(["generator.layers.*.style"])
    assert policy.private == ("generator.layers.*.style", "generator_ema.layers.*.style")
    assert policy.is_private("generator.layers.0.style.weight")
    assert policy.is_private("generator.layers.12.style.bias")
    assert policy.is_private("generator_ema.layers.3.style.weight")
    assert not policy.is_private("generator.layers.0.weight")
    assert not policy.is_private("generator.to_rgb.0.style.weight")
    assert not policy.is_private("generator.layers.0.styles.weight")
    assert not policy.is_private("discriminator.layers.0.style.weight")
    assert policy.keeps_generator()
    assert not SharingPolicy(["discriminator.*"]).keeps_generator()


def test_the_pattern_of_style_layers_names_every_style_layer_and_nothing_else() -> None:
    names = named_tensors(stylegan2().networks)
    policy = SharingPolicy(STYLE_LAYERS)
    policy.check(names)
    expected = {name for name in names if ".style." in name}
    assert {name for name in names if policy.is_private(name)} == expected
    # 32 px: 7 layers and 4 of ToRGB, each a weight and a bias, of the generator and of its running average.
    assert len(expected) == 2 * 2 * (7 + 4)


def test_a_pattern_that_ends_with_a_parameter_names_it() -> None:
    """As a name without a star does."""
    assert SharingPolicy(["generator.weight"]).is_private("generator.weight")
    policy = SharingPolicy(["discriminator.*.bias"])
    assert policy.is_private("discriminator.blocks.0.bias")
    assert not policy.is_private("discriminator.blocks.0.weight")
    policy.check(["discriminator.blocks.0.bias", "discriminator.blocks.0.weight"])


@pytest.mark.parametrize("pattern", ["*", "gen*", "generator*", "*.mapping", "g*.mapping.w_mean"])
def test_a_pattern_that_begins_with_a_star_keeps_the_generator_as_well(pattern: str) -> None:
    """Else real sites would be allowed it, and the server would judge a generator that nobody trained."""
    policy = SharingPolicy([pattern])
    assert policy.is_private("generator.mapping.w_mean.x")
    assert policy.keeps_generator()


@pytest.mark.parametrize("private", ["generator_ema", "generator_ema.mapping"])
def test_a_private_running_average_is_a_generator_of_the_hospitals_own(private: str) -> None:
    """It is what is judged: the server, which is never sent it, would judge and export its initial weights."""
    policy = SharingPolicy([private])
    assert not any(name.startswith(f"{private}.") for name in shared_tensors(stylegan2().networks, policy))
    assert policy.keeps_generator()


def test_a_pattern_about_nothing_is_refused() -> None:
    names = named_tensors(stylegan2().networks)
    with pytest.raises(ConfigurationError) as caught:
        SharingPolicy(["generator.layers.*.stile"]).check(names)
    assert str(caught.value) == (
        "strategy.private = 'generator.layers.*.stile': no network or layer has this name; give a network "
        "(discriminator, generator, generator_ema) or the beginning of a parameter's name"
    )


def test_effgan_shares_everything_until_its_last_rounds() -> None:
    assignments = ["strategy.name=effgan", "rounds=6", "strategy.fine-tune-rounds=2"]
    configuration = resolve([parse_assignments(assignments)])
    policies = [sharing_policy(configuration, server_round) for server_round in range(7)]
    assert [policy.keeps_generator() for policy in policies] == [False] * 5 + [True] * 2
    shared = [list(shared_tensors(networks(), policy)) for policy in policies]
    assert shared[:5] == [list(shared_tensors(networks(), SharingPolicy()))] * 5
    assert shared[5:] == [[], []]


@pytest.mark.parametrize(
    ("assignments", "private"),
    [
        ((), ()),
        (("strategy.private=discriminator,generator.mapping",), ("discriminator", "generator.mapping")),
        (("strategy.discriminator=private",), ("discriminator",)),
        (("strategy.name=partial-sync",), ("discriminator",)),
        (("strategy.name=partial-sync", "strategy.synchronise=discriminator"), ("generator",)),
        (("strategy.name=partial-sync", "strategy.synchronise=both"), ()),
        (("strategy.name=partial-sync", "strategy.synchronise=none"), ("generator", "discriminator")),
        (("strategy.name=alone",), ("generator", "discriminator")),
        (("strategy.name=alone", "strategy.private=discriminator"), ("discriminator", "generator")),
        (("strategy.name=fedbn",), ("generator.layers.*.style", "generator.to_rgb.*.style")),
        (("strategy.name=cap-gan",), ("generator.mapping",)),
        (
            ("strategy.name=cap-gan", "strategy.personal-part=styles"),
            ("generator.layers.*.style", "generator.to_rgb.*.style"),
        ),
        (("strategy.name=ua-gan", "training.loss=logistic"), ("discriminator",)),
        (("strategy.name=md-gan", "training.loss=logistic"), ("discriminator",)),
    ],
)
def test_what_a_strategy_keeps_at_hospitals(assignments: tuple[str, ...], private: tuple[str, ...]) -> None:
    configuration = resolve([parse_assignments(assignments)])
    followers = tuple(name.replace("generator", "generator_ema", 1) for name in private if name.startswith("generator"))
    for server_round in (0, 1, configuration.rounds):
        policy = sharing_policy(configuration, server_round)
        assert policy.private == private + followers
        policy.check(named_tensors(stylegan2().networks))


def test_state_of_training_is_averaged_under_every_policy_that_says_so() -> None:
    configuration = resolve([parse_assignments(["strategy.averaged-state=ada-p", "augmentation.name=ada"])])
    assert sharing_policy(configuration, 3).averaged_state == frozenset({"training.ada_p"})


def test_a_hospitals_own_generator_is_sent_as_its_running_average_alone() -> None:
    assert list(own_generator(networks(), SharingPolicy())) == []
    assert list(own_generator(networks(), SharingPolicy(["discriminator"]))) == []
    own = own_generator(networks(), SharingPolicy(["generator", "discriminator"]))
    # No integer buffer, nothing of the trained networks.
    assert list(own) == ["own.generator_ema.weight", "own.generator_ema.scalar", "own.generator_ema.w_mean"]
    assert torch.equal(own["own.generator_ema.w_mean"], torch.arange(3.0))
    assert list(own_generator(networks(), SharingPolicy(["generator.scalar"]))) == ["own.generator_ema.scalar"]


def test_own_and_shared_parts_of_a_running_average_are_the_whole_of_it() -> None:
    model = stylegan2()
    policy = SharingPolicy(["generator.mapping", "generator.layers.*.style"])
    own = {name.removeprefix("own.") for name in own_generator(model.networks, policy)}
    shared = {name for name in shared_tensors(model.networks, policy) if name.startswith("generator_ema.")}
    assert own | shared == set(named_tensors({"generator_ema": model.networks["generator_ema"]}))
    assert own & shared == set()
    assert {name.split(".")[1] for name in own} == {"mapping", "layers"}
