"""Classifiers trained side by side, whose figures do not depend on how many there are at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from typing import ParamSpec, TypeVar

import torch

from federation.models.classifier import Progress

_Result = TypeVar("_Result")
_Parameters = ParamSpec("_Parameters")


class Trials:
    """Workers that train classifiers; a context: at its end, whatever it is, nothing goes on.

    Parameters
    ----------
    workers
        Classifiers trained side by side, one thread each.
    num_steps
        Training steps there will be.
    progress
        Called after each training step of any classifier, by one thread at a time.
    """

    def __init__(self, workers: int, num_steps: int, progress: Progress | None) -> None:
        # PyTorch's own threads would share one classifier, and so change its last bits: one for each worker.
        self._pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._progress = progress
        self._num_steps = num_steps
        self._num_steps_done = 0

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *exception: object) -> None:
        # An interrupted judgement must not wait for classifiers that nobody will look at.
        self._cancelled.set()
        self._pool.shutdown(cancel_futures=True)
        # The workers' setting is also what threads started later would begin with.
        torch.set_num_threads(torch.get_num_threads())

    def submit(
        self,
        function: Callable[_Parameters, _Result],
        /,
        *arguments: _Parameters.args,
        **keywords: _Parameters.kwargs,
    ) -> Future[_Result]:
        """Have a worker call a function, in its turn."""
        return self._pool.submit(function, *arguments, **keywords)

    def wait(self, futures: Sequence[Future[_Result]]) -> list[_Result]:
        """Return what was found; the first that fails ends them all."""
        for future in as_completed(futures):
            future.result()
        return [future.result() for future in futures]

    def report(self, description: str, num_steps: int) -> None:
        """Tell that so many more steps are done; stop the thread's work if the judgement is given up."""
        if self._cancelled.is_set():
            raise CancelledError
        if self._progress is None:
            return
        with self._lock:
            self._num_steps_done += num_steps
            self._progress(description, self._num_steps_done, self._num_steps)
