"""Every exception that dermafed raises on purpose, in one tree.

::

    DermafedError
    ├── InputError                what the user gave is wrong: exit code 2, no traceback
    │   ├── ConfigurationError    a key, its type, its value, or a combination
    │   ├── DataError             a folder, a csv, an image
    │   ├── PartitionError        a partition that these data do not allow
    │   └── RunDirectoryError     a run directory that exists, or that cannot be read
    └── RunError                  the input was right and the run failed: exit code 1
        ├── HospitalError         a hospital's training raised, or a worker died
        ├── StorageError          a file of ours that cannot be written, or that is not as it was left
        ├── PolicyError           what is asked of a hospital is not to leave it
        ├── WireError             a message that is not what both sides agreed on
        └── NotFiniteError        a loss, a weight or a gradient that is not finite
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence


class DermafedError(Exception):
    """Base of all errors raised by dermafed."""


class InputError(DermafedError):
    """One or several problems in what the user gave.

    Parameters
    ----------
    problems
        One sentence each: the culprit, what is allowed, and the remedy. All problems that
        can be found at once are given at once, so that a user corrects them in one go.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigurationError(InputError):
    """A configuration key that is unknown, of the wrong type, out of range or contradictory."""


class DataError(InputError):
    """Images or metadata that are missing or cannot be read."""


class PartitionError(InputError):
    """A partition that would drop images or classes, or leave a hospital without any."""


class RunDirectoryError(InputError):
    """A run directory that exists already, or that is not one."""


@contextlib.contextmanager
def noted(notes: Sequence[str]) -> Iterator[None]:
    """Add notes to an InputError that ends the block: what was left out of the data is often why it came to that.

    Parameters
    ----------
    notes
        A sentence each, as they are when the error comes. The command line prints them before it.
    """
    try:
        yield
    except InputError as error:
        for note in notes:
            error.add_note(note)
        raise


class RunError(DermafedError):
    """The input was right, and the run failed all the same."""


class HospitalError(RunError):
    """Training at one hospital failed.

    Parameters
    ----------
    site
        Name of the hospital.
    reason
        What happened there, with the hospital's own traceback where there is one.
    """

    def __init__(self, site: str, reason: str) -> None:
        self.site = site
        self.reason = reason
        super().__init__(f"hospital {site!r} failed:\n{reason}")


class StorageError(RunError):
    """A file of ours cannot be written, or is not as it was left: nothing that would be one hospital's fault.

    Parameters
    ----------
    message
        Names the file, what the system says, and the remedy.
    reason
        What the system says.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        self.reason = reason
        super().__init__(message)


class PolicyError(RunError):
    """What a hospital is asked for is not to leave it, by its own policy."""


class WireError(RunError):
    """A message with a missing or unknown name, a wrong shape or type."""


class NotFiniteError(RunError):
    """A number that should be finite is not."""
