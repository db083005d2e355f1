"""Are synthetic images of use? Classifiers trained on them, beside or in place of real ones, and tested on real ones.

Kinds of training images are *arms* (:data:`~federation.settings.evaluation.UTILITY_ARMS`). ``real`` is no straw man:
all real training images, with standard augmentation and, since batches hold every class alike, oversampling of rare
classes. Where synthetic images come beside real ones, the real ones of each step are those of ``real``, to the bit,
and synthetic ones come in places of their own, of no class more than real ones: no real image is shown less often for
them. Every class weighs alike in the loss. All arms have the same network, the same number of steps, the same
augmentation and, seed by seed, the same initial weights. So what is between two arms is what the images bring. The
state that serves validation images best is kept, and test images are looked at once.

Help is worth what is better than junk: ``gaussian`` has a Gaussian of each class's pixels in the generator's place,
``real+permuted`` the generator's images with labels that say nothing, and the site of an image guesses without
looking at it.

The classifiers that have seen real images alone also judge the generator: do they recognise the class
that it was asked for?
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from federation.diagnoses import find_melanoma_class
from federation.metrics.diversity import total_variation
from federation.metrics.intervals import spread
from federation.models.classifier import (
    AddedImages,
    Progress,
    build_classifier,
    fit_classifier,
    predict_probabilities,
)
from federation.models.efficientnet import find_imagenet_weights
from federation.seeding import derive_seed, torch_stream
from federation.settings.evaluation import EvaluationSettings
from server.evaluation.classifier_cache import fit_once
from server.evaluation.predictions import (
    TestImages,
    differences,
    guess_from_sites,
    resampled_figures,
    score_predictions,
    spread_of_seeds,
)
from server.evaluation.stand_ins import draw_class_gaussians, permute_labels
from server.evaluation.trials import Trials

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from federation.images import ImageRows
    from federation.models.classifier import LabelledImages

    Report = Callable[[str, int], None]
    """Tells that so many more steps of something are done; ends the thread's work where nobody waits for it."""
    Generate = Callable[[NDArray[np.int64], str], NDArray[np.uint8]]
    """Gives an image of each label, uint8 (n, r, r, 3); other images for another purpose."""

RARE_SHARE = 0.5
"""A class is rare with less than this part of an even share (1 / k) of the training images. Half of it parts
HAM10000's lesions where clinicians do: bcc, akiec, vasc and df (1 % to 5 %) from nv, mel and bkl (11 % and more)."""
BESIDE_REAL = ("real+synthetic", "rare", "real+gaussian", "real+permuted")
"""Arms with images beside real ones."""
# They depend on real images alone: every run on the same data and seed trains the same.
_OF_NO_GENERATOR = ("real", "gaussian", "real+gaussian")
_NO_RARE_CLASS = "no class is rare: each has at least half of an even share of the training images"
_RECOGNISED_PER_CLASS = 100
_BATCH = 64  # images at once when classifiers are tested: memory only


@dataclass(frozen=True, kw_only=True)
class RealParts:
    """Real images and their labels; no patient or lesion is in two parts."""

    train: LabelledImages
    """What classifiers are trained on: all real training images."""
    train_sites: NDArray[np.object_]
    """(n,): the site of each."""
    validation: LabelledImages
    """They choose the state of each classifier that is tested."""
    test: TestImages
    """What classifiers are tested on, once."""


@dataclass(frozen=True, kw_only=True)
class UtilityTerms:
    """What is alike for all classifiers of a judgement."""

    settings: EvaluationSettings
    """``evaluation``: the ``utility-…`` settings and ``allow-downloads``."""
    classes: Sequence[str]
    """k names of the labels."""
    seed: int
    """Seed of the run."""
    cache_dir: str = ""
    """``data.cache-dir``: classifiers trained on real images alone are kept there."""
    device: torch.device | str = "cpu"
    """Where to train."""
    threads: int = 1
    """Classifiers trained side by side on the CPU, one thread each, so that their number does not change the
    figures. On a GPU there is one at a time."""


