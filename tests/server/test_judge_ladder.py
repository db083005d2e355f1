"""The judge tells good from bad: images of known quality, on every axis in the right order, on real images.

Neighbours must differ by two standard deviations over five resamples; see ``benchmarks/judge_ladder.py``, whose table
with longer trained generators and classifiers stands in ``docs/evaluation.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.judge_ladder import Bench, check, image_ladders, not_apart, utility_ladders
from federation.config import parse_assignments
from server.evaluation.threads import use_threads
from strategies.configuration import resolve

# Rungs between others, in the table of the documentation alone: each takes seconds.
LEFT_OUT = {"blur 24", "blur 12", "noise 8", "noise 32", "jpeg 75", "jpeg 20"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """One thread: the same bits everywhere, and no threads that wait for each other on a busy machine."""
    before = torch.get_num_threads()
    use_threads(1)
    yield
    use_threads(before)


@pytest.fixture(scope="module")
def bench(cache_dir: str) -> Bench:
    root = Path(__file__).resolve().parents[3] / "shared" / "data" / "ham10000-128"
    if not root.is_dir():
        pytest.skip(f"no real images at {root}")
    settings = ["data.source=ham10000", f"data.root={root}", f"data.cache-dir={cache_dir}"]
    # Generators that are trained for longer and longer must be told apart; how good they get does not matter.
    small = [
        "model.site-embedding=off",
        "stylegan2.channel-max=16",
        "stylegan2.latent-size=32",
        "evaluation.extractor=lesion-cnn",
    ]
    opened = Bench.open(resolve([parse_assignments([*settings, *small])]))
    opened.train_generators([0, 1600, 4800])
    return opened


def test_fidelity_diversity_and_authenticity_come_out_in_order(bench: Bench) -> None:
    ladders = [
        replace(ladder, rungs=tuple(name for name in ladder.rungs if name not in LEFT_OUT))
        for ladder in image_ladders(list(bench.generators))
    ]
    assert {ladder.axis for ladder in ladders} == {"fidelity", "diversity", "authenticity"}
    names = list(dict.fromkeys(name for ladder in ladders for name in ladder.rungs))
    searched = {name for ladder in ladders if ladder.axis == "authenticity" for name in ladder.rungs}
    # Of the second extractor's order fewer images tell enough.
    figures = bench.measure(names, [*searched, "generator 1,600"], most_of_second=600)
    failed = {
        (ladder.axis, ladder.figure, ladder.rungs): found
        for ladder in ladders
        if (found := check(ladder, {name: figures[name][ladder.figure] for name in ladder.rungs}))
    }
    assert not failed

    # Copied training images look perfect, and are caught all the same.
    def mean(name: str, figure: str) -> float:
        return float(np.mean(figures[name][figure]))

    deviation = float(np.std(figures["real"]["kid"], ddof=1))
    assert mean("copies", "kid") < mean("real", "kid") + 2 * deviation
    for figure in ("precision", "recall", "coverage"):
        assert mean("copies", figure) > mean("real", figure) - 0.03
    assert mean("copies", "auth_pct") == 0
    assert mean("real", "auth_pct") > 60
    # A generator that has hardly begun has copied nothing.
    young = "generator 1,600"
    assert abs(mean(young, "membership") - 0.5) < mean("copies", "membership") - 0.5 - 0.05


def test_predictive_ability_comes_out_in_order(bench: Bench) -> None:
    ladders = [ladder for ladder in utility_ladders([]) if "classes dropped" in ladder.rungs]
    (ladder,) = ladders
    accuracy = bench.measure_utility(ladder.rungs, steps=120, num_validation=400)
    assert check(ladder, accuracy) == []
    # Seven classes: chance is one in seven.
    assert abs(np.mean(accuracy["labels shuffled"]) - 1 / 7) < 0.06


def test_what_counts_as_apart() -> None:
    assert not not_apart([0.0, 1.0, 2.0], [3.0, 4.0, 5.1])  # 3 apart, deviations of 1 and 1.05
    assert not_apart([0.0, 1.0, 2.0], [2.0, 3.0, 4.0])  # 2 apart is not more than 2 deviations
    assert not_apart([3.0, 4.0, 5.0], [0.0, 1.0, 2.0])  # the wrong order
