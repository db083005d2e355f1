"""What looks at a run after each round: to log it elsewhere, or to end it early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from federation.settings.run import EarlyStoppingSettings


@dataclass(frozen=True)
class RoundReport:
    """What a round was."""

    server_round: int
    num_rounds: int
    """Rounds that the run was started for."""
    num_images: int
    """Images shown so far, in the whole federation."""
    seconds: float
    """Duration of the run so far."""
    losses: Mapping[str, float]
    """Mean over the hospitals, weighted by their training images."""
    scores: Mapping[str, Any]
    """What the evaluation found on validation images; empty in a round that is not evaluated."""
    accepted: Sequence[str]
    """Hospitals whose replies were used, in the order of names."""
    left_out: Mapping[str, str]
    """Status of each hospital that was asked in vain: ``failed``, ``late`` or ``refused``."""
    history: Sequence[Mapping[str, Any]]
    """Lines of ``metrics.jsonl`` so far, this round's included: all evaluations from round 0."""


class RoundCallback(Protocol):
    """Called after each round; give it to :func:`server.app.run_federation`.

    It is not saved with the run: one that ends runs should decide from ``history``. A resumed run calls it for the
    first time after its next round.
    """

    def after_round(self, report: RoundReport) -> str | None:
        """Look at a round; return why the run should end here, or None to go on."""


class EarlyStopping:
    """Ends a run whose KID on validation images does not get better any more.

    Parameters
    ----------
    settings
        How many evaluations to wait for a better one, and from how many images on.
    """

    def __init__(self, settings: EarlyStoppingSettings) -> None:
        self.settings = settings

    def after_round(self, report: RoundReport) -> str | None:
        """Decide after an evaluated round."""
        return self.reason(report.history) if report.scores else None

    def reason(self, history: Sequence[Mapping[str, Any]]) -> str | None:
        """Return why a run with these evaluations should end; None if it should not."""
        judged = [line for line in history if line.get("kid") is not None]
        if not self.settings.patience or not judged or judged[-1]["images"] < self.settings.min_images:
            return None
        best = min(range(len(judged)), key=lambda position: judged[position]["kid"])
        waited = len(judged) - 1 - best
        if waited < self.settings.patience:
            return None
        return (
            f"no better KID than {judged[best]['kid']:.4f} of round {judged[best]['round']} in {waited} evaluations "
            "(early-stopping.patience)"
        )
