"""Every strategy on models of three numbers, against values worked out by hand from the paper's rule.

A few are checked on a real but tiny model: those whose server draws images or trains the generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from scipy.stats import kstest
from three_numbers import TRAINABLE, Arrays, Hospital, ask, configured, line, model, play, sites_of, strategy
from torch import Tensor, nn

from federation.batch import Batch
from federation.config import Configuration
from federation.errors import StorageError
from federation.exchange import ARRAYS, pack_arrays, unpack_arrays
from federation.images import to_floats
from federation.models import build_model
from federation.run_directory import read_lines
from federation.settings.participation import ParticipationSettings
from federation.sharing import named_tensors
from server.messaging import choose_sites
from strategies.aggregation import Reply, ServerEMA
from strategies.building import build_local_rule
from strategies.dp_fedavg_gan import DPFedAvgGAN, clip_factor, secret_normal, spent_epsilon
from strategies.fedcar import FedCAR, closeness
from strategies.federated_strategy import FederatedStrategy
from strategies.geometric_median import weiszfeld_weights
from strategies.ifl_gan import maximum_mean_discrepancy, reduced
from strategies.local_rule import LocalRule
from strategies.md_gan import MDGAN
from strategies.server_trained import ServerTrainedGenerator
from strategies.ua_gan import universal_logit


def is_close(found: np.ndarray, expected: Sequence[float] | float) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def shifted(current: Arrays, step: Sequence[float]) -> Arrays:
    """The model of a hospital whose generator has moved by `step` and whose discriminator has moved by its opposite."""
    arrays = dict(current)
    arrays["generator.w"] = (current["generator.w"] + np.array(step)).astype(np.float32)
    arrays["discriminator.w"] = (current["discriminator.w"] - np.array(step)).astype(np.float32)
    return arrays


# ---------------------------------------------------------------------- server optimisers


# Half-life 100 images without a ramp; a round of 100 images then keeps half of the old running average.
EMA_OF_HALF = ("training.ema-half-life-images=100", "training.ema-ramp=0")


def test_fedavgm_takes_the_mean_in_its_first_round_and_adds_momentum_in_the_second() -> None:
    rule = strategy("strategy.name=fedavgm", "strategy.server-momentum=0.5")
    # Means by 3 and 1 images: 3/4 * 2 + 1/4 * -2 = 1, and so on.
    first = [Hospital(model([2, 4, 0]), 3), Hospital(model([-2, 0, 8]), 1)]
    arrays = play(rule, model(), first, 1)
    is_close(arrays["generator.w"], [1, 3, 2])
    # Δw = w − mean = [-1, 1, -2]; v = 0.5 [-1, -3, -2] + Δw = [-1.5, -0.5, -3]; w − v.
    second = [Hospital(model([2, 2, 4]), 5), Hospital(model([2, 2, 4]), 9)]
    is_close(play(rule, arrays, second, 2)["generator.w"], [2.5, 3.5, 5])


def test_fedavgm_scales_the_momentum_by_the_learning_rate_and_not_what_it_keeps() -> None:
    rule = strategy("strategy.name=fedavgm", "strategy.server-momentum=0.5", "strategy.server-learning-rate=0.5")
    arrays = play(rule, model(), [Hospital(model([2, 4, 0]))], 1)
    is_close(arrays["generator.w"], [1, 2, 0])  # v = [-2, -4, 0]
    # Δw = [0, 0, -2]; v = [-1, -2, -2].
    is_close(play(rule, arrays, [Hospital(model([1, 2, 2]))], 2)["generator.w"], [1.5, 3, 1])


# Updates of two rounds: each number sees another case. In FedYogi's second round v is below Δ² in the first and third
# number and above it in the second.
UPDATES = ([1.0, 2.0, 0.0], [2.0, 0.5, -1.0])

OPTIMISERS = {
    # m = Δ/2, then m/2 + Δ/2; v = Δ²/4, then 3/4 v + Δ²/4; times √(1 − 0.75^t) / (1 − 0.5^t) with t = 2, then 3.
    "fedadam": (
        ("strategy.server-beta1=0.5", "strategy.server-beta2=0.75", "strategy.server-tau=0.5"),
        ([0.440958552, 0.587944736, 0.0], [0.683267293, 0.465056530, -0.434483034]),
    ),
    # v = Δ²/4 from 0, then v ± Δ²/4: 1/4 + 1, 1 − 1/16, 0 + 1/4.
    "fedyogi": (
        ("strategy.server-beta1=0.5", "strategy.server-beta2=0.75", "strategy.server-tau=0.5"),
        ([0.5, 0.666666667, 0.0], [0.772542486, 0.510813640, -0.5]),
    ),
    # v = Δ², then v + Δ²: 5, 4.25, 1.
    "fedadagrad": (
        ("strategy.server-tau=1",),
        ([0.5, 0.666666667, 0.0], [0.618033989, 0.163315817, -0.5]),
    ),
}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_an_adaptive_server_takes_the_papers_steps_in_two_rounds(name: str, rate: float) -> None:
    options, steps = OPTIMISERS[name]
    rule = strategy(f"strategy.name={name}", f"strategy.server-learning-rate={rate}", *options)
    arrays = model([1, -1, 2], d=[0, 3, 0])
    for server_round, (update, step) in enumerate(zip(UPDATES, steps, strict=True), start=1):
        # Of 1 and 3 images, and so that their mean is the update: 1/4 * -2 u + 3/4 * 2 u = u.
        opposite, double = np.array(update) * -2, np.array(update) * 2
        hospitals = [Hospital(shifted(arrays, opposite), 1), Hospital(shifted(arrays, double), 3)]
        before, arrays = arrays, play(rule, arrays, hospitals, server_round)
        is_close(arrays["generator.w"], before["generator.w"] + rate * np.array(step))
        is_close(arrays["discriminator.w"], before["discriminator.w"] - rate * np.array(step))


@pytest.mark.parametrize(("name", "rate"), [("fedadam", 0.1), ("fedadagrad", 0.1), ("fedyogi", 0.01)])
def test_an_adaptive_servers_own_rate_is_the_documented_one(name: str, rate: float) -> None:
    # Where tau is nothing, FedAdam's first step is η √(1 − β₂²) / (1 − β₁²) (1 − β₁) / √(1 − β₂), and FedYogi's is
    # η (1 − β₁) / √(1 − β₂), with 0.9 and 0.99; FedAdagrad's is η.
    first = {"fedadam": math.sqrt(1 - 0.99**2) / 0.19, "fedyogi": 1.0, "fedadagrad": 1.0}[name]
    step = rate * first
    rule = strategy(f"strategy.name={name}", "strategy.server-tau=1e-12")
    is_close(play(rule, model(), [Hospital(model([5, 0, -7]))])["generator.w"], [step, 0, -step])


@pytest.mark.parametrize("name", ["fedavgm", "fedadagrad", "fednova", "feddyn"])
def test_where_the_server_steps_it_keeps_the_running_average_and_averages_buffers(name: str) -> None:
    rule = strategy(f"strategy.name={name}", *EMA_OF_HALF)
    current = model(b=7, ema=[8, 8, 8], ema_b=7)
    hospitals = [
        Hospital(model([1, 2, 3], b=4, ema=[99, 99, 99], ema_b=99), 3, metrics={"num-images": 80}),
        Hospital(model([1, 2, 3], b=8, ema=[-99, 0, 0], ema_b=99), 1, metrics={"num-images": 160}),
    ]
    arrays = play(rule, current, hospitals)
    is_close(arrays["generator.b"], 5)  # 3/4 * 4 + 1/4 * 8
    is_close(arrays["generator_ema.b"], 5)  # a model's own average has its buffers
    # 3/4 * 80 + 1/4 * 160 = 100 images shown: half of the old average stays.
    is_close(arrays["generator_ema.w"], 4 + arrays["generator.w"] / 2)
    assert np.abs(arrays["generator.w"]).min() > 0


def test_the_servers_running_average_halves_by_half_life_and_ramp() -> None:

    def server_ema(half_life: float, ramp: float) -> ServerEMA:
        options = (f"training.ema-half-life-images={half_life}", f"training.ema-ramp={ramp}")
        return ServerEMA(configured(*options).training)

    plain = server_ema(100, 0)
    assert [plain.decay(100), plain.decay(200), plain.decay(50)] == [0.5, 0.25, pytest.approx(0.5**0.5)]
    ramped = server_ema(100, 0.5)
    # Shown 50, 100, 300: half-lives 25, 50, and not 150 but 100.
    assert [ramped.decay(50), ramped.decay(50), ramped.decay(200)] == [0.25, 0.5, 0.25]
    assert ramped.images_shown == 300
    assert server_ema(0, 0).decay(10) == 0.0


# ---------------------------------------------------------------------- robust rules


def test_fedmedian_takes_the_middle_of_each_number_whatever_the_sizes() -> None:
    rule = strategy("strategy.name=fedmedian")
    hospitals = [
        Hospital(model([1, 50, -1], b=1, ema=[0, 0, 3], d=[1, 1, 9]), 1000),
        Hospital(model([2, 5, -2], b=9, ema=[0, 7, 2], d=[1, 2, 8]), 1),
        Hospital(model([9, 6, -9], b=2, ema=[5, 8, 1], d=[1, 3, 7]), 1),
    ]
    arrays = play(rule, model(), hospitals)
    assert arrays["generator.w"].tolist() == [2, 6, -2]
    assert arrays["generator.b"] == 2
    assert arrays["generator_ema.w"].tolist() == [0, 7, 2]
    assert arrays["discriminator.w"].tolist() == [1, 2, 8]
    # Of four, the mean of the two in the middle.
    arrays = play(rule, model(), [*hospitals, Hospital(model([4, 0, 0]))])
    assert arrays["generator.w"].tolist() == [3, 5.5, -1.5]


def test_fedtrimmedavg_cuts_off_the_extremes_of_each_number() -> None:
    models = [model([value, -value, value % 3]) for value in (10, 1, 2, 3, 94)]
    arrays = play(strategy("strategy.name=fedtrimmedavg"), model(), [Hospital(one, 7) for one in models])
    # A fifth of five is one at either end: 2, 3, 10; and of 0, 1, 1, 1, 2 the ones.
    is_close(arrays["generator.w"], [5, -5, 1])
    # Of seven, int(0.3 * 7) = 2 at either end.
    models = line(-50, -40, 1, 2, 6, 70, 80)
    arrays = play(strategy("strategy.name=fedtrimmedavg", "strategy.trim=0.3"), model(), [Hospital(m) for m in models])
    is_close(arrays["generator.w"], [3, 0, 0])


# Squared distances to the 5 − 1 − 2 = 2 nearest: 1 + 9, 1 + 4, 4 + 9, 9 + 25, 94² + 97².
ON_A_LINE = line(0, 1, 3, 6, 100)


def test_krum_takes_the_model_nearest_to_its_neighbours() -> None:
    arrays = play(strategy("strategy.name=krum"), model([50, 50, 50]), [Hospital(one, 3) for one in ON_A_LINE])
    assert arrays["generator.w"].tolist() == [1, 0, 0]


def test_krum_with_two_liars_counts_one_neighbour_fewer() -> None:
    # f = 2 of 7: the 3 nearest. Liars agree with one another to the bit, at 40; the honest are around 10.
    models = line(8, 9, 10.5, 12, 14, 40, 40)
    # 8: 1 + 6.25 + 16; 9: 1 + 2.25 + 9 = 12.25; 10.5: 2.25 + 2.25 + 6.25 = 10.75; 12: 2.25 + 4 + 9; 40: 0 + 0 + 26².
    arrays = play(strategy("strategy.name=krum", "strategy.malicious=2"), model(), [Hospital(one) for one in models])
    assert arrays["generator.w"].tolist() == [10.5, 0, 0]


def test_krum_measures_the_running_average_and_the_discriminator_too() -> None:
    # In w alone the third would be the nearest; its running average lies far away.
    models = [model([w, 0, 0], ema=[e, 0, 0], d=[0, d, 0]) for w, e, d in ((0, 0, 0), (1, 0, 0), (2, 50, 0))]
    models += [model([3, 0, 0]), model([4.5, 0, 0], d=[0, 60, 0])]
    # 0: 1 + 9; 1: 1 + 4; 3: 4 + 9.
    arrays = play(strategy("strategy.name=krum"), model(), [Hospital(one) for one in models])
    assert arrays["generator.w"].tolist() == [1, 0, 0]


def test_multikrum_averages_all_but_the_malicious_whatever_their_sizes() -> None:
    hospitals = [Hospital(one, count) for one, count in zip(ON_A_LINE, (1, 2, 3, 2, 9), strict=True)]
    arrays = play(strategy("strategy.name=multikrum"), model(), hospitals)
    is_close(arrays["generator.w"], [2.5, 0, 0])  # (0 + 1 + 3 + 6) / 4
    arrays = play(strategy("strategy.name=multikrum", "strategy.selected=2"), model(), hospitals)
    is_close(arrays["generator.w"], [0.5, 0, 0])  # 0 and 1


def test_bulyan_chooses_five_of_seven_by_krum_and_averages_the_three_nearest_to_the_median() -> None:
    # f = 1: θ = 5, β = 3. Krum takes 3 (4 neighbours: 9 + 4 + 6.25 + 49), then 5.5 (3: 20.25 + 20.25 + 30.25), then 1
    # (2: 1 + 81), then 10 or 15 (1: alike), then two are left beside 100: whichever goes, the median of the five is 3
    # with 0 or 10 in place of 15.
    models = line(0, 1, 3, 5.5, 10, 15, 100)
    arrays = play(strategy("strategy.name=bulyan"), model(), [Hospital(one, 5 * n + 1) for n, one in enumerate(models)])
    is_close(arrays["generator.w"], [9.5 / 3, 0, 0])  # 3, 1 and 5.5


def test_bulyan_looks_at_each_number_by_itself_in_its_second_half() -> None:
    # Seven alike in the first number but for one liar; the second number of one of the chosen is far off.
    models = [model([0.1 * n, 0.01 * n * n, 0]) for n in range(6)] + [model([0, 0, 900])]
    arrays = play(strategy("strategy.name=bulyan"), model(), [Hospital(one) for one in models])
    assert arrays["generator.w"][2] == 0
    assert 0.1 <= arrays["generator.w"][0] <= 0.4


def test_the_geometric_median_of_three_on_a_line_is_the_one_in_the_middle() -> None:
    for values in ((0, 1, 2), (0, 1, 10), (-500, 1, 1.5)):
        arrays = play(strategy("strategy.name=geometric-median"), model(), [Hospital(one, 4) for one in line(*values)])
        # ν is a millionth of the mean distance: that near the paper's smoothed iteration rests.
        np.testing.assert_allclose(arrays["generator.w"], [1, 0, 0], atol=2e-6 * (values[2] - values[0]))


def test_the_geometric_median_of_an_equilateral_triangle_is_its_centre() -> None:
    corners = [model([0, 0, 0]), model([2, 0, 0]), model([1, math.sqrt(3), 0])]
    arrays = play(strategy("strategy.name=geometric-median"), model(), [Hospital(one, 2) for one in corners])
    is_close(arrays["generator.w"], [1, 1 / math.sqrt(3), 0])


def test_the_geometric_median_of_a_convex_quadrilateral_is_where_its_diagonals_cross() -> None:
    corners = [model([-1, 0, 0]), model([3, 0, 0]), model([0, -2, 0]), model([0, 1, 0])]
    arrays = play(strategy("strategy.name=geometric-median"), model(), [Hospital(one) for one in corners])
    np.testing.assert_allclose(arrays["generator.w"], [0, 0, 0], atol=1e-5)  # the mean is [0.5, -0.25, 0]


@pytest.mark.parametrize("name", ["geometric-median", "fedmedian", "multikrum", "krum", "fedtrimmedavg", "bulyan"])
def test_a_liar_gains_nothing_by_claiming_more_images_than_all_others(name: str) -> None:
    """Four of ten images, and one who claims 41: by number of images it alone would be the median."""
    honest = [Hospital(one, 10) for one in line(1.1, 1.2, 1.3, 1.4, 1.25, 1.35)]
    rule = strategy(f"strategy.name={name}")
    found = [
        play(rule, model(), [*honest, Hospital(model([100, 100, 100]), claimed)])["generator.w"]
        for claimed in (10, 61, 10**9)
    ]
    assert [one.tolist() for one in found] == [found[0].tolist()] * 3
    assert 1.1 <= found[0][0] <= 1.4
    assert np.abs(found[0][1:]).max() < 1e-3


def test_four_honest_hospitals_and_a_liar() -> None:
    hospitals = [Hospital(one, 10) for one in line(1.1, 1.2, 1.3, 1.4)] + [Hospital(model([100, 100, 100]), 41)]
    arrays = play(strategy("strategy.name=geometric-median"), model(), hospitals)
    # There the others pull by less than 1 in all, two to the left, one to the right, and the liar aslant.
    np.testing.assert_allclose(arrays["generator.w"], [1.3, 0, 0], atol=1e-4)
    arrays = play(strategy("strategy.name=fedmedian"), model(), hospitals)
    is_close(arrays["generator.w"], [1.3, 0, 0])


def test_the_weights_of_the_geometric_median_sum_to_one_and_none_is_zero() -> None:
    weights = weiszfeld_weights(np.array([[0.0, 1, 100], [1, 0, 81], [100, 81, 0]]), np.full(3, 1 / 3))
    assert weights.sum() == pytest.approx(1)
    assert weights.min() > 0


def test_one_far_attacker_moves_the_geometric_median_by_a_bounded_amount() -> None:
    # Three honest hospitals and one liar. On a line every pull is of length 1, so that any point between the second
    # and the third of the four is a geometric median: 1 to 2, however far the fourth is. That is what robust means.
    for far in (1e2, 1e5, 1e8, 1e12):
        models = line(0, 1, 2, far)
        arrays = play(strategy("strategy.name=geometric-median"), model(), [Hospital(one) for one in models])
        assert 0.9 <= arrays["generator.w"][0] <= 2.1, f"a liar at {far:g}"


# ---------------------------------------------------------------------- fairness, steps, control variates


def test_qfedavg_weighs_by_loss_and_divides_by_the_papers_sum() -> None:
    options = ("strategy.name=qfedavg", "strategy.fairness-q=1", "strategy.fairness-lipschitz=1")
    hospitals = [
        Hospital(model([1, 0, 0]), 7, metrics={"loss-discriminator": 2.0}),
        Hospital(model([0, 2, 0]), 1, metrics={"loss-discriminator": 1.0}),
    ]
    # Δ = [-1, 0, 0] and [0, -2, 0]; Σ F Δ = [-2, -2, 0]; h = 1 * 1 * 1 + 1 * 2 and 1 * 1 * 4 + 1 * 1, 8 in all.
    is_close(play(strategy(*options), model(), hospitals)["generator.w"], [0.25, 0.25, 0])


def test_qfedavg_uses_the_lipschitz_constant_the_power_and_every_entry() -> None:
    options = ("strategy.name=qfedavg", "strategy.fairness-q=2", "strategy.fairness-lipschitz=0.5")
    loss = ("strategy.fairness-loss=loss-generator",)
    start = model([1, 1, 1], ema=[1, 0, 0], d=[0, 0, 2])
    hospital = Hospital(model([3, 1, 1], ema=[1, 0, 4], d=[0, 0, 0]), metrics={"loss-generator": 3.0})
    # Δ = 0.5 (w − w_i): squares 0.25 (4 + 16 + 4) = 6; F² Δ = 9 * 0.5 (w − w_i); h = 2 * 3 * 6 + 0.5 * 9 = 40.5:
    # the step is 4.5 / 40.5 = 1/9 of the way.
    arrays = play(strategy(*options, *loss), start, [hospital])
    is_close(arrays["generator.w"], [1 + 2 / 9, 1, 1])
    is_close(arrays["generator_ema.w"], [1, 0, 4 / 9])
    is_close(arrays["discriminator.w"], [0, 0, 2 - 2 / 9])


def test_qfedavg_with_q_zero_is_the_mean_of_hospitals_alike() -> None:
    hospitals = [Hospital(model([1, 0, 4]), 7, metrics={"loss-discriminator": 9.0}), Hospital(model([3, 2, 0]), 1)]
    arrays = play(strategy("strategy.name=qfedavg", "strategy.fairness-q=0"), model([5, 5, 5]), hospitals)
    is_close(arrays["generator.w"], [2, 1, 2])


def test_fednova_normalises_by_steps() -> None:
    hospitals = [
        Hospital(model([4, 0, 0]), 1, metrics={"num-steps": 1}),
        Hospital(model([0, 8, 4]), 3, metrics={"num-steps": 4}),
    ]
    # p = 1/4, 3/4; τ_eff = 1/4 + 3 = 3.25; Σ p_i (w_i − w) / τ_i = [1, 0, 0] + 3/16 [0, 8, 4] = [1, 1.5, 0.75].
    arrays = play(strategy("strategy.name=fednova"), model(), hospitals)
    is_close(arrays["generator.w"], [3.25, 4.875, 2.4375])


def test_fednova_of_equal_steps_is_the_average_by_images() -> None:
    hospitals = [
        Hospital(model([4, 0, 0]), 1, metrics={"num-steps": 5}),
        Hospital(model([0, 8, 4]), 3, metrics={"num-steps": 5}),
    ]
    is_close(play(strategy("strategy.name=fednova"), model([7, 7, 7]), hospitals)["generator.w"], [1, 6, 3])


# ---------------------------------------------------------------------- hospitals' halves, with plain SGD


class Quadratic(nn.Module):
    """Of loss ½ ‖w − target‖²: its gradient is w − target."""

    def __init__(self, target: Sequence[float], *, has_buffer: bool = True) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))
        if has_buffer:
            self.register_buffer("b", torch.tensor(0.0))
        self.target = torch.tensor(target)

    def loss(self) -> Tensor:
        return (self.w - self.target).square().sum() / 2


class SGDHospital:
    """A hospital that trains by plain SGD: a stand-in for a model has its networks alone."""

    def __init__(self, settings: Configuration, target: Sequence[float], rate: float) -> None:
        opposite = [-value for value in target]
        self.networks: dict[str, Any] = {
            "generator": Quadratic(target),
            "discriminator": Quadratic(opposite, has_buffer=False),
            "generator_ema": Quadratic(target),
        }
        self.settings, self.rate = settings, rate
        self.state: dict[str, Tensor] = {}

    def shared(self) -> dict[str, Tensor]:
        return {name: value for name, value in named_tensors(self.networks).items() if value.is_floating_point()}

    def train(self, arrived: Mapping[str, np.ndarray], num_steps: int) -> Arrays:
        """Take what arrived, a round's steps, and return what is sent."""
        rule = build_local_rule(self.settings)  # anew each round, as a hospital does
        shared = self.shared()
        assert set(arrived) == set(rule.down(shared, self.networks))
        extra = {}
        with torch.no_grad():
            for name, value in arrived.items():
                if name in shared:
                    shared[name].copy_(torch.from_numpy(value.copy()))
                else:
                    extra[name] = torch.from_numpy(value.copy())
        model: Any = SimpleNamespace(networks=self.networks)
        rule.begin(model, shared, extra, self.state)
        for _ in range(num_steps):
            self.step(rule)
        rule.end(model, None, torch.Generator())  # type: ignore[arg-type]  # images are not looked at
        self.state = {name: value.clone() for name, value in rule.state().items()}
        return {name: value.detach().numpy().copy() for name, value in rule.up(shared, self.networks).items()}

    def step(self, rule: LocalRule) -> None:
        for name in ("generator", "discriminator"):
            network = self.networks[name]
            network.zero_grad()
            network.loss().backward()
            rule.correct(name, network)
            with torch.no_grad():
                network.w -= self.rate * network.w.grad


