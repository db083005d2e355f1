"""Work of the server that may go on while hospitals train."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

# A round may be judged and saved while the next one trains, and no later.
_MOST_WAITING = 2


class BackgroundWork:
    """Runs pieces of work one after the other, in the order they were given, in one thread.

    A piece that fails ends the run: its exception is raised where the next piece is given, or at the end.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dermafed-background")
        self._futures: deque[Future[None]] = deque()

    def submit(self, work: Callable[[], None]) -> None:
        """Give a piece of work; wait first until few others are before it."""
        while len(self._futures) >= _MOST_WAITING:
            self._futures.popleft().result()
        self._futures.append(self._executor.submit(work))

    def drain(self) -> None:
        """Wait until everything is done."""
        while self._futures:
            self._futures.popleft().result()

    def end(self) -> list[BaseException]:
        """Wait until everything is done, give up the thread; return what failed in place of raising it."""
        self._executor.shutdown(wait=True)
        problems = [problem for future in self._futures if (problem := future.exception()) is not None]
        self._futures.clear()
        return problems
