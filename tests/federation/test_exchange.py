"""What crosses the wire arrives bit for bit, and what should not arrive is refused by name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import nn

from federation.config import parse_assignments
from federation.engine.grid import simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.errors import ConfigurationError, WireError
from federation.exchange import ARRAYS, METRICS, REQUIRED_METRICS, check_arrays, check_reply, pack_arrays, unpack_arrays
from federation.models import GenerativeModel, build_model
from federation.models.stylegan2.family import STYLE_LAYERS
from federation.settings.training import TrainingSettings
from federation.sharing import SharingPolicy, load_tensors, named_tensors, own_drawing, private_tensors, shared_tensors
from strategies.configuration import resolve
from strategies.sharing import sharing_policy

ANATOMY = resolve([]).anatomy


def policy_of(private: Iterable[str] = (), averaged_state: Iterable[str] = ()) -> SharingPolicy:
    """A policy about the parts of StyleGAN2."""
    return SharingPolicy(ANATOMY, private, averaged_state)


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
    tensors = shared_tensors(networks(), policy_of())
    arrays = check_arrays(pack_arrays(tensors), tensors)
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        assert arrays[name].tobytes() == tensor.detach().numpy().tobytes()
        assert arrays[name].shape == tensor.shape


def test_integer_buffers_stay_at_the_hospital() -> None:
    shared = shared_tensors(networks(), policy_of())
    assert [name for name in shared if name.startswith("generator.")] == [
        "generator.weight",
        "generator.scalar",
        "generator.w_mean",
    ]
    assert set(private_tensors(networks(), policy_of())) == {
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
    assert list(shared_tensors(networks_and_state, policy_of())) == []
    assert list(shared_tensors(networks_and_state, policy_of((), ["ada-p"]))) == ["training.ada_p"]
    assert list(shared_tensors(networks_and_state, policy_of((), ["ada-p", "path-length-mean"]))) == [
        "training.ada_p",
        "training.path_length_mean",
    ]


def test_the_running_average_follows_the_generator() -> None:
    policy = policy_of(["generator.weight"])
    assert set(shared_tensors(networks(), policy)) == {
        "generator.scalar",
        "generator.w_mean",
        "discriminator.weight",
        "discriminator.scalar",
        "discriminator.w_mean",
        "generator_ema.scalar",
        "generator_ema.w_mean",
    }
    assert not any(name.startswith("gen") for name in shared_tensors(networks(), policy_of(["generator"])))


def test_a_policy_about_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"strategy.private = 'discriminater': no network or layer"):
        policy_of(["discriminater"]).check(named_tensors(networks()))


def test_load_copies_into_the_networks() -> None:
    source, target = networks(), networks()
    with torch.no_grad():
        source["generator"].weight.fill_(9.0)
    load_tensors(target, unpack_arrays(pack_arrays(shared_tensors(source, policy_of()))))
    assert torch.equal(target["generator"].weight, torch.full((2, 2), 9.0))


def test_malformed_arrays_are_refused_by_name() -> None:
    expected = shared_tensors({"generator": networks()["generator"]}, policy_of())
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
    expected, losses = {"w": np.zeros(2, np.float32)}, ANATOMY.losses
    good = dict.fromkeys(REQUIRED_METRICS, 3)
    check_reply(reply(good), expected, 3, losses)
    with pytest.raises(WireError, match="num-examples = 3: expected 2, as at the start"):
        check_reply(reply(good), expected, 2, losses)
    with pytest.raises(WireError, match="metrics num-examples, num-steps, num-images, num-evaluations: missing"):
        check_reply(reply({}), expected, 3, losses)
    for name, least in (("num-steps", 1), ("num-images", 1), ("loss-discriminator", 0), ("mmd", 0)):
        check_reply(reply({**good, name: least}), expected, 3, losses, ["mmd"] if name == "mmd" else [])
        with pytest.raises(WireError, match=f"metric {name} = {least - 0.5}: expected at least {least}"):
            check_reply(reply({**good, name: least - 0.5}), expected, 3, losses, ["mmd"] if name == "mmd" else [])
    check_reply(reply({**good, "logit-real": -3.0}), expected, 3, losses)
    with pytest.raises(WireError, match="metric loss-generator = nan: expected a finite number"):
        check_reply(reply({**good, "loss-generator": float("nan")}), expected, 3, losses)
    with pytest.raises(WireError, match="metrics loss, mmd: unknown; this run knows .*: does the hospital run another"):
        check_reply(reply({**good, "loss": 1.0, "mmd": 0.5}), expected, 3, losses)
    with pytest.raises(WireError, match="w: missing"):
        check_reply(reply(good, arrays=ArrayRecord()), expected, 3, losses)
    several = reply(good)
    several.content["images"] = ConfigRecord({"file": "x"})
    check_reply(several, expected, 3, losses)
    several.content["more"] = ArrayRecord()
    with pytest.raises(WireError, match="expected one ArrayRecord 'arrays'"):
        check_reply(several, expected, 3, losses)


def test_a_hospital_has_taken_the_steps_that_it_was_told_to_take() -> None:
    """FedNova divides by them, and the federation's clock counts their images."""
    expected, losses = {"w": np.zeros(2, np.float32)}, ANATOMY.losses
    training = TrainingSettings(local_steps=0, local_epochs=2.0, batch_size=4)
    good = {**dict.fromkeys(REQUIRED_METRICS, 30), "num-steps": 15, "num-images": 60}
    check_reply(reply(good), expected, 30, losses, training=training)
    for name, claimed, right in (("num-steps", 1, 15), ("num-steps", 10**9, 15), ("num-images", 10**9, 60)):
        with pytest.raises(WireError, match=f"metric {name} = {claimed}: expected {right}, by the settings of"):
            check_reply(reply({**good, name: claimed}), expected, 30, losses, training=training)


