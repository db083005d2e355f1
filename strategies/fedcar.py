"""FedCAR's weighting: the server draws images from each hospital's generator and compares them with one another.

Kim, Kim and Jeong 2024, *FedCAR: Cross-client Adaptive Re-weighting for Generative Models in Federated Learning*,
arXiv 2412.11463. Its formula was not read, and its published repository holds no code: what stands there is that the
server measures the distances between images that clients' generators draw, and re-weights the clients by them.

Ours, then: from each hospital's EMA as many images are drawn, from the same latents and classes, so that equal
generators are no distance apart; d_i is the mean MMD of hospital i's images to those of each other hospital, estimated
from images of different latents alone (:func:`strategies.ifl_gan.maximum_mean_discrepancy`); weights are
n_i softmax_i(−d_i / (d̄ T)): a generator that draws what no other does counts less. With T
(``strategy.temperature``) = 1, one that is twice as far as the average counts e times less than the average.

Classes are asked for in the federation's proportions, or all that somebody holds alike, as in training
(``training.balanced-classes``, ``stylegan2.fake-labels``).

The server needs no real image. Costs what FedGAN costs; at the server memory for all replies at once, and
``strategy.samples`` images from each generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from federation.config import Configuration
from federation.images import to_floats
from federation.models import build_model
from federation.models.anatomy import Anatomy
from federation.models.drawing import drawer_of, looks_at
from federation.seeding import numpy_stream, torch_stream
from federation.sharing import SharingPolicy, load_tensors
from strategies.aggregation import Reply
from strategies.ifl_gan import maximum_mean_discrepancy, reduced
from strategies.scored_average import ScoredAverage, softmax


class FedCAR(ScoredAverage):
    """Weights by how far a generator's images are from the others'."""

    shown = "a mean, in which with a low strategy.temperature a hospital may be nearly alone"
    options = ("temperature", "weighted_networks", "samples")
    counts_classes = True

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        yield from super().problems(configuration, anatomy)
        if SharingPolicy(anatomy, configuration.strategy.private_names).keeps_drawing():
            yield (
                f"strategy.private = {configuration.strategy.private!r}: fedcar compares the hospitals' generators at "
                f"the server, and would look at some that nobody has; leave {anatomy.learned_to_draw[0]} out of it"
            )

    def weights(self, replies: Sequence[Reply]) -> NDArray[np.float64]:
        """See :class:`ScoredAverage`."""
        sizes = np.array([self.size_of(reply) for reply in replies])
        if len(replies) == 1:
            return sizes
        drawn = self.draw(replies)
        distances = np.zeros((len(drawn), len(drawn)))
        for first, second in combinations(range(len(drawn)), 2):
            distance = maximum_mean_discrepancy(drawn[first], drawn[second])
            distances[first, second] = distances[second, first] = distance
        return sizes * closeness(distances, self.settings.temperature)

    def draw(self, replies: Sequence[Reply]) -> list[torch.Tensor]:
        """Return what each generator draws, reduced to features (samples, d)."""
        configuration = self.federation.configuration
        torch.set_num_threads(configuration.training.threads)
        model = build_model(configuration, device=self.federation.device)
        count = self.settings.samples
        labels = None
        if model.num_classes:
            counts = np.sum([site.class_counts for site in self.sites.values()], axis=0)
            stream = numpy_stream(configuration.seed, "FedCAR's classes", server_round=self.server_round)
            odds = counts > 0 if self.federation.classes_alike else counts
            labels = torch.from_numpy(stream.choice(len(counts), size=count, p=odds / odds.sum()))
        found = []
        for reply in replies:
            drawing = {
                name: value for name, value in reply.values().items() if name.split(".")[0] in model.anatomy.drawing
            }
            load_tensors(model.networks, drawing)
            images = drawer_of(model, looks_at(self.sites[reply.site].number, model.num_sites)).generate(
                labels, count, torch_stream(configuration.seed, "FedCAR's latents", server_round=self.server_round)
            )
            found.append(reduced(to_floats(images)).cpu())
        return found


def closeness(distances: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return softmax_i(−d_i / (d̄ T)) of a matrix of distances, d_i the mean to each other."""
    count = len(distances)
    mean = distances.sum(axis=1) / (count - 1)
    if mean.mean() == 0:
        return np.full(count, 1 / count)
    return softmax(-mean / (mean.mean() * temperature))
