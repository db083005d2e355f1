"""What holds for every strategy that is a rule over entries, on models with every kind of entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import safetensors.numpy
import torch
from three_numbers import Arrays, Hospital, answer, ask, configured, play, strategy

from federation.exchange import unpack_arrays
from strategies.aggregation import Reply, ServerEMA
from strategies.catalogue import STRATEGIES
from strategies.fedcar import FedCAR
from strategies.federated_strategy import FederatedStrategy

RULES = [name for name, facts in STRATEGIES.items() if not facts.adversarial]
"""The others have no rule over entries: their servers train."""

SHAPES = {
    "generator.class_embedding": (3, 2),
    "generator.layer.weight": (2, 3, 1, 1),
    "generator.noise_strength": (),
    "generator.w_mean": (4,),
    "generator.scale": (),
    "discriminator.class_projection": (3, 2),
    "discriminator.weight": (5,),
    "discriminator.gain": (),
    "discriminator.buffer": (2,),
}
EMA = "generator_ema."
SHAPES |= {EMA + name.split(".", 1)[1]: shape for name, shape in SHAPES.items() if name.startswith("generator.")}
BUFFERS = {"generator.w_mean", "generator.scale", "discriminator.buffer"}
TRAINED = frozenset(name for name in SHAPES if name not in BUFFERS and not name.startswith(EMA))
ROWS = ("generator.class_embedding", "generator_ema.class_embedding", "discriminator.class_projection")

# Where one hospital, or several equal ones, do not come back as they are, the paper says so.
SERVER_MOVES = {"fedadam", "fedyogi", "fedadagrad", "qfedavg", "feddyn"}
# Trained weights come back; the running average is the server's own.
SERVER_KEEPS_EMA = {"fedavgm", "fednova"}
# Of two that are one another's nearest, Krum's last choices take the first: see test_robust_rules.
DEPENDS_ON_NAMES = {"bulyan"}


def random_model(stream: np.random.Generator, spread: float = 1.0) -> Arrays:
    return {name: np.asarray(stream.standard_normal(shape) * spread, np.float32) for name, shape in SHAPES.items()}


def with_buffers_of_its_own(arrays: Arrays) -> Arrays:
    """A model's running average has the buffers of its generator."""
    return arrays | {EMA + name: arrays["generator." + name] for name in ("w_mean", "scale")}


def with_control(name: str, arrays: Arrays, stream: np.random.Generator) -> Arrays:
    """What the strategy asks for beside the entries."""
    if name != "scaffold":
        return arrays
    return arrays | {
        f"control.{key}": np.asarray(stream.standard_normal(SHAPES[key]), np.float32) for key in sorted(TRAINED)
    }


def hospitals_of(name: str, seed: int, number: int = 7) -> list[Hospital]:
    stream = np.random.default_rng(seed)
    start = random_model(np.random.default_rng(99))
    found = []
    for position in range(number):
        change = random_model(stream, 0.3)
        arrays = with_buffers_of_its_own({key: np.asarray(start[key] + change[key]) for key in SHAPES})
        counts = tuple(int(value) for value in stream.integers(1, 30, 3))
        metrics = {
            "num-steps": int(stream.integers(1, 9)),
            "num-images": int(stream.integers(10, 99)),
            "loss-discriminator": float(stream.uniform(0.1, 3)),
            "mmd": float(stream.uniform(0.01, 0.5)),
        }
        # The last holds nothing of the third class.
        counts = (*counts[:2], 0) if position == number - 1 else counts
        found.append(
            Hospital(with_control(name, arrays, np.random.default_rng([seed, position])), sum(counts), counts, metrics)
        )
    return found


def current_model() -> Arrays:
    return with_buffers_of_its_own(random_model(np.random.default_rng(99)))


class DrawsItsWeights(FedCAR):
    """FedCAR on models that are no networks: in place of images they draw their weights, some of them noisy."""

    def draw(self, replies: Sequence[Reply]) -> list[torch.Tensor]:
        noise = np.random.default_rng(0).standard_normal((8, 6))
        return [
            torch.from_numpy(noise + reply.arrays["generator_ema.layer.weight"].numpy().reshape(-1))
            for reply in replies
        ]


