"""A screen that may fail: who looks on may leave, and the work goes on."""

from __future__ import annotations

import logging
import sys
from typing import IO, Any


class Screen:
    """A text stream on which a person may look: once it fails, it is let go of.

    Parameters
    ----------
    stream
        Where the text goes.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream: Any = stream
        self.failure = ""
        """Why nothing is shown any more; empty while something is."""

    def write(self, text: str) -> int:
        """Show a text, as long as that is possible."""
        try:
            return len(text) if self.failure else self._stream.write(text)
        except UnicodeEncodeError:  # a sign that this screen does not have
            encoding = self._stream.encoding
            return self.write(text.encode(encoding, "replace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        """Show what was written at once."""
        try:
            if not self.failure:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._let_go(error)

    def isatty(self) -> bool:
        """Return whether a person looks."""
        return not self.failure and self._stream.isatty()

    def _let_go(self, error: OSError | ValueError) -> None:
        reason = (error.strerror if isinstance(error, OSError) else "") or error
        self.failure = f"the screen is gone ({reason}); nothing more is shown there"
        logging.getLogger("dermafed").warning(self.failure)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def let_screens_fail() -> None:
    """Let this process go on whatever happens to its output."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:  # closed by who started us
            setattr(sys, name, Screen(stream))
