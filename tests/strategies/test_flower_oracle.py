"""The rules that Flower has too, over five rounds against Flower's own: the same bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flower_oracle import FLOWER_KEYS, aggregate_with, flower_record, flower_reply
from flwr.app import Message
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
from three_numbers import Arrays, Hospital, answer, ask, play, strategy

from federation.exchange import ARRAYS, NUM_EXAMPLES, pack_arrays
from strategies.aggregation import Reply
from strategies.bulyan import choose_by_krum
from strategies.distances import squared_distances
from strategies.federated_strategy import FederatedStrategy
from strategies.weighted_mean import WeightedMean

SHAPES = {
    "generator.layer.weight": (5, 3, 2, 2),
    "generator.noise_strength": (),
    "generator.w_mean": (4,),
    "discriminator.weight": (3, 7),
    "discriminator.gain": (),
    "discriminator.bias": (1,),
}
EMA = "generator_ema."
SHAPES |= {EMA + name.split(".", 1)[1]: shape for name, shape in SHAPES.items() if name.startswith("generator.")}
TRAINED = [name for name in SHAPES if name != "generator.w_mean" and not name.startswith(EMA)]
ROUNDS = range(1, 6)


def drawn(*seed: int) -> Arrays:
    """Of sizes far apart, with zeros of both signs, as untrained biases are."""
    stream, found = np.random.default_rng(seed), {}
    for name, shape in SHAPES.items():
        value = stream.normal(size=shape) * 10.0 ** stream.integers(-6, 3)
        found[name] = np.where(stream.random(shape) < 0.2, np.copysign(0.0, value), value).astype(np.float32)
    return found


def hospitals_of(server_round: int, number: int = 9) -> list[Hospital]:
    stream, found = np.random.default_rng([server_round, number]), []
    for position in range(number):
        losses = {"loss-generator": float(stream.uniform(0.1, 9)), "loss-discriminator": float(stream.uniform(0, 2))}
        found.append(Hospital(drawn(server_round, number, position), int(stream.integers(1, 500)), metrics=losses))
    # Two that agree: robust rules meet values that tie.
    found[1].arrays = found[0].arrays
    return found


def rule_of(name: str, *options: str) -> FederatedStrategy:
    return strategy(f"strategy.name={name}", *options, trainable=frozenset(TRAINED))


def messages_of(hospitals: list[Hospital]) -> list[Message]:
    return [answer(*pair) for pair in zip(ask(rule_of("fedgan"), drawn(0), hospitals), hospitals, strict=True)]


def wide(arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {name: value.astype(np.float64) for name, value in arrays.items()}


def assert_same_bits(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        one, other = np.asarray(found[name]), np.asarray(value)
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes()), name


# ---------------------------------------------------------------------- server optimisers


BETAS = ("strategy.server-beta1=0.3", "strategy.server-beta2=0.7", "strategy.server-tau=0.05")
OPTIMISERS: list[tuple[str, tuple[str, ...], Callable[[], Any]]] = [
    ("fedavgm", (), lambda: flower.FedAvgM(server_learning_rate=1.0, server_momentum=0.9, **FLOWER_KEYS)),
    (
        "fedavgm",
        ("strategy.server-momentum=0.3", "strategy.server-learning-rate=0.7"),
        lambda: flower.FedAvgM(server_learning_rate=0.7, server_momentum=0.3, **FLOWER_KEYS),
    ),
    ("fedadam", (), lambda: flower.FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3, **FLOWER_KEYS)),
    ("fedadam", BETAS, lambda: flower.FedAdam(eta=0.1, beta_1=0.3, beta_2=0.7, tau=0.05, **FLOWER_KEYS)),
    ("fedyogi", (), lambda: flower.FedYogi(eta=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3, **FLOWER_KEYS)),
    ("fedyogi", BETAS, lambda: flower.FedYogi(eta=0.01, beta_1=0.3, beta_2=0.7, tau=0.05, **FLOWER_KEYS)),
    ("fedadagrad", (), lambda: flower.FedAdagrad(eta=0.1, tau=1e-3, **FLOWER_KEYS)),
    (
        "fedadagrad",
        ("strategy.server-learning-rate=3", "strategy.server-tau=0.05"),
        lambda: flower.FedAdagrad(eta=3.0, tau=0.05, **FLOWER_KEYS),
    ),
]


def stepped(oracle: Any, server_round: int, current: Arrays, hospitals: list[Hospital]) -> Arrays:
    """Flower's step, fed one reply: the mean in float64, of weight 1."""
    mean = WeightedMean()
    for one in hospitals:
        mean.add(pack_arrays({name: one.arrays[name] for name in TRAINED}), one.num_examples)
    before = {name: current[name].astype(np.float64) for name in TRAINED}
    # Flower's own way there is its configure_train.
    oracle.current_arrays = flower_record(before) if isinstance(oracle, flower.FedAvgM) else before
    (message, *_) = messages_of(hospitals)
    found = aggregate_with(oracle, server_round, [flower_reply(message, mean.means(), {NUM_EXAMPLES: 1.0})])
    return {name: value.astype(np.float32) for name, value in found.items()}


def moments_of(oracle: Any) -> Arrays:
    """Flower's moments, under the names of our state."""
    if isinstance(oracle, flower.FedAvgM):
        return {f"0/momentum/{name}": value for name, value in zip(TRAINED, oracle.momentum_vector, strict=True)}
    return {f"0/m/{name}": value for name, value in oracle.m_t.items()} | {
        f"0/v/{name}": value for name, value in oracle.v_t.items()
    }


