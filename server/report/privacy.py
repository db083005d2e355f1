"""What is said of differential privacy: epsilon, and right beside it what it does not cover."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.report.run_record import RunRecord, number, section, text


@dataclass(frozen=True)
class PrivacyStatement:
    """A sentence, and what the guarantee in it leaves out."""

    sentence: str
    does_not_cover: Sequence[str] = ()


def privacy_of(record: RunRecord) -> PrivacyStatement | None:
    """State what a run's report says; None where no noise was to be added."""
    if not record.adds_noise:
        return None
    strategy = section(record.summary, "strategy")
    if not strategy:
        return PrivacyStatement("Not known: summary.json, which would hold epsilon, is missing.")
    return state_privacy(strategy)


def state_privacy(strategy: Mapping[str, Any]) -> PrivacyStatement | None:
    """State what the section ``strategy`` of ``summary.json`` says; None where it says nothing of privacy."""
    if "epsilon" not in strategy:
        return None
    releases, epsilon, delta = (number(strategy, key) for key in ("releases", "epsilon", "delta"))
    if releases is None or delta is None:
        return PrivacyStatement(
            "Epsilon stands in summary.json as an earlier version of dermafed counted it: too small where rounds were "
            "released again after a resume, or where hospitals were drawn or dropped out. It is not shown."
        )
    if epsilon is None:
        return PrivacyStatement("Epsilon is infinite: no noise was added, and nothing is private.")
    bound = math.ceil(epsilon * 1e4) / 1e4  # rounded up: what is written is a bound too
    listed = strategy.get("does_not_cover")
    return PrivacyStatement(
        f"Epsilon is {bound:,.4f} at delta {delta:g}, for each {text(strategy, 'unit')} as a whole, after "
        f"{releases:,} release{'' if releases == 1 else 's'}. It covers {text(strategy, 'covers')}.",
        [str(entry) for entry in listed] if isinstance(listed, list) else [],
    )
