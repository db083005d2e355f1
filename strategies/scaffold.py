"""SCAFFOLD: control variates take out of each hospital's steps what is its own drift.

Karimireddy et al. 2020, *SCAFFOLD: Stochastic Controlled Averaging for Federated Learning*, arXiv 1910.06378,
Algorithm 1, with control variates c of the server and c_i of hospital i: locally K steps w ← w − η_l (g − c_i + c);
c_i⁺ by Option II, c_i − c + (w_t − w_i) / (K η_l); at the server w ← w_t + η_g mean(w_i − w_t) and
c ← c + |S| / m mean(c_i⁺ − c_i) over those S of all m hospitals that reply.

Under plain SGD, Option II is the mean of the K gradients g, and so it is taken here: that holds for Adam too, whose
updates are no gradients. Deviations: the correction comes before Adam; buffers are averaged by number of images; the
EMA is averaged as w is with η_g = 1, and kept by the server with any other (:class:`strategies.aggregation.ServerEMA`).

Costs twice the bytes of the trained weights each way; at a hospital three more copies of them, one of which stays on
disk; at the server one for c, in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from federation.arrays import Array
from federation.models import GenerativeModel
from strategies.aggregation import Arrays, Federation, Reply, ServerStep
from strategies.local_rule import LocalImages, LocalRule, Tensors
from strategies.weighted_mean import WeightedMean

_CONTROL = "control."


class ScaffoldLocally(LocalRule):
    """The hospital's half."""

    corrects = True
    _change: Mapping[str, Tensor] = {}

    def down(self, shared: Tensors, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """The global entries and c."""
        mine = self.of_mine(shared, networks)
        return dict(shared) | {_CONTROL + name: torch.zeros_like(value) for name, value in mine.items()}

    def up(self, shared: Tensors, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """The local entries and c_i⁺ − c_i."""
        mine = self.of_mine(shared, networks)
        change = self._change or {name: torch.zeros_like(value) for name, value in mine.items()}
        return dict(shared) | {_CONTROL + name: change[name] for name in mine}

    def begin(self, model: GenerativeModel, shared: Tensors, arrived: Tensors, state: Tensors) -> None:
        """Take c; take c_i from the last round, 0 in the first."""
        mine = self.of_mine(shared, model.networks)
        self._own = {
            name: state[name].to(value.device) if name in state else torch.zeros_like(value)
            for name, value in mine.items()
        }
        self._correction = {
            name: arrived[_CONTROL + name].to(value.device) - self._own[name] for name, value in mine.items()
        }
        self._gradients = {name: torch.zeros_like(value) for name, value in mine.items()}
        self._num_steps = dict.fromkeys(self.governed, 0)

    def correct(self, network: str, module: nn.Module) -> None:
        """Correct the gradient: g ← g − c_i + c."""
        self._num_steps[network] += 1
        for name, parameter in module.named_parameters():
            key = f"{network}.{name}"
            if key in self._gradients and parameter.grad is not None:
                self._gradients[key] += parameter.grad
                parameter.grad += self._correction[key]

    def end(self, model: GenerativeModel, dataset: LocalImages, stream: torch.Generator) -> dict[str, float]:
        """c_i⁺ is the mean gradient."""
        new = {name: total / self._num_steps[name.split(".")[0]] for name, total in self._gradients.items()}
        self._change = {name: value - self._own[name] for name, value in new.items()}
        self._own = new
        return {}

    def state(self) -> dict[str, Tensor]:
        """c_i."""
        return self._own


class Scaffold(ServerStep):
    """The server's half."""

    told = "its mean gradient"
    shown = "a mean, and the mean of the mean gradients"
    options = ("server_learning_rate",)
    local = ScaffoldLocally

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._control: dict[str, np.ndarray] = {}

    def outgoing(self, current: Arrays) -> dict[str, np.ndarray]:
        """c, 0 at first."""
        for name, value in current.items():
            if name in self.federation.trainable and name not in self._control:
                self._control[name] = np.zeros_like(value)
        return {_CONTROL + name: self._control[name] for name in current if name in self._control}

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`ServerStep`."""
        super().begin(server_round, current)
        self._mean, self._averages, self._changes = WeightedMean(), WeightedMean(), WeightedMean()
        self._num_replies = 0

    def add(self, reply: Reply) -> None:
        """See :class:`ServerStep`."""
        super().add(reply)
        averages = ArrayRecord()
        for name, array in reply.arrays.items():
            if self.source_of(name) in self.federation.trainable:
                averages[name] = array
        self._averages.add(averages, 1.0)

    def add_trained(self, reply: Reply, arrays: ArrayRecord) -> None:
        """Sum up w_i and c_i⁺ − c_i, every hospital alike."""
        self._mean.add(arrays, 1.0)
        changes = ArrayRecord()
        for name, value in reply.extra.items():
            changes[name] = Array(value)
        self._changes.add(changes, 1.0)
        self._num_replies += 1

    def step(self) -> dict[str, np.ndarray]:
        """Return w_t + η_g mean(w_i − w_t); c ← c + |S| / m mean(c_i⁺ − c_i)."""
        share = self._num_replies / max(len(self.sites), self._num_replies)
        self._control = {
            name: np.asarray(self._control[name] + share * change, dtype=self._control[name].dtype)
            for name, change in (
                (name.removeprefix(_CONTROL), change) for name, change in self._changes.means().items()
            )
        }
        rate = self.settings.server_learning_rate or 1.0
        means = self._mean.means()
        if rate == 1.0:
            return means
        return {name: self.current[name] + rate * (mean - self.current[name]) for name, mean in means.items()}

    def result(self) -> Mapping[str, np.ndarray]:
        """See :class:`ServerStep`; with η_g = 1 the server moves nothing of its own."""
        found = dict(super().result())
        if (self.settings.server_learning_rate or 1.0) == 1.0:
            found |= {name: array.numpy() for name, array in self._averages.result().items()}
        return found

    def state_dict(self) -> dict[str, np.ndarray]:
        """See :class:`ServerStep`."""
        return super().state_dict() | {_CONTROL + name: value for name, value in self._control.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """See :class:`ServerStep`."""
        super().load_state_dict(state)
        self._control = {
            name.removeprefix(_CONTROL): value for name, value in state.items() if name.startswith(_CONTROL)
        }