def train_round(
    rule: FederatedStrategy,
    current: Arrays,
    sites: Sequence[SGDHospital],
    server_round: int,
    num_steps: int,
    absent: Sequence[int] = (),
) -> tuple[Arrays, list[Arrays]]:
    """A round of both halves; returns the next entries and what was sent."""
    questions = ask(rule, current, [Hospital({}) for _ in sites], server_round)
    sent = [
        {} if number in absent else site.train(unpack_arrays(question.content.array_records[ARRAYS]), num_steps)
        for number, (question, site) in enumerate(zip(questions, sites, strict=True))
    ]
    hospitals = [Hospital(arrays, metrics={"num-steps": num_steps}) for arrays in sent]
    return play(rule, current, hospitals, server_round, absent=absent), sent


def pair(name: str, *options: str, rate: float = 0.5) -> tuple[FederatedStrategy, list[SGDHospital]]:
    """Two hospitals whose optima are 1 and −3 in the first number, twice that in the second, and 0 in the third."""
    assignments = (f"strategy.name={name}", *options)
    settings = configured(*assignments)
    return strategy(*assignments), [
        SGDHospital(settings, [1.0, 2.0, 0.0], rate),
        SGDHospital(settings, [-3.0, -6.0, 0.0], rate),
    ]


def are_scaled(arrays: Mapping[str, np.ndarray], value: float, prefix: str = "") -> None:
    """The generator's numbers are `value` times 1, 2, 0, and the discriminator's are the opposite."""
    is_close(arrays[f"{prefix}generator.w"], [value, 2 * value, 0])
    is_close(arrays[f"{prefix}discriminator.w"], [-value, -2 * value, 0])


