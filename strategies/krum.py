"""Krum: the one update that lies nearest to its neighbours.

Blanchard et al. 2017, arXiv 1703.02757, Section 4. Needs n > 2 f + 2. See :mod:`strategies.multikrum`, of which it is
the case m = 1: the whole federation goes on with what one hospital has learned.

Costs what Multi-Krum does.
"""

from __future__ import annotations

from federation.settings.strategy import StrategySettings
from strategies.multikrum import MultiKrum


class Krum(MultiKrum):
    """Multi-Krum that selects one."""

    shown = "one hospital's model, bit for bit"
    options = ("malicious",)

    @classmethod
    def least_hospitals(cls, settings: StrategySettings) -> tuple[int, str]:
        """See :class:`strategies.strategy.Strategy`."""
        return 2 * settings.malicious + 3, "Krum needs n > 2 f + 2"

    def number_to_select(self, num_replies: int) -> int:
        """Return 1."""
        return 1
