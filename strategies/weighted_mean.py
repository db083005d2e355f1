"""A weighted mean of models that come one by one: memory for one model, however many there are."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, MetricRecord

from federation.exchange import pack_arrays

# Elements added at a time, so that what lies between reading and writing stays in a core's cache.
_BLOCK = 2**15


class WeightedMean:
    """Σ_i n_i x_i / Σ_i n_i, summed in float64 in the order of :meth:`add`.

    The sum is kept, not the models. Products of a float32 and a weight below 2^29 are exact in float64,
    so that one model, or several equal ones, come back bit for bit where the weights are whole numbers.
    """

    def __init__(self) -> None:
        self.total = 0.0
        """Sum of the weights so far."""
        self._sums: dict[str, np.ndarray] = {}
        self._types: dict[str, np.dtype] = {}
        self._scratch = np.empty(_BLOCK)

    def add(self, record: ArrayRecord, weight: float) -> None:
        """Add a model.

        Parameters
        ----------
        record
            With the same names and shapes in every call. Nothing of it is kept.
        weight
            Above 0.
        """
        self.total += weight
        for name, array in record.items():
            values = array.numpy()
            if name not in self._sums:
                self._types[name] = values.dtype
                # Not added to zeros: that would make -0.0 of a lone model 0.0.
                self._sums[name] = np.multiply(values, weight, out=np.empty(values.shape), dtype=np.float64)
            else:
                self._add(self._sums[name].reshape(-1), values.reshape(-1), weight)

    def _add(self, sums: np.ndarray, values: np.ndarray, weight: float) -> None:
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK]
            product = self._scratch[: len(block)]
            product[:] = block
            product *= weight
            sums[start : start + _BLOCK] += product

    def result(self) -> ArrayRecord:
        """Return the mean, each entry of the type that came in; at least one model must have been added."""
        means = {}
        for name in list(self._sums):
            sums = self._sums.pop(name)
            sums /= self.total
            means[name] = sums.astype(self._types[name])
        return pack_arrays(means)


class WeightedMeanOfMetrics:
    """The same for the numbers that come along; a number that is not in every reply is left out."""

    def __init__(self) -> None:
        self._total = 0.0
        self._sums: dict[str, float] | None = None

    def add(self, metrics: MetricRecord, weight: float) -> None:
        """Add the numbers of a reply; lists are not averaged."""
        self._total += weight
        values = {name: value * weight for name, value in metrics.items() if isinstance(value, int | float)}
        if self._sums is None:
            self._sums = values
        else:
            self._sums = {name: self._sums[name] + values[name] for name in self._sums if name in values}

    def result(self) -> MetricRecord:
        """Return the means; empty if nothing was added."""
        return MetricRecord({name: value / self._total for name, value in (self._sums or {}).items()})