def test_fedprox_pulls_each_step_towards_the_global_weights() -> None:
    rule, sites = pair("fedprox", "strategy.proximal-mu=0.5")
    # From 0 to 1: g = −1, w = 0.5; g = −0.5 + 0.5 * 0.5, w = 0.625. From 0 to −3: 1.5; 1.5 − 0.75 = 0.75; −1.875.
    arrays, (one, other) = train_round(rule, model(), sites, 1, 2)
    are_scaled(one, 0.625)
    are_scaled(other, -1.875)
    are_scaled(arrays, -0.625)
    # From the new start the term is 0 again: g = −1.625, w = 0.1875; g = −0.8125 + 0.40625, w = 0.390625.
    _, (one, _) = train_round(rule, arrays, sites, 2, 2)
    are_scaled(one, 0.390625)


def test_scaffold_follows_algorithm_1_for_two_rounds() -> None:
    rule, sites = pair("scaffold")
    # All c are 0. From 0 to 1: g = −1, −0.5, w = 0.75, c⁺ = −0.75. From 0 to −3: g = 3, 1.5, w = −2.25, c⁺ = 2.25.
    arrays, (one, other) = train_round(rule, model(), sites, 1, 2)
    are_scaled(one, 0.75)
    are_scaled(one, -0.75, "control.")
    are_scaled(other, -2.25)
    are_scaled(other, 2.25, "control.")
    are_scaled(arrays, -0.75)
    # c = 0.75. One: g − c_i + c = −1.75 + 1.5, w = −0.625; −1.625 + 1.5, w = −0.5625; c⁺ = −1.6875.
    # Other: 2.25 − 1.5, w = −1.125; 1.875 − 1.5, w = −1.3125; c⁺ = 2.0625.
    arrays, (one, other) = train_round(rule, arrays, sites, 2, 2)
    are_scaled(one, -0.5625)
    are_scaled(one, -1.6875 + 0.75, "control.")
    are_scaled(other, -1.3125)
    are_scaled(other, 2.0625 - 2.25, "control.")
    are_scaled(arrays, -0.9375)
    # c = 0.75 + (−0.9375 − 0.1875) / 2: the mean of the hospitals' own.
    are_scaled({name[2:]: value for name, value in rule.state_dict().items()}, 0.1875, "control.")


def test_scaffolds_mean_gradient_is_option_ii() -> None:
    rule, sites = pair("scaffold", rate=0.3)
    arrays, own, control = model([1, -2, 0.5], d=[3, 1, 1]), [np.zeros(3), np.zeros(3)], np.zeros(3)
    for server_round in (1, 2, 3):
        after, sent = train_round(rule, arrays, sites, server_round, 4)
        for number, one in enumerate(sent):
            # c_i⁺ = c_i − c + (w_t − w_i) / (K η)
            option = own[number] - control + (arrays["generator.w"] - one["generator.w"]) / (4 * 0.3)
            np.testing.assert_allclose(one["control.generator.w"], option - own[number], atol=3e-6)
            own[number] = option
        arrays, control = after, (own[0] + own[1]) / 2


def test_scaffold_moves_its_control_by_the_share_of_hospitals_that_replied() -> None:
    rule, sites = pair("scaffold")
    arrays, _ = train_round(rule, model(), sites, 1, 2, absent=[1])
    are_scaled(arrays, 0.75)  # the mean is over who replied
    are_scaled({name[2:]: value for name, value in rule.state_dict().items()}, -0.375, "control.")  # 1/2 of −0.75


def test_scaffolds_server_step_goes_part_of_the_way() -> None:
    half = ("training.ema-half-life-images=1", "training.ema-ramp=0")  # an image is a step of these hospitals
    rule, sites = pair("scaffold", "strategy.server-learning-rate=0.5", *half)
    arrays, _ = train_round(rule, model([8, 16, 0], ema=[1, 2, 0], d=[-8, -16, 0]), sites, 1, 1)
    # y = 4.5 and 2.5, mean 3.5: half of the way from 8.
    are_scaled({name: value for name, value in arrays.items() if name != "generator_ema.w"}, 5.75)
    # The server keeps the average itself: half of it is what it was.
    is_close(arrays["generator_ema.w"], [(1 + 5.75) / 2, (2 + 11.5) / 2, 0])


def test_scaffold_averages_hospitals_alike_in_trained_weights_and_running_average() -> None:
    rule = strategy("strategy.name=scaffold")
    own = {f"control.{name}": np.zeros(3, np.float32) for name in ("generator.w", "discriminator.w")}
    hospitals = [Hospital(model([1, 0, 0], ema=[2, 0, 0]) | own, 9), Hospital(model([3, 4, 0], ema=[0, 4, 0]) | own, 1)]
    arrays = play(rule, model(ema=[7, 7, 7]), hospitals)
    is_close(arrays["generator.w"], [2, 2, 0])
    is_close(arrays["generator_ema.w"], [1, 2, 0])


@pytest.mark.parametrize("rate", ["1", "0.5"])
def test_scaffolds_running_average_has_the_buffers_of_its_generator(rate: str) -> None:
    """In a model they are one and the same value."""
    rule = strategy("strategy.name=scaffold", f"strategy.server-learning-rate={rate}")
    own = {f"control.{name}": np.zeros(3, np.float32) for name in ("generator.w", "discriminator.w")}
    hospitals = [Hospital(model(b=4, ema_b=4) | own, 3), Hospital(model(b=8, ema_b=8) | own, 1)]
    arrays = play(rule, model(), hospitals)
    assert arrays["generator.b"] == arrays["generator_ema.b"]


