"""FedProx: FedAvg whose hospitals are held near the global weights.

Li et al. 2020, *Federated Optimization in Heterogeneous Networks*, arXiv 1812.06127, Algorithm 2: hospital i
minimises F_i(w) + μ/2 ‖w − w_t‖². Flower's own strategy only sends μ; the term is the hospital's to add.

Deviation: the term's gradient μ (w − w_t) is added before Adam, which the paper does not use.

Costs what FedGAN costs, and at a hospital a copy of both networks.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from federation.config import Configuration
from federation.models import GenerativeModel
from federation.models.anatomy import Anatomy
from strategies.aggregation import WeightedAverage
from strategies.local_rule import LocalRule, Tensors


class FedProxLocally(LocalRule):
    """The hospital's half: the proximal term."""

    corrects = True

    def begin(self, model: GenerativeModel, shared: Tensors, arrived: Tensors, state: Tensors) -> None:
        """Remember w_t."""
        self._start: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in self.of_mine(shared, model.networks).items()
        }

    def correct(self, network: str, module: nn.Module) -> None:
        """Add the term's gradient: g ← g + μ (w − w_t)."""
        for name, parameter in module.named_parameters():
            start = self._start.get(f"{network}.{name}")
            if start is not None and parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self.settings.proximal_mu)


class FedProx(WeightedAverage):
    """The server's half: FedAvg."""

    options = ("proximal_mu",)
    local = FedProxLocally

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        if configuration.training.local_epochs == 0 and configuration.training.local_steps == 1:
            yield (
                "strategy fedprox: training.local-steps = 1 is taken from the global weights themselves, from which "
                "nothing has moved away; set training.local-steps=2 or more, or choose another strategy.name"
            )
