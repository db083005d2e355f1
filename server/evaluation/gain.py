"""What does a hospital gain by joining? Classifiers on its own images, with and without the federation's beside them.

For each hospital there is a classifier on its own images, rare classes drawn as often as the others (``own``), and
one that has the generator's images beside them (``own+synthetic``): the same own images in each step, to the bit, the
same number of steps, the same initial weights, every class alike in the loss. A gain counts only above the best of
three: its own images; the generator's with labels that say nothing (``own+permuted``), which have their colours and
textures, and as many images in a step; a Gaussian of each class's pixels (``own+gaussian``), which hospitals could
share as a mean and 64 components a class. Junk with a label must not look like help.

Two references stand beside it: ``federated``, one classifier trained by federated averaging, which needs no generator
either, and ``pooled``, one on all hospitals' images in one place. Nothing is chosen on validation images: the last
state counts. One generator is judged: how another training of it would do is in no interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from federation.metrics.intervals import spread
from federation.metrics.resampling import resampled_intervals, weighted_balanced_accuracy
from federation.models.classifier import (
    AddedImages,
    Progress,
    build_classifier,
    fit_classifier,
    predict_probabilities,
)
from federation.models.efficientnet import find_imagenet_weights
from federation.models.federated_classifier import fit_federated
from federation.seeding import derive_seed, numpy_stream, torch_stream
from server.evaluation.classifier_cache import fit_once
from server.evaluation.predictions import TestImages, macro_auroc
from server.evaluation.stand_ins import draw_class_gaussians, permute_labels
from server.evaluation.trials import Trials
from server.evaluation.utility import UtilityTerms, count_synthetic, join_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from federation.models.abstract_classifier import Classifier
    from federation.models.classifier import LabelledImages
    from server.evaluation.utility import Generate

ARMS = ("own", "own+synthetic", "own+permuted", "own+gaussian")
JUNK = ("own", "own+permuted", "own+gaussian")
"""What a gain must be above."""
VIEWS = {
    "common": "all common test images",
    "held": "common test images of classes that the hospital has training images of, told from each other alone",
    "others": "common test images of the other classes",
    "own": "test images of the hospital's own site",
}
"""Which test images a figure is of."""
FIGURES = ("balanced_accuracy", "macro_auroc")
GAIN_IS_OFF = "evaluation.gain is false"
"""Why nothing is said of it."""
LEAST_OWN_TEST = 32
"""Test images of a site below which figures on them would be noise."""
FEDERATED_ROUNDS = 10

_BATCH = 64  # images at once when classifiers are tested: memory only
_OF_NO_GENERATOR = ("own", "own+gaussian")


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """What a hospital has."""

    name: str
    train: LabelledImages
    """Its training images."""
    own_test: NDArray[np.bool_] | None
    """Which of the common test images are of its site, (n,); None where hospitals are no sites of the data."""

    @property
    def held(self) -> NDArray[np.int64]:
        """Labels of which it has training images, ascending."""
        return np.unique(self.train[1])


def judge_gain(
    terms: UtilityTerms,
    hospitals: Sequence[Hospital],
    pooled: LabelledImages,
    test: TestImages,
    part: str,
    generate: Generate | None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure what each hospital gains by the generator.

    Parameters
    ----------
    terms
        How classifiers are trained: ``evaluation.utility-classifier``, ``utility-steps`` and ``utility-seeds``.
    hospitals
        At least two.
    pooled
        The training images of all of them.
    test
        The common test images, each of some hospital's patients or of none.
    part
        The part that they are.
    generate
        See :func:`server.evaluation.utility.judge_utility`.
    progress
        Called after each training step of any classifier, by one thread at a time.

    Returns
    -------
    dict
        The section ``gain`` of a run's summary: ``classifier``, ``steps``, ``num_seeds``, ``num_test_images``,
        ``part``, ``seconds``; ``hospitals``, each with ``name``, ``num_train_images``, ``held`` (class names),
        ``num_own_test_images``, ``judged`` (true, or why not), ``arms`` and ``gain``; ``references``: ``pooled`` and
        ``federated``; ``mean``: of the gains of hospitals that are judged. Arms, references and gains have by name of
        :data:`VIEWS` the figures of :data:`FIGURES`: spreads over seeds with ``test_interval`` and
        ``whole_interval`` (None where there is nothing to tell apart); gains have ``over``, what the best is that they
        are above, and ``over_own``, the same above own images alone. What could not be measured is
        ``{"not_measured": why}``.

    Raises
    ------
    NotFiniteError
        If a classifier's training diverges.
    """
    if generate is None:
        return {"not_measured": "an unconditional generator gives no labels to train a classifier on"}
    if len(hospitals) < 2:
        return {"not_measured": "there is one hospital, and nothing to join"}
    started = time.perf_counter()
    tester = _Tester(terms, hospitals, pooled, test, generate)
    outcomes = _run(tester, 1 if tester.device.type == "cuda" else terms.threads, progress)
    section = _Summary(tester, outcomes).section(progress or (lambda *_: None))
    return section | {"part": part, "seconds": time.perf_counter() - started}