def test_feddyn_follows_algorithm_1_for_two_rounds() -> None:
    # With α = 1 and step 0.5, two steps reach the minimum of F_i(w) − ⟨h_i, w⟩ + ½ ‖w − w_t‖² exactly.
    rule, sites = pair("feddyn", "strategy.dynamic-alpha=1")
    arrays, (one, other) = train_round(rule, model(), sites, 1, 2)
    are_scaled(one, 0.5)
    are_scaled(other, -1.5)
    # h = −½ (0.5 − 1.5) = 0.5, w = −0.5 − 0.5: the minimum of the mean of both losses.
    are_scaled(arrays, -1.0)
    # At a minimum h_i is the gradient of F_i: 0.5 − 1 and −1.5 + 3.
    are_scaled({name: value.numpy() for name, value in sites[0].state.items()}, -0.5)
    are_scaled({name: value.numpy() for name, value in sites[1].state.items()}, 1.5)
    # 2 w = 1 − 0.5 − 1, so w = −0.25; 2 w = −3 + 1.5 − 1, so w = −1.25.
    arrays, (one, other) = train_round(rule, arrays, sites, 2, 2)
    are_scaled(one, -0.25)
    are_scaled(other, -1.25)
    are_scaled({name: value.numpy() for name, value in sites[0].state.items()}, -1.25)
    are_scaled({name: value.numpy() for name, value in sites[1].state.items()}, 1.75)
    # h = 0.5 − ½ (0.75 − 0.25) = 0.25, w = −0.75 − 0.25: it stays where it should.
    are_scaled(arrays, -1.0)


def test_feddyns_server_divides_by_all_hospitals_and_not_by_those_that_replied() -> None:
    rule, sites = pair("feddyn", "strategy.dynamic-alpha=1")
    # h = −½ * 0.5 = −0.25; w = 0.5 + 0.25.
    are_scaled(train_round(rule, model(), sites, 1, 2, absent=[1])[0], 0.75)


def test_feddyns_alpha_is_in_both_halves() -> None:
    rule, sites = pair("feddyn", "strategy.dynamic-alpha=0.5")
    # One step: 0.5 and −1.5; h = −0.5 * ½ * (0.5 − 1.5) = 0.25; w = −0.5 − 0.25 / 0.5.
    arrays, _ = train_round(rule, model(), sites, 1, 1)
    are_scaled(arrays, -1.0)
    are_scaled({name: value.numpy() for name, value in sites[0].state.items()}, -0.25)  # −0.5 * 0.5
    # g = (−1 − 1) + 0.25 + 0, w = −0.125; then g = −1.125 + 0.25 + 0.5 * 0.875 = −0.4375, w = 0.09375.
    _, (one, _) = train_round(rule, arrays, sites, 2, 2)
    are_scaled(one, 0.09375)


# ---------------------------------------------------------------------- weights by score


FEGAN = ("strategy.name=fegan", "participation.fraction=0.5")


def test_fegan_weighs_by_divergence_times_share() -> None:
    hospitals = [Hospital(model([1, 0, 0]), 4, (4, 0)), Hospital(model([0, 1, 0]), 12, (6, 6))]
    # p = (10, 6) / 16. KL = ln 1.6, times 1/4; and ½ ln 0.8 + ½ ln 4/3 = ½ ln 16/15, times 3/4:
    # 1.6^¼ to (16/15)^⅜. A larger divergence counts more, as in the authors' code.
    arrays = play(strategy(*FEGAN), model(), hospitals)
    is_close(arrays["generator.w"], [0.523307836, 0.476692164, 0])
    # The other sign: the powers' inverses.
    arrays = play(strategy(*FEGAN, "strategy.divergence-weight=less"), model(), hospitals)
    is_close(arrays["generator.w"], [0.476692164, 0.523307836, 0])


@pytest.mark.parametrize(
    ("networks", "generator", "discriminator"),
    [("both", 0.523307836, 0.523307836), ("generator", 0.523307836, 0.25), ("discriminator", 0.25, 0.523307836)],
)
def test_networks_that_are_not_weighted_are_averaged_by_images(
    networks: str, generator: float, discriminator: float
) -> None:
    one = model([1, 0, 0], b=1, ema=[1, 0, 0], ema_b=1, d=[1, 0, 0])
    hospitals = [Hospital(one, 4, (4, 0)), Hospital(model(), 12, (6, 6))]
    rule = strategy(*FEGAN, f"strategy.weighted-networks={networks}")
    arrays = play(rule, model(), hospitals)
    for name in ("generator.w", "generator_ema.w"):
        is_close(arrays[name], [generator, 0, 0])
    for name in ("generator.b", "generator_ema.b"):
        is_close(arrays[name], generator)
    is_close(arrays["discriminator.w"], [discriminator, 0, 0])


def test_fegan_draws_the_class_seen_least_and_then_a_hospital_that_holds_it() -> None:
    rule = strategy(*FEGAN)
    sites = sites_of([Hospital({}, 10, (10, 0, 0)), Hospital({}, 5, (0, 5, 0)), Hospital({}, 2, (0, 0, 2))])
    rule.meet(sites)

    def draw(server_round: int) -> str:
        chosen = rule.choose_sites(sites, 2, server_round)
        assert chosen is not None
        return "".join(site.name for site in chosen)

    # Seen (0, 0, 0): class 0, a. (10, 0, 0): class 1, b. (10, 5, 0): class 2, c. (10, 5, 2): class 2 again, but c is
    # taken; class 1, b. (10, 10, 2): c. (10, 10, 4): class 2 has nobody left; of two seen alike the first, a.
    assert draw(1) == "ab"
    # What it has seen is carried along: a rule that began anew would draw class 0 again.
    state, rule = rule.state_dict(), strategy(*FEGAN)
    rule.meet(sites)
    rule.load_state_dict(state)
    assert [draw(2), draw(3)] == ["bc", "ac"]
    assert rule.choose_sites(sites, 3, 4) is None  # all: nothing to draw


def test_fegan_draws_at_random_among_those_that_hold_the_class() -> None:
    rule = strategy(*FEGAN)
    sites = sites_of([Hospital({}, 4, (4, 0)), *[Hospital({}, 1, (0, 1))] * 3])
    rule.meet(sites)
    partners = set()
    for server_round in range(1, 21):
        chosen = rule.choose_sites(sites, 2, server_round)
        assert chosen is not None
        partners.update(site.name for site in chosen)
    assert partners == {"a", "b", "c", "d"}


def test_fed_tgan_weighs_by_a_softmax_of_similarity_times_share() -> None:
    hospitals = [Hospital(model([1, 0, 0]), 4, (4, 0)), Hospital(model([0, 1, 0]), 12, (6, 6))]
    # p = (0.625, 0.375). Jensen-Shannon distances, the root of the mean of both KL to the middle: 0.389609992 to
    # (1, 0) and 0.089213216 to (½, ½). softmax of (1 − 0.813680) / 4 and 3 (1 − 0.186320) / 4.
    arrays = play(strategy("strategy.name=fed-tgan"), model(), hospitals)
    is_close(arrays["generator.w"], [0.362695864, 0.637304136, 0])
    arrays = play(strategy("strategy.name=fed-tgan", "strategy.temperature=0.1"), model(), hospitals)
    is_close(arrays["generator.w"], [0.003551514, 0.996448486, 0])


def test_fed_tgan_of_hospitals_alike_weighs_by_share_alone() -> None:
    hospitals = [Hospital(model([1, 0, 0]), 2, (1, 1)), Hospital(model([0, 1, 0]), 6, (3, 3))]
    # softmax of ½ * ¼ and ½ * ¾: e^¼ to 1.
    arrays = play(strategy("strategy.name=fed-tgan"), model(), hospitals)
    is_close(arrays["generator.w"], [1 / (1 + math.exp(0.25)), 1 / (1 + math.exp(-0.25)), 0])


def test_ifl_gan_weighs_by_a_softmax_of_the_scores_over_their_sum() -> None:
    hospitals = [
        Hospital(model([1, 0, 0]), 9, metrics={"mmd": 0.1}),
        Hospital(model([0, 1, 0]), 1, metrics={"mmd": 0.3}),
    ]
    # softmax of ¼ and ¾: the generator that is further from its images counts more, sizes do not count.
    arrays = play(strategy("strategy.name=ifl-gan"), model(), hospitals)
    is_close(arrays["generator.w"], [0.377540669, 0.622459331, 0])
    arrays = play(strategy("strategy.name=ifl-gan", "strategy.temperature=0.5"), model(), hospitals)
    is_close(arrays["generator.w"], [0.268941421, 0.731058579, 0])


def test_ifl_gan_averages_the_discriminator_by_images() -> None:
    """As its file says: the paper weighs the generator alone."""
    hospitals = [Hospital(model(d=[1, 0, 0]), 9, metrics={"mmd": 0.1}), Hospital(model(), 1, metrics={"mmd": 0.3})]
    is_close(play(strategy("strategy.name=ifl-gan"), model(), hospitals)["discriminator.w"], [0.9, 0, 0])


def test_ifl_gan_of_perfect_generators_is_the_plain_mean() -> None:
    hospitals = [
        Hospital(model([1, 0, 0]), 9, metrics={"mmd": 0.0}),
        Hospital(model([0, 1, 0]), 1, metrics={"mmd": 0.0}),
    ]
    is_close(play(strategy("strategy.name=ifl-gan"), model(), hospitals)["generator.w"], [0.5, 0.5, 0])


class Images:
    """A hospital's images and a model that draws from a list: what IFL-GAN's hospital half looks at."""

    num_classes = 0
    num_sites = site = 0

    def __init__(self, real: Tensor, drawn: Tensor) -> None:
        self.real, self.drawn = real, drawn

    def __len__(self) -> int:
        return len(self.real)

    def sample_distinct(self, generator: torch.Generator, count: int) -> Batch:
        floats = self.real[:count].permute(0, 3, 1, 2).float() / 127.5 - 1
        return Batch(floats, torch.zeros(count, dtype=torch.int64))

    @property
    def drawing(self) -> Images:
        return self

    def latents(self, count: int, stream: torch.Generator) -> Tensor:
        return torch.zeros(count, 1)

    def __call__(self, latents: Tensor, labels: Tensor | None, stream: torch.Generator, truncation: float) -> Tensor:
        return to_floats(self.drawn[: len(latents)])


def score(real: Tensor, drawn: Tensor) -> float:
    images: Any = Images(real, drawn)
    rule = build_local_rule(configured("strategy.name=ifl-gan"))
    return rule.end(images, images, torch.Generator())["mmd"]


