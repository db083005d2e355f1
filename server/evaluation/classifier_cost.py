"""What the classifiers of a judgement cost, said before they are trained: from a few timed steps on this machine."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from federation.machine import count_cores
from federation.models.classifier import build_classifier, fit_classifier
from federation.models.efficientnet import find_imagenet_weights
from federation.seeding import torch_stream
from server.evaluation.gain import ARMS as GAIN_ARMS
from server.evaluation.trials import Trials
from server.evaluation.utility import BESIDE_REAL, RealParts, UtilityTerms, share_beside_real, synthetic_of_each_arm

# The first step is slower: kernels are chosen, memory comes from the system.
_WARM_UP_STEPS, _TIMED_STEPS = 1, 3
# A classifier looks at its validation images so often, and seeing an image takes a third of learning from it.
_LOOKS, _SHARE_OF_A_LOOK = 10, 1 / 3


@dataclass(frozen=True, kw_only=True)
class ClassifierWork:
    """Classifiers that are to be trained."""

    count: int
    """How many."""
    words: str
    """What they are for, e.g. ``6 arms x 3 seeds``."""
    steps: int
    """Training steps of each."""
    batches: float
    """Batches of images in all of their steps and looks, each as one step without added images has."""


def utility_work(terms: UtilityTerms, real: RealParts, batch_size: int) -> ClassifierWork:
    """Return what :func:`~server.evaluation.utility.judge_utility` trains; nothing where it cannot.

    Parameters
    ----------
    terms, real
        See there.
    batch_size
        Images in a step without added ones.
    """
    settings, labels = terms.settings, real.train[1]
    counts = synthetic_of_each_arm(terms, labels) if len(np.unique(labels)) > 1 else {}
    images_in_step = sum(
        1 + share_beside_real(arm, labels, of_class) if arm in BESIDE_REAL else 1 for arm, of_class in counts.items()
    )
    looks = len(counts) * _LOOKS * _SHARE_OF_A_LOOK * len(real.validation[1]) / batch_size
    seeds = settings.utility_seeds
    return ClassifierWork(
        count=seeds * len(counts),
        words=f"{len(counts)} arms x {seeds} seeds",
        steps=settings.utility_steps,
        batches=seeds * (settings.utility_steps * images_in_step + looks),
    )


def gain_work(terms: UtilityTerms, num_hospitals: int) -> ClassifierWork:
    """Return what :func:`~server.evaluation.gain.judge_gain` trains, a federated classifier as one of each hospital."""
    settings = terms.settings
    # Beside own images of a step at most as many others come; the first arm has none.
    batches = num_hospitals * (1 + 2 * (len(GAIN_ARMS) - 1)) + 1 + num_hospitals
    each = num_hospitals * (len(GAIN_ARMS) + 1) + 1
    return ClassifierWork(
        count=settings.utility_seeds * each,
        words=f"{num_hospitals} hospitals x {len(GAIN_ARMS)} arms and references, x {settings.utility_seeds} seeds",
        steps=settings.utility_steps,
        batches=settings.utility_seeds * settings.utility_steps * batches,
    )


def measure_step(terms: UtilityTerms, real: RealParts) -> tuple[float, int]:
    """Train classifiers for a few steps; return the seconds of one, and how many images it saw.

    As those that count are trained: so many side by side, which share the memory's bandwidth, each on a worker's
    thread, with the batch and the images of the arm ``real``.
    """
    settings, (images, labels) = terms.settings, real.train
    weights = None
    if settings.utility_classifier == "efficientnet-b2":
        weights = find_imagenet_weights(settings.utility_weights, allow_downloads=settings.allow_downloads)

    def fit() -> tuple[list[float], int]:
        stream = torch_stream(terms.seed, "what a classifier's step costs")
        classifier = build_classifier(
            settings.utility_classifier,
            resolution=images.shape[1],
            num_classes=len(terms.classes),
            stream=stream,
            imagenet_weights=weights,
        ).to(terms.device)
        ends: list[float] = []

        def ended(*_: object) -> None:
            if torch.device(terms.device).type == "cuda":
                torch.cuda.synchronize(terms.device)
            ends.append(time.perf_counter())

        steps = _WARM_UP_STEPS + _TIMED_STEPS
        fit_classifier(classifier, images, labels, steps=steps, stream=stream, progress=ended)
        return [after - before for before, after in pairwise(ends)], classifier.batch_size

    workers = _side_by_side(terms)
    with Trials(workers, 0, None) as trials:
        timed = trials.wait([trials.submit(fit) for _ in range(workers)])
    return statistics.median(seconds for steps, _ in timed for seconds in steps), timed[0][1]


def _side_by_side(terms: UtilityTerms) -> int:
    """Return how many classifiers are trained at once."""
    return 1 if torch.device(terms.device).type == "cuda" else max(1, min(terms.threads, count_cores()))


def describe_cost(work: ClassifierWork, step_seconds: float, terms: UtilityTerms) -> str:
    """Say what is trained and about how long that takes; classifiers that are kept from earlier are not trained."""
    side_by_side = min(_side_by_side(terms), work.count)
    return (
        f"{work.count:,} classifiers ({work.words}) of {work.steps:,} steps each: "
        f"{_rounded(work.batches * step_seconds / side_by_side)} of training here, less where some are kept"
    )


def _rounded(seconds: float) -> str:
    """Say a time as exactly as a few steps tell it: in two digits."""
    if seconds < 1:
        return "a second"
    longest = ((5400, 3600, "h"), (90, 60, "min"), (0, 1, "s"))
    value, name = next((seconds / unit, name) for least, unit, name in longest if seconds >= least)
    digits = 1 - math.floor(math.log10(value))
    return f"about {round(value, digits):g} {name}"
