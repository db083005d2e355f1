"""A classifier that hospitals train together by federated averaging: what they could have without generated images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from federation.errors import NotFiniteError
from federation.models.abstract_classifier import Classifier, ClassifierT
from federation.models.classifier import WEIGHT_DECAY, BatchLoss, Examples

if TYPE_CHECKING:
    from federation.models.classifier import LabelledImages


def fit_federated(
    classifier: ClassifierT,
    hospitals: Sequence[LabelledImages],
    *,
    steps: int,
    rounds: int,
    streams: Sequence[torch.Generator],
    colour_jitter: float = 0.1,
    report: Callable[[int], None] = lambda steps: None,
) -> ClassifierT:
    """Train a classifier at several hospitals by federated averaging (McMahan et al. 2017, arXiv 1602.05629).

    In each round every hospital trains the common classifier on batches that hold its own classes alike; weights and
    the statistics of batch normalisation are averaged by numbers of images. The optimiser, AdamW, begins anew in each
    round, at a learning rate that falls from the classifier's own to nought by half a cosine over the rounds.

    Parameters
    ----------
    classifier
        With its initial weights; it is trained in place.
    hospitals
        The images and labels of each; at least one image each.
    steps
        Training steps of each hospital, over all rounds.
    rounds
        From 1 to `steps`; steps that they do not divide go to the first of them.
    streams
        CPU generators, one for each hospital: batches and augmentation.
    colour_jitter
        See :func:`~federation.models.classifier.augment`.
    report
        Called with the number of steps that were taken, after each.

    Returns
    -------
    The classifier, in evaluation mode.

    Raises
    ------
    NotFiniteError
        If a loss is not finite at the end of a round.
    """
    sizes = torch.tensor([float(len(labels)) for _, labels in hospitals])
    shares = (sizes / sizes.sum()).tolist()
    examples = [Examples.of(*held, None, num_classes=classifier.num_classes, balanced=True) for held in hospitals]
    losses = [BatchLoss(one, None, classifier, classifier.batch_size, colour_jitter) for one in examples]
    for number in range(rounds):
        rate = classifier.learning_rate * (1 + math.cos(math.pi * number / rounds)) / 2
        local_steps = steps // rounds + (number < steps % rounds)
        common = {name: value.clone() for name, value in classifier.state_dict().items()}
        average = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in common.items()}
        for batch_loss, stream, share in zip(losses, streams, shares, strict=True):
            classifier.load_state_dict(common)
            loss = _descend(classifier, batch_loss, stream, rate, local_steps, report)
            if not math.isfinite(loss):
                raise NotFiniteError(f"federated classifier: the loss is {loss} in round {number + 1}")
            for name, value in classifier.state_dict().items():
                average[name] += share * value.float()
        classifier.load_state_dict({name: value.to(common[name].dtype) for name, value in average.items()})
    return classifier.eval()


def _descend(
    classifier: Classifier,
    batch_loss: BatchLoss,
    stream: torch.Generator,
    rate: float,
    steps: int,
    report: Callable[[int], None],
) -> float:
    """Train at one hospital for some steps; return the last loss."""
    classifier.train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    loss = torch.zeros(())
    for _ in range(steps):
        loss = batch_loss(stream)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        report(1)
    return float(loss.item())
