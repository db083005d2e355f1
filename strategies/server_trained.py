"""What DP-FedAvg-GAN, UA-GAN and MD-GAN share: hospitals train discriminators, the server trains the generator.

Hospitals take their local steps against the generator as it came and send their discriminator; the server then takes
``strategy.generator-steps`` steps of the generator against what came, by the non-saturating logistic loss, and keeps
the EMA itself. Rounds are the turns of the two: with few local steps and as few steps of the generator they alternate
as a GAN's usual training does, with many each overtakes the other. Adam's moments of the generator are the server's.

The server asks for classes in the federation's proportions, or for all that somebody holds alike where hospitals show
them (``training.balanced-classes``) or ask for them (``stylegan2.fake-labels`` = uniform) alike. DP-FedAvg-GAN asks for
all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from torch import Tensor

from federation.config import Configuration
from federation.exchange import NUM_EXAMPLES, arrays_of, metrics_of, pack_arrays
from federation.models import GenerativeModel, build_model
from federation.models.anatomy import Anatomy
from federation.models.protocol import Adversarial
from federation.models.training import learning_rate_factor
from federation.seeding import torch_stream
from federation.sharing import load_tensors, named_tensors
from federation.site import Site
from strategies.aggregation import Arrays, Federation
from strategies.federated_strategy import FederatedStrategy
from strategies.local_rule import CriticOnly
from strategies.strategy import Strategy
from strategies.weighted_mean import WeightedMeanOfMetrics

_MODEL = "model."


class ServerTrainedGenerator(Strategy, FederatedStrategy):
    """The round: take the critics, then train the generator."""

    for_one_network = False
    counts_classes = True
    adversarial = True
    local = CriticOnly

    def __init__(self, federation: Federation) -> None:
        FederatedStrategy.__init__(self, [])
        self.federation = federation
        self.settings = federation.settings
        adversaries = federation.anatomy.adversaries
        assert adversaries is not None
        self.adversaries = adversaries
        self.members: dict[str, Site] = {}
        self._private_state: dict[str, Tensor] = {}

    @classmethod
    def problems(cls, configuration: Configuration, anatomy: Anatomy) -> Iterator[str]:
        """See :class:`strategies.strategy.Strategy`."""
        settings, name = configuration.strategy, configuration.strategy.name
        if settings.private or settings.averaged_state:
            yield f"strategy.private and strategy.averaged-state: {name} says itself what is shared; leave them out"
        if configuration.training.local_epochs > 0 and settings.generator_steps == 0:
            yield (
                "strategy.generator-steps = 0: means as many as training.local-steps, and training.local-epochs is "
                "given in its place; set strategy.generator-steps to the server's steps in a round"
            )
        assert anatomy.adversaries is not None
        yield from (f"{problem} (strategy.name = {name})" for problem in anatomy.adversaries.apart)

    def meet(self, sites: Sequence[Site]) -> None:
        """See :class:`FederatedStrategy`."""
        super().meet(sites)
        self.members = {site.name: site for site in sites}

    @property
    def batch_size(self) -> int:
        """``training.batch-size``."""
        return self.federation.configuration.training.batch_size

    def sent(self, current: Arrays) -> dict[str, np.ndarray]:
        """Return what hospitals need of the global entries: all but the running average."""
        trained = (self.adversaries.generator + ".", self.adversaries.critic + ".")
        return {name: value for name, value in current.items() if name.startswith(trained)}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See :class:`FederatedStrategy`."""
        metrics = WeightedMeanOfMetrics()
        names: list[str] = []
        for message in replies:
            if not names:
                self.open_round(server_round)
            site = self.site_of(message)
            names.append(site)
            arrays = {name: array.numpy() for name, array in arrays_of(message).items()}
            self.take(site, arrays)
            metrics.add(metrics_of(message), float(str(metrics_of(message)[NUM_EXAMPLES])))
            del message, arrays
        if not names:
            return None, None
        return pack_arrays(self.current | self.close_round(server_round, names)), metrics.result()

    def open_round(self, server_round: int) -> None:
        """Begin a round: its first reply is there."""

    def take(self, site: str, arrays: Arrays) -> None:
        """Take a hospital's discriminator."""
        raise NotImplementedError

    def close_round(self, server_round: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Train the generator; return the global entries that have changed.

        `names` are the hospitals that replied, in order.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ the generator's steps

    def build(self) -> GenerativeModel:
        """Return the model as the round found it."""
        model = build_model(self.federation.configuration, device=self.federation.device)
        load_tensors(model.networks, self.current)
        model.load_private_state(self._private_state)
        return model

    def train_generator(
        self,
        model: GenerativeModel,
        server_round: int,
        judge: Callable[[Tensor, Tensor | None], Tensor],
        odds: Tensor,
    ) -> dict[str, np.ndarray]:
        """Take the round's steps of the generator; return its entries and those of its running average.

        Parameters
        ----------
        model
            Of :meth:`build`.
        server_round
            The round.
        judge
            See :meth:`federation.models.protocol.Adversarial.train_generator`.
        odds
            (hospitals, classes): a step draws as many times ``training.batch-size`` images as there are rows, image i
            of a class by row i modulo their number.
        """
        configuration = self.federation.configuration
        training = configuration.training
        assert isinstance(model, Adversarial)
        threads = torch.get_num_threads()
        torch.set_num_threads(training.threads)
        stream = torch_stream(configuration.seed, "the server's generator steps", server_round=server_round)
        batch = self.batch_size * len(odds)
        steps = self.settings.generator_steps or training.local_steps
        for number in range(steps):
            done = (server_round - 1 + number / steps) / configuration.rounds
            model.learning_rate_factor = learning_rate_factor(training, done)
            labels = None
            if model.num_classes:
                drawn = torch.multinomial(odds, self.batch_size, replacement=True, generator=stream)
                labels = drawn.T.reshape(-1).to(self.federation.device)
            # The half-life counts images as one hospital sees them.
            model.train_generator(labels, batch, judge, stream, self.batch_size)
        torch.set_num_threads(threads)
        self._private_state = {name: value.detach().cpu().clone() for name, value in model.private_state().items()}
        moved = model.anatomy.with_averages([self.adversaries.generator])
        changed = named_tensors({name: model.networks[name] for name in moved})
        return {name: value.detach().cpu().numpy() for name, value in changed.items() if name in self.current}

    def class_counts(self, names: Sequence[str]) -> Tensor:
        """Return the images of each class at each of these hospitals, float64 (hospitals, classes)."""
        return torch.tensor([self.members[name].class_counts for name in names], dtype=torch.float64)

    def shown_odds(self, counts: Tensor) -> Tensor:
        """Return how often hospitals show each class, up to a factor a row, given their images of it."""
        balanced_over = self.federation.configuration.balanced_over
        if balanced_over == "none":
            return counts
        if balanced_over == "hospital":
            return (counts > 0).double()
        return counts / self.class_counts(list(self.members)).sum(dim=0).clamp(min=1)

    def class_odds(self, counts: Tensor) -> Tensor:
        """Return how often a class is asked for, given how many images of it there are: as often, or all alike."""
        return (counts > 0).double() if self.federation.classes_alike else counts

    # ------------------------------------------------------------------ what is carried along

    def state_dict(self) -> dict[str, np.ndarray]:
        """See :class:`FederatedStrategy`."""
        return {_MODEL + name: value.numpy() for name, value in self._private_state.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """See :class:`FederatedStrategy`."""
        self._private_state = {
            name.removeprefix(_MODEL): torch.from_numpy(np.array(value))
            for name, value in state.items()
            if name.startswith(_MODEL)
        }
