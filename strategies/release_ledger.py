"""What a strategy that gives a guarantee has released: counted in a file before it leaves the server.

A release is a noised aggregate that others come to know: hospitals with the next round's message, readers with a
checkpoint, a sheet of samples, the exported generator. It is counted as soon as it exists in memory and before anything
else is made of it: whoever kills the server in between finds one release too many, never one too few. A run that goes
on from an earlier round releases rounds again, and every line counts: lines are only ever added.

The same bits again tell nobody anything new, and count once: so a simulation, whose noise follows from ``seed``, reads
the same figure interrupted or not. Where its round is not the same again (a hospital answers that had failed before) it
counts anew, as it would at real sites: there noise is drawn anew, and no two releases have the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from federation.errors import RunDirectoryError
from federation.run_directory import to_json, writing
from strategies.aggregation import Arrays


@dataclass(frozen=True)
class Release:
    """A noised aggregate."""

    server_round: int
    noise_multiplier: float
    """Standard deviation of its noise, in norms of the largest update."""
    digest: str
    """Of its bits."""


class ReleaseLedger:
    """The count of a run's releases.

    Parameters
    ----------
    path
        The file; None: in memory, for a strategy that belongs to no run.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._held: list[Release] = []

    def read(self) -> list[Release]:
        """Return all releases, in order.

        Raises
        ------
        RunDirectoryError
            If a line of the file is not of a release.
        """
        if self._path is None:
            return list(self._held)
        found = []
        for count, line in enumerate(_whole_lines(self._path).splitlines(), start=1):
            try:
                entry = json.loads(line)
                found.append(Release(int(entry["round"]), float(entry["noise_multiplier"]), str(entry["digest"])))
            except (ValueError, TypeError, KeyError) as error:
                raise RunDirectoryError(
                    f"{self._path}: line {count} counts no release ({error!r}); restore the file from a copy: without "
                    "it nobody knows what was released"
                ) from None
        return found

    def enter(self, release: Release) -> None:
        """Count a release, on the disk when this returns; the same bits again are not counted.

        Raises
        ------
        StorageError
            If it cannot be counted: then it must not be made.
        """
        if any(known.digest == release.digest for known in self.read()):
            return
        if self._path is None:
            self._held.append(release)
            return
        line = {
            "round": release.server_round,
            "noise_multiplier": release.noise_multiplier,
            "digest": release.digest,
        }
        with writing(self._path), self._path.open("ab") as file:
            # Of a line that a killed process began nothing was released: its end had not been written.
            file.truncate(len(_whole_lines(self._path)))
            file.write((to_json(line) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        # The name of a new file is on the disk with its folder alone.
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _whole_lines(path: Path) -> bytes:
    """Return a file up to its last end of a line; nothing where there is no file."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def digest_of(arrays: Arrays) -> str:
    """Return a digest of arrays' names and bits."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
