"""IFL-GAN's weighting: hospitals whose generator is further from their images count more.

Li et al. 2022, *IFL-GAN: Improved Federated Learning Generative Adversarial Network With Maximum Mean Discrepancy
Model Aggregation*, IEEE TNNLS, 10.1109/TNNLS.2022.3167482, Algorithm 1: each hospital measures the MMD between its
images and those of its generator; weights are the softmax of the normalised scores; the generator alone is weighted.
The direction, more weight for a larger MMD, is the paper's as far as it was found quoted; reproductions disagree.

What was not read, and is ours: the kernel (the mean of Gaussian kernels of 1/4 to 4 times the median distance, on
images averaged down to 8 x 8 pixels), the estimate (:func:`maximum_mean_discrepancy`), and the normalisation (scores
are divided by their sum; ``strategy.temperature`` divides them further). Generated images are of the classes of the
real ones that they are compared with: what differs is then how classes look, and not how often each was drawn. Real
images are a hospital's own in their own proportions, whatever ``training.balanced-classes`` shows; where the generator
hears no class, and so learns what is shown, the two together are refused.
Deviations: every hospital takes the average, where the paper lets those whose score is small keep their own; the
discriminator is averaged by number of images, unless ``strategy.private`` keeps it at its hospital, as the paper does.

Costs what FedGAN costs, at a hospital two batches of images a round, and at the server memory for all replies at
once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from federation.config import Configuration
from federation.images import to_floats
from federation.models import GenerativeModel
from federation.models.anatomy import Anatomy
from federation.models.drawing import drawer_of, looks_at
from federation.settings.strategy import StrategySettings
from strategies.aggregation import Reply
from strategies.local_rule import LocalImages, LocalRule
from strategies.scored_average import ScoredAverage, softmax

MMD = "mmd"
_IMAGES = 256
_SIDE = 8
_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Of a squared length: squared distances up to it are none. Two 8-bit images that differ at all are a thousand times
# as far apart. And of MMD², whose kernel is at most 1: less is no difference.
_ROUNDING = 1e-12


class IFLGANLocally(LocalRule):
    """The hospital's half: the score."""

    def end(self, model: GenerativeModel, dataset: LocalImages, stream: torch.Generator) -> dict[str, float]:
        """See :class:`LocalRule`."""
        count = min(_IMAGES, len(dataset))
        batch = dataset.sample_distinct(stream, count)
        looks = looks_at(model.site, model.num_sites)
        drawn = drawer_of(model, looks).generate(batch.labels if model.num_classes else None, count, stream)
        return {MMD: maximum_mean_discrepancy(reduced(batch.images), reduced(to_floats(drawn)))}


class IFLGAN(ScoredAverage):
    """The server's half: a softmax of the hospitals' scores."""

    shown = "a mean, in which with a low strategy.temperature a hospital may be nearly alone"
    options = ("temperature", "weighted_networks")
    local = IFLGANLocally
    published = "generator"

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        yield from super().problems(configuration, anatomy)
        if configuration.balanced_over != "none" and not configuration.model.conditional:
            yield (
                f"training.balanced-classes = {configuration.training.balanced_classes}: with model.conditional = "
                "false the generator learns classes as they are shown, all alike, and ifl-gan would count as its "
                "mistake that they are not so among the hospital's images; set model.conditional=true, or leave it out"
            )

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
    """Return the root of an unbiased estimate of MMD²; 0 where that is not above 0.

    Image i of one sample may depend on image i of the other: IFL-GAN asks for the classes of the real images, FedCAR
    gives the same latents to all generators. So a pair of the same place counts across the samples as little as it
    does within one, where it is an image and itself: with these pairs in the mean, MMD² would be less by
    2 / n (E k(x_i, y_i) − E k(x_i, y_j)), and what a small hospital's generator does wrong would not be seen. To draw
    both samples independently would be as right on average, but they would then differ by chance too, and two equal
    generators would not be at 0.

    A generator that makes no mistake has an estimate below 0 as often as above; as a distance, both are near none.
    The kernel's bandwidth is the median over both samples, which stays where two images of a place are exchanged: so
    the estimate of such a generator is 0 on average, as with a fixed kernel.

    Parameters
    ----------
    real, drawn
        Features (n, d) and (m, d). Pairs of different places are independent. One row is too few for an estimate: 0.

    References
    ----------
    Gretton et al. 2012, *A Kernel Two-Sample Test*, JMLR 13, Eq. 4; all pairs across are Eq. 3, those within too Eq. 5.
    """
    if min(len(real), len(drawn)) < 2:
        return 0.0
    both = torch.cat([real, drawn])
    squared = torch.cdist(both, both).square()
    if squared.max() <= _ROUNDING * both.square().sum(dim=1).max():
        squared = torch.zeros_like(squared)  # all alike: their distances are rounding, which has no median
    median = squared[squared > 0].median() if (squared > 0).any() else torch.tensor(1.0)
    kernel = torch.stack([torch.exp(-squared / (2 * factor**2 * median)) for factor in _BANDWIDTHS]).mean(dim=0)
    n = len(real)
    across = _mean_off_diagonal(kernel[:n, n:])
    estimate = float(_mean_off_diagonal(kernel[:n, :n]) + _mean_off_diagonal(kernel[n:, n:]) - 2 * across)
    return math.sqrt(estimate) if estimate > _ROUNDING else 0.0


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    """Return the mean of a matrix without its diagonal."""
    return (kernel.sum() - kernel.trace()) / (kernel.numel() - min(kernel.shape))
