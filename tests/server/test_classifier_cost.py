"""What classifiers cost is said from a few timed steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from federation.config import parse_assignments
from federation.seeding import numpy_stream
from server.evaluation import classifier_cost
from server.evaluation.classifier_cost import ClassifierWork, describe_cost, gain_work, measure_step, utility_work
from server.evaluation.predictions import TestImages
from server.evaluation.utility import RealParts, UtilityTerms, judge_utility
from strategies.configuration import resolve


def terms_of(cache_dir: Path | str = "", threads: int = 2, **values: object) -> UtilityTerms:
    given = [f"evaluation.utility-{name}={value}" for name, value in ({"steps": 10, "seeds": 2} | values).items()]
    settings = resolve([parse_assignments(given)]).evaluation
    return UtilityTerms(
        settings=settings, classes=("a", "b", "c"), seed=0, cache_dir=str(cache_dir), device="cpu", threads=threads
    )


def parts(train_labels: np.ndarray) -> RealParts:
    def labelled(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return numpy_stream(0, "noise").integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8), labels

    images, labels = labelled(np.arange(96) % 3)
    names = np.arange(96).astype(str).astype(object)
    return RealParts(
        train=labelled(train_labels),
        train_sites=np.full(len(train_labels), "one", dtype=object),
        validation=labelled(np.arange(96) % 3),
        test=TestImages(images=images, labels=labels, sites=names, groups=names),
    )


def test_work_by_hand() -> None:
    # A third class of 6 among 126 is rare: its images come beside real ones in a third of each class's places.
    labels = np.repeat([0, 1, 2], [60, 60, 6])
    work = utility_work(terms_of(arms="real,synthetic,real+synthetic,rare", yardsticks=""), parts(labels), 64)
    assert (work.count, work.words, work.steps) == (8, "4 arms x 2 seeds", 10)
    # Steps of 64, 64, 128 and 64 + 64 / 3 images; ten looks at 96 validation images by each, a third of learning.
    assert work.batches == pytest.approx(2 * (10 * (1 + 1 + 2 + 4 / 3) + 4 * 10 * 96 / 64 / 3))
    # Four hospitals: own images alone, and three times as many again beside them; pooled; federated.
    gain = gain_work(terms_of(), 4)
    assert (gain.count, gain.batches) == (2 * (4 * 5 + 1), 2 * 10 * (4 * (1 + 2 * 3) + 1 + 4))


def test_nothing_is_said_of_classifiers_that_cannot_be_trained() -> None:
    assert utility_work(terms_of(), parts(np.zeros(20, dtype=np.int64)), 64).count == 0
    assert utility_work(terms_of(arms="rare", yardsticks=""), parts(np.arange(30) % 3), 64).count == 0


def test_as_many_as_are_trained(tmp_path: Path) -> None:
    terms, real = terms_of(tmp_path, arms="real,real+synthetic", yardsticks="", seeds=1), parts(np.arange(30) % 3)
    told = []
    judge_utility(
        terms,
        real,
        lambda labels, purpose: np.zeros((len(labels), 32, 32, 3), dtype=np.uint8),
        progress=lambda description, done, total: told.append((done, total)),
    )
    work = utility_work(terms, real, 64)
    assert told[-1] == (work.count * work.steps, work.count * work.steps)


def test_a_step_is_timed_and_leaves_no_trace() -> None:
    import torch

    before, threads = torch.get_rng_state(), torch.get_num_threads()
    seconds, batch_size = measure_step(terms_of(), parts(np.arange(200) % 3))
    assert 0 < seconds < 5
    assert batch_size == 64
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("seconds", "threads", "words"),
    [
        (0.0005, 1, "a second"),
        (0.0131, 1, "about 13 s"),
        (0.0131, 2, "about 6.6 s"),
        (0.0131, 9, "about 6.6 s"),
        (0.1, 1, "about 1.7 min"),
        (8.0, 1, "about 2.2 h"),
        (80.0, 1, "about 22 h"),
    ],
)
def test_times_in_two_digits(seconds: float, threads: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier_cost, "count_cores", lambda: 2)
    work = ClassifierWork(count=18, words="6 arms x 3 seeds", steps=300, batches=1000)
    assert describe_cost(work, seconds, terms_of(threads=threads)) == (
        f"18 classifiers (6 arms x 3 seeds) of 300 steps each: {words} of training here, less where some are kept"
    )