def judge_utility(
    terms: UtilityTerms, real: RealParts, generate: Generate | None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Train classifiers on each kind of images, with each of several seeds; test them once on real images.

    Each seed has weights, batches and synthetic images of its own; arms that need fewer of a class have the first.

    Parameters
    ----------
    terms
        How classifiers are trained, on which arms and how often.
    real
        Real images to train on, to choose by and to test on.
    generate
        Called from worker threads, by one at a time, with labels that are all alike and a purpose that names
        seed and class. None: the generator is not told classes.
    progress
        Called after each training step of any classifier, by one thread at a time.

    Returns
    -------
    dict
        The section ``utility`` of a run's summary: how classifiers were trained and tested, and on which classes;
        ``arms``: by name, a ``description``, numbers of images, what
        :func:`~server.evaluation.predictions.spread_of_seeds` returns, and ``minus_real``, what
        :func:`~server.evaluation.predictions.differences` does; ``site_alone``, of a guess from the site;
        ``recognised``, see :func:`summarise_recognition`. What could not be measured is ``{"not_measured": why}``.

    Raises
    ------
    InputError
        If pretrained weights are named and cannot be had.
    NotFiniteError
        If a classifier's training diverges.
    """
    if generate is None:
        return {"not_measured": "an unconditional generator gives no labels to train a classifier on"}
    started = time.perf_counter()
    if len(np.unique(real.train[1])) < 2:
        return {"not_measured": "training images are of one class, and a classifier needs two to tell apart"}
    counts = synthetic_of_each_arm(terms, real.train[1])
    if not counts:
        return {"not_measured": _NO_RARE_CLASS}
    tester = _Tester(terms, real, counts, generate, progress)
    outcomes = _run_trials(tester, 1 if tester.device.type == "cuda" else terms.threads)
    arms = {arm: _arm_section(arm, tester, outcomes) for arm in dict.fromkeys(terms.settings.utility_arm_names)}
    _add_differences(arms, outcomes, real.test.seed)
    return {
        "classifier": next(iter(outcomes.values()))[0].classifier,
        "steps": terms.settings.utility_steps,
        "num_seeds": terms.settings.utility_seeds,
        "num_test_images": len(real.test.labels),
        "num_test_groups": len(np.unique(real.test.groups.astype(str))),
        "num_validation_images": len(real.validation[1]),
        "seconds": time.perf_counter() - started,
        **_classes_section(terms.classes, real),
        "arms": arms,
        "site_alone": _guess_section(real, terms.classes),
        "recognised": _recognised_section(tester, outcomes, arms),
    }


def _add_differences(arms: Mapping[str, dict[str, Any]], outcomes: Mapping[str, Sequence[_Outcome]], seed: int) -> None:
    """Give each arm its difference to real images alone, where classifiers were trained on these."""
    for arm in outcomes.keys() - {"real"} if "real" in outcomes else ():
        resampled = [outcome.resampled for outcome in outcomes[arm]], [one.resampled for one in outcomes["real"]]
        arms[arm]["minus_real"] = differences(arms[arm], arms["real"], resampled, seed=seed)


def _guess_section(real: RealParts, classes: Sequence[str]) -> dict[str, Any]:
    """Return what a guess from the site alone reaches."""
    if len(np.unique(real.train_sites.astype(str))) < 2:
        return {"not_measured": "all training images are of one site"}
    test = real.test
    guessed = guess_from_sites(real.train[1], real.train_sites, test.sites, num_classes=len(classes))
    scores = score_predictions(test.labels, guessed, classes, sites=test.site_numbers)
    return spread_of_seeds([scores], [resampled_figures(test, guessed)], seed=test.seed)


def synthetic_of_each_arm(terms: UtilityTerms, train_labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return the number of synthetic images of each class, by arm; without ``rare`` where no class is rare."""
    num_classes, ratio = len(terms.classes), terms.settings.utility_ratio
    any_rare = len(find_rare_classes(train_labels, num_classes)) > 0
    return {
        arm: count_synthetic(arm, train_labels, num_classes=num_classes, ratio=ratio)
        for arm in dict.fromkeys(terms.settings.utility_arm_names)
        if arm != "rare" or any_rare
    }


def _classes_section(classes: Sequence[str], real: RealParts) -> dict[str, Any]:
    """Return what the section tells of the classes."""
    num_train, num_test = (np.bincount(labels, minlength=len(classes)) for labels in (real.train[1], real.test.labels))
    return {
        "classes": list(classes),
        "classes_without_test_images": [name for name, count in zip(classes, num_test, strict=True) if count == 0],
        "classes_without_train_images": [name for name, count in zip(classes, num_train, strict=True) if count == 0],
        "rare_classes": [classes[label] for label in find_rare_classes(real.train[1], len(classes))],
        "melanoma_class": find_melanoma_class(classes),
    }


def _arm_section(arm: str, tester: _Tester, outcomes: Mapping[str, Sequence[_Outcome]]) -> dict[str, Any]:
    """Return what the section tells of an arm."""
    if arm not in tester.counts:
        return {"not_measured": _NO_RARE_CLASS}
    counts = tester.counts[arm]
    num_synthetic = int(counts.sum())
    num_real = len(tester.real.train[1]) if arm == "real" or arm in BESIDE_REAL else 0
    return {
        "description": describe_arm(arm, num_real, counts, tester.terms.classes),
        "num_train_images": num_real + num_synthetic,
        "num_synthetic_images": num_synthetic,
        **spread_of_seeds(
            [outcome.scores for outcome in outcomes[arm]],
            [outcome.resampled for outcome in outcomes[arm]],
            seed=tester.real.test.seed,
        ),
    }


def _recognised_section(
    tester: _Tester, outcomes: Mapping[str, Sequence[_Outcome]], arms: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return what classifiers of real images see in the generated ones."""
    if "real" not in outcomes:
        return {
            "not_measured": "no classifier was trained on real images alone: evaluation.utility-arms leaves out real"
        }
    recognised = summarise_recognition(
        tester.recognised_labels, [outcome.recognised for outcome in outcomes["real"]], tester.terms.classes
    )
    return {**recognised, "real_share": arms["real"]["sensitivity"]}


def find_rare_classes(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Return the labels that occur, but in less than half an even share of the images (:data:`RARE_SHARE`).

    The even share is that of the classes that occur: of a class that was never seen a generator knows nothing.
    """
    counts = np.bincount(labels, minlength=num_classes)
    even = len(labels) / max(1, (counts > 0).sum())
    return np.flatnonzero((counts > 0) & (counts < RARE_SHARE * even))


def count_synthetic(arm: str, labels: NDArray[np.int64], *, num_classes: int, ratio: float) -> NDArray[np.int64]:
    """Return how many synthetic images of each class an arm has, (num_classes,).

    Parameters
    ----------
    arm
        ``real``: none. ``synthetic`` and ``gaussian``: as many in all as there are real ones. ``real+…``: `ratio`
        times as many. In all of these every class that occurs in training alike. ``rare``: what each rare class
        lacks of the mean class size.
    labels
        Of the real training images, (n,).
    num_classes
        Diagnoses.
    ratio
        ``evaluation.utility-ratio``.
    """
    real = np.bincount(labels, minlength=num_classes)
    occurs = np.flatnonzero(real)
    wanted = np.zeros(num_classes, dtype=np.int64)
    if arm == "rare":
        rare = find_rare_classes(labels, num_classes)
        wanted[rare] = round(len(labels) / len(occurs)) - real[rare]
    elif arm != "real":
        # At least one of each, however small the ratio.
        total = max(len(occurs), round(len(labels) * (ratio if arm in BESIDE_REAL else 1.0)))
        wanted[occurs] = total // len(occurs)
        wanted[occurs[: total % len(occurs)]] += 1
    return wanted


def share_beside_real(arm: str, labels: NDArray[np.int64], counts: NDArray[np.int64]) -> float:
    """Return how many images come beside each real one of a batch: of no class more than real ones.

    Parameters
    ----------
    arm
        One that has images beside real ones.
    labels
        Of the real training images, (n,): each class that occurs is drawn alike.
    counts
        See :func:`count_synthetic`: each class that is there is drawn alike.
    """
    assert arm in BESIDE_REAL
    return float((counts > 0).sum() / len(np.unique(labels)))


def join_classes(
    by_label: Mapping[int, NDArray[np.uint8]], counts: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Put the first images of each class together.

    Parameters
    ----------
    by_label
        Images by label; at least as many as `counts` says.
    counts
        Images of each class, (num_classes,), at least one in all.
    """
    present = np.flatnonzero(counts).tolist()
    images = [by_label[label][: counts[label]] for label in present]
    return np.concatenate(images), np.repeat(present, counts[present]).astype(np.int64)


def describe_arm(arm: str, num_real: int, counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Say in a sentence what a classifier is trained on; `counts` as :func:`count_synthetic` returns them."""
    real = f"{num_real:,} real images, augmented, with rare classes drawn as often as the others"
    count = f"{int(counts.sum()):,}"
    beside = f"{real}; beside those of each step as many of {count}"
    topped_up = ", ".join(f"{name} (+{number:,})" for name, number in zip(classes, counts, strict=True) if number)
    return {
        "real": f"{real}.",
        "synthetic": f"{count} synthetic images, every class alike, and no real one.",
        "real+synthetic": f"{beside} synthetic ones, every class alike.",
        "rare": f"{real}; in the rare classes as many synthetic ones beside them: {topped_up}.",
        "gaussian": f"{count} images drawn from a Gaussian of each class's pixels, and no real one: a yardstick.",
        "real+gaussian": f"{beside} drawn from a Gaussian of each class's pixels: a yardstick.",
        "real+permuted": f"{beside} synthetic ones whose labels were dealt out anew: a yardstick.",
    }[arm]


def summarise_recognition(
    asked: NDArray[np.int64], recognised: Sequence[NDArray[np.int64]], classes: Sequence[str]
) -> dict[str, Any]:
    """Compare the classes that a generator was asked for with those that classifiers saw.

    Parameters
    ----------
    asked
        (n,), every class that the classifiers know alike.
    recognised
        For each seed, the classes that its classifier saw in its images, (n,).
    classes
        k names.

    Returns
    -------
    dict
        ``num_generated``, of each seed; ``share``: by class, the share recognised as what was asked for, or None
        where it was not asked for; ``mean`` over classes; ``chance``: what a guess would reach; ``confusion``:
        (k, k), rows asked, columns recognised, mean shares over seeds, a row of a class that was not asked for
        is nought; ``class_balance``: shares of the classes ``asked`` for and ``recognised``, and the
        ``total_variation`` between the two. 0: they are alike, though images may be of the wrong class.
        Spreads are over seeds.
    """
    num_classes = len(classes)
    asked_counts = np.bincount(asked, minlength=num_classes)
    asked_classes = np.flatnonzero(asked_counts)
    confusions = np.zeros((len(recognised), num_classes, num_classes))
    for confusion, seen in zip(confusions, recognised, strict=True):
        np.add.at(confusion, (asked, seen), 1.0)
    balance = confusions.sum(axis=1) / len(asked)
    confusions /= np.maximum(asked_counts, 1)[:, None]
    asked_balance = asked_counts / len(asked)
    return {
        "num_generated": len(asked),
        "mean": spread([float(np.diag(confusion)[asked_classes].mean()) for confusion in confusions], bounds=(0, 1)),
        "share": {
            name: spread([float(value) for value in confusions[:, label, label]], bounds=(0, 1))
            if asked_counts[label]
            else None
            for label, name in enumerate(classes)
        },
        "confusion": confusions.mean(axis=0).tolist(),
        "chance": 1.0 / len(asked_classes),
        "class_balance": {
            "total_variation": spread([float(total_variation(asked_balance, seen)) for seen in balance], bounds=(0, 1)),
            "asked": dict(zip(classes, asked_balance.tolist(), strict=True)),
            "recognised": dict(zip(classes, balance.mean(axis=0).tolist(), strict=True)),
        },
    }


@dataclass(frozen=True)
class _Drawn:
    """The synthetic images of one seed."""

    by_label: dict[int, NDArray[np.uint8]]
    """To train on, by label."""
    gaussian: dict[int, NDArray[np.uint8]]
    """Those of Gaussians, by label."""
    fresh: NDArray[np.uint8]
    """To be recognised; empty where no classifier is trained on real images alone."""


@dataclass(frozen=True)
class _Outcome:
    """What one classifier gave."""

    classifier: str
    """Its name."""
    scores: dict[str, Any]
    """On the test images, see :func:`~server.evaluation.predictions.score_predictions`."""
    resampled: dict[str, NDArray[np.float64]]
    """See :func:`~server.evaluation.predictions.resampled_figures`."""
    recognised: NDArray[np.int64]
    """The classes that it saw in the fresh images; empty but for classifiers trained on real images alone."""


class _Tester:
    """The classifiers of one judgement. Methods run on worker threads."""

    def __init__(
        self,
        terms: UtilityTerms,
        real: RealParts,
        counts: dict[str, NDArray[np.int64]],
        generate: Generate,
        progress: Progress | None,
    ) -> None:
        self.terms = terms
        self.real = real
        self.counts = counts
        occurs = np.bincount(real.train[1], minlength=len(terms.classes)) > 0
        self.recognised_labels = np.repeat(np.flatnonzero(occurs), _RECOGNISED_PER_CLASS)
        self.device = torch.device(terms.device)
        self._settings = terms.settings
        self._generate = generate
        self.progress = progress
        self._weights = None
        if self._settings.utility_classifier == "efficientnet-b2":
            self._weights = find_imagenet_weights(
                self._settings.utility_weights, allow_downloads=self._settings.allow_downloads
            )

    def draw(self, number: int, report: Report) -> _Drawn:
        """Draw the synthetic images of a seed: as many of each class as the arm that wants most."""
        none = np.zeros(len(self.terms.classes), dtype=np.int64)
        of_gaussian = [counts for arm, counts in self.counts.items() if "gaussian" in arm]
        of_generator = [counts for arm, counts in self.counts.items() if "gaussian" not in arm]
        most = np.max([none, *of_generator], axis=0)
        by_label = {
            label: self._ask("utility", number, label, int(most[label]), report)
            for label in np.flatnonzero(most).tolist()
        }
        gaussian = draw_class_gaussians(
            *self.real.train,
            np.max([none, *of_gaussian], axis=0),
            seed=derive_seed(self.terms.seed, f"utility Gaussians {number}"),
        )
        fresh = [self.real.train[0][:0]]
        if "real" in self.counts:
            fresh += [
                self._ask("recognised", number, label, _RECOGNISED_PER_CLASS, report)
                for label in np.unique(self.recognised_labels).tolist()
            ]
        return _Drawn(by_label, gaussian, np.concatenate(fresh))

    def _ask(self, purpose: str, number: int, label: int, count: int, report: Report) -> NDArray[np.uint8]:
        name = self.terms.classes[label]
        report(f"synthetic images, {name}, seed {number + 1} of {self._settings.utility_seeds}", 0)
        return self._generate(np.full(count, label, dtype=np.int64), f"{purpose}, seed {number}, {name}")

    def train_and_test(self, arm: str, number: int, drawn: _Drawn, report: Report) -> _Outcome:
        """Train and test one classifier."""
        images, labels, added = self._compose(arm, number, drawn)
        # Every arm of a seed starts from the same weights, and those with real images see the same batches of them.
        stream = torch_stream(self.terms.seed, f"utility classifier {number}")
        classifier = build_classifier(
            self._settings.utility_classifier,
            resolution=images.shape[1],
            num_classes=len(self.terms.classes),
            stream=stream,
            imagenet_weights=self._weights,
        ).to(self.device)
        steps = self._settings.utility_steps
        description = f"classifier, {arm} images, seed {number + 1} of {self._settings.utility_seeds}"

        def fit() -> None:
            fit_classifier(
                classifier,
                images,
                labels,
                steps=steps,
                stream=stream,
                added=added,
                validation=self.real.validation,
                progress=lambda description, done, total: report(description, 1),
                description=description,
            )

        if arm in _OF_NO_GENERATOR:
            was_stored = fit_once(
                classifier,
                fit,
                how={"arm": arm, "steps": steps, "share": added and added.share},
                shown=[(images, labels), self.real.validation, *([(added.images, added.labels)] if added else [])],
                streams=[stream, *([added.stream] if added else [])],
                cache_dir=self.terms.cache_dir,
            )
            if was_stored:
                report(description, steps)
        else:
            fit()
        test = self.real.test
        probabilities = predict_probabilities(classifier, test.images, batch=_BATCH)
        shown = drawn.fresh if arm == "real" else drawn.fresh[:0]
        return _Outcome(
            classifier.name,
            score_predictions(test.labels, probabilities, self.terms.classes, sites=test.site_numbers),
            resampled_figures(test, probabilities),
            predict_probabilities(classifier, shown, batch=_BATCH).argmax(axis=1),
        )

    def _compose(
        self, arm: str, number: int, drawn: _Drawn
    ) -> tuple[NDArray[np.uint8] | ImageRows, NDArray[np.int64], AddedImages | None]:
        """Return what a classifier is trained on: images, their labels, and what comes beside them."""
        counts, real_labels = self.counts[arm], self.real.train[1]
        if arm == "real":
            return *self.real.train, None
        images, labels = join_classes(drawn.gaussian if "gaussian" in arm else drawn.by_label, counts)
        if arm not in BESIDE_REAL:
            return images, labels, None
        if arm == "real+permuted":
            labels = permute_labels(labels, seed=derive_seed(self.terms.seed, f"utility, permuted {number}"))
        stream = torch_stream(self.terms.seed, f"utility images beside real ones {number}")
        share = share_beside_real(arm, real_labels, counts)
        return *self.real.train, AddedImages(images=images, labels=labels, share=share, stream=stream)


def _run_trials(tester: _Tester, workers: int) -> dict[str, list[_Outcome]]:
    """Train and test every arm with every seed; by arm, in the order of seeds."""
    pending: dict[str, list[Future[_Outcome]]] = {arm: [] for arm in tester.counts}
    settings = tester.terms.settings
    num_steps = len(tester.counts) * settings.utility_seeds * settings.utility_steps
    # Those that take longest first: at the end no worker then waits long for another.
    in_turn = sorted(pending, key=lambda arm: arm not in BESIDE_REAL)
    with Trials(workers, num_steps, tester.progress) as trials:
        for number in range(settings.utility_seeds):
            # It waits its turn behind the classifiers of the seed before, so that there are the images of two
            # seeds in memory at most, and images are drawn by one thread at a time.
            drawn = trials.submit(tester.draw, number, trials.report).result()
            for arm in in_turn:
                pending[arm].append(trials.submit(tester.train_and_test, arm, number, drawn, trials.report))
        trials.wait([future for futures in pending.values() for future in futures])
        return {arm: [future.result() for future in futures] for arm, futures in pending.items()}