def test_a_hospitals_score_is_zero_for_its_own_images_and_grows_with_the_distance() -> None:
    stream = torch.Generator().manual_seed(0)
    real = torch.randint(0, 128, (64, 32, 32, 3), generator=stream, dtype=torch.uint8)
    other = torch.randint(0, 128, (64, 32, 32, 3), generator=stream, dtype=torch.uint8)
    assert score(real, real) < 1e-6
    brighter = [score(real, other + more) for more in (0, 5, 20, 100)]
    assert 0 <= brighter[0] < brighter[1] < brighter[2] < brighter[3]


def test_a_hospitals_score_is_zero_where_real_and_drawn_are_one_image() -> None:
    image = torch.randint(0, 256, (1, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert score(image.expand(64, -1, -1, -1), image.expand(64, -1, -1, -1)) < 1e-6


def test_a_score_does_not_depend_on_how_many_images_there_are() -> None:
    """Hospitals of different sizes are compared: a perfect generator's MMD² is 0 on average at any number."""
    stream = torch.Generator().manual_seed(0)
    means = []
    for n in (16, 128):
        points = [torch.randn(2, n, 12, generator=stream, dtype=torch.float64) for _ in range(40)]
        means.append(sum(maximum_mean_discrepancy(real, drawn) ** 2 for real, drawn in points) / 40)
    # Clamping at 0 leaves half of the noise; the biased estimate has .059 and .0075.
    assert means[0] < 0.01
    assert means[1] < 0.001


def mean_kernel(squared: float, median: float) -> float:
    return sum(math.exp(-squared / (2 * factor**2 * median)) for factor in (0.25, 0.5, 1, 2, 4)) / 5


def test_the_mmd_of_two_points_is_known() -> None:
    # Two real at one point, two drawn at another: MMD² = 2 − 2 k, and their distance is the median.
    real, drawn = torch.zeros(2, 4, dtype=torch.float64), torch.full((2, 4), 3.0, dtype=torch.float64)
    assert maximum_mean_discrepancy(real, drawn) == pytest.approx(math.sqrt(2 - 2 * mean_kernel(1, 1)), rel=1e-12)


def test_images_of_one_place_are_no_pair_of_the_mmd() -> None:
    # Squared distances: 4 within each sample, 1 in a place, 5 across places; their median is 4.
    real = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    drawn = real + torch.tensor([0.0, 1.0])
    expected = math.sqrt(2 * mean_kernel(4, 4) - 2 * mean_kernel(5, 4))
    assert maximum_mean_discrepancy(real, drawn) == pytest.approx(expected, rel=1e-9)


def test_samples_that_are_alike_place_by_place_are_no_distance_apart() -> None:
    """Not even rounding is left, of which FedCAR's softmax would make weights."""
    points = torch.randn(300, 192, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert maximum_mean_discrepancy(points, points.clone()) == 0
    assert maximum_mean_discrepancy(points[:40], points[:30]) == 0


class OfClasses(Images):
    """A conditional generator and a hospital of three classes, whose images differ far more than the two do."""

    num_classes = 3
    _COLOURS = torch.tensor([[-0.8, -0.8, 0.0], [0.0, 0.8, 0.0], [0.8, -0.8, 0.0]])

    def __init__(self, count: int, mistake: float, stream: torch.Generator) -> None:
        self.labels = torch.randint(3, (count,), generator=stream)
        self.mistake, self.stream = mistake, stream

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, labels: Tensor) -> Tensor:
        noise = 0.05 * torch.randn(len(labels), 3, 8, 8, generator=self.stream)
        return self._COLOURS[labels][:, :, None, None] + noise

    def sample_distinct(self, generator: torch.Generator, count: int) -> Batch:
        return Batch(self.of(self.labels), self.labels)

    def __call__(self, latents: Tensor, labels: Tensor | None, stream: torch.Generator, truncation: float) -> Tensor:
        assert labels is not None
        return self.of(labels) + self.mistake * torch.tensor([0.0, 0.0, 1.0])[:, None, None]


def test_a_score_counts_a_mistake_alike_however_many_images_there_are() -> None:
    """The images asked for have the labels of the real ones: no independent pairs, least so at a small hospital."""
    rule, stream = build_local_rule(configured("strategy.name=ifl-gan")), torch.Generator().manual_seed(0)
    means = []
    for count, repeats in ((16, 80), (64, 10), (256, 2)):
        hospitals: list[Any] = [OfClasses(count, 0.09, stream) for _ in range(repeats)]
        means.append(sum(rule.end(one, one, stream)["mmd"] ** 2 for one in hospitals) / repeats)
    # With a real image and that of its label in the mean across: 0.027, 0.000 and 0.047.
    np.testing.assert_allclose(np.sqrt(means), 0.069, rtol=0.15)


def test_a_hospital_of_one_image_has_no_score() -> None:
    image = torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert score(image[:1], image[1:]) == 0


def test_images_are_averaged_down_to_eight_pixels() -> None:
    images = torch.zeros(1, 3, 32, 32)
    images[0, 1, 4:8, 0:4] = 0.5  # one of 64 squares of 4 by 4 pixels, of the second colour
    expected = torch.zeros(192, dtype=torch.float64)
    expected[64 + 8] = 0.5
    assert torch.equal(reduced(images)[0], expected)


def test_fedcars_closeness_on_three_hospitals() -> None:
    distances = np.array([[0.0, 1, 3], [1, 0, 2], [3, 2, 0]])
    # Means to the others 2, 1.5, 2.5, and 2 of these: softmax of −1, −0.75, −1.25.
    is_close(closeness(distances, 1.0), [0.326495836, 0.419228952, 0.254275213])
    is_close(closeness(distances, 0.5), [0.307195886, 0.506480391, 0.186323722])
    is_close(closeness(np.zeros((4, 4)), 1.0), [0.25] * 4)


CLASSES = ("data.classes=melanoma,nevus,keratosis",)
TINY = (
    "stylegan2.channel-base=32",
    "stylegan2.channel-max=8",
    "stylegan2.latent-size=8",
    "stylegan2.mapping-layers=1",
    # Each test that is about balancing says so.
    "training.balanced-classes=none",
    *CLASSES,
    "training.precision=fp32",
)


def tiny_entries(*assignments: str) -> Arrays:
    """The initial entries of a real model, as they cross the wire."""
    networks = build_model(configured(*TINY, *assignments)).networks
    return {
        name: value.detach().numpy().copy()
        for name, value in named_tensors(networks).items()
        if value.is_floating_point() and not name.startswith("training.")
    }


def test_fedcar_lets_a_generator_that_draws_what_no_other_does_count_less() -> None:
    rule = strategy("strategy.name=fedcar", "strategy.samples=32", *TINY)
    entries = tiny_entries()
    models = []
    for number, brightness in enumerate((0.0, 0.0, 3.0)):
        arrays = dict(entries)
        arrays["generator_ema.rgb_bias"] = entries["generator_ema.rgb_bias"] + np.float32(brightness)
        arrays["discriminator.output.bias"] = np.array([number == 2], np.float32)
        models.append(Hospital(arrays, 10 * (number + 1), (10 * number, 5, 5)))
    found = play(rule, entries, models)["discriminator.output.bias"]
    # Two alike and a third at distance x: means ½ x, ½ x, x; softmax of −¾, −¾, −3/2, times 10, 20 and 30 images.
    weights = np.array([10, 20, 30]) * np.exp([-0.75, -0.75, -1.5])
    np.testing.assert_allclose(found, weights[2] / weights.sum(), rtol=1e-4)


def test_fedcar_sees_that_two_pairs_of_generators_are_as_far_apart() -> None:
    """Not fooled by latents that all share: means to the others are .4, .4, .4 and .8 of a shift's distance."""
    rule = strategy("strategy.name=fedcar")
    (part,) = rule.parts
    assert isinstance(part.rule, FedCAR)
    points = torch.randn(256, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part.rule.draw = lambda replies: [points + shift for shift in (0.0, 0.0, 0.1, 0.3)]  # type: ignore[method-assign]
    hospitals = [Hospital(model(w)) for w in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0])]
    # Softmax of −.8, −.8, −.8 and −1.6, as distances grow with the shift; the last, of zeros, has 0.131.
    np.testing.assert_allclose(play(rule, model(), hospitals)["generator.w"], [0.290, 0.290, 0.289], atol=0.001)


def test_fedcar_asks_for_classes_as_training_does() -> None:
    entries = tiny_entries()

    def drawn(counts: tuple[int, ...], *assignments: str) -> Tensor:
        rule = strategy("strategy.name=fedcar", "strategy.samples=32", *TINY, *assignments)
        (question,) = ask(rule, entries, [Hospital(entries, sum(counts), counts)])
        (part,) = rule.parts
        assert isinstance(part.rule, FedCAR)
        part.rule.begin(1, entries)
        (images,) = part.rule.draw([Reply("a", question, pack_arrays(entries), {})])
        return images

    alike = drawn((1, 1, 0))
    assert not torch.equal(drawn((30, 2, 0)), alike)
    assert torch.equal(drawn((30, 2, 0), "training.balanced-classes=true"), alike)
    assert torch.equal(drawn((30, 2, 0), "stylegan2.fake-labels=uniform"), alike)


def test_fedcar_draws_the_same_latents_from_every_generator() -> None:
    rule = strategy("strategy.name=fedcar", "strategy.samples=32", *TINY)
    entries = tiny_entries()
    questions = ask(rule, entries, [Hospital(entries, 1, (1, 1, 0))] * 2)
    (part,) = rule.parts
    assert isinstance(part.rule, FedCAR)
    part.rule.begin(1, entries)
    one, other = part.rule.draw([Reply("a", question, pack_arrays(entries), {}) for question in questions])
    assert torch.equal(one, other)
    assert one.shape == (32, 192)
    assert one.std() > 0


# ---------------------------------------------------------------------- rows of classes


ROWS = ("generator.rows", "generator_ema.rows", "discriminator.rows")


def with_rows(generator: Sequence[Sequence[float]], discriminator: Sequence[Sequence[float]]) -> Arrays:
    rows = np.array(generator, np.float32)
    return model() | dict(zip(ROWS, (rows, rows * 10, np.array(discriminator, np.float32)), strict=True))


def test_label_aware_averages_a_classs_row_over_those_that_hold_it() -> None:
    rule = strategy("strategy.name=label-aware", trainable=TRAINABLE | {ROWS[0], ROWS[2]}, class_rows=ROWS)
    current = with_rows([[7, 7], [8, 8], [9, 9]], [[1, 1], [2, 2], [3, 3]])
    one = with_rows([[1, 2], [2, 0], [5, 5]], [[4, 0], [0, 4], [6, 6]]) | {"generator.w": np.float32([7, 0, 0])}
    other = with_rows([[90, 90], [6, 8], [6, 6]], [[90, 90], [8, 8], [6, 6]])
    arrays = play(rule, current, [Hospital(one, 4, (3, 1, 0)), Hospital(other, 3, (0, 3, 0))])
    # The first class is the first hospital's alone; of the second they hold 1 and 3; nobody has the third.
    is_close(arrays["generator.rows"], [[1, 2], [5, 6], [9, 9]])
    is_close(arrays["generator_ema.rows"], [[10, 20], [50, 60], [90, 90]])
    is_close(arrays["discriminator.rows"], [[4, 0], [6, 7], [3, 3]])
    is_close(arrays["generator.w"], [4, 0, 0])  # 4/7
    assert arrays["generator.rows"].dtype == np.float32


def test_label_aware_counts_only_those_that_replied() -> None:
    rule = strategy("strategy.name=label-aware", class_rows=ROWS)
    current = with_rows([[7, 7], [8, 8], [9, 9]], [[1, 1], [2, 2], [3, 3]])
    one = with_rows([[1, 2], [2, 0], [5, 5]], [[4, 0], [0, 4], [6, 6]])
    hospitals = [Hospital(one, 4, (3, 1, 0)), Hospital(one, 3, (0, 0, 3))]
    is_close(play(rule, current, hospitals, absent=[1])["generator.rows"], [[1, 2], [2, 0], [9, 9]])


def test_label_aware_without_rows_is_fedgan() -> None:
    hospitals = [Hospital(model([4, 0, 0]), 3, (3, 0)), Hospital(model([0, 8, 0]), 1, (0, 1))]
    is_close(play(strategy("strategy.name=label-aware"), model(), hospitals)["generator.w"], [3, 2, 0])


# ---------------------------------------------------------------------- one strategy for each network


def test_each_network_may_have_a_strategy_of_its_own() -> None:
    rule = strategy(
        "strategy.generator=fedadam",
        "strategy.discriminator=fedmedian",
        "strategy.server-learning-rate=1",
        "strategy.server-beta1=0.5",
        "strategy.server-beta2=0.75",
        "strategy.server-tau=0.5",
        *EMA_OF_HALF,
    )
    hospitals = [
        Hospital(model([2, 2, 0], b=3, d=[0, 1, -9]), 1, metrics={"num-images": 100}),
        Hospital(model([1, 1, 0], b=3, d=[1, 5, 0]), 1, metrics={"num-images": 100}),
        Hospital(model([0, 3, 0], b=3, d=[99, 0, 9]), 1, metrics={"num-images": 100}),
    ]
    arrays = play(rule, model(ema=[1, 1, 1]), hospitals)
    is_close(arrays["generator.w"], [0.440958552, 0.587944736, 0])  # FedAdam's first step at Δ = 1, 2, 0
    is_close(arrays["generator_ema.w"], [0.720479276, 0.793972368, 0.5])
    is_close(arrays["generator.b"], 3)
    assert arrays["discriminator.w"].tolist() == [1, 1, 0]


def test_a_private_discriminator_is_not_touched_where_the_generator_has_a_strategy() -> None:
    rule = strategy("strategy.generator=fedadagrad", "strategy.discriminator=private", "strategy.server-tau=1")
    shared = {name: value for name, value in model().items() if not name.startswith("discriminator.")}
    hospitals = [Hospital(shared | {"generator.w": np.float32([1, 2, 0])}, 2)] * 2
    arrays = play(rule, shared, hospitals)
    assert set(arrays) == set(shared)
    is_close(arrays["generator.w"], [0.05, 0.066666667, 0])  # 0.1 Δ / (|Δ| + 1)


def test_entries_that_no_reply_holds_stay() -> None:
    current = model(d=[4, 5, 6])
    shared = {name: value for name, value in model([1, 2, 3]).items() if not name.startswith("discriminator.")}
    arrays = play(strategy(), current, [Hospital(shared, 2)])
    assert arrays["discriminator.w"].tolist() == [4, 5, 6]
    assert arrays["generator.w"].tolist() == [1, 2, 3]


def test_each_network_has_its_own_hospital_half() -> None:
    settings = configured("strategy.generator=fedprox", "strategy.discriminator=scaffold")
    site = SGDHospital(settings, [1.0, 2.0, 0.0], 0.5)
    c = {"control.discriminator.w": np.float32([1, 0, 0])}
    sent = site.train(model() | c, 1)
    is_close(sent["generator.w"], [0.5, 1, 0])
    is_close(sent["discriminator.w"], [-1, -1, 0])  # g + c = 1 + 1
    is_close(sent["control.discriminator.w"], [1, 2, 0])
    assert "control.generator.w" not in sent
    assert set(site.state) == {"discriminator.w"}


# ---------------------------------------------------------------------- the server trains the generator


SERVER_TRAINED = (*TINY, "stylegan2.loss=logistic", "strategy.generator-steps=1", "training.batch-size=4")


def discriminator_of(arrays: Arrays) -> Arrays:
    return {name: value for name, value in arrays.items() if name.startswith("discriminator.")}


def moved(arrays: Arrays, bias: float, projection: float = 0.0) -> Arrays:
    """A discriminator that has moved in two of its numbers."""
    found = {name: value.copy() for name, value in discriminator_of(arrays).items()}
    found["discriminator.output.bias"] += np.float32(bias)
    found["discriminator.class_projection"][0, 0] += np.float32(projection)
    return found


@pytest.fixture(scope="module")
def entries() -> Arrays:
    return tiny_entries("stylegan2.loss=logistic", "model.site-embedding=off")


def dp(*assignments: str) -> DPFedAvgGAN:
    rule = strategy("strategy.name=dp-fedavg-gan", *SERVER_TRAINED, *assignments)
    assert isinstance(rule, DPFedAvgGAN)
    return rule


def test_dp_fedavg_gan_clips_each_update_and_averages_hospitals_alike(entries: Arrays) -> None:
    # Norms 5, 0.5 and 13 with S = 1: factors 1/5, 1 and 1/13. Sizes do not count.
    updates = ((3.0, 4.0), (0.3, -0.4), (-5.0, 12.0))
    hospitals = [
        Hospital(moved(entries, *update), count, (count, 0, 1))
        for update, count in zip(updates, (1, 9, 90), strict=True)
    ]
    arrays = play(dp(), entries, hospitals)
    bias = arrays["discriminator.output.bias"] - entries["discriminator.output.bias"]
    projection = arrays["discriminator.class_projection"] - entries["discriminator.class_projection"]
    is_close(bias, [(0.6 + 0.3 - 5 / 13) / 3])
    is_close(projection[0, 0], (0.8 - 0.4 + 12 / 13) / 3)
    assert np.count_nonzero(projection) == 1
    others = set(discriminator_of(entries)) - {"discriminator.output.bias", "discriminator.class_projection"}
    assert all(np.array_equal(arrays[name], entries[name]) for name in others)
    # The server has trained the generator, which came from no hospital.
    assert not np.array_equal(arrays["generator.constant"], entries["generator.constant"])


def test_dp_fedavg_gan_divides_by_those_that_were_asked(entries: Arrays) -> None:
    """Else the step would say whether a reply could be used, which depends on what a hospital trained on."""
    hospitals = [Hospital(moved(entries, bias), 1, (1, 1, 1)) for bias in (3.0, 0.5, -2.0, 9.0)]
    arrays = play(dp(), entries, hospitals, absent=[2], asked=[0, 1, 2])
    is_close(arrays["discriminator.output.bias"] - entries["discriminator.output.bias"], [(1.0 + 0.5) / 3])


def test_clipping_is_over_all_entries_together() -> None:
    update = {"one": np.array([3.0]), "other": np.array([[0.0, 4.0]])}
    assert clip_factor(update, 2.5) == pytest.approx(0.5)
    assert clip_factor(update, 5.5) == 1.0
    assert clip_factor({"one": np.zeros(3)}, 1.0) == 1.0


def test_dp_fedavg_gan_adds_noise_of_the_stated_size_to_the_sum(entries: Arrays) -> None:
    hospitals = [Hospital(discriminator_of(entries), 1, (1, 1, 1))] * 4
    arrays = play(dp("strategy.clip-norm=0.5", "strategy.noise-multiplier=3"), entries, hospitals)
    noise = np.concatenate([(arrays[name] - entries[name]).ravel() for name in discriminator_of(entries)])
    # z S / n = 3 * 0.5 / 4, in every entry.
    assert len(noise) > 1500
    assert noise.std() == pytest.approx(0.375, rel=0.06)  # more than three standard errors
    assert abs(noise.mean()) < 4 * 0.375 / math.sqrt(len(noise))
    assert abs(noise).max() < 5 * 0.375
    assert len(np.unique(noise)) > 0.95 * len(noise)


def test_dp_fedavg_gans_noise_is_another_in_each_round(entries: Arrays) -> None:
    hospitals = [Hospital(discriminator_of(entries), 1, (1, 1, 1))] * 2
    rule = dp("strategy.noise-multiplier=1")
    first, second = (play(rule, entries, hospitals, server_round) for server_round in (1, 2))
    name = "discriminator.dense.weight"
    noise = np.stack([(arrays[name] - entries[name]).ravel() for arrays in (first, second)])
    assert abs(np.corrcoef(noise)[0, 1]) < 0.15


def test_noise_at_real_sites_cannot_be_computed_from_what_sites_are_told(entries: Arrays) -> None:
    noises = []
    for is_deployed in (True, True, False, False):
        rule = dp("strategy.noise-multiplier=1")
        hospitals = [Hospital(discriminator_of(entries), 1, (1, 1, 1), is_deployed=is_deployed)] * 4
        arrays = play(rule, entries, hospitals)
        noises.append(np.concatenate([(arrays[name] - entries[name]).ravel() for name in discriminator_of(entries)]))
    assert abs(np.corrcoef(noises[0], noises[1])[0, 1]) < 0.15
    assert noises[0].std() == pytest.approx(0.25, rel=0.06)
    assert np.array_equal(noises[2], noises[3])


def test_secret_noise_is_standard_normal() -> None:
    noise = secret_normal((50, 4000))
    assert noise.shape == (50, 4000)
    assert noise.dtype == np.float64
    assert len(np.unique(noise)) == noise.size
    # By chance once in a hundred million runs.
    assert kstest(noise.ravel(), "norm").pvalue > 1e-8
    assert secret_normal(()).shape == ()


@pytest.mark.parametrize(
    ("participation", "is_deployed"),
    [({"dropout": 0.5}, False), ({"fraction": 0.2}, False), ({"fraction": 0.6, "dropout": 0.3}, True)],
)
def test_who_is_drawn_is_no_secret_and_makes_epsilon_no_smaller(
    entries: Arrays, participation: dict[str, float], is_deployed: bool
) -> None:
    """Of ten hospitals: as if all had been in both rounds."""
    rule = dp("strategy.noise-multiplier=1")
    hospitals = [Hospital(discriminator_of(entries), 1, (1, 1, 1), is_deployed=is_deployed)] * 10
    for server_round in (1, 2):
        chosen = choose_sites(sites_of(hospitals), ParticipationSettings(**participation), 0, server_round)
        assert len(chosen) < 10
        play(rule, entries, hospitals, server_round, asked=[site.node_id - 2 for site in chosen])
    assert rule.report()["epsilon"] == pytest.approx(5.4200, abs=1e-4)


def gaussian_epsilon(noise_multiplier: float, delta: float, rounds: int) -> float:
    """ε of the Gaussian mechanism by its Rényi divergence α / (2 z²) (Mironov 2017, Proposition 7).

    Turned to (ε, δ) by Theorem 21 of Balle et al. 2020, arXiv 1905.09982, and minimised over α on a fine grid.
    """
    order = 1 + np.exp(np.linspace(math.log(1e-3), math.log(500), 200_000))
    renyi = rounds * order / (2 * noise_multiplier**2)
    return float((renyi + np.log((order - 1) / order) - (math.log(delta) + np.log(order)) / (order - 1)).min())


@pytest.mark.parametrize(
    ("noise", "delta", "rounds"),
    [(1.0, 1e-3, 1), (2.0, 1e-3, 1), (1.0, 1e-3, 4), (4.0, 1e-5, 100), (0.1, 1e-3, 24), (50.0, 1e-3, 1)],
)
def test_epsilon_is_that_of_the_gaussian_mechanism(noise: float, delta: float, rounds: int) -> None:
    found = spent_epsilon([noise] * rounds, delta)
    # The accountant knows some orders alone: never less, and hardly more.
    exact = gaussian_epsilon(noise, delta, rounds)
    assert found is not None
    assert exact - 1e-9 <= found <= exact * 1.01


def test_epsilon_of_known_cases() -> None:
    assert spent_epsilon([], 1e-3) == 0.0
    assert spent_epsilon([0.0], 1e-3) is None
    assert spent_epsilon([1.0, 0.0], 1e-3) is None  # one release without noise is enough
    for rounds, epsilon in ((1, 3.5366), (2, 5.4200), (4, 8.4165), (24, 28.6229), (31, 34.5488)):
        assert spent_epsilon([1.0] * rounds, 1e-3) == pytest.approx(epsilon, abs=1e-4)
    # The bound of so much noise at so large a delta is -0.105; the privacy of (0, delta) is all that there is to say.
    assert spent_epsilon([1000.0], 0.1) == 0.0


def test_dp_fedavg_gan_reports_epsilon_of_the_rounds_it_has_played(entries: Arrays) -> None:
    rule = dp("strategy.noise-multiplier=1")
    hospitals = [Hospital(discriminator_of(entries), 1, (1, 1, 1))] * 2
    for server_round in range(1, 5):
        play(rule, entries, hospitals, server_round)
    assert rule.report()["epsilon"] == pytest.approx(8.4165, abs=1e-4)
    assert rule.report()["delta"] == 1e-3
    assert rule.report()["releases"] == 4


def test_a_hospital_that_was_asked_and_failed_makes_epsilon_no_smaller(entries: Arrays) -> None:
    rule = dp("strategy.noise-multiplier=1")
    play(rule, entries, [Hospital(discriminator_of(entries), 1, (1, 1, 1))] * 2, absent=[1])
    assert rule.report()["epsilon"] == pytest.approx(3.5366, abs=1e-4)


@pytest.mark.parametrize("is_deployed", [True, False])
def test_what_epsilon_does_not_cover_stands_beside_it(entries: Arrays, is_deployed: bool) -> None:
    rule = dp("strategy.noise-multiplier=1")
    rule.meet(sites_of([Hospital(discriminator_of(entries), is_deployed=is_deployed)]))
    said = "; ".join(rule.report()["does_not_cover"])
    for name in ("losses and logits", "numbers of images", "who took part", "the judge", "the server", "other runs"):
        assert name in said
    assert ("follows from seed" in said) is not is_deployed


@pytest.mark.parametrize(("is_deployed", "absent"), [(True, []), (False, [1])])
def test_a_round_that_is_released_twice_counts_twice(
    entries: Arrays, is_deployed: bool, absent: list[int], tmp_path: Path
) -> None:
    """Killed before it saved round 1, the server goes on from the beginning."""
    hospitals = [Hospital(moved(entries, bias), 1, (1, 1, 1), is_deployed=is_deployed) for bias in (1, 2)]
    for missing, releases, epsilon in (([], 1, 3.5366), (absent, 2, 5.4200)):
        rule = dp("strategy.noise-multiplier=1", f"run-dir={tmp_path}")
        play(rule, entries, hospitals, absent=missing)
        assert len(read_lines(tmp_path / "releases.jsonl")) == rule.report()["releases"] == releases
        assert rule.report()["epsilon"] == pytest.approx(epsilon, abs=1e-4)


def test_a_release_that_cannot_be_counted_is_not_made(entries: Arrays, tmp_path: Path) -> None:
    rule = dp("strategy.noise-multiplier=1", f"run-dir={tmp_path / 'gone'}")
    with pytest.raises(StorageError, match=r"releases\.jsonl: cannot be written"):
        play(rule, entries, [Hospital(discriminator_of(entries), 1, (1, 1, 1))])


# ------------------------------------------------ UA-GAN and MD-GAN


def test_the_universal_logit_is_the_papers_formula() -> None:
    stream = np.random.default_rng(0)
    logits = stream.normal(0, 3, (4, 50))
    priors = stream.dirichlet(np.ones(4), 50).T
    priors[2, :10] = 0  # classes that the third hospital has not; 0 D / (1 − D) is nothing
    priors[:, :10] /= priors[:, :10].sum(axis=0)
    judged = 1 / (1 + np.exp(-logits))
    odds = (priors * judged / (1 - judged)).sum(axis=0)  # Eq. 4 and 5
    universal = odds / (1 + odds)
    with np.errstate(divide="ignore"):
        log_priors = torch.from_numpy(np.log(priors))
    found = universal_logit(torch.from_numpy(logits), log_priors)
    np.testing.assert_allclose(1 / (1 + np.exp(-found.numpy())), universal, rtol=1e-12)
    np.testing.assert_allclose(found.numpy(), np.log(odds), rtol=1e-10, atol=1e-12)


def test_the_universal_logit_by_hand() -> None:
    # D = ½ and ¾: odds 1 and 3; of priors ¼ and ¾ they are 10/4.
    logits = torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64)
    log_priors = torch.tensor([[0.25], [0.75]], dtype=torch.float64).log()
    assert universal_logit(logits, log_priors).item() == pytest.approx(math.log(2.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_universal_logit_is_stable_at_huge_logits(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4], [-1e4, -1e4, 1e4]], dtype=dtype, requires_grad=True)
    log_priors = torch.tensor([[0.5, 0.25, 0.0], [0.5, 0.75, 1.0]], dtype=torch.float64).log()
    found = universal_logit(logits, log_priors)
    np.testing.assert_allclose(found.detach().numpy(), [1e4 + math.log(0.5), -1e4, 1e4], rtol=1e-6)
    found.sum().backward()
    # Its gradient is each hospital's posterior.
    assert logits.grad is not None
    # Between two float32 of this size lie 0.001, which is as much of a posterior.
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(logits.grad.numpy(), [[1, 0.25, 0], [0, 0.75, 1]], atol=tolerance)


