"""The server's half of a strategy: how the replies of a round become the next global entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ArrayRecord, Message

from federation.config import Configuration
from federation.exchange import METRICS, NUM_EXAMPLES
from federation.models.anatomy import Anatomy
from federation.models.training import ema_decay
from federation.settings.strategy import StrategySettings
from federation.settings.training import TrainingSettings
from federation.site import Site
from strategies.strategy import Strategy
from strategies.weighted_mean import WeightedMean

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Federation:
    """What a strategy knows of the run before its first round."""

    configuration: Configuration
    trainable: frozenset[str] = frozenset()
    """Full names of the entries that optimisers move; the others are buffers and running averages."""
    class_rows: tuple[str, ...] = ()
    """Full names of entries whose first axis is the class, running averages included."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def settings(self) -> StrategySettings:
        """The options of the strategy."""
        return self.configuration.strategy

    @property
    def anatomy(self) -> Anatomy:
        """What the model is made of."""
        return self.configuration.anatomy

    @property
    def classes_alike(self) -> bool:
        """Whether training is of all classes alike, and not of each as often as there are images of it.

        So it is where hospitals show (``training.balanced-classes``) or ask for (the family's own settings) all alike;
        who draws images in the place of a hospital, or to compare hospitals, then asks for all alike too.
        """
        adversaries = self.anatomy.adversaries
        asks_alike = adversaries is not None and adversaries.asks_alike
        return asks_alike or self.configuration.balanced_over != "none"


@dataclass(frozen=True)
class Reply:
    """What one hospital sent, as one rule sees it."""

    site: str
    message: Message
    arrays: ArrayRecord
    """The entries that the rule governs."""
    extra: Arrays
    """What the rule itself asked for beside them."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The numbers that came along."""
        return {name: float(str(value)) for name, value in self.message.content.metric_records[METRICS].items()}

    @property
    def num_images(self) -> float:
        """Training images of the hospital; see :meth:`Aggregation.size_of` for its weight."""
        return self.metrics[NUM_EXAMPLES]

    def values(self) -> dict[str, np.ndarray]:
        """The entries as arrays; not to be written to."""
        return {name: array.numpy() for name, array in self.arrays.items()}


class Aggregation(Strategy):
    """A rule over the entries of some or all parts: the round's replies go in one by one, the next entries come out.

    Entries of a part are its weights, its floating-point buffers, and those of its running average.
    A rule that needs nothing but sums keeps no reply.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.settings = federation.settings
        self.sites: Mapping[str, Site] = {}
        self.server_round = 0
        self.current: Arrays = {}

    def meet(self, sites: Mapping[str, Site]) -> None:
        """Take note of who is in the federation, before the first round."""
        self.sites = sites

    def size_of(self, reply: Reply) -> float:
        """Return n_i of a reply: the hospital's images, or, balanced over the federation, its share of what is shown.

        See :mod:`federation.balance`.
        """
        site = self.sites.get(reply.site)
        return reply.num_images if site is None or not site.share else float(site.share)

    def choose(self, sites: Sequence[Site], number: int, server_round: int) -> list[Site] | None:
        """Return who takes part in a round; None leaves that to chance."""
        return None

    def outgoing(self, current: Arrays) -> dict[str, np.ndarray]:
        """Return what goes to hospitals beside the global entries, by full name."""
        return {}

    def begin(self, server_round: int, current: Arrays) -> None:
        """Open a round.

        Parameters
        ----------
        server_round
            From 1.
        current
            The global entries that the hospitals started from; not to be written to.
        """
        self.server_round, self.current = server_round, current

    def add(self, reply: Reply) -> None:
        """Take a reply. They come in the order of site names."""
        raise NotImplementedError

    def result(self) -> Mapping[str, np.ndarray] | ArrayRecord:
        """Return the next global entries; at least one reply was added."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what is carried from round to round; arrays that are never written to again."""
        return {}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back :meth:`state_dict`."""

    def report(self) -> dict[str, float]:
        """Return figures for a run's summary."""
        return {}


