"""How well a simulation's workers were used, and which hospitals were asked in vain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.serverapp import Grid

from federation.engine.grid import SimulationGrid
from server.training_round import TrainingRound


class EngineUse:
    """Adds up, over the rounds of this process, how busy the workers were."""

    def __init__(self) -> None:
        self._round_seconds = 0.0
        self._bound_seconds = 0.0
        self._busy_seconds: list[float] = []

    def add_round(self, training: TrainingRound, seconds: float, grid: Grid) -> None:
        """Add a round that took `seconds`, from the first message to the new networks."""
        if not isinstance(grid, SimulationGrid):
            return
        workloads = grid.workloads()
        self._round_seconds += seconds
        self._bound_seconds += training.bound_seconds(max(1, len(workloads)))
        self._busy_seconds = [workload.busy_seconds for workload in workloads]

    def summary(self) -> dict[str, Any] | None:
        """Return figures of the rounds that this process ran; None where there were none, or at real sites.

        ``share_of_bound`` is the least time that so many workers need for these hospitals, max(max_i t_i, Σ_i t_i / W)
        summed over rounds, divided by the time that the rounds took.
        """
        if not self._round_seconds:
            return None
        return {
            "workers": max(1, len(self._busy_seconds)),
            "utilisation": [busy / self._round_seconds for busy in self._busy_seconds],
            "bound_seconds": self._bound_seconds,
            "round_seconds": self._round_seconds,
            "share_of_bound": self._bound_seconds / self._round_seconds,
        }

    def sentence(self) -> str:
        """Return the same for a person; empty where there is nothing to say."""
        found = self.summary()
        if found is None or not found["utilisation"]:
            return ""
        busy = ", ".join(f"{share:.0%}" for share in found["utilisation"])
        return f"workers: {busy} of the rounds' time busy; {found['share_of_bound']:.1%} of the bound"


def count_left_out(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Count, by hospital and status, the rounds in which it was asked in vain."""
    counts: dict[str, Counter[str]] = {}
    for line in lines:
        if line["status"] != "ok":
            counts.setdefault(line["site"], Counter())[line["status"]] += 1
    return {site: dict(counts[site]) for site in sorted(counts)}


def describe_left_out(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return a line that names the hospitals; empty where there are none."""
    named = [
        f"{site} ({', '.join(f'{status} {number}x' for status, number in sorted(by_status.items()))})"
        for site, by_status in counts.items()
    ]
    return f"left out: {', '.join(named)}" if named else ""
