"""What UA-GAN and MD-GAN share: every hospital has a discriminator of its own, and the server trains G against all.

In the papers hospitals judge the server's images step by step and send back logits or gradients; here they send their
discriminators, once a round, and the server computes the same: simulations alone, as it holds what is private.

What a hospital's logit says of an image also says how often the class is shown there. D_j learns from real (x, y) of
density p_j(y) P_j(x | y), p_j(y) how often a real image of a batch is of class y, and from generated ones of density
u_j(y) G(x | y); under the logistic loss it is best (Goodfellow et al. 2014, arXiv 1406.2661, Proposition 1) at
l_j = log P_j(x | y) / G(x | y) + log p_j(y) / u_j(y). Hospitals ask for the classes of their real images (u_j = p_j),
and the last term is 0; with ``stylegan2.fake-labels`` = uniform it is not, and differs between hospitals: those to whom
a class is rare find every image of it generated. There the server takes it off (:meth:`label_offsets`), so that
l_j = log P_j / G compares images alone. (With other losses than the logistic both strategies are refused.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import Tensor, nn

from federation.exchange import pack_arrays
from federation.models import GenerativeModel
from federation.models.anatomy import Anatomy
from federation.models.initial import build_initial_model
from federation.settings.strategy import StrategySettings
from federation.sharing import load_tensors, named_tensors
from strategies.aggregation import Arrays, Federation
from strategies.server_trained import ServerTrainedGenerator

_OF = "of/"


class DiscriminatorEnsemble(ServerTrainedGenerator):
    """Keeps the hospitals' discriminators by name and sends each its own."""

    @classmethod
    def private(cls, settings: StrategySettings, anatomy: Anatomy) -> tuple[str, ...]:
        """Return the critic: a hospital's own, though it is carried to the server and back."""
        return (anatomy.adversaries.critic,) if anatomy.adversaries else ()

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self.discriminators: dict[str, dict[str, np.ndarray]] = {}
        """By hospital; each starts from the same."""

    def discriminator_of(self, site: str) -> dict[str, np.ndarray]:
        """Return the discriminator that a hospital trains next."""
        if site not in self.discriminators:
            model = build_initial_model(self.federation.configuration)
            critic = self.adversaries.critic
            entries = named_tensors({critic: model.networks[critic]})
            self.discriminators[site] = {name: value.detach().numpy() for name, value in entries.items()}
        return self.discriminators[site]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send each hospital the generator and its discriminator."""
        self._current = arrays
        generator = self.sent(self.current)
        return self.messages(
            grid,
            server_round,
            config,
            lambda node_id: pack_arrays(generator | self.discriminator_of(self._sites[node_id])),
        )

    def take(self, site: str, arrays: Arrays) -> None:
        """See :class:`ServerTrainedGenerator`."""
        self.discriminators[site] = {name: np.array(value) for name, value in arrays.items()}

    def networks_of(self, model: GenerativeModel, names: Sequence[str]) -> list[nn.Module]:
        """Return the discriminators of these hospitals as networks."""
        found = []
        for name in names:
            network = copy.deepcopy(model.networks[self.adversaries.critic]).requires_grad_(False)
            load_tensors({self.adversaries.critic: network}, self.discriminators[name])
            found.append(network)
        return found

    def label_offsets(self, counts: Tensor) -> Tensor:
        """Return log u_j(y) − log p_j(y), which makes of a best logit log P_j(x | y) / G(x | y).

        Parameters
        ----------
        counts
            Images of each class at each hospital, (hospitals, classes).

        Returns
        -------
        float64 of the same shape. 0 where hospitals ask for the classes that they show, and for a class that a
        hospital does not hold: nobody asks it about that.
        """
        if not self.adversaries.asks_alike:
            return torch.zeros_like(counts)
        held = counts > 0
        shown = self.shown_odds(counts)
        # They ask for all classes alike, also for those that they do not hold.
        ratios = shown.sum(dim=1, keepdim=True) / (counts.shape[1] * shown)
        return torch.where(held, ratios, torch.ones_like(ratios)).log()

    def state_dict(self) -> dict[str, np.ndarray]:
        """See :class:`ServerTrainedGenerator`."""
        kept = {
            f"{_OF}{site}/{name}": value
            for site, arrays in self.discriminators.items()
            for name, value in arrays.items()
        }
        return super().state_dict() | kept

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """See :class:`ServerTrainedGenerator`."""
        super().load_state_dict(state)
        self.discriminators = {}
        for key, value in state.items():
            if key.startswith(_OF):
                site, name = key[len(_OF) :].rsplit("/", 1)
                assert name.startswith(self.adversaries.critic + ".")
                self.discriminators.setdefault(site, {})[name] = value
