"""Are synthetic images of use? Classifiers trained on them, beside or in place of real ones, and tested on real ones.

Four kinds of training images, the *arms*: ``real``, ``synthetic``, ``real+synthetic``, and ``rare``: real
ones with synthetic ones of rare classes alone. ``real`` is no straw man: it has standard augmentation
and, since batches hold every class alike, oversampling of rare classes. All arms have the same network,
the same number of steps, the same augmentation and, seed by seed, the same initial weights. Only the
training images differ, so what is between two arms is what those images bring. The state that serves
validation images best is kept, and test images are looked at once.

The classifiers that have seen real images alone also judge the generator: do they recognise the class
that it was asked for?
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import recall_score, roc_auc_score

from federation.metrics.diversity import total_variation
from federation.metrics.intervals import spread
from federation.models.classifier import Progress, build_classifier, fit_classifier, predict_probabilities
from federation.models.efficientnet import find_imagenet_weights
from federation.seeding import torch_stream
from federation.settings.evaluation import EvaluationSettings
from server.evaluation.classifier_cache import fit_once

if TYPE_CHECKING:
    from numpy.typing import NDArray

    LabelledImages = tuple[NDArray[np.uint8], NDArray[np.int64]]
    """Images uint8 (n, r, r, 3), and the label of each, (n,)."""
    Generate = Callable[[NDArray[np.int64], str], NDArray[np.uint8]]
    """Gives an image of each label, uint8 (n, r, r, 3); other images for another purpose."""

RARE_SHARE = 0.5
"""A class is rare with less than this part of an even share (1 / k) of the training images. Half of it parts
HAM10000's lesions where clinicians do: bcc, akiec, vasc and df (1 % to 5 %) from nv, mel and bkl (11 % and more)."""
MELANOMA_NAMES = ("mel", "melanoma", "malignant")
"""What the sources of data call it, in lower case."""

_NO_RARE_CLASS = "no class is rare: each has at least half of an even share of the training images"
_RECOGNISED_PER_CLASS = 100
_CALIBRATION_BINS = 15
_BATCH = 64  # images at once when classifiers are tested: memory only


@dataclass(frozen=True, kw_only=True)
class RealParts:
    """Real images and their labels; no patient or lesion is in two parts."""

    train: LabelledImages
    """What classifiers are trained on."""
    validation: LabelledImages
    """They choose the state of each classifier that is tested."""
    test: LabelledImages
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

    Each seed has initial weights, batches and synthetic images of its own. Arms share the synthetic images
    of a seed: an arm that needs fewer of a class has the first of them.

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
        The section ``utility`` of a run's summary: ``classifier``, ``steps``, ``num_seeds``,
        ``num_test_images``, ``num_validation_images``, ``seconds``, ``classes``,
        ``classes_without_test_images``, ``classes_without_train_images``, ``rare_classes``,
        ``melanoma_class``; ``arms``: by name, a ``description``, ``num_train_images``,
        ``num_synthetic_images`` and a spread over seeds of what :func:`score_predictions` returns;
        ``recognised``, see :func:`summarise_recognition`. What could not be measured is
        ``{"not_measured": why}``.

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
    counts = _synthetic_of_each_arm(terms, real.train[1])
    if not counts:
        return {"not_measured": _NO_RARE_CLASS}
    trials = _Trials(terms, real, counts, generate, progress)
    outcomes = _run_trials(trials, 1 if trials.device.type == "cuda" else terms.threads)
    arms = {arm: _arm_section(arm, trials, outcomes) for arm in dict.fromkeys(terms.settings.utility_arm_names)}
    return {
        "classifier": next(iter(outcomes.values()))[0].classifier,
        "steps": terms.settings.utility_steps,
        "num_seeds": terms.settings.utility_seeds,
        "num_test_images": len(real.test[1]),
        "num_validation_images": len(real.validation[1]),
        "seconds": time.perf_counter() - started,
        **_classes_section(terms.classes, real),
        "arms": arms,
        "recognised": _recognised_section(trials, outcomes, arms),
    }