def ensemble(name: str, *assignments: str) -> Any:
    return strategy(f"strategy.name={name}", *SERVER_TRAINED, *assignments)


@pytest.mark.parametrize("name", ["ua-gan", "md-gan"])
def test_private_discriminators_come_back_to_their_own_hospital(name: str, entries: Arrays) -> None:
    rule = ensemble(name, "strategy.swap-rounds=0") if name == "md-gan" else ensemble(name)
    hospitals = [Hospital(moved(entries, bias), 3, (1, 1, 1)) for bias in (1.0, 2.0, 3.0)]
    arrays = play(rule, entries, hospitals)
    assert not np.array_equal(arrays["generator.constant"], entries["generator.constant"])
    # No discriminator is averaged.
    assert all(np.array_equal(arrays[key], entries[key]) for key in discriminator_of(entries))
    sent = [unpack_arrays(question.content.array_records[ARRAYS]) for question in ask(rule, arrays, hospitals, 2)]
    biases = [float(one["discriminator.output.bias"][0] - entries["discriminator.output.bias"][0]) for one in sent]
    is_close(np.array(biases), [1, 2, 3])
    assert all(np.array_equal(one["generator.constant"], arrays["generator.constant"]) for one in sent)
    assert not any(key.startswith("generator_ema.") for one in sent for key in one)