def rule_of(name: str, *assignments: str) -> FederatedStrategy:
    needs = ("participation.fraction=0.5",) if name == "fegan" else ()
    rule = strategy(f"strategy.name={name}", *needs, *assignments, trainable=TRAINED, class_rows=ROWS)
    if name == "fedcar":
        (part,) = rule.parts
        part.rule.__class__ = DrawsItsWeights
    return rule


def assert_close(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float = 3e-6) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def test_every_strategy_is_here_or_trains_at_the_server() -> None:
    assert set(STRATEGIES) - set(RULES) == {"dp-fedavg-gan", "ua-gan", "md-gan"}
    assert len(RULES) == 28


@pytest.mark.parametrize("name", RULES)
def test_names_shapes_and_types_stay(name: str) -> None:
    """Scalars too. Arrays that came in and went out are read-only: a rule that writes to them fails."""
    rule, arrays = rule_of(name), current_model()
    for server_round in (1, 2, 3):
        hospitals = hospitals_of(name, server_round)
        before = [{key: value.tobytes() for key, value in one.arrays.items()} for one in hospitals]
        start = {key: value.tobytes() for key, value in arrays.items()}
        given, arrays = arrays, play(rule, arrays, hospitals, server_round)
        assert {key: value.shape for key, value in arrays.items()} == SHAPES
        assert {value.dtype for value in arrays.values()} == {np.dtype(np.float32)}
        assert all(np.isfinite(value).all() for value in arrays.values())
        assert before == [{key: value.tobytes() for key, value in one.arrays.items()} for one in hospitals]
        assert start == {key: value.tobytes() for key, value in given.items()}


@pytest.mark.parametrize("name", RULES)
def test_the_result_has_the_order_of_the_global_entries(name: str) -> None:
    """Checkpoints and the next round's record are written in it."""
    assert list(play(rule_of(name), current_model(), hospitals_of(name, 1))) == list(SHAPES)


@pytest.mark.parametrize("name", [name for name in RULES if name not in DEPENDS_ON_NAMES])
def test_permuting_hospitals_changes_rounding_at_most(name: str) -> None:
    hospitals = hospitals_of(name, 5)
    first = play(rule_of(name), current_model(), hospitals)
    for order in ([6, 5, 4, 3, 2, 1, 0], [2, 0, 6, 1, 4, 3, 5]):
        assert_close(play(rule_of(name), current_model(), [hospitals[position] for position in order]), first)


@pytest.mark.parametrize("name", [name for name in RULES if name not in SERVER_MOVES | {"bulyan"}])
def test_one_hospital_comes_back_as_it_is(name: str) -> None:
    hospital = hospitals_of(name, 2, 1)
    found = play(rule_of(name), current_model(), hospital)
    expected = {key: hospital[0].arrays[key] for key in SHAPES}
    if name == "label-aware":  # it does not hold the third class: that row is not its own to move
        for key in ROWS:
            expected[key] = expected[key].copy()
            expected[key][2] = current_model()[key][2]
    if name in SERVER_KEEPS_EMA:
        expected |= server_average(expected, hospital)
    assert_close(found, expected)


@pytest.mark.parametrize("name", [name for name in RULES if name not in SERVER_MOVES])
def test_equal_hospitals_come_back_as_they_are(name: str) -> None:
    one = hospitals_of(name, 2, 8)[0]  # of all classes
    hospitals = [Hospital(one.arrays, count, one.class_counts, one.metrics) for count in (1, 5, 2, 90, 3, 7, 8)]
    found = play(rule_of(name), current_model(), hospitals)
    expected = {key: one.arrays[key] for key in SHAPES}
    if name in SERVER_KEEPS_EMA:
        expected |= server_average(expected, hospitals)
    assert_close(found, expected)


