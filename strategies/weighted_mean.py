"""A weighted mean of models that come one by one: memory for one model, however many there are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from flwr.app import ArrayRecord, MetricRecord

from federation.arrays import ArrayRecord as FlatRecord
from federation.arrays import Layout, layout_of
from federation.exchange import pack_arrays
from federation.machine import count_cores

# Elements added at a time, so that what lies between reading and writing stays in a core's cache.
_BLOCK = 2**15
# Models from this size on are added by threads, so many at most: more do not read memory faster.
_LARGE = 2**22
_MOST_THREADS = 4


class WeightedMean:
    """Σ_i n_i x_i / Σ_i n_i, summed in float64 in the order of :meth:`add`.

    The sum is kept, not the models. Products of a float32 and a weight below 2^29 are exact in float64,
    so that one model, or several equal ones, come back bit for bit where the weights are whole numbers.
    """

    def __init__(self) -> None:
        self.total = 0.0
        """Sum of the weights so far."""
        self._sums = np.empty(0)
        self._layout: Layout = ()
        self._types: dict[str, np.dtype] = {}
        # Large models are added by several threads while the next reply is waited for and checked.
        self._threads = min(_MOST_THREADS, count_cores())
        self._executor: ThreadPoolExecutor | None = None
        self._adding: list[Future[None]] = []

    def add(self, record: ArrayRecord, weight: float) -> None:
        """Add a model.

        Parameters
        ----------
        record
            With the same names and shapes in every call. Nothing of it is kept.
        weight
            Above 0.
        """
        is_first = self.total == 0
        if is_first:
            arrays = {name: array.numpy() for name, array in record.items()}
            self._layout = layout_of(arrays)
            self._types = {name: array.dtype for name, array in arrays.items()}
            self._sums = np.empty(sum(array.size for array in arrays.values()))
        self.total += weight
        start = 0
        for values in self._pieces(record):
            sums = self._sums[start : start + len(values)]
            if is_first:
                # Not added to zeros: that would make -0.0 of a lone model 0.0.
                np.multiply(values, weight, out=sums, dtype=np.float64)
            else:
                self._add(sums, values, weight)
            start += len(values)

    def _pieces(self, record: ArrayRecord) -> Iterator[np.ndarray]:
        """Yield a record's values in the order of the sums: in one piece where they lie in one."""
        if isinstance(record, FlatRecord) and record.flat is not None and record.layout == self._layout:
            yield record.flat
            return
        for name, _ in self._layout:
            yield record[name].numpy().reshape(-1)

    def _add(self, sums: np.ndarray, values: np.ndarray, weight: float) -> None:
        if len(values) < _LARGE:
            add_scaled(sums, values, weight)
            return
        self._wait()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="weighted-mean")
        bounds = np.linspace(0, len(values), self._threads + 1).astype(int)
        self._adding = [
            self._executor.submit(add_scaled, sums[start:end], values[start:end], weight)
            for start, end in pairwise(bounds)
        ]

    def _wait(self) -> None:
        """Wait until what was given before is added."""
        for future in self._adding:
            future.result()
        self._adding.clear()

    def means(self) -> dict[str, np.ndarray]:
        """Return the mean in float64; at least one model must have been added."""
        self._wait()
        if self._executor is not None:
            self._executor.shutdown()
        sums, self._sums = self._sums, np.empty(0)
        sums /= self.total
        means, start = {}, 0
        for name, shape in self._layout:
            end = start + math.prod(shape)
            means[name] = sums[start:end].reshape(shape)
            start = end
        return means

    def result(self) -> ArrayRecord:
        """Return the mean, each entry of the type that came in; at least one model must have been added."""
        self._wait()
        if self._executor is not None:
            self._executor.shutdown()
        sums, self._sums = self._sums, np.empty(0)
        types = set(self._types.values())
        if len(types) == 1:
            mean, scratch = np.empty(len(sums), types.pop()), np.empty(_BLOCK)
            for start in range(0, len(sums), _BLOCK):
                block = sums[start : start + _BLOCK]
                mean[start : start + _BLOCK] = np.divide(block, self.total, out=scratch[: len(block)])
            return FlatRecord(mean, self._layout)
        self._sums = sums
        return pack_arrays({name: value.astype(self._types[name]) for name, value in self.means().items()})


def add_scaled(sums: np.ndarray, values: np.ndarray, weight: float) -> None:
    """Add `weight` times `values` to `sums` (float64), block by block."""
    scratch = np.empty(min(_BLOCK, len(values)))
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        product = scratch[: len(block)]
        product[:] = block
        product *= weight
        sums[start : start + _BLOCK] += product


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
