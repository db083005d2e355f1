"""Classifiers of one class against the rest, trained on five mixes of real and synthetic images.

This is the predictive test of Carrasco Limeros et al. 2022 (arXiv 2208.11702), melanoma against the rest, on fair
terms: the real images of each step are those of the mix without synthetic ones, to the bit, and synthetic ones come in
places of their own; both classes are drawn alike and weigh alike; network, steps, augmentation and initial weights are
those of all mixes. The state of each classifier, and the threshold above which it says the class, are chosen on
validation images; test images are looked at once. No lesion has images on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from federation.metrics.resampling import weighted_auroc, weighted_balanced_accuracy
from federation.models.classifier import AddedImages, Progress, build_classifier, fit_classifier, predict_probabilities
from federation.models.efficientnet import find_imagenet_weights
from federation.seeding import torch_stream
from server.evaluation.classifier_cache import fit_once
from server.evaluation.trials import Trials

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from federation.models.classifier import LabelledImages
    from server.evaluation.predictions import TestImages

    Draw = Callable[[bool, int, str], NDArray[np.uint8]]
    """Gives synthetic images, uint8 (n, r, r, 3): of the class or of the rest, how many, and for which purpose."""

REAL, SYNTHETIC = "real", "synthetic"
MIXES = {
    REAL: "real images alone",
    "real+class": "real images, and beside those of the class as many synthetic ones of it",
    "real+third": "real images, and one synthetic image beside two of them",
    "real+half": "real images, and one synthetic image beside each",
    SYNTHETIC: "synthetic images alone",
}
"""What classifiers are trained on, by name."""
FIGURES = ("f1", "auroc", "balanced_accuracy")
"""How well the class is told from the rest: F1 of the class, at the threshold that is best on validation images; area
under the ROC curve; mean of sensitivity and specificity at that threshold."""
# Of synthetic images in a step, for each real one. A mix with images of one class alone shows that class, half of a
# step, twice.
_SHARES = {"real+class": 0.5, "real+third": 0.5, "real+half": 1.0}
_BATCH = 64  # images at once when classifiers are tested: memory only


@dataclass(frozen=True, kw_only=True)
class MixImages:
    """Real images, labelled 1 where they are of the class and 0 where they are not; no lesion is in two parts."""

    train: LabelledImages
    """All real training images."""
    validation: LabelledImages
    """They choose each classifier's state and threshold."""
    test: TestImages
    """What classifiers are tested on, once."""


@dataclass(frozen=True, kw_only=True)
class MixTerms:
    """What is alike for all classifiers of a judgement."""

    networks: Mapping[str, int]
    """Training steps by classifier: ``small-cnn``, ``efficientnet-b2``."""
    seed: int
    """Of initial weights, batches and synthetic images."""
    cache_dir: str = ""
    """``data.cache-dir``: classifiers trained on real images alone are kept there."""
    device: torch.device | str = "cpu"
    """Where to train."""
    threads: int = 1
    """Classifiers trained side by side on the CPU."""
    weights: str = ""
    """``evaluation.utility-weights`` of EfficientNet-B2."""
    allow_downloads: bool = False
    """``evaluation.allow-downloads``."""


@dataclass(frozen=True)
class MixOutcome:
    """What one classifier reached."""

    classifier: str
    """Its name."""
    figures: dict[str, float]
    """:data:`FIGURES` on the test images."""
    resampled: dict[str, NDArray[np.float64]]
    """The same in each resampled set of test images, (r,)."""


