"""Are the processes that Ray runs beside this one still there?

Ray itself needs up to a minute to notice that one of them died, and then ends this process without a word. It ends it
at once where memory is asked of the object store, which lives in the raylet, or given back to it: look here before.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from federation.errors import RunError

_NAMES = ("raylet", "gcs_server")
_PROC = Path("/proc")


@dataclass(frozen=True)
class RayProcesses:
    """The processes that this one's Ray was started with, by process id."""

    names: dict[int, str]

    @classmethod
    def of_this_process(cls) -> RayProcesses:
        """Find them among the children of this process; none where the system has no ``/proc``."""
        found = {}
        for entry in _PROC.glob("[0-9]*"):
            status = _read_status(int(entry.name))
            if status is not None and status[2] == os.getpid() and status[0] in _NAMES:
                found[int(entry.name)] = status[0]
        return cls(found)

    def check(self) -> None:
        """Raise if one of them has ended.

        Raises
        ------
        RunError
            Naming it.
        """
        for process_id, name in self.names.items():
            status = _read_status(process_id)
            if status is None or status[1] == "Z":
                raise RunError(
                    f"Ray died: its process {name} ({process_id}) ended, killed by somebody or by the system for want "
                    "of memory; the run's last good state is saved"
                )


def _read_status(process_id: int) -> tuple[str, str, int] | None:
    """Return a process's name, state and parent; None if there is no such process."""
    try:
        text = (_PROC / str(process_id) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name stands in brackets and may itself hold blanks and brackets.
    name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
    return name, rest[0], int(rest[1])
