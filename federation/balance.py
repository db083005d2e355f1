"""Classes balanced over a federation: what each hospital shows of them, and how much it weighs.

Long tails lie differently at different hospitals. Where each shows its own classes alike, one that holds two images of
a class shows them again and again; where none does, rare classes are hardly seen. Here an image of class c is drawn in
inverse proportion to N_c, the images of that class at all hospitals together:

    p_h(c) = (n_hc / N_c) / s_h,    s_h = Σ_c n_hc / N_c,

and a hospital weighs in averages in proportion to s_h. Together they then show all classes alike, and every image of a
class equally often, wherever it lies: what inverse-frequency sampling of the pooled images would show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from federation.site import Site

WHOLE = 2**20
"""All shares together, up to rounding: whole numbers, with which averages of equal weights are exact."""


@dataclass(frozen=True)
class Balance:
    """What a federation agrees on before its first round."""

    totals: tuple[int, ...]
    """Training images of each class, at all hospitals that told them."""
    sites: tuple[Site, ...]
    """All hospitals, each with its share."""

    @property
    def by_themselves(self) -> list[str]:
        """Hospitals that told no counts: each balances its own classes, and weighs by its images."""
        return [site.name for site in self.sites if not site.class_counts]


def balance_over(sites: Sequence[Site]) -> Balance:
    """Balance classes over hospitals.

    Parameters
    ----------
    sites
        With their counts, as far as they tell them. One that does not has its share of all images; the others divide
        what is left.
    """
    told = [site for site in sites if site.class_counts]
    counts = np.array([site.class_counts for site in told] or np.zeros((0, 0)), dtype=float)
    totals = counts.sum(axis=0)
    held = totals > 0
    shown = (counts[:, held] / totals[held]).sum(axis=1)
    images = sum(site.num_images for site in sites)
    left = sum(site.num_images for site in told) / images
    of_told = dict(zip((site.name for site in told), shown / max(shown.sum(), 1.0) * left, strict=True))
    return Balance(
        tuple(int(total) for total in totals),
        tuple(
            # At least 1: nobody is left out of an average.
            replace(site, share=max(1, round(WHOLE * of_told.get(site.name, site.num_images / images))))
            for site in sites
        ),
    )
