"""What every strategy is compared with: training on all images in one place, and each hospital alone.

``centralised`` pools the images of all hospitals and trains one model on them, with as many steps in a round as the
hospitals would take together: as many images are shown, one step after the other. ``alone`` lets every hospital train
for itself; nothing is averaged. What is judged is the mixture of the hospitals' generators, and each of them.

Centralised training costs no bytes and reveals every image. Alone costs and reveals nothing, but the generators that
a simulation judges.
"""

from __future__ import annotations

from strategies.aggregation import WeightedAverage


class Centralised(WeightedAverage):
    """The mean of one."""


class Alone(WeightedAverage):
    """The mean of nothing: all entries are private."""