def judge_mixes(
    terms: MixTerms, images: MixImages, draw: Draw, *, progress: Progress | None = None
) -> dict[str, dict[str, MixOutcome]]:
    """Train a classifier of each kind on each mix, and test it.

    Parameters
    ----------
    terms
        Which classifiers, and how they are trained.
    images
        Real images. Each class occurs in every part.
    draw
        Gives synthetic images. There are as many as real training images, half of them of the class.
    progress
        Called after each training step of any classifier, by one thread at a time.

    Returns
    -------
    By classifier and mix.

    Raises
    ------
    InputError
        If pretrained weights are named and cannot be had.
    NotFiniteError
        If a classifier's training diverges.
    """
    half = max(1, len(images.train[1]) // 2)
    drawn = [draw(is_class, half, f"mixes, {'class' if is_class else 'rest'}") for is_class in (False, True)]
    device = torch.device(terms.device)
    tester = _MixTester(terms, images, drawn, device)
    num_steps = len(MIXES) * sum(terms.networks.values())
    with Trials(1 if device.type == "cuda" else terms.threads, num_steps, progress) as trials:
        pending = {
            network: {mix: trials.submit(tester.train_and_test, network, mix, trials.report) for mix in MIXES}
            for network in terms.networks
        }
        trials.wait([future for futures in pending.values() for future in futures.values()])
        return {
            network: {mix: future.result() for mix, future in futures.items()} for network, futures in pending.items()
        }


class _MixTester:
    """The classifiers of one judgement. Methods run on worker threads."""

    def __init__(
        self, terms: MixTerms, images: MixImages, drawn: Sequence[NDArray[np.uint8]], device: torch.device
    ) -> None:
        self._terms, self._images, self._drawn, self._device = terms, images, drawn, device
        self._weights = None
        if "efficientnet-b2" in terms.networks:
            self._weights = find_imagenet_weights(terms.weights, allow_downloads=terms.allow_downloads)

    def train_and_test(self, network: str, mix: str, report: Callable[[str, int], None]) -> MixOutcome:
        """Train and test one classifier."""
        # Every mix starts from the same weights, and those with real images see the same batches of them.
        stream = torch_stream(self._terms.seed, f"classifier of mixes, {network}")
        shown, labels, added = self._compose(mix)
        classifier = build_classifier(
            network, resolution=shown.shape[1], num_classes=2, stream=stream, imagenet_weights=self._weights
        ).to(self._device)
        steps = self._terms.networks[network]
        description = f"{network}, {mix}"

        def fit() -> None:
            fit_classifier(
                classifier,
                shown,
                labels,
                steps=steps,
                stream=stream,
                added=added,
                validation=self._images.validation,
                progress=lambda description, done, total: report(description, 1),
                description=description,
            )

        if mix != REAL:
            fit()
        elif fit_once(
            classifier,
            fit,
            how={"mix": mix, "steps": steps},
            shown=[(shown, labels), self._images.validation],
            streams=[stream],
            cache_dir=self._terms.cache_dir,
        ):
            report(description, steps)
        chosen_by, truth = self._images.validation
        threshold = best_threshold(truth == 1, predict_probabilities(classifier, chosen_by, batch=_BATCH)[:, 1])
        test = self._images.test
        scores = predict_probabilities(classifier, test.images, batch=_BATCH)[:, 1]
        once = np.ones((1, len(scores)), dtype=np.float32)
        figures = score_against_rest(test.labels == 1, scores, threshold, once)
        return MixOutcome(
            classifier.name,
            {name: float(values[0]) for name, values in figures.items()},
            score_against_rest(test.labels == 1, scores, threshold, test.weights),
        )

    def _compose(self, mix: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], AddedImages | None]:
        """Return what a classifier is trained on: images, their labels, and what comes beside them."""
        classes = (1,) if mix == "real+class" else (0, 1)
        images = np.concatenate([self._drawn[label] for label in classes])
        labels = np.concatenate([np.full(len(self._drawn[label]), label, dtype=np.int64) for label in classes])
        if mix == SYNTHETIC:
            return images, labels, None
        real: tuple[NDArray[np.uint8], NDArray[np.int64]] = self._images.train  # type: ignore[assignment]
        if mix == REAL:
            return *real, None
        stream = torch_stream(self._terms.seed, "synthetic images beside real ones of mixes")
        return *real, AddedImages(images=images, labels=labels, share=_SHARES[mix], stream=stream)


def best_threshold(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the threshold at or above which calling images positive gives the greatest F1, the greatest of equals.

    Parameters
    ----------
    positive
        (n,), at least one.
    scores
        (n,), greater for likelier positives.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    hits = np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + positive.sum())
    # A threshold between equal scores there is none.
    f1 = np.where(np.append(ordered[1:] < ordered[:-1], True), f1, -1.0)
    return float(ordered[int(np.argmax(f1))])


def score_against_rest(
    positive: NDArray[np.bool_], scores: NDArray[np.floating], threshold: float, weights: NDArray[np.floating]
) -> dict[str, NDArray[np.float64]]:
    """Return :data:`FIGURES` for each set of weights.

    Parameters
    ----------
    positive
        (n,): whether each image is of the class; some are, and some are not.
    scores
        (n,), greater for likelier positives.
    threshold
        At or above which an image is called positive.
    weights
        (r, n): how often each image counts.

    Returns
    -------
    (r,) each.
    """
    called = scores >= threshold
    hits = weights[:, called & positive].sum(axis=1, dtype=np.float64)
    both = weights[:, called].sum(axis=1, dtype=np.float64) + weights[:, positive].sum(axis=1, dtype=np.float64)
    return {
        "f1": 2 * hits / np.maximum(both, 1e-9),
        "auroc": weighted_auroc(positive, scores, weights),
        "balanced_accuracy": weighted_balanced_accuracy(called == positive, positive.astype(np.int64), weights),
    }
