"""What a family of models is made of, known from settings alone: before anything is built, or sent.

A generative model is a few named networks. Strategies, judge and export ask what a part *is* (trained, a running
average, what images are drawn with) and never what it is called.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["trained", "average", "state", "frozen"]


@dataclass(frozen=True)
class Part:
    """One named network. Its name is the prefix of its entries on the wire (``generator.…``)."""

    kind: Kind
    """``trained``: an optimiser moves it. ``average``: the running average of a trained part. ``state``: what training
    carries from step to step, beside weights. ``frozen``: nobody changes it."""
    of: str = ""
    """Of an average: the trained part that it follows. It is private where that is, and moved by the server with it."""
    draws: bool = False
    """Whether images are drawn with it: it is judged, exported, mixed, or a hospital's own."""

    def __post_init__(self) -> None:
        assert (self.kind == "average") == bool(self.of)


@dataclass(frozen=True)
class Loss:
    """A number that training says of itself, of every step."""

    least: float = -math.inf
    """What it cannot fall below; -inf where it can be negative, as a log-likelihood is."""
    column: str = ""
    """Heading of its column in the line of a round; empty: it has none."""


@dataclass(frozen=True)
class Adversaries:
    """Who plays against whom, in a family whose two networks can be trained in different places."""

    generator: str
    """Name of the trained part that draws."""
    critic: str
    """Name of the trained part that judges."""
    asks_alike: bool = False
    """Whether the generator is asked for all classes alike, and not as often as there are images of them."""
    apart: tuple[str, ...] = ()
    """What cannot be while the two are trained in different places, the critic at hospitals and the generator at the
    server: a sentence each."""


@dataclass(frozen=True)
class Anatomy:
    """A family of models under given settings."""

    parts: Mapping[str, Part]
    """By name, in the order of the wire."""
    losses: Mapping[str, Loss]
    """What every step says, by name, in the order in which they are shown. Those that begin with ``loss-`` count as
    losses in reports."""
    objective: str
    """The loss that a strategy weighs hospitals by, unless it is told another."""
    evaluations: float
    """Passes of an image through a network in a training step, for each image of the batch: what a budget counts."""
    steadier: str = ""
    """What of the family's own settings to change where a loss is no longer finite, e.g. ``raise stylegan2.gamma``."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Layers by what they do, as patterns of names: ``normalisation`` (what sets the scale of channels), ``mapping``
    (what turns the latent into what the rest is told) and ``styles`` (what makes scales of channels of it)."""
    shareable_state: Mapping[str, str] = field(default_factory=dict)
    """State of training that ``strategy.averaged-state`` may name, e.g. ``ada-p``; with the setting without which there
    is none to average, or nothing where there is."""
    adversaries: Adversaries | None = None
    """None where there is no such pair."""
    paced: Mapping[str, float] = field(default_factory=dict)
    """Entries that are as they should be only once so many images were shown: by the count of the federation where it
    shares them, else by a hospital's own."""
    has_latent_space: bool = False
    """Whether the model is a :class:`federation.models.protocol.LatentSpace`."""
    membership: str = ""
    """What :meth:`federation.models.protocol.GenerativeModel.membership_scores` is, in a word; empty: there is none."""
    scoring: tuple[str, ...] = ()
    """The parts that those scores are computed with."""

    def of_kind(self, *kinds: Kind) -> tuple[str, ...]:
        """Return the names of parts of some kinds, in order."""
        return tuple(name for name, part in self.parts.items() if part.kind in kinds)

    @property
    def trained(self) -> tuple[str, ...]:
        """The parts that optimisers move."""
        return self.of_kind("trained")

    @property
    def averages(self) -> dict[str, str]:
        """Of each running average the part that it follows."""
        return {name: part.of for name, part in self.parts.items() if part.kind == "average"}

    @property
    def drawing(self) -> tuple[str, ...]:
        """The parts that images are drawn with."""
        return tuple(name for name, part in self.parts.items() if part.draws)

    @property
    def learned_to_draw(self) -> tuple[str, ...]:
        """The trained parts that images are drawn with, or with a running average of."""
        return tuple(dict.fromkeys(self.leader(name) for name in self.drawing if self.parts[name].kind != "frozen"))

    def leader(self, part: str) -> str:
        """Return the trained part that a running average follows; of another part, itself."""
        return self.parts[part].of or part

    def with_averages(self, parts: Iterable[str]) -> tuple[str, ...]:
        """Return parts and their running averages."""
        chosen = set(parts)
        return tuple(name for name in self.parts if name in chosen or self.parts[name].of in chosen)

    def follower_of(self, entry: str) -> dict[str, str]:
        """Return the entries of running averages that follow an entry, e.g. ``generator.b`` → ``generator_ema.b``."""
        part, _, rest = entry.partition(".")
        return {name: f"{name}.{rest}" for name, leader in self.averages.items() if leader == part}

    @property
    def columns(self) -> dict[str, str]:
        """The losses that the line of a round shows, and their headings."""
        return {name: loss.column for name, loss in self.losses.items() if loss.column}
