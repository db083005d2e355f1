"""The hospital's half of a strategy: what it asks for beyond local steps, and what it sends beyond weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from federation.batch import Batch
from federation.models import GenerativeModel
from federation.models.anatomy import Anatomy
from federation.settings.strategy import StrategySettings
from federation.sharing import trained_names

Tensors = Mapping[str, Tensor]


class LocalImages(Protocol):
    """A hospital's own training images."""

    def __len__(self) -> int: ...

    def sample_distinct(self, generator: torch.Generator, count: int) -> Batch:
        """Return `count` different images, at most all."""


class LocalRule:
    """Nothing beyond: all is trained that is to be trained, and what is shared is sent.

    Parameters
    ----------
    settings
        The options of the strategy.
    anatomy
        Of the model.
    governed
        The trained parts that it is the strategy of; None: all.
    """

    critic_only = False
    """Whether the generator stays as it is."""
    corrects = False
    """Whether gradients are changed."""

    def __init__(self, settings: StrategySettings, anatomy: Anatomy, governed: Sequence[str] | None = None) -> None:
        self.settings = settings
        self.anatomy = anatomy
        self.governed = anatomy.trained if governed is None else tuple(governed)

    def down(self, shared: Tensors, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Return what must arrive: names, shapes and types; entries of networks are loaded into them.

        `shared` are the entries that the sharing policy shares.
        """
        return dict(shared)

    def up(self, shared: Tensors, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Return what is sent. Before training, or at the server, values mean nothing, names and shapes do."""
        return dict(shared)

    def of_mine(self, shared: Tensors, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Return the shared entries of the governed parts that an optimiser moves."""
        trained = trained_names(networks, self.anatomy)
        return {
            name: value for name, value in shared.items() if name in trained and name.split(".")[0] in self.governed
        }

    def begin(self, model: GenerativeModel, shared: Tensors, arrived: Tensors, state: Tensors) -> None:
        """Open a round: the global entries are loaded.

        Parameters
        ----------
        model
            To be trained.
        shared
            The entries that the policy shares.
        arrived
            What came beside the entries of the networks.
        state
            What :meth:`state` returned in the last round that counted; empty in the first.
        """

    def correct(self, network: str, module: nn.Module) -> None:
        """Change the gradients of a network before they move it."""

    def end(self, model: GenerativeModel, dataset: LocalImages, stream: torch.Generator) -> dict[str, float]:
        """Close a round: the model is trained. Return numbers for the server."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return what stays at the hospital for the next round."""
        return {}


class LocalRules(LocalRule):
    """The rules of both networks, where each has its own."""

    def __init__(self, settings: StrategySettings, anatomy: Anatomy, rules: Sequence[LocalRule]) -> None:
        super().__init__(settings, anatomy)
        self.rules = tuple(rules)
        self.corrects = any(rule.corrects for rule in rules)

    def down(self, shared: Tensors, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """See :class:`LocalRule`."""
        found = dict(shared)
        for rule in self.rules:
            found |= rule.down(shared, networks)
        return found

    def up(self, shared: Tensors, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """See :class:`LocalRule`."""
        found = dict(shared)
        for rule in self.rules:
            found |= rule.up(shared, networks)
        return found

    def begin(self, model: GenerativeModel, shared: Tensors, arrived: Tensors, state: Tensors) -> None:
        """See :class:`LocalRule`."""
        for rule in self.rules:
            rule.begin(model, shared, arrived, state)

    def correct(self, network: str, module: nn.Module) -> None:
        """See :class:`LocalRule`."""
        for rule in self.rules:
            if network in rule.governed:
                rule.correct(network, module)

    def end(self, model: GenerativeModel, dataset: LocalImages, stream: torch.Generator) -> dict[str, float]:
        """See :class:`LocalRule`."""
        found: dict[str, float] = {}
        for rule in self.rules:
            found |= rule.end(model, dataset, stream)
        return found

    def state(self) -> dict[str, Tensor]:
        """See :class:`LocalRule`."""
        return {name: value for rule in self.rules for name, value in rule.state().items()}


class CriticOnly(LocalRule):
    """The hospital trains its critic against a generator that the server trains; only the former is sent."""

    critic_only = True

    def down(self, shared: Tensors, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Both networks; running averages are the server's alone."""
        return {
            f"{part}.{name}": value
            for part in self.anatomy.trained
            for name, value in networks[part].state_dict().items()
            if value.is_floating_point()
        }

    def up(self, shared: Tensors, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """The critic."""
        assert self.anatomy.adversaries is not None
        critic = self.anatomy.adversaries.critic + "."
        return {name: value for name, value in self.down(shared, networks).items() if name.startswith(critic)}
