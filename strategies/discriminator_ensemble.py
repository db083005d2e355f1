"""What UA-GAN and MD-GAN share: every hospital has a discriminator of its own, and the server trains G against all.

In the papers hospitals judge the server's images step by step and send back logits or gradients; here they send their
discriminators, once a round, and the server computes the same: simulations alone, as it holds what is private.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import nn

from federation.exchange import pack_arrays
from federation.models import GenerativeModel, build_model
from federation.models.anatomy import Anatomy
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
            model = build_model(self.federation.configuration)
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
