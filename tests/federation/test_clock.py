"""A hospital that comes late goes by the federation's count of images, and lets go of nothing that the others averaged.

Where it is said in numbers: 40 steps of 8 images, a half-life of at most a tenth of the images shown.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from federation.models.training import Clock, move_averages
from federation.settings.training import TrainingSettings


def left_of_average(clock: Clock, own_steps: int, *, ramp: float = 0.1) -> float:
    """Return what is left of a running average after a round of 40 steps, of a hospital that took some before."""
    average, network = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.ones_(average.weight)
    nn.init.zeros_(network.weight)
    for step in range(own_steps + 1, own_steps + 41):
        move_averages(
            {"a": network, "a_ema": average},
            {"a_ema": "a"},
            TrainingSettings(ema_ramp=ramp),
            images_in_step=8,
            images_shown=8 * step,
            clock=clock,
        )
    return average.weight.item()


@pytest.mark.parametrize(("steps_before", "left"), [(0, 0.000), (40, 0.009), (400, 0.517)])
def test_a_newcomer_keeps_of_the_average_what_all_others_keep(steps_before: int, left: float) -> None:
    veteran = left_of_average(Clock(), steps_before)
    assert veteran == pytest.approx(left, abs=5e-4)
    newcomer = left_of_average(Clock(ahead=8 * steps_before), 0)
    assert newcomer == pytest.approx(veteran, rel=1e-6)


def test_one_that_was_in_more_rounds_than_others_goes_by_the_federations_count_too() -> None:
    """With local-epochs a large hospital shows more images than the mean of all."""
    assert left_of_average(Clock(ahead=-8 * 360), 400) == pytest.approx(left_of_average(Clock(), 40), rel=1e-6)
    assert left_of_average(Clock(ahead=-1e9), 400) == 0.0


def test_what_a_hospital_has_of_its_own_goes_by_its_own_count() -> None:
    assert left_of_average(Clock(ahead=3200.0, own=frozenset({"a_ema.weight"})), 0) == left_of_average(Clock(), 0)


def test_without_a_ramp_all_go_by_the_half_life() -> None:
    assert left_of_average(Clock(), 0, ramp=0.0) == pytest.approx(0.5 ** (320 / 5000), rel=1e-5)
    assert left_of_average(Clock(ahead=3200.0), 0, ramp=0.0) == left_of_average(Clock(), 0, ramp=0.0)


def test_entries_of_both_kinds_move_in_one_step() -> None:
    network = nn.ModuleDict({"own": nn.Linear(1, 1, bias=False), "shared": nn.Linear(1, 1, bias=False)})
    average = nn.ModuleDict({"own": nn.Linear(1, 1, bias=False), "shared": nn.Linear(1, 1, bias=False)})
    for entry in average.parameters():
        nn.init.ones_(entry)
    for entry in network.parameters():
        nn.init.zeros_(entry)
    clock = Clock(ahead=160.0, own=frozenset({"a_ema.own.weight"}))
    move_averages(
        {"a": network, "a_ema": average},
        {"a_ema": "a"},
        TrainingSettings(),
        images_in_step=8,
        images_shown=80,
        clock=clock,
    )
    # Half-lives of 8 and of 24 images.
    assert torch.cat([entry.flatten() for entry in average.parameters()]).tolist() == pytest.approx(
        [0.5, 0.5 ** (1 / 3)]
    )
