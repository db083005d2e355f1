"""What every classifier of diagnoses offers to its training and to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

from torch import Tensor, nn


class Classifier(nn.Module, ABC):
    """What :func:`federation.models.classifier.fit_classifier` and ``predict_probabilities`` need to know of a network.

    Its training must draw no random numbers of its own (no dropout, no stochastic depth): those would
    come from the process's generator, which classifiers that are trained side by side share.
    """

    learning_rate: ClassVar[float]
    """Greatest learning rate of the one-cycle schedule."""
    batch_size: ClassVar[int]
    """Images in a training step that suit it."""
    num_classes: int
    """Diagnoses it tells apart."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Kind and side of the images it sees, e.g. ``small-cnn-32``: what a figure carries."""

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map (n, 3, r, r) in [-1, 1] to logits of the diagnosis (n, num_classes) and of the site, if asked."""


ClassifierT = TypeVar("ClassifierT", bound=Classifier)