def test_ua_gan_does_not_hear_a_hospital_about_a_class_that_it_has_not(entries: Arrays) -> None:
    """Whatever its discriminator says, π_j(y) = 0 silences it: the generator's step is the same.

    Here that is all classes, so that the class asked for does not matter.
    """
    results = []
    for bias in (0.0, 5.0):
        stranger = moved(entries, bias)
        stranger["discriminator.dense.weight"] *= np.float32(1 + bias)
        hospitals = [Hospital(moved(entries, 1.0), 4, (4, 0, 0)), Hospital(stranger, 4, (0, 0, 0))]
        results.append(play(ensemble("ua-gan"), entries, hospitals))
    assert all(np.array_equal(results[0][name], results[1][name]) for name in entries)


def judged(
    name: str, entries: Arrays, hospitals: Sequence[Hospital], labels: Tensor, *assignments: str
) -> tuple[np.ndarray, Tensor]:
    """What the server says of images of these classes, and which classes a step of its generator asks for."""
    rule = ensemble(name, *assignments)
    found: list[tuple[np.ndarray, Tensor]] = []

    def record(model: Any, server_round: int, judge: Any, odds: Tensor) -> Arrays:
        found.append((judge(torch.zeros(len(labels), 3, 32, 32), labels).detach().numpy(), odds))
        return {}

    rule.train_generator = record
    play(rule, entries, hospitals)
    return found[0]