class _Tester:
    """The classifiers of one judgement. Methods run on worker threads."""

    def __init__(
        self,
        terms: UtilityTerms,
        hospitals: Sequence[Hospital],
        pooled: LabelledImages,
        test: TestImages,
        generate: Generate,
    ) -> None:
        self.terms = terms
        self.hospitals = hospitals
        self.pooled = pooled
        self.test = test
        self.device = torch.device(terms.device)
        self.classifier_name = ""
        settings = terms.settings
        self.rounds = min(FEDERATED_ROUNDS, settings.utility_steps)
        self._generate = generate
        # As many in all as there are real ones, every class alike: enough that few come twice in a short training.
        self.counts = count_synthetic("synthetic", pooled[1], num_classes=len(terms.classes), ratio=1.0)
        self._weights = None
        if settings.utility_classifier == "efficientnet-b2":
            self._weights = find_imagenet_weights(settings.utility_weights, allow_downloads=settings.allow_downloads)

    def draw(self, number: int, report: Callable[[str, int], None]) -> dict[str, LabelledImages]:
        """Draw what comes beside hospitals' own images with a seed."""
        seeds, classes = self.terms.settings.utility_seeds, self.terms.classes
        drawn: dict[int, NDArray[np.uint8]] = {}
        for label in np.flatnonzero(self.counts).tolist():
            report(f"synthetic images, {classes[label]}, seed {number + 1} of {seeds}", 0)
            asked = np.full(self.counts[label], label, dtype=np.int64)
            drawn[label] = self._generate(asked, f"gain, seed {number}, {classes[label]}")
        images, labels = join_classes(drawn, self.counts)
        seed = self.terms.seed
        gaussian = draw_class_gaussians(*self.pooled, self.counts, seed=derive_seed(seed, f"gain, Gaussians {number}"))
        return {
            "own+synthetic": (images, labels),
            "own+permuted": (images, permute_labels(labels, seed=derive_seed(seed, f"gain, permuted {number}"))),
            "own+gaussian": join_classes(gaussian, self.counts),
        }

    def _build(self, number: int) -> Classifier:
        """Return an untrained classifier: every one of a seed starts from the same weights."""
        classifier = build_classifier(
            self.terms.settings.utility_classifier,
            resolution=self.test.images.shape[1],
            num_classes=len(self.terms.classes),
            stream=torch_stream(self.terms.seed, f"gain classifier {number}"),
            imagenet_weights=self._weights,
        ).to(self.device)
        self.classifier_name = classifier.name
        return classifier

    def train_and_test(
        self,
        arm: str,
        number: int,
        hospital: int | None,
        drawn: Mapping[str, LabelledImages],
        report: Callable[[str, int], None],
    ) -> NDArray[np.float32]:
        """Train one classifier; return its probabilities for the test images, (n, k). ``hospital`` None: for all."""
        settings, seed = self.terms.settings, self.terms.seed
        name = "all hospitals" if hospital is None else self.hospitals[hospital].name
        description = f"gain: classifier, {arm}, {name}, seed {number + 1} of {settings.utility_seeds}"
        train = self.pooled if hospital is None else self.hospitals[hospital].train
        # The arms of a hospital see the same own images in each step.
        stream = torch_stream(seed, f"gain batches {number}", site=name)
        added = None
        if arm in drawn:
            images, labels = drawn[arm]
            added = AddedImages(
                images=np.asarray(images),
                labels=labels,
                share=1.0,
                stream=torch_stream(seed, f"gain, images beside own ones {number}", site=name),
            )
        classifier = self._build(number)

        def fit() -> None:
            fit_classifier(
                classifier,
                *train,
                steps=settings.utility_steps,
                stream=stream,
                added=added,
                progress=lambda description, done, total: report(description, 1),
                description=description,
            )

        if hospital is None or arm in _OF_NO_GENERATOR:
            was_stored = fit_once(
                classifier,
                fit,
                how={"arm": arm, "steps": settings.utility_steps},
                shown=[train, *([drawn[arm]] if added else [])],
                streams=[stream, *([added.stream] if added else [])],
                cache_dir=self.terms.cache_dir,
            )
            if was_stored:
                report(description, settings.utility_steps)
        else:
            fit()
        return predict_probabilities(classifier, self.test.images, batch=_BATCH)

    def train_federated(self, number: int, report: Callable[[str, int], None]) -> NDArray[np.float32]:
        """Train the federated classifier of a seed; see :meth:`train_and_test`."""
        settings = self.terms.settings
        description = f"gain: federated classifier, seed {number + 1} of {settings.utility_seeds}"
        classifier = self._build(number)
        shown = [hospital.train for hospital in self.hospitals]
        streams = [
            torch_stream(self.terms.seed, f"gain, federated batches {number}", site=hospital.name)
            for hospital in self.hospitals
        ]

        def fit() -> None:
            fit_federated(
                classifier,
                shown,
                steps=settings.utility_steps,
                rounds=self.rounds,
                streams=streams,
                report=lambda steps: report(description, steps),
            )

        was_stored = fit_once(
            classifier,
            fit,
            how={"arm": "federated", "steps": settings.utility_steps, "rounds": self.rounds},
            shown=shown,
            streams=streams,
            cache_dir=self.terms.cache_dir,
        )
        if was_stored:
            report(description, len(self.hospitals) * settings.utility_steps)
        return predict_probabilities(classifier, self.test.images, batch=_BATCH)


