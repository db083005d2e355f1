"""FedGAN: every hospital takes K local steps of generator and discriminator, the server averages both.

Rasouli, Sun and Rajagopal 2020, *FedGAN: Federated Generative Adversarial Networks for Distributed
Data*, arXiv 2006.07228, Algorithm 1: w ← Σ_i p_i w_i and θ ← Σ_i p_i θ_i with p_i = n_i / Σ_j n_j.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from federation.exchange import ARRAYS, CONFIG, NUM_EXAMPLES, SERVER_ROUND, arrays_of, metrics_of
from strategies.weighted_mean import WeightedMean, WeightedMeanOfMetrics


class FedGAN(FedAvg):
    """Weighted average of generator, discriminator and running average, by number of training images.

    The running average of the generator is averaged by the same rule, since it is what is judged.
    Optimiser moments are never sent: they stay at the hospital.

    Costs, per hospital and round, the three networks once down and once up; at the server memory for one
    sum in float64, however many hospitals there are. Reveals to the server each hospital's weights and
    number of images.
    """

    def __init__(self) -> None:
        # The server's loop decides who takes part and how many replies a round needs.
        super().__init__(
            min_train_nodes=1,
            min_available_nodes=1,
            weighted_by_key=NUM_EXAMPLES,
            arrayrecord_key=ARRAYS,
            configrecord_key=CONFIG,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for every node of the grid, all with one ArrayRecord.

        Flower's own version samples nodes with the process's global random numbers, and builds
        messages in a way that only works inside Flower's own launcher.
        """
        config = ConfigRecord({**config, SERVER_ROUND: server_round})
        return [
            grid.create_message(
                RecordDict({ARRAYS: arrays, CONFIG: config.copy()}), MessageType.TRAIN, node_id, str(server_round)
            )
            for node_id in sorted(grid.get_node_ids())
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the weighted mean of the replies, which are read one by one and not kept.

        Parameters
        ----------
        server_round
            The round.
        replies
            Checked, and in an order of their own: that of the sum. May come while hospitals still train.
        """
        mean, metrics = WeightedMean(), WeightedMeanOfMetrics()
        for reply in replies:
            record = metrics_of(reply)
            weight = float(str(record[NUM_EXAMPLES]))
            mean.add(arrays_of(reply), weight)
            metrics.add(record, weight)
            del reply  # or the loop would hold it while it waits for the next
        return (mean.result(), metrics.result()) if mean.total else (None, None)

    def state_dict(self) -> dict[str, Any]:
        """Return what the strategy carries from round to round: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        assert not state
