"""FedGAN on three-number models against literal values."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message
from hypothesis import given
from hypothesis import strategies as st
from three_numbers import TRAINABLE, Arrays, Hospital, answer, ask, configured, model, play, strategy

from federation.config import Configuration
from federation.engine.grid import simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.exchange import ARRAYS, pack_arrays, unpack_arrays
from federation.settings.strategy import StrategySettings
from strategies.aggregation import Federation
from strategies.building import build_strategy
from strategies.weighted_mean import WeightedMean


def grid(num_hospitals: int) -> InProcessGrid:
    return InProcessGrid(lambda message, context: message, simulation_nodes(num_hospitals))


def hospitals(weights: list[list[float]], num_examples: list[int]) -> list[Hospital]:
    return [
        Hospital(model(values, ema=[10 * value for value in values]), count, metrics={"loss-generator": values[0]})
        for values, count in zip(weights, num_examples, strict=True)
    ]


def aggregate(weights: list[list[float]], num_examples: list[int]) -> Arrays:
    return play(strategy(), model(), hospitals(weights, num_examples))


def test_weights_are_by_number_of_images() -> None:
    arrays = aggregate([[1, 2, 3], [5, 6, 7]], [30, 10])
    assert arrays["generator.w"].tolist() == [2.0, 3.0, 4.0]  # 3/4 and 1/4
    assert arrays["generator_ema.w"].tolist() == [20.0, 30.0, 40.0]
    assert arrays["generator.w"].dtype == np.float32


def test_fedavg_is_the_same_rule_of_all_entries() -> None:
    both = [
        Hospital(model([1, 2, 3], b=4, ema=[0, 8, 0], ema_b=12, d=[-4, 0, 4]), 30),
        Hospital(model([5, 6, 7], b=8, ema=[4, 0, 0], ema_b=0, d=[0, 4, 0]), 10),
    ]
    arrays = play(strategy("strategy.name=fedavg"), model([9, 9, 9]), both)
    assert {name: value.tolist() for name, value in arrays.items()} == {
        "generator.w": [2, 3, 4],
        "generator.b": 5,
        "discriminator.w": [-3, 1, 3],
        "generator_ema.w": [1, 6, 0],
        "generator_ema.b": 9,
    }


def test_replies_are_not_kept() -> None:
    """Memory at the server must not grow with the number of hospitals."""
    alive: list[weakref.ref[Message]] = []
    counts = []
    rule = strategy()
    questions = ask(rule, model(), hospitals([[1, 2, number] for number in range(5)], [1] * 5))

    def one_by_one() -> Iterator[Message]:
        for number, question in enumerate(questions):
            counts.append(sum(reference() is not None for reference in alive))
            reply = answer(question, hospitals([[1, 2, number]], [1])[0])
            alive.append(weakref.ref(reply))
            yield reply
            del reply

    rule.aggregate_train(1, one_by_one())
    assert counts == [0] * 5


def test_a_scalar_stays_a_scalar() -> None:
    mean = WeightedMean()
    for value, weight in ((1.0, 3.0), (5.0, 1.0)):
        mean.add(pack_arrays({"noise_strength": np.array(value, np.float32)}), weight)
    result = unpack_arrays(mean.result())["noise_strength"]
    assert (result.shape, result.dtype, float(result)) == ((), np.float32, 2.0)


def test_a_mean_is_that_of_float64() -> None:
    """Across blocks: against numpy on the whole."""
    stream = np.random.default_rng(0)
    models = stream.standard_normal((3, 100_003)).astype(np.float32)
    mean = WeightedMean()
    for values, weight in zip(models, (7.0, 1.0, 2.0), strict=True):
        mean.add(pack_arrays({"w": values}), weight)
    expected = (7 * models[0].astype(np.float64) + models[1] + 2 * models[2].astype(np.float64)) / 10
    assert np.array_equal(unpack_arrays(mean.result())["w"], expected.astype(np.float32))


def test_metrics_are_averaged_by_the_same_weights() -> None:
    rule, both = strategy(), hospitals([[1, 0, 0], [5, 0, 0]], [30, 10])
    questions = ask(rule, model(), both)
    _, metrics = rule.aggregate_train(1, [answer(*pair) for pair in zip(questions, both, strict=True)])
    assert metrics is not None
    assert metrics["loss-generator"] == 2.0


def test_a_round_without_replies_has_no_result() -> None:
    assert strategy().aggregate_train(1, []) == (None, None)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), st.integers(1, 10**6))
def test_one_hospital_is_the_identity(values: list[float], num_examples: int) -> None:
    assert aggregate([values], [num_examples])["generator.w"].tobytes() == np.array(values, np.float32).tobytes()


@given(
    st.lists(
        st.tuples(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), st.integers(1, 999)),
        min_size=2,
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_permuting_hospitals_changes_rounding_at_most(drawn: list[tuple[list[float], int]], random: object) -> None:
    shuffled = list(drawn)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = aggregate([values for values, _ in drawn], [count for _, count in drawn])
    second = aggregate([values for values, _ in shuffled], [count for _, count in shuffled])
    np.testing.assert_allclose(first["generator.w"], second["generator.w"], rtol=1e-4, atol=1e-4)


def test_equal_hospitals_give_that_hospital() -> None:
    np.testing.assert_allclose(aggregate([[0.1, 7, -3]] * 3, [5, 1, 9])["generator.w"], [0.1, 7, -3], rtol=1e-6)


def test_every_node_gets_the_round_and_one_array_record() -> None:
    config = ConfigRecord({"rounds": 3})
    messages = list(strategy().configure_train(7, ArrayRecord(), config, grid(3)))
    assert [message.metadata.dst_node_id for message in messages] == [2, 3, 4]
    assert len({id(message.content[ARRAYS]) for message in messages}) == 1
    assert len({id(message.content["config"]) for message in messages}) == 3
    assert messages[0].content.config_records["config"]["server-round"] == 7
    assert "server-round" not in config


def test_an_unknown_strategy_is_refused() -> None:
    settings = StrategySettings.model_construct(name="fedsgd")
    configuration: Configuration = configured().model_copy(update={"strategy": settings})
    with pytest.raises(ValueError, match="strategy.name = 'fedsgd': choose one of fedgan"):
        build_strategy(Federation(configuration=configuration, trainable=TRAINABLE))