def server_average(found: Arrays, hospitals: Sequence[Hospital]) -> Arrays:
    """The running average that the server keeps, of trained entries."""
    training = configured().training
    weights = [one.num_examples for one in hospitals]
    shown = np.average([one.metrics["num-images"] for one in hospitals], weights=weights)
    decay = ServerEMA(training).decay(float(shown))
    start = current_model()
    return {
        EMA + key.split(".", 1)[1]: decay * start[EMA + key.split(".", 1)[1]] + (1 - decay) * found[key]
        for key in TRAINED
        if key.startswith("generator.")
    }


@pytest.mark.parametrize("number", [1, 7])
@pytest.mark.parametrize("name", sorted(SERVER_MOVES))
def test_of_one_or_equal_hospitals_a_moving_server_makes_what_its_paper_says(name: str, number: int) -> None:
    one = hospitals_of(name, 2, 8)[0]
    hospitals = [Hospital(one.arrays, 1 + count, one.class_counts, one.metrics) for count in range(number)]
    start, loss = current_model(), one.metrics["loss-discriminator"]
    found = play(rule_of(name, *(["strategy.fairness-q=0.7"] if name == "qfedavg" else [])), start, hospitals)
    update = {key: one.arrays[key].astype(np.float64) - start[key] for key in SHAPES}
    if name == "qfedavg":
        # Δ = L u; Σ F^q Δ over Σ (q F^(q−1) ‖Δ‖² + L F^q), the number of hospitals cancels:
        # u / (1 + q L ‖u‖² / F), over every entry.
        norm = sum(np.square(value).sum() for value in update.values())
        share = 1 / (1 + 0.7 * 1e-3 * norm / loss)
        assert_close(found, {key: start[key] + share * value for key, value in update.items()})
        return
    step = {
        # η √(1 − β₂²) / (1 − β₁²) (1 − β₁) u / (√(1 − β₂) |u| + τ): Flower's first round is the second of Adam.
        "fedadam": lambda u: 0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2) * 0.1 * u / (0.1 * np.abs(u) + 1e-3),
        "fedyogi": lambda u: 0.01 * 0.1 * u / (0.1 * np.abs(u) + 1e-3),
        "fedadagrad": lambda u: 0.1 * u / (np.abs(u) + 1e-3),
        # h = −α u, w = w_i − h / α: as far again.
        "feddyn": lambda u: 2 * u,
    }[name]
    expected = {key: start[key] + step(update[key]) for key in TRAINED}
    expected |= {key: one.arrays[key] for key in SHAPES if key not in TRAINED and not key.startswith(EMA)}
    expected |= {EMA + key: one.arrays["generator." + key] for key in ("w_mean", "scale")}
    expected |= server_average(expected, hospitals)
    assert_close(found, expected)


@pytest.mark.parametrize("name", RULES)
def test_a_resumed_strategy_goes_on_to_the_bit(name: str) -> None:
    """Through a file, which has its entries in the order of their names."""
    first, arrays = rule_of(name), current_model()
    for server_round in (1, 2):
        arrays = play(first, arrays, hospitals_of(name, server_round), server_round)
    kept = {key: np.array(value, order="C") for key, value in first.state_dict().items()}  # as the server writes it
    second = rule_of(name)
    second.load_state_dict(safetensors.numpy.load(safetensors.numpy.save(kept)))
    # What it has not yet used it can hand on: a run may be saved again before its next round.
    again = {key: np.array(value).tobytes() for key, value in second.state_dict().items()}
    assert again == {key: value.tobytes() for key, value in kept.items()}
    for server_round in (3, 4):
        hospitals = hospitals_of(name, server_round)
        expected = play(first, arrays, hospitals, server_round)
        found = play(second, arrays, hospitals, server_round)
        assert {key: value.tobytes() for key, value in found.items()} == {
            key: value.tobytes() for key, value in expected.items()
        }
        arrays = expected
    assert {key: np.array(value).tobytes() for key, value in second.state_dict().items()} == {
        key: np.array(value).tobytes() for key, value in first.state_dict().items()
    }


STATEFUL = ("fedavgm", "fedadam", "fedyogi", "fedadagrad", "scaffold", "feddyn")