class WeightedAverage(Aggregation):
    """x ← Σ_i n_i x_i / Σ_i n_i over every shared entry, by number of training images: memory for one sum."""

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`Aggregation`."""
        super().begin(server_round, current)
        self._mean = WeightedMean()

    def weight_of(self, reply: Reply) -> float:
        """Return n_i."""
        return self.size_of(reply)

    def add(self, reply: Reply) -> None:
        """See :class:`Aggregation`."""
        self._mean.add(reply.arrays, self.weight_of(reply))

    def result(self) -> Mapping[str, np.ndarray] | ArrayRecord:
        """See :class:`Aggregation`."""
        return self._mean.result()


class CollectingAggregation(Aggregation):
    """A rule that needs all replies at once: memory for all of them."""

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`Aggregation`."""
        super().begin(server_round, current)
        self.replies: list[Reply] = []

    def add(self, reply: Reply) -> None:
        """See :class:`Aggregation`."""
        self.replies.append(reply)

    def result(self) -> Mapping[str, np.ndarray] | ArrayRecord:
        """See :class:`Aggregation`."""
        replies, self.replies = self.replies, []
        return self.combine(replies)

    def combine(self, replies: list[Reply]) -> Mapping[str, np.ndarray] | ArrayRecord:
        """Return the next global entries."""
        raise NotImplementedError


def weighted_average(replies: Iterable[Reply], weights: Iterable[float]) -> ArrayRecord:
    """Return Σ_i w_i x_i / Σ_i w_i; each weight above 0."""
    mean = WeightedMean()
    for reply, weight in zip(replies, weights, strict=True):
        mean.add(reply.arrays, weight)
    return mean.result()


class ServerEMA:
    """Running averages that the server itself moves.

    A hospital's average follows its own weights step by step. Where the server takes a step of its own, an average
    of those averages follows weights that nobody has; so the server moves it towards its own weights, once a
    round, by as much as the round's images would have: half-life and ramp are those of ``training``.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self._settings = settings
        self.images_shown = 0.0
        """At one hospital, on average."""

    def decay(self, num_images: float) -> float:
        """Count a round's images at one hospital; return how much of the old average stays."""
        self.images_shown += num_images
        return ema_decay(self._settings, num_images, self.images_shown)


class ServerStep(Aggregation):
    """A rule in which the server takes a step of its own: on trained weights alone, and it keeps averages itself.

    Buffers, which nothing trains, are averaged by number of images.
    """

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._ema = ServerEMA(federation.configuration.training)
        self._leaders = federation.anatomy.averages

    def begin(self, server_round: int, current: Arrays) -> None:
        """See :class:`Aggregation`."""
        super().begin(server_round, current)
        self._buffers = WeightedMean()
        self._images = self._weights = 0.0

    def add(self, reply: Reply) -> None:
        """See :class:`Aggregation`."""
        size = self.size_of(reply)
        self._buffers.add(self._select(reply, trained=False), size)
        self._images += size * reply.metrics["num-images"]
        self._weights += size
        self.add_trained(reply, self._select(reply, trained=True))

    def _select(self, reply: Reply, *, trained: bool) -> ArrayRecord:
        chosen = ArrayRecord()
        for name, array in reply.arrays.items():
            if (name in self.federation.trainable) == trained and self.source_of(name) is None:
                chosen[name] = array
        return chosen

    def source_of(self, name: str) -> str | None:
        """Return the entry that an entry of a running average follows; None for other entries."""
        part, dot, rest = name.partition(".")
        return self._leaders[part] + dot + rest if part in self._leaders else None

    def add_trained(self, reply: Reply, arrays: ArrayRecord) -> None:
        """Take a reply's trained weights."""
        raise NotImplementedError

    def step(self) -> dict[str, np.ndarray]:
        """Return the next trained weights, float64."""
        raise NotImplementedError

    def result(self) -> Mapping[str, np.ndarray]:
        """See :class:`Aggregation`."""
        found = {name: array.numpy() for name, array in self._buffers.result().items()}
        found |= {name: value.astype(self.current[name].dtype) for name, value in self.step().items()}
        decay = self._ema.decay(self._images / self._weights)
        for name, average in self.current.items():
            source = self.source_of(name)
            if source is None:
                continue
            if source in self.federation.trainable:
                found[name] = (decay * average.astype(np.float64) + (1 - decay) * found[source]).astype(average.dtype)
            else:
                found[name] = found[source]  # buffers, as a model's own average has them
        return found

    def state_dict(self) -> dict[str, np.ndarray]:
        """See :class:`Aggregation`."""
        return {"images-shown": np.array(self._ema.images_shown)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """See :class:`Aggregation`."""
        self._ema.images_shown = float(state["images-shown"])
