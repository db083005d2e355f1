"""What the server's loop talks to: messages to hospitals, and their replies handed to the rules that govern them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from federation.exchange import ARRAYS, CONFIG, NUM_EXAMPLES, SERVER_ROUND, arrays_of, metrics_of, pack_arrays
from federation.sharing import OWN
from federation.site import Site
from strategies.aggregation import Aggregation, Reply
from strategies.weighted_mean import WeightedMeanOfMetrics


@dataclass(frozen=True, eq=False)
class Governed:
    """A rule and the parts of the model that it governs."""

    parts: tuple[str, ...]
    """Names of parts, running averages among them. Empty: all that there are."""
    rule: Aggregation

    def governs(self, name: str) -> bool:
        """Whether the entry or the rule's own array of this name is of these parts."""
        return not self.parts or any(part in self.parts for part in name.split(".")[:2])


class FederatedStrategy(FedAvg):
    """One rule for all parts of the model, or one for each network.

    Parameters
    ----------
    parts
        Rules; the parts that they govern do not overlap.
    """

    def __init__(self, parts: Sequence[Governed]) -> None:
        # The server's loop decides who takes part and how many replies a round needs.
        super().__init__(
            min_train_nodes=1,
            min_available_nodes=1,
            weighted_by_key=NUM_EXAMPLES,
            arrayrecord_key=ARRAYS,
            configrecord_key=CONFIG,
        )
        self.parts = tuple(parts)
        self.own: dict[str, dict[str, np.ndarray]] = {}
        """Of each hospital that sent them in the round: what is its own of the parts that draw."""
        self._sites: dict[int, str] = {}
        self._given: set[Governed] = set()
        self._current: ArrayRecord | None = None

    def meet(self, sites: Sequence[Site]) -> None:
        """Take note of who is in the federation, before the first round."""
        self._sites = {site.node_id: site.name for site in sites}
        for part in self.parts:
            part.rule.meet({site.name: site for site in sites})

    def choose_sites(self, sites: Sequence[Site], number: int, server_round: int) -> list[Site] | None:
        """Return who takes part in a round, in the order of names; None leaves that to chance."""
        for part in self.parts:
            chosen = part.rule.choose(sites, number, server_round)
            if chosen is not None:
                return sorted(chosen, key=lambda site: site.name)
        return None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for every node of the grid, all with one ArrayRecord.

        Flower's own version samples nodes with the process's global random numbers, and builds
        messages in a way that only works inside Flower's own launcher.
        """
        self._current = arrays
        current = {name: array.numpy() for name, array in arrays.items()} if self._sends_more() else {}
        extra: dict[str, np.ndarray] = {}
        for part in self.parts:
            extra |= part.rule.outgoing({name: value for name, value in current.items() if part.governs(name)})
        record = pack_arrays(current | extra) if extra else arrays
        return self.messages(grid, server_round, config, lambda node_id: record)

    def _sends_more(self) -> bool:
        return any(type(part.rule).outgoing is not Aggregation.outgoing for part in self.parts)

    @staticmethod
    def messages(
        grid: Grid, server_round: int, config: ConfigRecord, record_for: Callable[[int], ArrayRecord]
    ) -> list[Message]:
        """Return messages that ask every node of the grid to train, each with settings of its own."""
        config = ConfigRecord({**config, SERVER_ROUND: server_round})
        return [
            grid.create_message(
                RecordDict({ARRAYS: record_for(node_id), CONFIG: config.copy()}),
                MessageType.TRAIN,
                node_id,
                str(server_round),
            )
            for node_id in sorted(grid.get_node_ids())
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next global entries and the mean of the numbers that came along.

        Parameters
        ----------
        server_round
            The round.
        replies
            Checked, in the order of site names. May come while hospitals still train.
        """
        self.own = {}
        metrics = WeightedMeanOfMetrics()
        has_begun = False
        for message in replies:
            if not has_begun:  # the first reply comes after the round was configured
                self.begin(server_round, self._current or ArrayRecord())
                has_begun = True
            self.add(message)
            record = metrics_of(message)
            metrics.add(record, float(str(record[NUM_EXAMPLES])))
            del message  # or the loop would hold it while it waits for the next
        return (self.result(), metrics.result()) if has_begun else (None, None)

    @property
    def current(self) -> dict[str, np.ndarray]:
        """The global entries that the round started from; not to be written to."""
        return {name: array.numpy() for name, array in (self._current or {}).items()}

    def begin(self, server_round: int, current: ArrayRecord) -> None:
        """Open a round."""
        self._given = set()
        for part in self.parts:
            part.rule.begin(
                server_round, {name: array.numpy() for name, array in current.items() if part.governs(name)}
            )

    def add(self, message: Message) -> None:
        """Hand a reply's entries to the rules that govern them."""
        record = arrays_of(message)
        site = self.site_of(message)
        own = {name[len(OWN) :]: array.numpy() for name, array in record.items() if name.startswith(OWN)}
        if own:
            self.own[site] = own
        current = record if self._current is None else self._current
        if len(self.parts) == 1 and len(record) == len(current) and not own:
            # Nothing but global entries, in one piece of memory if it is a record of ours.
            self._given.add(self.parts[0])
            self.parts[0].rule.add(Reply(site, message, record, {}))
            return
        for part in self.parts:
            arrays, extra = ArrayRecord(), {}
            for name, array in record.items():
                if name.startswith(OWN) or not part.governs(name):
                    continue
                if name in current:
                    arrays[name] = array
                else:
                    extra[name] = array.numpy()
            if arrays or extra:
                self._given.add(part)
                part.rule.add(Reply(site, message, arrays, extra))

    def site_of(self, message: Message) -> str:
        """Return the hospital that a reply is from."""
        node_id = message.metadata.src_node_id
        return self._sites.get(node_id, f"node {node_id}")

    def result(self) -> ArrayRecord:
        """Return the next global entries; those that no reply held stay."""
        # A network of which nothing is shared gives its rule nothing to do.
        results = [part.rule.result() for part in self.parts if part in self._given]
        current = ArrayRecord() if self._current is None else self._current
        if len(results) == 1 and isinstance(results[0], ArrayRecord) and len(results[0]) >= len(current):
            return results[0]
        found: dict[str, np.ndarray] = {name: array.numpy() for name, array in current.items()}
        for result in results:
            found |= (
                {name: array.numpy() for name, array in result.items()}
                if isinstance(result, ArrayRecord)
                else dict(result)
            )
        # Sums of arrays without axes are numpy's scalars.
        return pack_arrays({name: np.asarray(value) for name, value in found.items()})

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what is carried from round to round: arrays that are never written to again."""
        return {
            f"{number}/{name}": value
            for number, part in enumerate(self.parts)
            for name, value in part.rule.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back :meth:`state_dict`."""
        for number, part in enumerate(self.parts):
            prefix = f"{number}/"
            own = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
            if own:
                part.rule.load_state_dict(own)

    def report(self) -> dict[str, Any]:
        """Return figures of the strategy for a run's summary."""
        return {name: value for part in self.parts for name, value in part.rule.report().items()}