def constant(entries: Arrays, logit: float) -> Arrays:
    """A discriminator that says the same of everything."""
    found = {name: np.zeros_like(value) for name, value in discriminator_of(entries).items()}
    found["discriminator.output.bias"] += np.float32(logit)
    return found


def test_ua_gan_weighs_each_class_by_who_holds_how_many_of_it(entries: Arrays) -> None:
    # Odds 1 and 3. Of the first class they hold 1/4 and 3/4, of the second all is the first's, of the third half.
    hospitals = [
        Hospital(constant(entries, 0.0), 3, (1, 1, 1)),
        Hospital(constant(entries, math.log(3)), 4, (3, 0, 1)),
    ]
    logits, odds = judged("ua-gan", entries, hospitals, torch.tensor([0, 1, 2, 0]))
    is_close(np.exp(logits), [2.5, 1, 2, 2.5])
    assert odds.tolist() == [[4, 1, 2]]


def test_dp_fedavg_gan_asks_for_all_classes_alike_and_for_no_count_of_them(entries: Arrays) -> None:
    """No noise would cover the counts, and what the generator is asked for goes into it."""
    found = []
    for counts in ((5, 0, 0), (1, 2, 2), ()):
        hospitals = [Hospital(moved(entries, 0.1), 5, counts)] * 2
        assert judged("dp-fedavg-gan", entries, hospitals, torch.zeros(4, dtype=torch.int64))[1].tolist() == [[1, 1, 1]]
        found.append(play(ensemble("dp-fedavg-gan"), entries, hospitals))
    for other in found[1:]:
        assert all(other[name].tobytes() == found[0][name].tobytes() for name in entries)


def test_md_gan_asks_every_hospital_about_a_batch_of_its_own(entries: Arrays) -> None:
    held = [(5, 0, 0), (0, 2, 3), (1, 2, 2)]
    hospitals = [Hospital(constant(entries, value), 5, of) for value, of in zip((1.0, 2.0, 3.0), held, strict=True)]
    logits, odds = judged("md-gan", entries, hospitals, torch.zeros(12, dtype=torch.int64))
    # As many images for each, in turn: the mean over images is the mean over hospitals.
    assert logits.tolist() == [1.0, 2.0, 3.0] * 4
    assert odds.tolist() == [list(of) for of in held]


@pytest.mark.parametrize("assignment", ["training.balanced-classes=true", "stylegan2.fake-labels=uniform"])
def test_the_server_asks_for_classes_alike_where_hospitals_do(assignment: str, entries: Arrays) -> None:
    hospitals = [Hospital(discriminator_of(entries), sum(of), of) for of in ((7, 1, 0), (0, 3, 0))]
    asked = {
        name: judged(name, entries, hospitals, torch.zeros(2, dtype=torch.int64), assignment)[1].tolist()
        for name in ("ua-gan", "md-gan", "dp-fedavg-gan")
    }
    # DP-FedAvg-GAN knows of nobody which classes it holds.
    assert asked == {"ua-gan": [[1, 1, 0]], "md-gan": [[1, 1, 0], [0, 1, 0]], "dp-fedavg-gan": [[1, 1, 1]]}


# Two hospitals with three classes, of which the second is the first's above all, and images of two kinds.
HELD = ((20, 80, 0), (20, 20, 10))
KINDS = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)


@pytest.mark.parametrize("balanced", ["none", "hospital", "federation"])
@pytest.mark.parametrize("asked", ["data", "uniform"])
@pytest.mark.parametrize(
    ("name", "mixtures"),
    [
        # Of both hospitals' images of a class: half and half, and .8 of the first's.
        ("ua-gan", [[[0.5, 0.5], [0.74, 0.26]]] * 2),
        # Each judges its own part of the batch.
        ("md-gan", [[[0.9, 0.1]] * 2, [[0.1, 0.9]] * 2]),
    ],
)
def test_best_discriminators_lead_to_the_hospitals_images(
    name: str, mixtures: Sequence[Sequence[Sequence[float]]], asked: str, balanced: str, entries: Arrays
) -> None:
    """However often a class is shown and asked for: the server's logit is log P / G, whose rest is G = P.

    With generated images of all classes alike, UA-GAN's generator would rest at .367 of kind 0 where ½ is right.
    """
    rule = ensemble(name, f"stylegan2.fake-labels={asked}", f"training.balanced-classes={balanced}")
    drawn = torch.tensor([0.2, 0.8], dtype=torch.float64)

    def best(hospital: int) -> Any:
        counts = torch.tensor(HELD[hospital], dtype=torch.float64)
        totals = torch.tensor(HELD, dtype=torch.float64).sum(dim=0)
        shown = {"none": counts, "hospital": (counts > 0).double(), "federation": counts / totals}[balanced]
        shown = shown / shown.sum()
        fakes = torch.full((3,), 1 / 3, dtype=torch.float64) if asked == "uniform" else shown

        def logits(images: Tensor, labels: Tensor) -> Tensor:
            kinds = images[:, 0, 0, 0].long()
            return (shown[labels] * KINDS[hospital][kinds] / (fakes[labels] * drawn[kinds])).log()

        return logits

    # An image of every class that both hold, of every kind, for each hospital.
    labels, kinds, _ = torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(2)).T
    images = kinds.double()[:, None, None, None].expand(-1, 3, 8, 8)
    found: list[Tensor] = []

    def record(model: Any, server_round: int, judge: Any, odds: Tensor) -> Arrays:
        found.append(judge(images, labels))
        return {}

    rule.train_generator = record
    rule.networks_of = lambda model, names: [best(hospital) for hospital in range(len(names))]
    play(rule, entries, [Hospital(discriminator_of(entries), sum(held), held) for held in HELD])
    shares = (found[0].exp() * drawn[kinds]).reshape(2, 2, 2).permute(2, 0, 1)
    np.testing.assert_allclose(shares, mixtures, rtol=1e-9)


def steps_of_the_server(name: str, entries: Arrays, *assignments: str) -> tuple[list[list[int]], float]:
    """The classes that one step asks for, and how much of the running average is old after it."""
    rule = strategy(f"strategy.name={name}", *SERVER_TRAINED, *assignments)
    assert isinstance(rule, ServerTrainedGenerator)
    hospitals = [Hospital(discriminator_of(entries), 5, of) for of in ((5, 0, 0), (0, 2, 3))]
    asked: list[list[int]] = []
    build = rule.build

    def watched() -> Any:
        model: Any = build()
        train = model.train_generator

        def record(labels: Tensor, *others: Any) -> Tensor:
            asked.append(labels.tolist())
            loss: Tensor = train(labels, *others)
            return loss

        model.train_generator = record
        return model

    rule.build = watched  # type: ignore[method-assign]
    arrays = play(rule, entries, hospitals)
    new, old = (arrays["generator.constant"], entries["generator_ema.constant"])
    return asked, float(np.mean((arrays["generator_ema.constant"] - new) / (old - new)))


def test_md_gan_asks_each_hospital_for_its_own_classes_alone(entries: Arrays) -> None:
    """Its discriminator has never seen the others."""
    (labels,), _ = steps_of_the_server("md-gan", entries, "training.batch-size=32")
    assert len(labels) == 64
    assert set(labels[0::2]) == {0}
    assert set(labels[1::2]) == {1, 2}


@pytest.mark.parametrize("name", ["ua-gan", "md-gan", "dp-fedavg-gan"])
def test_the_servers_running_average_counts_images_as_a_hospital_sees_them(name: str, entries: Arrays) -> None:
    """However many hospitals there are: four images, a half-life of four."""
    _, kept = steps_of_the_server(name, entries, "training.ema-half-life-images=4", "training.ema-ramp=0")
    assert kept == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("number", [2, 3, 7])
def test_md_gans_exchange_is_a_permutation_without_fixed_point(number: int) -> None:
    rule = ensemble("md-gan")
    assert isinstance(rule, MDGAN)
    names = [chr(ord("a") + position) for position in range(number)]
    circles = set()
    for server_round in range(1, 21):
        rule.discriminators = {name: {"discriminator.w": np.array([ord(name)])} for name in [*names, "z"]}
        rule.swap(server_round, names)
        got = {name: chr(arrays["discriminator.w"][0]) for name, arrays in rule.discriminators.items()}
        assert sorted(got) == [*names, "z"]
        assert sorted(got.values()) == [*names, "z"]  # nothing is lost, nothing is twice there
        assert got["z"] == "z"  # who was away keeps its own
        assert all(got[name] != name for name in names)
        circles.add(tuple(got[name] for name in names))
    assert (len(circles) > 1) == (number > 2)


def test_md_gan_exchanges_every_so_many_rounds(entries: Arrays) -> None:
    rule = ensemble("md-gan", "strategy.swap-rounds=2")
    hospitals = [Hospital(moved(entries, bias), 3, (1, 1, 1)) for bias in (1.0, 2.0)]

    def bias_of(site: str) -> float:
        kept = rule.discriminators[site]["discriminator.output.bias"]
        return float(np.round(kept[0] - entries["discriminator.output.bias"][0], 4))

    play(rule, entries, hospitals, 1)
    assert [bias_of("a"), bias_of("b")] == [1, 2]
    play(rule, entries, hospitals, 2)
    assert [bias_of("a"), bias_of("b")] == [2, 1]


def test_md_gan_of_one_hospital_and_ua_gan_of_one_hospital_are_the_same(entries: Arrays) -> None:
    """One discriminator is its own mean, and log exp(l) = l."""
    hospital = [Hospital(moved(entries, 1.0, 2.0), 3, (1, 2, 0))]
    one, other = (play(ensemble(name), entries, hospital) for name in ("ua-gan", "md-gan"))
    for name in entries:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dp-fedavg-gan", "ua-gan", "md-gan"])
def test_a_server_that_trains_goes_on_where_it_was(name: str, entries: Arrays) -> None:
    hospitals = [Hospital(moved(entries, bias), 3, (1, 1, 1)) for bias in (0.1, 0.2, 0.3)]
    first = ensemble(name)
    arrays = play(first, entries, hospitals, 1)
    kept = {key: np.array(value, order="C") for key, value in first.state_dict().items()}
    second = ensemble(name)
    second.load_state_dict(safetensors.numpy.load(safetensors.numpy.save(kept)))
    one, other = (play(rule, arrays, hospitals, 2) for rule in (first, second))
    assert all(one[key].tobytes() == other[key].tobytes() for key in entries)
