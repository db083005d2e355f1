"""Are synthetic images of use? A classifier trained on them and tested on real ones (TSTR).

Beside it stands the same classifier trained on real images: same network, initial weights, steps,
augmentation and class-balanced batches. Only the training images differ, so what is between the two
is what synthetic images lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import recall_score, roc_auc_score

from federation.models.classifier import Progress, predict_probabilities, train_classifier
from federation.seeding import torch_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray


def train_on_synthetic_test_on_real(
    *,
    synthetic_images: NDArray[np.uint8],
    synthetic_labels: NDArray[np.int64],
    real_images: NDArray[np.uint8],
    real_labels: NDArray[np.int64],
    test_images: NDArray[np.uint8],
    test_labels: NDArray[np.int64],
    classes: Sequence[str],
    steps: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train one classifier on synthetic and one on real images; test both once on real images.

    Parameters
    ----------
    synthetic_images, synthetic_labels
        uint8 (n, r, r, 3), and the class asked of the generator for each, (n,).
    real_images, real_labels
        Of the train part.
    test_images, test_labels
        Of the test part, real, seen by nothing else.
    classes
        Names of the labels.
    steps
        Training steps of each classifier.
    seed
        Seed of the run.
    device
        Where to train.
    progress
        Called after each training step.

    Returns
    -------
    dict
        ``synthetic`` and ``real``, each what :func:`score_predictions` returns and ``num_train_images``;
        ``num_test_images``, ``steps``, ``classes_without_test_images``.
    """
    result: dict[str, Any] = {}
    for name, images, labels in (
        ("synthetic", synthetic_images, synthetic_labels),
        ("real", real_images, real_labels),
    ):
        classifier = train_classifier(
            images,
            labels,
            num_classes=len(classes),
            steps=steps,
            # One purpose for both: they start from the same weights.
            stream=torch_stream(seed, "utility classifier"),
            device=device,
            progress=progress,
            description=f"classifier on {name} images",
        )
        probabilities = predict_probabilities(classifier, test_images)
        result[name] = {**score_predictions(test_labels, probabilities, classes), "num_train_images": len(images)}
    counts = np.bincount(test_labels, minlength=len(classes))
    result["num_test_images"] = len(test_images)
    result["steps"] = steps
    result["classes_without_test_images"] = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    return result


def score_predictions(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], classes: Sequence[str]
) -> dict[str, Any]:
    """Score predicted probabilities over the classes that occur in the test.

    Parameters
    ----------
    labels
        (n,), true.
    probabilities
        (n, k).
    classes
        k names.

    Returns
    -------
    dict
        ``balanced_accuracy``: mean recall over the classes that occur.
        ``macro_auroc``: mean over the same classes of the area under the curve of that class against all
        others; None where only one class occurs.
        ``recall``: of each class by name; None where it does not occur.
    """
    present = np.unique(labels)
    recalls = recall_score(labels, probabilities.argmax(axis=1), labels=present, average=None, zero_division=0.0)
    areas = [roc_auc_score(labels == label, probabilities[:, label]) for label in present] if len(present) > 1 else []
    by_label = {int(label): float(recall) for label, recall in zip(present, recalls, strict=True)}
    return {
        "balanced_accuracy": float(np.mean(recalls)),
        "macro_auroc": float(np.mean(areas)) if areas else None,
        "recall": {name: by_label.get(label) for label, name in enumerate(classes)},
    }
