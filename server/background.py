"""Work of the server that may go on while hospitals train."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWork:
    """Runs a piece of work in a thread of its own, one at a time.

    A piece that fails ends the run: its exception is raised where the next piece is given, or at the end.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dermafed-background")
        self._future: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Give a piece of work; wait first until the one before it is done."""
        self.drain()
        self._future = self._executor.submit(work)

    def drain(self) -> None:
        """Wait until everything is done."""
        future, self._future = self._future, None
        if future is not None:
            future.result()

    def end(self) -> BaseException | None:
        """Wait until everything is done, give up the thread; return what failed in place of raising it."""
        self._executor.shutdown(wait=True)
        future, self._future = self._future, None
        return future.exception() if future is not None else None