def test_a_loss_may_be_negative_where_its_family_says_so() -> None:
    """Of a VAE a likelihood is among them."""
    expected, good = {"w": np.zeros(2, np.float32)}, dict.fromkeys(REQUIRED_METRICS, 3)
    losses = resolve([parse_assignments(["model.name=vae"])]).anatomy.losses
    check_reply(reply({**good, "loss-negative-elbo": -1.5, "loss-divergence": 0.0}), expected, 3, losses)
    with pytest.raises(WireError, match="metric loss-divergence = -0.5: expected at least 0"):
        check_reply(reply({**good, "loss-divergence": -0.5}), expected, 3, losses)


def test_what_a_strategy_needs_of_a_reply_is_missed() -> None:
    expected, good = {"w": np.zeros(2, np.float32)}, dict.fromkeys(REQUIRED_METRICS, 3)
    check_reply(reply({**good, "loss-discriminator": 0.5}), expected, 3, ANATOMY.losses, ("loss-discriminator",))
    with pytest.raises(WireError, match="metrics loss-discriminator, mmd: missing"):
        check_reply(reply(good), expected, 3, ANATOMY.losses, ("loss-discriminator", "mmd"))


# ---------------------------------------------------------------- what is private


def test_a_private_generator_is_allowed_and_known_to_be_kept() -> None:
    """Hospitals with generators of their own are judged as a mixture: see federation.models.drawing."""
    policy = policy_of(["generator", "discriminator"])
    policy.check(named_tensors(networks()))
    assert policy.keeps_drawing()
    assert list(shared_tensors(networks(), policy)) == []
    assert policy_of(["generator.scalar"]).keeps_drawing()
    assert not policy_of(["discriminator"]).keeps_drawing()
    assert not policy_of().keeps_drawing()


def stylegan2(*assignments: str) -> GenerativeModel:
    settings = ["data.classes=a,b", "stylegan2.channel-max=8", "stylegan2.latent-size=8", *assignments]
    return build_model(resolve([parse_assignments(settings)]))


def test_a_star_stands_for_anything_between_the_parts_of_a_name() -> None:
    policy = policy_of(["generator.layers.*.style"])
    assert policy.private == ("generator.layers.*.style", "generator_ema.layers.*.style")
    assert policy.is_private("generator.layers.0.style.weight")
    assert policy.is_private("generator.layers.12.style.bias")
    assert policy.is_private("generator_ema.layers.3.style.weight")
    assert not policy.is_private("generator.layers.0.weight")
    assert not policy.is_private("generator.to_rgb.0.style.weight")
    assert not policy.is_private("generator.layers.0.styles.weight")
    assert not policy.is_private("discriminator.layers.0.style.weight")
    assert policy.keeps_drawing()
    assert not policy_of(["discriminator.*"]).keeps_drawing()


def test_the_pattern_of_style_layers_names_every_style_layer_and_nothing_else() -> None:
    names = named_tensors(stylegan2().networks)
    policy = policy_of(STYLE_LAYERS)
    policy.check(names)
    expected = {name for name in names if ".style." in name}
    assert {name for name in names if policy.is_private(name)} == expected
    # 32 px: 7 layers and 4 of ToRGB, each a weight and a bias, of the generator and of its running average.
    assert len(expected) == 2 * 2 * (7 + 4)


