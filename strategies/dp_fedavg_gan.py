"""DP-FedAvg-GAN: hospitals train the discriminator, the server adds noise to their mean update and trains G alone.

Augenstein et al. 2020, *Generative Models for Effective ML on Private, Decentralized Datasets*, arXiv 1911.06679,
Algorithm 1, on McMahan et al. 2018, arXiv 1710.06963: Δ_i ← Δ_i min(1, S / ‖Δ_i‖), Δ = (Σ_i Δ_i + N(0, z² S²)) / n, θ ←
θ + Δ, every hospital alike; then the generator against θ. n is who was asked, not who answered: whether a reply can be
used depends on what is in it. It never touches data: given θ, all that it is follows from what was released.

Epsilon is of the hospital as a whole, for a federation with and without what it sends (that it took part is public; for
another hospital in its place the noise counts half), by the Rényi accountant of Opacus (Mironov 2017, arXiv 1702.07476)
at ``strategy.delta``, for all that the run has released: rounds that are released again after a resume are counted
again (``strategies/release_ledger.py``), and what several runs release adds up. Every release counts in full, as if all
hospitals had been in it: exact for the Gaussian mechanism where they were. What an attacker sees is what another
hospital sees: the seed, from which follows who is drawn and who drops out, whether it is asked itself, and the names in
log and report. So to be left out of a round hides nobody: amplification by sampling, which needs a draw that nobody
knows, is not claimed. With few hospitals a noise that gives a small epsilon leaves nothing of the update. At real sites
noise comes from the operating system's secure source and is kept nowhere, so such a run does not repeat. It is drawn
and added in float64 and rounded with the sum; the accountant takes numbers to be exact. In a simulation it comes from
``seed``, and epsilon is what the same federation would have had at real sites.

Unlike UA-GAN's and MD-GAN's, the server asks the generator for all classes alike: no noise would cover the numbers of
images of each, and nobody tells them.

Costs generator and discriminator down and the discriminator up; the server trains.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

from federation.config import Configuration
from federation.exchange import pack_arrays
from federation.models.anatomy import Anatomy
from federation.run_directory import RunDirectory
from federation.seeding import numpy_stream
from federation.sharing import load_tensors
from strategies.aggregation import Arrays, Federation
from strategies.release_ledger import Release, ReleaseLedger, digest_of
from strategies.server_trained import ServerTrainedGenerator

COVERS = "what a hospital's images put into the networks that leave the server, and so into images drawn from them"
NOT_COVERED = (
    "losses and logits, which are told without noise (metrics.jsonl, hospitals.jsonl, tensorboard)",
    "numbers of images, of each hospital and of all, and of each class",
    "who took part, how long it took, and whose reply could not be used and why",
    "what the judge finds on training, validation and test images, and what is chosen by it: the best round, an early "
    "end",
    "what the server itself sees: each hospital's discriminator, before there is noise",
    "other runs of the same hospitals: what they release adds up",
)
NOT_COVERED_IN_A_SIMULATION = (
    "what a simulation's own files give away: its noise follows from seed, and upload holds what one hospital sent",
)


class DPFedAvgGAN(ServerTrainedGenerator):
    """Clips, sums up, adds noise."""

    shown = (
        "a discriminator that the noise has covered, and a generator that learned from it alone; with "
        "strategy.noise-multiplier = 0 a mean"
    )
    options = ("generator_steps", "clip_norm", "noise_multiplier", "delta")
    counts_classes = False
    # All hospitals weigh alike, and the guarantee would not cover the counts.
    balances = False
    counts_releases = True

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        yield from super().problems(configuration, anatomy)
        settings, hospitals = configuration.strategy, configuration.partition.hospitals
        if settings.noise_multiplier == 0:
            why = "strategy.noise-multiplier = 0 is no privacy; leave it out, or raise strategy.noise-multiplier"
            yield from settings.in_vain("strategy", ("delta",), why, "strategy.noise-multiplier")
        elif settings.delta * hospitals >= 1:
            # To publish one hospital whole, drawn at random, is (0, 1/n)-private (Dwork and Roth 2014, *The Algorithmic
            # Foundations of Differential Privacy*, Section 2.3).
            yield (
                f"strategy.delta = {settings.delta:g}: allowed is below one over partition.hospitals = {hospitals}, "
                f"that is {1 / hospitals:.3g}, or to give one of them away whole would count as private; "
                "1 / hospitals^1.1 is a usual choice"
            )

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._asked = 0
        run_dir = federation.configuration.run_dir
        self._ledger = ReleaseLedger(RunDirectory(Path(run_dir)).releases if run_dir else None)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send generator and discriminator."""
        self._current = arrays
        record = pack_arrays(self.sent(self.current))
        messages = self.messages(grid, server_round, config, lambda node_id: record)
        self._asked = len(messages)
        return messages

    def open_round(self, server_round: int) -> None:
        """See :class:`ServerTrainedGenerator`."""
        self._start = {name: value.astype(np.float64) for name, value in self.sent(self.current).items()}
        self._sum: dict[str, np.ndarray] = {}

    def take(self, site: str, arrays: Arrays) -> None:
        """Clip the update and add it up."""
        update = {name: value - self._start[name] for name, value in arrays.items()}
        factor = clip_factor(update, self.settings.clip_norm)
        for name, change in update.items():
            self._sum[name] = self._sum.get(name, 0.0) + factor * change

    def close_round(self, server_round: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """See :class:`ServerTrainedGenerator`."""
        settings = self.settings
        # Nobody else may know it: every site is told the seed, and could take the noise off again.
        draw = secret_normal if self._is_deployed() else self._stream(server_round).standard_normal
        found = {}
        for name, total in self._sum.items():
            if settings.noise_multiplier > 0:
                total = total + settings.noise_multiplier * settings.clip_norm * draw(total.shape)
            found[name] = (self._start[name] + total / self._asked).astype(self.current[name].dtype)
        # Before anything is made of it, so that a killed server has released nothing that is not counted.
        self._ledger.enter(Release(server_round, settings.noise_multiplier, digest_of(found)))

        model = self.build()
        load_tensors(model.networks, found)
        discriminator = model.networks[self.adversaries.critic]

        def judge(images: Tensor, labels: Tensor | None) -> Tensor:
            logits: Tensor = discriminator(images, labels)
            return logits

        # All classes alike: no noise would cover the numbers of images of each.
        odds = torch.ones((1, model.num_classes), dtype=torch.float64)
        return found | self.train_generator(model, server_round, judge, odds)

    def _stream(self, server_round: int) -> np.random.Generator:
        return numpy_stream(self.federation.configuration.seed, "noise of DP-FedAvg-GAN", server_round=server_round)

    def _is_deployed(self) -> bool:
        return any(site.is_deployed for site in self.members.values())

    def report(self) -> dict[str, Any]:
        """Return epsilon at delta, None where it is infinite, and what it covers and what not."""
        releases, delta = self._ledger.read(), self.settings.delta
        return {
            "epsilon": spent_epsilon([release.noise_multiplier for release in releases], delta),
            "delta": delta,
            "unit": "hospital",
            "releases": len(releases),
            "covers": COVERS,
            "does_not_cover": [*NOT_COVERED, *(() if self._is_deployed() else NOT_COVERED_IN_A_SIMULATION)],
        }


def clip_factor(update: Arrays, norm: float) -> float:
    """Return min(1, S / ‖Δ‖) over all entries together."""
    length = math.sqrt(sum(float(np.square(value, dtype=np.float64).sum()) for value in update.values()))
    return min(1.0, norm / length) if length > 0 else 1.0


def secret_normal(shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal numbers, float64, from the operating system's secure source.

    Nothing follows from those that are known about the others. NumPy's generators, well as they may be seeded, are not
    made for that: whoever knows enough of their numbers can go on with them.
    """
    from scipy.special import ndtri

    words = np.frombuffer(secrets.token_bytes(8 * math.prod(shape)), np.uint64).reshape(shape)
    # The middles of 2^52 equal steps between 0 and 1, which float64 holds exactly; neither end is among them.
    return np.asarray(ndtri(((words >> np.uint64(12)) + 0.5) * 2.0**-52))


def spent_epsilon(noise_multipliers: Sequence[float], delta: float) -> float | None:
    """Return epsilon after a release with each of these noise multipliers; None if it is unbounded.

    References
    ----------
    Mironov 2017, *Rényi Differential Privacy*, arXiv 1702.07476, Corollary 3; to (ε, δ) by Balle et al. 2020, arXiv
    1905.09982, Theorem 21.
    """
    if not noise_multipliers:
        return 0.0
    if min(noise_multipliers) ** 2 == 0:
        return None
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    for noise_multiplier in noise_multipliers:
        accountant.step(noise_multiplier=noise_multiplier, sample_rate=1.0)
    # With much or little noise the best order lies beyond those that Opacus tries by itself.
    orders = [1 + 10 ** (power / 8) for power in range(-48, -8)]
    orders += [*RDPAccountant.DEFAULT_ALPHAS, *(2 ** (power / 8) for power in range(48, 192))]
    # The bound may be below zero, where delta alone says more than epsilon; epsilon is not.
    return max(0.0, float(accountant.get_epsilon(delta, alphas=orders)))
