"""FedDyn: a regulariser that every hospital adapts, so that the hospitals' optima and the federation's agree.

Acar et al. 2021, *Federated Learning Based on Dynamic Regularization*, arXiv 2111.04263, Algorithm 1: hospital i
minimises F_i(w) − ⟨h_i, w⟩ + α/2 ‖w − w_t‖², then h_i ← h_i − α (w_i − w_t); the server
h ← h − α / m Σ_{i in S} (w_i − w_t) over all m hospitals, w ← mean of w_i − h / α.

Deviations: gradients are changed before Adam, whose steps do not shrink with them, so that h can outgrow what
hospitals' own terms hold back; buffers are averaged by number of images; the server keeps the EMA itself
(:class:`strategies.aggregation.ServerEMA`).

Costs what FedGAN costs; at a hospital two more copies of the trained weights, one of which stays on disk; at the
server one for h, in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from federation.models import GenerativeModel
from strategies.aggregation import Arrays, Federation, Reply, ServerStep
from strategies.local_rule import LocalImages, LocalRule, Tensors
from strategies.weighted_mean import WeightedMean


class FedDynLocally(LocalRule):
    """The hospital's half."""

    corrects = True

    def begin(self, model: GenerativeModel, shared: Tensors, arrived: Tensors, state: Tensors) -> None:
        """Remember w_t; take h_i from the last round, 0 in the first."""
        self._parameters = self.of_mine(shared, model.networks)
        self._start = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._h = {
            name: state[name].to(value.device) if name in state else torch.zeros_like(value)
            for name, value in self._parameters.items()
        }

    def correct(self, network: str, module: nn.Module) -> None:
        """Add the regulariser's gradient: g ← g − h_i + α (w − w_t)."""
        for name, parameter in module.named_parameters():
            key = f"{network}.{name}"
            if key in self._start and parameter.grad is not None:
                parameter.grad -= self._h[key]
                parameter.grad.add_(parameter.detach() - self._start[key], alpha=self.settings.dynamic_alpha)

    def end(self, model: GenerativeModel, dataset: LocalImages, stream: torch.Generator) -> dict[str, float]:
        """h_i ← h_i − α (w_i − w_t)."""
        alpha = self.settings.dynamic_alpha
        self._h = {
            name: h - alpha * (self._parameters[name].detach() - self._start[name]) for name, h in self._h.items()
        }
        return {}

    def state(self) -> dict[str, Tensor]:
        """h_i."""
        return self._h


class FedDyn(ServerStep):
    """The server's half."""

    options = ("dynamic_alpha",)
    local = FedDynLocally

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._h: dict[str, np.ndarray] = {}

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`ServerStep`."""
        super().begin(server_round, current)
        self._mean = WeightedMean()
        self._num_replies = 0

    def add_trained(self, reply: Reply, arrays: ArrayRecord) -> None:
        """Sum up w_i, every hospital alike."""
        self._mean.add(arrays, 1.0)
        self._num_replies += 1

    def step(self) -> dict[str, np.ndarray]:
        """See the module."""
        alpha = self.settings.dynamic_alpha
        share = self._num_replies / max(len(self.sites), self._num_replies)
        means = self._mean.means()
        self._h = {
            name: self._h.get(name, 0.0) - alpha * share * (mean - self.current[name]) for name, mean in means.items()
        }
        return {name: mean - self._h[name] / alpha for name, mean in means.items()}

    def state_dict(self) -> dict[str, np.ndarray]:
        """See :class:`ServerStep`."""
        return super().state_dict() | {f"h/{name}": value for name, value in self._h.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """See :class:`ServerStep`."""
        super().load_state_dict(state)
        self._h = {name.removeprefix("h/"): value for name, value in state.items() if name.startswith("h/")}