def test_a_pattern_that_ends_with_a_parameter_names_it() -> None:
    """As a name without a star does."""
    assert policy_of(["generator.weight"]).is_private("generator.weight")
    policy = policy_of(["discriminator.*.bias"])
    assert policy.is_private("discriminator.blocks.0.bias")
    assert not policy.is_private("discriminator.blocks.0.weight")
    policy.check(["discriminator.blocks.0.bias", "discriminator.blocks.0.weight"])


@pytest.mark.parametrize("pattern", ["*", "gen*", "generator*", "*.mapping", "g*.mapping.w_mean"])
def test_a_pattern_that_begins_with_a_star_keeps_the_generator_as_well(pattern: str) -> None:
    """Else real sites would be allowed it, and the server would judge a generator that nobody trained."""
    policy = policy_of([pattern])
    assert policy.is_private("generator.mapping.w_mean.x")
    assert policy.keeps_drawing()


@pytest.mark.parametrize("private", ["generator_ema", "generator_ema.mapping"])
def test_a_private_running_average_is_a_generator_of_the_hospitals_own(private: str) -> None:
    """It is what is judged: the server, which is never sent it, would judge and export its initial weights."""
    policy = policy_of([private])
    assert not any(name.startswith(f"{private}.") for name in shared_tensors(stylegan2().networks, policy))
    assert policy.keeps_drawing()


def test_a_pattern_about_nothing_is_refused() -> None:
    names = named_tensors(stylegan2().networks)
    with pytest.raises(ConfigurationError) as caught:
        policy_of(["generator.layers.*.stile"]).check(names)
    assert str(caught.value) == (
        "strategy.private = 'generator.layers.*.stile': no network or layer has this name; give a network "
        "(discriminator, generator, generator_ema) or the beginning of a parameter's name"
    )


def test_effgan_shares_everything_until_its_last_rounds() -> None:
    assignments = ["strategy.name=effgan", "rounds=6", "strategy.fine-tune-rounds=2"]
    configuration = resolve([parse_assignments(assignments)])
    policies = [sharing_policy(configuration, server_round) for server_round in range(7)]
    assert [policy.keeps_drawing() for policy in policies] == [False] * 5 + [True] * 2
    shared = [list(shared_tensors(networks(), policy)) for policy in policies]
    assert shared[:5] == [list(shared_tensors(networks(), policy_of()))] * 5
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
        (("strategy.name=cap-gan", "strategy.private=discriminator"), ("discriminator", "generator.mapping")),
        (("strategy.name=fedbn",), ("generator.layers.*.style", "generator.to_rgb.*.style")),
        (("strategy.name=cap-gan",), ("generator.mapping",)),
        (
            ("strategy.name=cap-gan", "strategy.personal-part=styles"),
            ("generator.layers.*.style", "generator.to_rgb.*.style"),
        ),
        (("strategy.name=ua-gan", "stylegan2.loss=logistic"), ("discriminator",)),
        (("strategy.name=md-gan", "stylegan2.loss=logistic"), ("discriminator",)),
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
    configuration = resolve([parse_assignments(["strategy.averaged-state=ada-p", "stylegan2.augmentation.name=ada"])])
    assert sharing_policy(configuration, 3).averaged_state == frozenset({"training.ada_p"})


def test_a_hospitals_own_generator_is_sent_as_its_running_average_alone() -> None:
    assert list(own_drawing(networks(), policy_of())) == []
    assert list(own_drawing(networks(), policy_of(["discriminator"]))) == []
    own = own_drawing(networks(), policy_of(["generator", "discriminator"]))
    # No integer buffer, nothing of the trained networks.
    assert list(own) == ["own.generator_ema.weight", "own.generator_ema.scalar", "own.generator_ema.w_mean"]
    assert torch.equal(own["own.generator_ema.w_mean"], torch.arange(3.0))
    assert list(own_drawing(networks(), policy_of(["generator.scalar"]))) == ["own.generator_ema.scalar"]


def test_own_and_shared_parts_of_a_running_average_are_the_whole_of_it() -> None:
    model = stylegan2()
    policy = policy_of(["generator.mapping", "generator.layers.*.style"])
    own = {name.removeprefix("own.") for name in own_drawing(model.networks, policy)}
    shared = {name for name in shared_tensors(model.networks, policy) if name.startswith("generator_ema.")}
    assert own | shared == set(named_tensors({"generator_ema": model.networks["generator_ema"]}))
    assert own & shared == set()
    assert {name.split(".")[1] for name in own} == {"mapping", "layers"}
