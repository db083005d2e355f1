"""IFL-GAN's weighting: hospitals whose generator is further from their images count more.

Li et al. 2022, *IFL-GAN: Improved Federated Learning Generative Adversarial Network With Maximum Mean Discrepancy
Model Aggregation*, IEEE TNNLS, 10.1109/TNNLS.2022.3167482, Algorithm 1: each hospital measures the MMD between its
images and those of its generator; weights are the softmax of the normalised scores; the generator alone is weighted.
The direction, more weight for a larger MMD, is the paper's as far as it was found quoted; reproductions disagree.

What was not read, and is ours: the kernel (the mean of Gaussian kernels of 1/4 to 4 times the median distance, on
images averaged down to 8 x 8 pixels, the unbiased estimate of MMD²), and the normalisation (scores are divided by
their sum; ``strategy.temperature`` divides them further). Deviations: every hospital takes the average, where the paper
lets those whose score is small keep their own; the discriminator is averaged by number of images, unless
``strategy.private`` keeps it at its hospital, as the paper does.

Costs what FedGAN costs, at a hospital two batches of images a round, and at the server memory for all replies at
once. Reveals what FedGAN reveals, and each hospital's MMD.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from federation.images import to_floats
from federation.models import GenerativeModel
from federation.models.anatomy import Anatomy
from federation.models.drawing import drawer_of
from federation.settings.strategy import StrategySettings
from strategies.aggregation import Reply
from strategies.local_rule import LocalImages, LocalRule
from strategies.scored_average import ScoredAverage, softmax

MMD = "mmd"
_IMAGES = 256
_SIDE = 8
_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Of a squared length: squared distances up to it are none. Two 8-bit images that differ at all are a thousand times
# as far apart.
_ROUNDING = 1e-12


class IFLGANLocally(LocalRule):
    """The hospital's half: the score."""

    def end(self, model: GenerativeModel, dataset: LocalImages, stream: torch.Generator) -> dict[str, float]:
        """See :class:`LocalRule`."""
        count = min(_IMAGES, len(dataset))
        batch = dataset.sample_distinct(stream, count)
        drawn = drawer_of(model).generate(batch.labels if model.num_classes else None, count, stream)
        return {MMD: maximum_mean_discrepancy(reduced(batch.images), reduced(to_floats(drawn)))}


class IFLGAN(ScoredAverage):
    """The server's half: a softmax of the hospitals' scores."""

    options = ("temperature", "weighted_networks")
    local = IFLGANLocally
    published = "generator"

    @classmethod
    def numbers(cls, settings: StrategySettings, anatomy: Anatomy) -> tuple[str, ...]:
        """Return the name of the score."""
        return (MMD,)

    def weights(self, replies: Sequence[Reply]) -> NDArray[np.float64]:
        """See :class:`ScoredAverage`."""
        scores = np.array([reply.metrics[MMD] for reply in replies])
        total = scores.sum()
        parts = scores / total if total > 0 else np.full(len(scores), 1 / len(scores))
        return softmax(parts / self.settings.temperature)


def reduced(images: Tensor) -> Tensor:
    """Average images (n, 3, r, r) down to (n, 192) in float64."""
    return F.adaptive_avg_pool2d(images.double(), _SIDE).flatten(1)


def maximum_mean_discrepancy(real: Tensor, drawn: Tensor) -> float:
    """Return the root of the unbiased estimate of MMD² (Gretton et al. 2012, Eq. 3) of (n, d) and (m, d), at least 0.

    The biased one (Eq. 5) is the larger the fewer images there are, and would have a small hospital count more.
    """
    both = torch.cat([real, drawn])
    squared = torch.cdist(both, both).square()
    if squared.max() <= _ROUNDING * both.square().sum(dim=1).max():
        squared = torch.zeros_like(squared)  # all alike: their distances are rounding, which has no median
    median = squared[squared > 0].median() if (squared > 0).any() else torch.tensor(1.0)
    kernel = torch.stack([torch.exp(-squared / (2 * factor**2 * median)) for factor in _BANDWIDTHS]).mean(dim=0)
    n = len(real)
    estimate = _between_different(kernel[:n, :n]) + _between_different(kernel[n:, n:]) - 2 * kernel[:n, n:].mean()
    return float(estimate.clamp(min=0).sqrt())


def _between_different(kernel: Tensor) -> Tensor:
    """Return the mean of a square kernel matrix without its diagonal; of a single point, all there is."""
    n = len(kernel)
    return (kernel.sum() - kernel.trace()) / (n * (n - 1)) if n > 1 else kernel.mean()
