"""How the hospitals' updates are combined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from federation.settings.section import Section, split_names


class StrategySettings(Section):
    """How the hospitals' updates are combined; docs/strategies.md has each rule, its source and its cost."""

    name: str = "fedgan"
    """``fedgan`` (generator, discriminator and EMA averaged by number of images), ``fedavg``, ``fedavgm``, ``fedprox``,
    ``fedadam``, ``fedyogi``, ``fedadagrad``, ``fedmedian``, ``fedtrimmedavg``, ``krum``, ``multikrum``, ``bulyan``,
    ``geometric-median``, ``qfedavg``, ``scaffold``, ``fednova``, ``feddyn``, ``fedbn``, ``partial-sync``, ``fegan``,
    ``fed-tgan``, ``ifl-gan``, ``fedcar``, ``label-aware``, ``cap-gan``, ``effgan``, ``dp-fedavg-gan``, ``ua-gan``,
    ``md-gan``, ``centralised`` or ``alone``."""
    generator: str = ""
    """The strategy of the generator and its EMA, or ``private``. Empty: ``strategy.name``."""
    discriminator: str = ""
    """The strategy of the discriminator, or ``private``. Empty: ``strategy.name``."""
    private: str = ""
    """What stays at each hospital and is not averaged: networks, beginnings of parameter names, or patterns with
    ``*``, separated by commas, e.g. ``discriminator`` or ``generator.mapping``. Empty: all is averaged."""
    averaged_state: str = ""
    """State of training that is averaged too, separated by commas: ``ada-p``, ``path-length-mean``. Empty: it
    stays at each hospital, whose own images it belongs to. Adam's moments always stay."""
    server_learning_rate: float = Field(default=0.0, ge=0, le=100)
    """The server's step. 0: the strategy's own, 1 for ``fedavgm`` and ``scaffold``, 0.1 for ``fedadam`` and
    ``fedadagrad``, 0.01 for ``fedyogi``."""
    server_momentum: float = Field(default=0.9, gt=0, lt=1)
    """``fedavgm``: momentum of the server's steps."""
    server_beta1: float = Field(default=0.9, ge=0, lt=1)
    """``fedadam``, ``fedyogi``: decay of the mean of updates."""
    server_beta2: float = Field(default=0.99, ge=0, lt=1)
    """``fedadam``, ``fedyogi``: decay of the mean of squared updates."""
    server_tau: float = Field(default=1e-3, gt=0)
    """``fedadam``, ``fedyogi``, ``fedadagrad``: added to the root of squared updates; large is less adaptive."""
    proximal_mu: float = Field(default=0.01, ge=0)
    """``fedprox``: weight of mu / 2 times the squared distance to the global weights."""
    trim: float = Field(default=0.2, gt=0, lt=0.5)
    """``fedtrimmedavg``: share of the hospitals cut off at either end, for each weight."""
    malicious: int = Field(default=1, ge=0)
    """``krum``, ``multikrum``, ``bulyan``: f, how many hospitals may be hostile."""
    selected: int = Field(default=0, ge=0)
    """``multikrum``: how many updates are averaged. 0: all but ``malicious``."""
    fairness_q: float = Field(default=0.1, ge=0)
    """``qfedavg``: hospitals with a higher loss count more by the power q. 0: all alike."""
    fairness_lipschitz: float = Field(default=1e-3, gt=0)
    """``qfedavg``: L, by which updates become gradients; 1 / learning rate for plain SGD. Adam's updates do not
    shrink with the gradient: with 1 / learning rate the norm in the denominator would stop training."""
    fairness_loss: str = "auto"
    """``qfedavg``: the loss, mean over a hospital's round, that it weights by; none that can be negative. ``auto``:
    what the family minimises, of StyleGAN2 ``loss-discriminator``."""
    dynamic_alpha: float = Field(default=0.01, gt=0)
    """``feddyn``: weight of the dynamic regulariser."""
    synchronise: str = "generator"
    """``partial-sync``: which networks are averaged; the others stay at each hospital. ``both``, ``none``,
    ``generator`` (what draws; of a VAE the decoder), ``discriminator``, or names of trained networks, separated by
    commas."""
    divergence_weight: Literal["more", "less"] = "more"
    """``fegan``: whether a hospital whose classes differ more from the federation's counts more or less."""
    weighted_networks: str = "auto"
    """``fegan``, ``fed-tgan``, ``ifl-gan``, ``fedcar``: which networks take the strategy's weights, as of
    ``synchronise``; the others are averaged by number of images. ``auto``: as published, ``both``, and ``generator``
    for ``ifl-gan``."""
    temperature: float = Field(default=1.0, ge=0.01, le=100)
    """``fed-tgan``, ``ifl-gan``, ``fedcar``: scores are divided by it before the softmax; below 1 weights differ
    more."""
    samples: int = Field(default=256, ge=32, le=4096)
    """``fedcar``: images drawn from each hospital's generator in a round."""
    personal_part: Literal["mapping", "styles"] = "mapping"
    """``cap-gan``: the part of the generator that stays at its hospital: the mapping network, or the layers that turn
    w into styles."""
    fine_tune_rounds: int = Field(default=4, ge=1)
    """``effgan``: last rounds in which hospitals train on alone."""
    generator_steps: int = Field(default=0, ge=0)
    """``dp-fedavg-gan``, ``ua-gan``, ``md-gan``: the server's steps of the generator in a round. 0: as many as
    ``training.local-steps``."""
    swap_rounds: int = Field(default=10, ge=0)
    """``md-gan``: rounds from one exchange of discriminators between hospitals to the next, fewer than ``rounds``. 0:
    never."""
    clip_norm: float = Field(default=1.0, gt=0)
    """``dp-fedavg-gan``: most that one hospital moves the discriminator in a round, as the norm of its update."""
    noise_multiplier: float = Field(default=0.0, ge=0)
    """``dp-fedavg-gan``: standard deviation of the noise over ``clip-norm``. 0: no noise, and no privacy."""
    delta: float = Field(default=1e-3, gt=0, lt=1)
    """``dp-fedavg-gan``: the delta for which epsilon is reported; below one over the number of hospitals, better well
    below."""

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        if self.fairness_q == 0:
            why = "strategy.fairness-q = 0 weighs by no loss; leave it out, or raise strategy.fairness-q"
            fields = ("fairness_loss", "fairness_lipschitz")
            yield from self.in_vain("strategy", fields, why, "strategy.fairness-q")

    @property
    def averaged_state_names(self) -> tuple[str, ...]:
        """The names in ``strategy.averaged-state``."""
        return split_names(self.averaged_state)

    @property
    def private_names(self) -> tuple[str, ...]:
        """The names in ``strategy.private``."""
        return split_names(self.private)
