"""Inner products of, and squared distances between, models, in float64.

The expansion ‖x‖² + ‖y‖² − 2 x·y loses everything where models are close, as those of a round are: in float32 it
gave −0.0078 for a model of a million weights against itself. So the global model that they started from is taken off
first. Not their mean: a hostile one, as far away as it likes, would move it, and with it the others' last digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from strategies.aggregation import Arrays, Reply

# Weights at a time: what is in hand stays in a core's cache.
_BLOCK = 2**14


def inner_products(replies: Sequence[Reply], start: Arrays | None = None) -> NDArray[np.float64]:
    """Return the inner products of the replies' updates, (n, n), over all their entries.

    Parameters
    ----------
    replies
        Of the same entries.
    start
        The global entries that they started from; None: the first of them stands for these.
    """
    models = [reply.values() for reply in replies]
    products = np.zeros((len(models), len(models)))
    for name in models[0]:
        values = [model[name].reshape(-1) for model in models]
        origin = values[0] if start is None else start[name].reshape(-1)
        for at in range(0, len(origin), _BLOCK):
            block = np.stack([value[at : at + _BLOCK] for value in values]).astype(np.float64)
            block -= origin[at : at + _BLOCK]
            products += block @ block.T
    return products


def squared_distances(replies: Sequence[Reply], start: Arrays | None = None) -> NDArray[np.float64]:
    """Return the squared Euclidean distance of each reply to each, (n, n); see :func:`inner_products`."""
    return distances_between(inner_products(replies, start))


def distances_between(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared distances, (n, n), of models with these inner products."""
    norms = np.diag(products)
    distances = np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def krum_scores(distances: NDArray[np.float64], malicious: int) -> NDArray[np.float64]:
    """Return for each model the sum of its squared distances to its n − f − 2 nearest others.

    Blanchard et al. 2017, arXiv 1703.02757, Section 4. At least one neighbour is counted.
    """
    count = len(distances)
    others = np.sort(distances + np.diag(np.full(count, np.inf)), axis=1)
    return np.asarray(others[:, : max(1, count - malicious - 2)].sum(axis=1))