def _synthetic_of_each_arm(terms: UtilityTerms, train_labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
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
    num_train, num_test = (np.bincount(part[1], minlength=len(classes)) for part in (real.train, real.test))
    return {
        "classes": list(classes),
        "classes_without_test_images": [name for name, count in zip(classes, num_test, strict=True) if count == 0],
        "classes_without_train_images": [name for name, count in zip(classes, num_train, strict=True) if count == 0],
        "rare_classes": [classes[label] for label in find_rare_classes(real.train[1], len(classes))],
        "melanoma_class": find_melanoma_class(classes),
    }


def _arm_section(arm: str, trials: _Trials, outcomes: Mapping[str, Sequence[_Outcome]]) -> dict[str, Any]:
    """Return what the section tells of an arm."""
    if arm not in trials.counts:
        return {"not_measured": _NO_RARE_CLASS}
    counts = trials.counts[arm]
    num_synthetic = int(counts.sum())
    num_real = 0 if arm == "synthetic" else len(trials.real.train[1])
    return {
        "description": describe_arm(arm, num_real, counts, trials.terms.classes),
        "num_train_images": num_real + num_synthetic,
        "num_synthetic_images": num_synthetic,
        **_spread_scores([outcome.scores for outcome in outcomes[arm]]),
    }


def _recognised_section(
    trials: _Trials, outcomes: Mapping[str, Sequence[_Outcome]], arms: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return what classifiers of real images see in the generated ones."""
    if "real" not in outcomes:
        return {
            "not_measured": "no classifier was trained on real images alone: evaluation.utility-arms leaves out real"
        }
    recognised = summarise_recognition(
        trials.recognised_labels, [outcome.recognised for outcome in outcomes["real"]], trials.terms.classes
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
        ``real``: none. ``synthetic``: as many in all as there are real ones. ``real+synthetic``: `ratio` times as
        many. Both: every class that occurs in training alike. ``rare``: what each rare class lacks of the mean
        class size.
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
        total = round(len(labels) * (ratio if arm == "real+synthetic" else 1.0))
        wanted[occurs] = total // len(occurs)
        wanted[occurs[: total % len(occurs)]] += 1
    return wanted


def compose_arm(
    arm: str, counts: NDArray[np.int64], real: LabelledImages, synthetic: Mapping[int, NDArray[np.uint8]]
) -> LabelledImages:
    """Put an arm's training images together.

    Parameters
    ----------
    arm
        See :func:`count_synthetic`.
    counts
        Synthetic images of each class, (num_classes,): the first of those there are.
    real
        All real training images.
    synthetic
        By label; at least as many as `counts` says.
    """
    images, labels = ([], []) if arm == "synthetic" else ([real[0]], [real[1]])
    for label in np.flatnonzero(counts).tolist():
        images.append(synthetic[label][: counts[label]])
        labels.append(np.full(counts[label], label, dtype=np.int64))
    return np.concatenate(images), np.concatenate(labels)


def describe_arm(arm: str, num_real: int, counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Say in a sentence what a classifier is trained on; `counts` as :func:`count_synthetic` returns them."""
    real = f"{num_real:,} real images, augmented, with rare classes drawn as often as the others"
    num_synthetic = int(counts.sum())
    if arm == "real":
        return f"{real}."
    if arm == "synthetic":
        return f"{num_synthetic:,} synthetic images, every class alike, and no real one."
    if arm == "real+synthetic":
        return f"{real}, and {num_synthetic:,} synthetic ones, every class alike."
    topped_up = ", ".join(f"{name} (+{count:,})" for name, count in zip(classes, counts, strict=True) if count)
    return f"{real}, and {num_synthetic:,} synthetic ones, which bring rare classes to the mean size: {topped_up}."


def find_melanoma_class(classes: Sequence[str]) -> str | None:
    """Return the class that is melanoma by its name (:data:`MELANOMA_NAMES`, in any case), or None."""
    return next((name for known in MELANOMA_NAMES for name in classes if name.lower() == known), None)


def score_predictions(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], classes: Sequence[str]
) -> dict[str, Any]:
    """Score predicted probabilities over the classes that occur in the test.

    Parameters
    ----------
    labels
        (n,), true.
    probabilities
        (n, k), k at least 2. Of classifiers trained on balanced batches they refer to equally frequent classes.
    classes
        k names.

    Returns
    -------
    dict
        ``balanced_accuracy``: mean sensitivity over the classes that occur.
        ``macro_auroc``: mean over the same classes of the area under the curve of that class against all
        others; None where only one class occurs.
        ``melanoma_sensitivity_at_90_specificity``: see :func:`sensitivity_at_specificity`; None where no
        class is melanoma, or no or every test image shows one.
        ``calibration_error``: expected calibration error of the predicted class's probability, 15 bins (Guo et
        al. 2017, arXiv 1706.04599). The priors of balanced batches are not those of the test images, and
        what that difference makes is in it.
        ``sensitivity``: of each class by name; None where it does not occur.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error  # slow to import

    present = np.unique(labels)
    recalls = recall_score(labels, probabilities.argmax(axis=1), labels=present, average=None, zero_division=0.0)
    areas = [roc_auc_score(labels == label, probabilities[:, label]) for label in present] if len(present) > 1 else []
    by_label = {int(label): float(recall) for label, recall in zip(present, recalls, strict=True)}
    melanoma = find_melanoma_class(classes)
    at_specificity = None
    if melanoma is not None:
        label = list(classes).index(melanoma)
        if label in present and len(present) > 1:
            at_specificity = sensitivity_at_specificity(
                labels == label, probabilities[:, label], specificity_percent=90
            )
    calibration_error = multiclass_calibration_error(
        torch.from_numpy(np.clip(probabilities, 0.0, 1.0)),
        torch.from_numpy(np.asarray(labels)),
        num_classes=len(classes),
        n_bins=_CALIBRATION_BINS,
    )
    return {
        "balanced_accuracy": float(np.mean(recalls)),
        "macro_auroc": float(np.mean(areas)) if areas else None,
        "melanoma_sensitivity_at_90_specificity": at_specificity,
        "calibration_error": float(calibration_error),
        "sensitivity": {name: by_label.get(label) for label, name in enumerate(classes)},
    }


def sensitivity_at_specificity(
    positive: NDArray[np.bool_], scores: NDArray[np.floating], *, specificity_percent: int
) -> float:
    """Return the share of positive images that score above the threshold for a specificity.

    An image is called positive if its score is above the threshold. The threshold is the smallest that calls
    at least `specificity_percent` of the negative images negative: the ⌈percent · n / 100⌉-th smallest of their
    n scores. It is set on the very images that are scored, as is usual for a point of their ROC curve: at a
    threshold that is fixed beforehand the specificity would be another.

    Parameters
    ----------
    positive
        (n,); at least one image of each kind.
    scores
        (n,), greater for likelier positives.
    specificity_percent
        In [1, 100].
    """
    negative_scores = np.sort(scores[~positive])
    threshold = negative_scores[-(-specificity_percent * len(negative_scores) // 100) - 1]
    return float((scores[positive] > threshold).mean())


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
    fresh: NDArray[np.uint8]
    """To be recognised; empty where no classifier is trained on real images alone."""


@dataclass(frozen=True)
class _Outcome:
    """What one classifier gave."""

    classifier: str
    """Its name."""
    scores: dict[str, Any]
    """On the test images, see :func:`score_predictions`."""
    recognised: NDArray[np.int64]
    """The classes that it saw in the fresh images; empty but for classifiers trained on real images alone."""


class _Trials:
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
        self.cancelled = threading.Event()
        self._settings = terms.settings
        self._generate = generate
        self._progress = progress
        self._lock = threading.Lock()
        self._num_steps_done = 0
        self._weights = None
        if self._settings.utility_classifier == "efficientnet-b2":
            self._weights = find_imagenet_weights(
                self._settings.utility_weights, allow_downloads=self._settings.allow_downloads
            )

    def draw(self, number: int) -> _Drawn:
        """Draw the synthetic images of a seed: as many of each class as the arm that wants most."""
        most = np.max(list(self.counts.values()), axis=0)
        by_label = {
            label: self._ask("utility", number, label, int(most[label])) for label in np.flatnonzero(most).tolist()
        }
        fresh = [self.real.train[0][:0]]
        if "real" in self.counts:
            fresh += [
                self._ask("recognised", number, label, _RECOGNISED_PER_CLASS)
                for label in np.unique(self.recognised_labels).tolist()
            ]
        return _Drawn(by_label, np.concatenate(fresh))

    def _ask(self, purpose: str, number: int, label: int, count: int) -> NDArray[np.uint8]:
        name = self.terms.classes[label]
        self._report(f"synthetic images, {name}, seed {number + 1} of {self._settings.utility_seeds}", 0)
        return self._generate(np.full(count, label, dtype=np.int64), f"{purpose}, seed {number}, {name}")

    def train_and_test(self, arm: str, number: int, drawn: _Drawn) -> _Outcome:
        """Train and test one classifier."""
        images, labels = compose_arm(arm, self.counts[arm], self.real.train, drawn.by_label)
        # Every arm of a seed starts from the same weights.
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
                validation=self.real.validation,
                progress=lambda description, done, total: self._report(description, 1),
                description=description,
            )

        if arm == "real":
            was_stored = fit_once(
                classifier,
                fit,
                images=(images, labels),
                validation=self.real.validation,
                steps=steps,
                stream=stream,
                cache_dir=self.terms.cache_dir,
            )
            if was_stored:
                self._report(description, steps)
        else:
            fit()
        test_images, test_labels = self.real.test
        probabilities = predict_probabilities(classifier, test_images, batch=_BATCH)
        shown = drawn.fresh if arm == "real" else drawn.fresh[:0]
        return _Outcome(
            classifier.name,
            score_predictions(test_labels, probabilities, self.terms.classes),
            predict_probabilities(classifier, shown, batch=_BATCH).argmax(axis=1),
        )

    def _report(self, description: str, num_steps: int) -> None:
        """Tell that so many more steps are done; stop the thread's work if the judgement is given up."""
        if self.cancelled.is_set():
            raise CancelledError
        if self._progress is None:
            return
        total = len(self.counts) * self._settings.utility_seeds * self._settings.utility_steps
        with self._lock:
            self._num_steps_done += num_steps
            self._progress(description, self._num_steps_done, total)


def _run_trials(trials: _Trials, workers: int) -> dict[str, list[_Outcome]]:
    """Train and test every arm with every seed; by arm, in the order of seeds."""
    # PyTorch's own threads would share one classifier, and so change its last bits: one for each worker.
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    pending: dict[str, list[Future[_Outcome]]] = {arm: [] for arm in trials.counts}
    try:
        for number in range(trials.terms.settings.utility_seeds):
            # It waits its turn behind the classifiers of the seed before, so that there are the images of two
            # seeds in memory at most, and images are drawn by one thread at a time.
            drawn = pool.submit(trials.draw, number).result()
            for arm, futures in pending.items():
                futures.append(pool.submit(trials.train_and_test, arm, number, drawn))
        for future in as_completed([future for futures in pending.values() for future in futures]):
            future.result()  # The first that fails ends them all.
        return {arm: [future.result() for future in futures] for arm, futures in pending.items()}
    finally:
        # An interrupted judgement must not wait for classifiers that nobody will look at.
        trials.cancelled.set()
        pool.shutdown(cancel_futures=True)
        # The workers' setting is also what threads started later would begin with.
        torch.set_num_threads(torch.get_num_threads())


def _spread_scores(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Turn what :func:`score_predictions` gave for each seed into spreads over seeds."""

    def over_seeds(values: list[float | None]) -> dict[str, Any] | None:
        # Which classes occur in the test, and so what is None, does not depend on the seed.
        known = [value for value in values if value is not None]
        return spread(known, bounds=(0, 1)) if known else None

    return {
        **{
            name: over_seeds([score[name] for score in scores])
            for name in (
                "balanced_accuracy",
                "macro_auroc",
                "melanoma_sensitivity_at_90_specificity",
                "calibration_error",
            )
        },
        "sensitivity": {
            name: over_seeds([score["sensitivity"][name] for score in scores]) for name in scores[0]["sensitivity"]
        },
    }
