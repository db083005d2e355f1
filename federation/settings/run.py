"""How a run goes: when it ends, what is kept of it, where its hospitals are simulated, what it may show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from federation.settings.section import Section


class EarlyStoppingSettings(Section):
    """When to end before the last round."""

    patience: int = Field(default=0, ge=0)
    """Evaluations in a row without a better KID on validation images after which the run ends. 0: never."""
    min_images: int = Field(default=0, ge=0)
    """Images shown, in the whole federation, before which no run is ended."""

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        if self.patience == 0:
            why = "early-stopping.patience = 0 never ends a run; set early-stopping.patience, or leave it out"
            yield from self.in_vain("early-stopping", ("min_images",), why, "early-stopping.patience")
            return
        # That of round 0 is the first that could be the best.
        every, rounds = configuration.evaluation.every, configuration.rounds
        if self.patience * every >= rounds:
            why = (
                f"so many evaluations without a better one are over in round {self.patience * every} at the earliest "
                f"(evaluation.every = {every}), and rounds = {rounds} is the end anyway; lower one of the two, or "
                "leave it out"
            )
            yield from self.in_vain("early-stopping", ("patience",), why, "evaluation.every", "rounds")


class CheckpointSettings(Section):
    """What is kept for ``--resume``."""

    every: int = Field(default=50, ge=1)
    """Rounds from one checkpoint to the next."""
    keep: int = Field(default=2, ge=2)
    """Checkpoints kept, at least 2; that of the best KID on validation images is kept beside them."""


class SimulationSettings(Section):
    """How hospitals are simulated on this machine."""

    engine: Literal["ray", "in-process"] = "ray"
    """``ray``: long-lived workers train hospitals side by side. ``in-process``: one after the other in
    this process, where a debugger can follow. Both give the same weights."""
    workers: int = Field(default=0, ge=0, le=4096)
    """Ray workers. 0: processor cores / ``training.threads``, at most one per hospital."""
    gpus_per_hospital: float = Field(default=0.0, ge=0, le=8)
    """Share of a GPU for each worker, e.g. 0.25. 0: the GPUs found are shared by the workers alike."""
    address: str = ""
    """A running Ray cluster, e.g. ``10.0.0.1:6379``, or ``auto``. Empty: this machine alone. Run directory and images
    must lie on a file system that all its machines share, under one path."""
    preflight: bool = True
    """``ray``: whether a training step is timed before the first round and its memory measured: to say how many
    hospitals fit side by side, and to refuse more."""
    fail_fast: bool = False
    """Whether the run ends when a hospital fails in spite of ``participation.retries``; otherwise the round goes on
    without it."""

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        if self.engine == "in-process":
            why = "simulation.engine = in-process has no workers; leave it out, or set simulation.engine=ray"
            fields = ("workers", "gpus_per_hospital", "address")
            yield from self.in_vain("simulation", fields, why, "simulation.engine")


class ReportSettings(Section):
    """What a run directory may show."""

    show_real_images: bool = False
    """Whether sample sheets and the report show real images; phantom images are always shown."""

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        if configuration.data.source == "phantom":
            why = "data.source = phantom has none, and its images are always shown; leave it out"
            yield from self.in_vain("report", ("show_real_images",), why, "data.source")
