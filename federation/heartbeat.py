"""A sign of life while something takes long and nobody sees a bar: a line every half minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SECONDS = 30.0
"""From one line to the next."""


class Heartbeat:
    """Says what is being done, if nothing else was said for half a minute; from a thread of its own.

    So that work which tells nothing on its way is heard of too.

    Parameters
    ----------
    say
        Writes a line; called from another thread.
    seconds
        Of silence before a line.
    """

    def __init__(self, say: Callable[[str], None], seconds: float = SECONDS) -> None:
        self._say, self._seconds = say, seconds
        self._words = ""
        self._started = self._spoken = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch. Does nothing where it has begun."""
        if self._thread is None:
            self._started = self._spoken = time.monotonic()
            self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; no line comes after this."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def doing(self, description: str, done: int = 0, total: int = 0) -> None:
        """Take note of what is being done, and how far it is; with a `total` of one or less, of the words alone."""
        self._words = f"{description} {done:,}/{total:,}" if total > 1 else description

    def spoken(self) -> None:
        """Take note that a person was told something."""
        self._spoken = time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(max(0.01, self._spoken + self._seconds - time.monotonic())):
            now = time.monotonic()
            if self._words and now >= self._spoken + self._seconds:
                self._spoken = now
                self._say(f"{self._words} ({now - self._started:.0f} s)")
            elif not self._words:
                self._spoken = now