@pytest.mark.parametrize("resumes_after", [0, 1, 3])
@pytest.mark.parametrize(("name", "options", "build"), OPTIMISERS)
def test_a_server_optimiser_takes_flowers_steps(
    name: str, options: tuple[str, ...], build: Callable[[], Any], resumes_after: int
) -> None:
    """Resumed from Flower's moments, with which it also agrees all along."""
    rule, oracle, current = rule_of(name, *options), build(), drawn(0)
    for server_round in ROUNDS:
        hospitals = hospitals_of(server_round)
        found = play(rule, current, hospitals, server_round)
        assert_same_bits({key: found[key] for key in TRAINED}, stepped(oracle, server_round, current, hospitals))
        state = rule.state_dict()
        shown = {"0/images-shown": state["0/images-shown"]}
        assert_same_bits(state, shown | moments_of(oracle))
        if server_round == resumes_after:
            kept = {key: np.array(value, order="C") for key, value in (shown | moments_of(oracle)).items()}
            rule = rule_of(name, *options)
            rule.load_state_dict(safetensors.numpy.load(safetensors.numpy.save(kept)))
        current = found


# ---------------------------------------------------------------------- all replies at once


@pytest.mark.parametrize("number", [8, 9])
def test_the_median_is_flowers(number: int) -> None:
    rule, current = rule_of("fedmedian"), drawn(0)
    for server_round in ROUNDS:
        hospitals = hospitals_of(server_round, number)
        replies = [
            flower_reply(message, one.arrays, {NUM_EXAMPLES: one.num_examples})
            for message, one in zip(messages_of(hospitals), hospitals, strict=True)
        ]
        current = play(rule, current, hospitals, server_round)
        assert_same_bits(current, aggregate_with(flower.FedMedian(**FLOWER_KEYS), server_round, replies))


@pytest.mark.parametrize("trim", [0.1, 0.2, 0.3, 0.45])
@pytest.mark.parametrize("number", [8, 9])
def test_the_trimmed_mean_is_flowers(number: int, trim: float) -> None:
    rule, current = rule_of("fedtrimmedavg", f"strategy.trim={trim}"), drawn(0)
    for server_round in ROUNDS:
        hospitals = hospitals_of(server_round, number)
        replies = [
            flower_reply(message, one.arrays, {NUM_EXAMPLES: one.num_examples})
            for message, one in zip(messages_of(hospitals), hospitals, strict=True)
        ]
        current = play(rule, current, hospitals, server_round)
        assert_same_bits(current, aggregate_with(flower.FedTrimmedAvg(beta=trim, **FLOWER_KEYS), server_round, replies))


@pytest.mark.parametrize(("number", "malicious"), [(7, 1), (9, 1), (10, 0), (11, 2)])
def test_bulyans_second_half_is_flowers(number: int, malicious: int) -> None:
    """The choice is not: see test_robust_rules."""
    rule, current = rule_of("bulyan", f"strategy.malicious={malicious}"), drawn(0)
    for server_round in ROUNDS:
        hospitals = hospitals_of(server_round, number)
        replies = [Reply("a", message, message.content.array_records[ARRAYS], {}) for message in messages_of(hospitals)]
        positions = choose_by_krum(squared_distances(replies, current), malicious, number - 2 * malicious)
        chosen = [list(hospitals[position].arrays.values()) for position in positions]
        medians = [np.median(np.stack(values), axis=0) for values in zip(*chosen, strict=True)]
        expected = aggregate_n_closest_weights(medians, chosen, number - 4 * malicious)
        current = play(rule, current, hospitals, server_round)
        assert_same_bits(current, dict(zip(SHAPES, expected, strict=True)))


# ---------------------------------------------------------------------- fairness


@pytest.mark.parametrize("loss", ["loss-generator", "loss-discriminator"])
# 1 over Flower's learning rate is L, to the bit.
@pytest.mark.parametrize(("power", "lipschitz", "rate"), [(0.1, 1e-3, 1e3), (0.0, 1e-3, 1e3), (2.5, 0.25, 4.0)])
def test_q_fedavg_is_flowers_in_float64(power: float, lipschitz: float, rate: float, loss: str) -> None:
    options = [f"strategy.fairness-q={power}"]
    if power > 0:  # else no loss counts, and the others are refused
        options += [f"strategy.fairness-lipschitz={lipschitz}", f"strategy.fairness-loss={loss}"]
    rule, current = rule_of("qfedavg", *options), drawn(0)
    oracle = flower.QFedAvg(client_learning_rate=rate, q=power, train_loss_key=loss, **FLOWER_KEYS)
    for server_round in ROUNDS:
        hospitals = hospitals_of(server_round)
        replies = [
            flower_reply(message, wide(one.arrays), {NUM_EXAMPLES: one.num_examples, loss: one.metrics[loss]})
            for message, one in zip(messages_of(hospitals), hospitals, strict=True)
        ]
        oracle.current_arrays = flower_record(wide(current))
        expected = aggregate_with(oracle, server_round, replies)
        current = play(rule, current, hospitals, server_round)
        assert_same_bits(current, {name: value.astype(np.float32) for name, value in expected.items()})
