"""FedGAN: every hospital takes K local steps of generator and discriminator, the server averages both.

Rasouli, Sun and Rajagopal 2020, *FedGAN: Federated Generative Adversarial Networks for Distributed
Data*, arXiv 2006.07228, Algorithm 1: w ← Σ_i p_i w_i and θ ← Σ_i p_i θ_i with p_i = n_i / Σ_j n_j.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from federation.exchange import ARRAYS, CONFIG, NUM_EXAMPLES, SERVER_ROUND


class FedGAN(FedAvg):
    """Weighted average of generator, discriminator and running average, by number of training images.

    The running average of the generator is averaged by the same rule, since it is what is judged.
    Optimiser moments are never sent: they stay at the hospital.

    Costs, per hospital and round, the three networks once down and once up. Reveals to the server
    each hospital's weights and number of images.
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
        """Return a message for every node, all with one content.

        Flower's own version samples nodes with the process's global random numbers, and builds
        messages in a way that only works inside Flower's own launcher.
        """
        content = RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord({**config, SERVER_ROUND: server_round})})
        return [
            grid.create_message(content, MessageType.TRAIN, node_id, str(server_round))
            for node_id in sorted(grid.get_node_ids())
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return what the strategy carries from round to round: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        assert not state