Outcomes = dict[tuple[str, int | None], list["NDArray[np.float32]"]]
"""Probabilities for the test images, (n, k), of each seed, by arm and number of the hospital."""


def _run(tester: _Tester, workers: int, progress: Progress | None) -> Outcomes:
    settings = tester.terms.settings
    count = len(tester.hospitals)
    num_steps = settings.utility_seeds * settings.utility_steps * (count * len(ARMS) + 1 + count)
    pending: dict[tuple[str, int | None], list[Future[NDArray[np.float32]]]] = {}
    with Trials(workers, num_steps, progress) as trials:
        for number in range(settings.utility_seeds):
            drawn = trials.submit(tester.draw, number, trials.report).result()
            kinds: list[tuple[str, int | None]] = [(arm, place) for place in range(count) for arm in ARMS]
            for arm, place in [*kinds, ("pooled", None)]:
                future = trials.submit(tester.train_and_test, arm, number, place, drawn, trials.report)
                pending.setdefault((arm, place), []).append(future)
            pending.setdefault(("federated", None), []).append(
                trials.submit(tester.train_federated, number, trials.report)
            )
        trials.wait([future for futures in pending.values() for future in futures])
        return {kind: [future.result() for future in futures] for kind, futures in pending.items()}


class _Summary:
    """Figures of all arms and views, their spreads and differences."""

    def __init__(self, tester: _Tester, outcomes: Outcomes) -> None:
        self._tester = tester
        self._outcomes = outcomes
        self._found: dict[tuple[str, int | None, str], dict[str, _Figure | None]] = {}

    def section(self, progress: Progress) -> dict[str, Any]:
        """Return what :func:`judge_gain` does, but for part and seconds."""
        tester = self._tester
        found = []
        for number in range(len(tester.hospitals)):
            progress("gain: intervals", number, len(tester.hospitals))
            found.append(self.hospital(number))
        return {
            "classifier": tester.classifier_name,
            "steps": tester.terms.settings.utility_steps,
            "num_seeds": tester.terms.settings.utility_seeds,
            "num_test_images": len(tester.test.labels),
            "federated_rounds": tester.rounds,
            "classes": list(tester.terms.classes),
            "hospitals": found,
            "references": {name: {"common": self.arm(name, None, "common")} for name in ("pooled", "federated")},
            "mean": self.mean(found),
        }

    def _figures(self, arm: str, hospital: int | None, view: str) -> dict[str, _Figure | None]:
        key = (arm, hospital, view)
        if key not in self._found:
            rows = self._rows(hospital, view)
            among = None
            if view == "held" and hospital is not None:
                # An arm that knows other classes too would otherwise answer a harder question.
                among = self._tester.hospitals[hospital].held
            self._found[key] = _measure(self._tester.test, rows, self._outcomes[arm, hospital], among)
        return self._found[key]

    def _rows(self, hospital: int | None, view: str) -> NDArray[np.bool_]:
        """Return which test images a view has, (n,)."""
        labels = self._tester.test.labels
        everything = np.ones(len(labels), dtype=bool)
        if hospital is None or view == "common":
            return everything
        this = self._tester.hospitals[hospital]
        if view == "own":
            own = this.own_test
            return ~everything if own is None or own.sum() < LEAST_OWN_TEST else own
        held = np.isin(labels, this.held)
        return held if view == "held" else ~held

    def arm(self, arm: str, hospital: int | None, view: str) -> dict[str, Any]:
        """Return an arm's figures in a view."""
        figures = self._figures(arm, hospital, view)
        return {name: figure and self._spread(figure, name, (0, 1)) for name, figure in figures.items()}

    def _spread(self, figure: _Figure, name: str, bounds: tuple[float, float]) -> dict[str, Any]:
        stream = numpy_stream(self._tester.test.seed, f"gain, seeds, resampled, {name}")
        return spread(figure.values.tolist(), bounds=bounds) | resampled_intervals(
            figure.replicates, stream, bounds=bounds
        )

    def hospital(self, number: int) -> dict[str, Any]:
        """Return the entry of a hospital."""
        hospital, test = self._tester.hospitals[number], self._tester.test
        classes = self._tester.terms.classes
        num_own = None if hospital.own_test is None else int(hospital.own_test.sum())
        return {
            "name": hospital.name,
            "num_train_images": len(hospital.train[1]),
            "held": [classes[label] for label in hospital.held.tolist()],
            "num_own_test_images": num_own,
            "judged": _why_not_judged(hospital, test),
            "arms": {arm: {view: self.arm(arm, number, view) for view in VIEWS} for arm in ARMS},
            "gain": {view: self.gain(number, view) for view in VIEWS},
        }

    def gain(self, number: int, view: str) -> dict[str, Any]:
        """Return how much the generator's images bring a hospital, above the best of :data:`JUNK`.

        The ends of intervals are the least over the differences to each of them: the lower end is above nought only
        where it is for all three.
        """
        with_it = self._figures("own+synthetic", number, view)
        found: dict[str, Any] = {}
        for name in FIGURES:
            mine = with_it[name]
            found[name] = None
            if mine is None:
                continue
            apart = {}
            for arm in JUNK:
                other = self._figures(arm, number, view)[name]
                assert other is not None
                apart[arm] = mine.minus(other)
            spreads = {arm: self._spread(figure, name, (-1, 1)) for arm, figure in apart.items()}
            best = min(spreads, key=lambda arm: spreads[arm]["mean"])
            found[name] = spreads[best] | _lowest(spreads.values()) | {"over": best, "over_own": spreads["own"]}
        return found

    def mean(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the mean gain of the hospitals that are judged, on the common test images.

        Each above its own best. The ends of intervals are the least over that, and over the mean differences to each of
        :data:`JUNK` at all of them: which is a hospital's best is a matter of chance too.
        """
        judged = [number for number, entry in enumerate(entries) if entry["judged"] is True]
        if not judged:
            return {"not_measured": "no hospital has two classes among its training and test images"}
        found: dict[str, Any] = {"num_hospitals": len(judged)}
        for name in FIGURES:
            own_best = [entries[number]["gain"]["common"][name]["over"] for number in judged]
            choices = {"best": own_best, **{arm: [arm] * len(judged) for arm in JUNK}}
            spreads = {
                choice: self._spread(self._mean_above(judged, arms, name), name, (-1, 1))
                for choice, arms in choices.items()
            }
            found[name] = spreads["best"] | _lowest(spreads.values()) | {"over_own": spreads["own"]}
            found[name] |= self._way_to_pooled(judged, name)
        return found

    def _common(self, arm: str, number: int | None, name: str) -> _Figure:
        figure = self._figures(arm, number, "common")[name]
        assert figure is not None
        return figure

    def _mean_above(self, judged: Sequence[int], arms: Sequence[str], name: str) -> _Figure:
        """Return the mean over hospitals of the difference to one arm each."""
        apart = [
            self._common("own+synthetic", number, name).minus(self._common(arm, number, name))
            for number, arm in zip(judged, arms, strict=True)
        ]
        return _Figure(
            np.mean([figure.values for figure in apart], axis=0),
            np.mean([figure.replicates for figure in apart], axis=0),
        )

    def _way_to_pooled(self, judged: Sequence[int], name: str) -> dict[str, Any]:
        """Return which share of the way from own images to all hospitals' pooled ones each kind of image goes."""
        pooled = self._common("pooled", None, name)
        own = np.mean([self._common("own", number, name).values for number in judged], axis=0)
        replicates = np.mean([self._common("own", number, name).replicates for number in judged], axis=0)
        ahead = self._spread(pooled.minus(_Figure(own, replicates)), name, (-1, 1))
        sure = ahead["whole_interval"] or ahead["test_interval"]
        if sure is None or sure[0] <= 0:
            return {"share_of_way_to_pooled": None}  # where there is no way, nothing can be a share of it
        ways = {
            arm: (np.mean([self._common(arm, number, name).values for number in judged]) - own.mean()) / ahead["mean"]
            for arm in ARMS
        }
        junk = max(float(ways[arm]) for arm in JUNK)
        return {"share_of_way_to_pooled": float(ways["own+synthetic"]), "share_of_best_junk": junk}


@dataclass(frozen=True)
class _Figure:
    """A figure of a classifier."""

    values: NDArray[np.float64]
    """(s,): with each seed."""
    replicates: NDArray[np.float64]
    """(r, s): in each resampled set of test images."""

    def minus(self, other: _Figure) -> _Figure:
        """Return the difference, seed by seed and set by set."""
        return _Figure(self.values - other.values, self.replicates - other.replicates)


def _measure(
    test: TestImages,
    rows: NDArray[np.bool_],
    probabilities: Sequence[NDArray[np.float32]],
    among: NDArray[np.int64] | None,
) -> dict[str, _Figure | None]:
    """Return the figures of classifiers of several seeds on some test images; None where they tell nothing apart.

    With ``among``, (j,) labels that all these images are of, predictions are of these classes alone.
    """
    labels = test.labels[rows]
    present = np.unique(labels)
    found: dict[str, _Figure | None] = dict.fromkeys(FIGURES)
    if not len(present):
        return found
    weights = np.concatenate([np.ones((1, len(labels)), dtype=np.float32), test.weights[:, rows]])
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in FIGURES}
    for predicted in probabilities:
        shown = predicted[rows].astype(np.float64)
        if among is not None:
            only = np.zeros_like(shown)
            only[:, among] = shown[:, among] + 1e-12
            shown = only / only.sum(axis=1, keepdims=True)
        right = shown.argmax(axis=1) == labels
        columns["balanced_accuracy"].append(weighted_balanced_accuracy(right, labels, weights))
        if len(present) > 1:
            columns["macro_auroc"].append(macro_auroc(labels, shown, weights))
    for name, values in columns.items():
        if values:
            table = np.stack(values, axis=1)
            found[name] = _Figure(table[0], table[1:])
    return found


def _why_not_judged(hospital: Hospital, test: TestImages) -> bool | str:
    """Return True, or why a hospital's gain says nothing."""
    if len(hospital.held) < 2:
        return "its training images are of one class"
    if len(np.intersect1d(hospital.held, test.labels)) < 2:
        return "test images show fewer than two of its classes"
    return True


def _lowest(spreads: Iterable[Mapping[str, Any]]) -> dict[str, list[float] | None]:
    """Return the least ends of each kind of interval; None where one is not known."""
    listed = list(spreads)
    found: dict[str, list[float] | None] = {}
    for kind in ("interval", "test_interval", "whole_interval"):
        known = [entry[kind] for entry in listed if entry[kind] is not None]
        found[kind] = [min(ends) for ends in zip(*known, strict=True)] if len(known) == len(listed) else None
    return found
