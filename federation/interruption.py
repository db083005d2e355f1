"""Being asked to end: Ctrl-C, SIGTERM as a cluster or a container sends it, SIGHUP of a terminal that closes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Who presses twice within this time means it once: the second must not break the way to where the work is saved.
_ONE_WISH_SECONDS = 1.0


class Interruptions:
    """What :func:`signals_interrupt` has seen."""

    def __init__(self) -> None:
        self.number = 0
        """Of the last signal; 0 if there was none."""
        self._moment = -_ONE_WISH_SECONDS

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal.

        Raises
        ------
        KeyboardInterrupt
            Unless another has just been raised.
        """
        if time.monotonic() - self._moment >= _ONE_WISH_SECONDS:
            self.number, self._moment = number, time.monotonic()
            raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def signals_interrupt() -> Iterator[Interruptions]:
    """Let every signal that asks to end do what Ctrl-C does: raise KeyboardInterrupt in the main thread.

    What is ignored stays so: nohup has SIGHUP ignored, a script's background job SIGINT, and mean it.
    """
    interruptions = Interruptions()
    before = {number: signal.getsignal(number) for number in ENDING}
    heard = [number for number in ENDING if before[number] is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, interruptions.interrupt)
        yield interruptions
    finally:
        for number in heard:
            signal.signal(number, before[number])


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back what the block does to the signals that ask to end."""
    # Only the main thread hears signals, and only it may say who handles them.
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in ENDING} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore the signals that ask to end while what was done is saved."""
    with handlers_kept():
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
        yield