@pytest.mark.parametrize("name", STATEFUL)
def test_a_resumed_strategy_without_its_state_would_differ(name: str) -> None:
    """Or the test above would prove nothing."""
    first, arrays = rule_of(name), current_model()
    for server_round in (1, 2):
        arrays = play(first, arrays, hospitals_of(name, server_round), server_round)
    hospitals = hospitals_of(name, 3)
    expected, found = play(first, arrays, hospitals, 3), play(rule_of(name), arrays, hospitals, 3)
    if name == "scaffold":  # its state goes to the hospitals and not into the weights
        sent = [unpack_arrays(ask(rule, arrays, hospitals, 4)[0].content["arrays"]) for rule in (first, rule_of(name))]
        expected, found = sent
    assert any(not np.array_equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", [name for name in RULES if STRATEGIES[name].for_one_network])
def test_a_strategy_of_one_network_leaves_the_other_to_its_own(name: str) -> None:
    """What FedGAN makes of the discriminator is the same beside any strategy of the generator, and the reverse."""
    hospitals = hospitals_of(name, 3)
    alone = play(rule_of("fedgan"), current_model(), hospitals_of("fedgan", 3))
    whole = play(rule_of(name), current_model(), hospitals)
    for governed, other in (("generator", "discriminator"), ("discriminator", "generator")):
        rule = strategy(f"strategy.{governed}={name}", trainable=TRAINED, class_rows=ROWS)
        ours = [
            Hospital(
                {key: value for key, value in one.arrays.items() if not key.startswith(f"control.{other}")},
                one.num_examples,
                one.class_counts,
                one.metrics,
            )
            for one in hospitals
        ]
        found = play(rule, current_model(), ours)
        assert set(found) == set(SHAPES)
        others = {key: value for key, value in found.items() if key.split(".")[0].removesuffix("_ema") == other}
        assert_close(others, {key: alone[key] for key in others})
        if name not in ("krum", "multikrum", "bulyan", "geometric-median", "qfedavg"):  # these look at entries together
            rest = {key: found[key] for key in SHAPES if key not in others}
            assert_close(rest, {key: whole[key] for key in rest})


@pytest.mark.parametrize("name", RULES)
def test_a_private_discriminator_does_not_disturb(name: str) -> None:
    """With ``strategy.private`` replies hold nothing of it. Its entries are named one by one, as its layers may be."""
    shared = [key for key in SHAPES if not key.startswith("discriminator.")]
    hospitals = hospitals_of(name, 4)
    ours = [
        Hospital(
            {key: value for key, value in one.arrays.items() if "discriminator." not in key},
            one.num_examples,
            one.class_counts,
            one.metrics,
        )
        for one in hospitals
    ]
    found = play(rule_of(name), {key: current_model()[key] for key in shared}, ours)
    assert list(found) == shared


@pytest.mark.parametrize("name", [name for name in RULES if STRATEGIES[name].for_one_network])
def test_a_strategy_of_a_network_of_which_nothing_is_shared_has_nothing_to_do(name: str) -> None:
    """Where all layers of the discriminator are named in ``strategy.private``."""
    options = ("strategy.generator=fedgan", f"strategy.discriminator={name}")
    shared = {key: value for key, value in current_model().items() if not key.startswith("discriminator.")}
    hospitals = [
        Hospital({key: one.arrays[key] for key in shared}, one.num_examples, one.class_counts, one.metrics)
        for one in hospitals_of("fedgan", 4)
    ]
    found = play(strategy(*options, trainable=TRAINED, class_rows=ROWS), shared, hospitals)
    assert_close(found, play(rule_of("fedgan"), shared, hospitals))


@pytest.mark.parametrize("name", RULES)
def test_numbers_that_came_along_are_averaged_by_images(name: str) -> None:
    hospitals = hospitals_of(name, 6)
    rule = rule_of(name)
    questions = ask(rule, current_model(), hospitals)
    _, metrics = rule.aggregate_train(1, [answer(*pair) for pair in zip(questions, hospitals, strict=True)])
    assert metrics is not None
    weights = [one.num_examples for one in hospitals]
    expected = np.average([one.metrics["loss-discriminator"] for one in hospitals], weights=weights)
    assert metrics["loss-discriminator"] == pytest.approx(expected)
