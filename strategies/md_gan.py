"""MD-GAN: one generator at the server learns from every hospital's discriminator; discriminators change places.

Hardy, Le Merrer and Sericola 2019, *MD-GAN: Multi-Discriminator Generative Adversarial Networks for Distributed
Datasets*, arXiv 1811.03850, Algorithm 1: hospitals take L steps of their discriminators; the generator moves by the
mean over hospitals of their error feedback, each on a batch of its own; every so often each discriminator goes to
another hospital, drawn at random, so that none learns one hospital's images by heart.

A hospital's part of the batch is of the classes that it holds, since its discriminator knows no other; after an
exchange it is of those that the next hospital holds. Where D_j does not see as many generated as real images of a class
(``stylegan2.fake-labels`` = uniform), its logit is taken less what that alone makes of it
(:mod:`strategies.discriminator_ensemble`): else hospitals to whom a class is rare would pull at it most.

Deviations: see :mod:`strategies.discriminator_ensemble`; the feedback is that of the non-saturating loss; hospitals
draw their fakes from a copy of the generator; the exchange is a permutation without fixed point every
``strategy.swap-rounds`` rounds, and Adam's moments stay where they are.

Costs the generator and a discriminator down, a discriminator up; the server takes a batch through each
discriminator for every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from federation.config import Configuration
from federation.models.anatomy import Anatomy
from federation.seeding import numpy_stream
from strategies.discriminator_ensemble import DiscriminatorEnsemble


class MDGAN(DiscriminatorEnsemble):
    """Trains G on the mean of the hospitals' losses; swaps discriminators."""

    told = "its private discriminator"
    shown = "a generator that learned from all discriminators, and in turn one another's discriminators"
    options = ("generator_steps", "swap_rounds")
    simulation_only = "hospitals would be given one another's discriminators"

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        yield from super().problems(configuration, anatomy)
        swap_rounds = configuration.strategy.swap_rounds
        if swap_rounds >= configuration.rounds:
            yield (
                f"strategy.swap-rounds = {swap_rounds}: of rounds = {configuration.rounds} none would be left in which "
                "a hospital trains another's discriminator; lower it, or set strategy.swap-rounds=0 for no exchange"
            )

    def close_round(self, server_round: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """See :class:`strategies.server_trained.ServerTrainedGenerator`."""
        model = self.build()
        networks = self.networks_of(model, names)
        counts = self.class_counts(names)
        offsets = self.label_offsets(counts).to(self.federation.device)

        def judge(images: Tensor, labels: Tensor | None) -> Tensor:
            # Each hospital's part of the batch, of classes that it holds, is judged by its discriminator; the mean over
            # all is the feedback's.
            parts = torch.arange(len(images), device=images.device) % len(networks)
            logits = torch.empty(len(images), dtype=images.dtype, device=images.device)
            for number, network in enumerate(networks):
                rows = (parts == number).nonzero()[:, 0]
                if len(rows):
                    logits = logits.index_put((rows,), network(images[rows], None if labels is None else labels[rows]))
            return logits if labels is None else logits + offsets[parts, labels].to(logits.dtype)

        changed = self.train_generator(model, server_round, judge, self.class_odds(counts))
        if self.settings.swap_rounds and server_round % self.settings.swap_rounds == 0:
            self.swap(server_round, names)
        return changed

    def swap(self, server_round: int, names: Sequence[str]) -> None:
        """Hand each hospital's discriminator to the next in a random circle."""
        stream = numpy_stream(self.federation.configuration.seed, "MD-GAN's exchange", server_round=server_round)
        circle = [names[position] for position in stream.permutation(len(names))]
        given = {
            taker: self.discriminators[giver] for giver, taker in zip(circle, circle[1:] + circle[:1], strict=True)
        }
        self.discriminators = self.discriminators | given
