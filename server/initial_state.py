"""What a run begins with, where it does not begin with random weights: read, said, and kept in its directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from federation.config import Configuration
from federation.errors import ConfigurationError
from federation.models import GenerativeModel
from federation.models.initial import Taken, read_initial, read_kept, take, write_taken
from federation.run_directory import RunDirectory
from federation.sharing import SharingPolicy, load_tensors, named_tensors


@dataclass(frozen=True)
class InitialState:
    """Weights that a run begins with."""

    source: str = ""
    """``model.initial``; empty: random weights."""
    sha256: str = ""
    """Of the file that they are from."""
    taken: Taken | None = None
    entries: int = 0
    """Entries that could have been taken."""

    @classmethod
    def of(cls, configuration: Configuration, model: GenerativeModel, directory: RunDirectory) -> InitialState:
        """Read what ``model.initial`` names, or what the run to be resumed has kept of it; load it into the model.

        Raises
        ------
        InputError
            If it cannot be had, or nothing of it fits.
        """
        source = configuration.model.initial
        if not source:
            return cls()
        classes = configuration.class_names if configuration.model.conditional else ()
        if configuration.resume and directory.initial.is_file():
            taken, told = read_kept(directory.initial)
            sha256 = told.get("sha256", "")
        else:
            initial = read_initial(configuration)
            taken, sha256 = take(initial, model, classes), initial.sha256
        load_tensors(model.networks, taken.tensors)
        states = model.anatomy.of_kind("state", "frozen")
        entries = [
            name
            for name, value in named_tensors(model.networks).items()
            if value.is_floating_point() and name.split(".")[0] not in states
        ]
        return cls(source, sha256, taken, len(entries))

    def notes(self, policy: SharingPolicy, *, deployed: bool) -> Iterator[str]:
        """Say what is begun with, and what is not.

        Parameters
        ----------
        policy
            What hospitals share before the first round.
        deployed
            Whether there are real sites, which read no file of a server's.

        Raises
        ------
        ConfigurationError
            If there are real sites, and all of it would stay there.
        """
        if self.taken is None:
            return
        yield (
            f"initial weights: {len(self.taken.tensors)} of {self.entries} entries from {self.source} "
            f"(sha256 {self.sha256[:12]})"
        )
        yield from (f"initial weights: {note}" for note in self.taken.notes)
        kept = [name for name in self.taken.tensors if policy.is_private(name)]
        if not deployed or not kept:
            return
        if len(kept) == len(self.taken.tensors):
            raise ConfigurationError(
                f"model.initial = {self.source!r}: every network stays at its hospital, and a real site reads no file "
                "of a server's; leave it out, or share a network"
            )
        parts = sorted({name.split(".")[0] for name in kept})
        yield f"initial weights: {', '.join(parts)}: {len(kept)} entries stay at hospitals, and begin there at random"

    def keep(self, directory: RunDirectory) -> None:
        """Write them into the run directory, where they are not yet.

        Raises
        ------
        StorageError
            If they cannot be written.
        """
        if self.taken is not None and not directory.initial.is_file():
            write_taken(directory.initial, self.taken.tensors, source=self.source, sha256=self.sha256)

    def summary(self) -> dict[str, Any] | None:
        """Return what ``summary.json`` says of them; None: random weights."""
        if self.taken is None:
            return None
        return {
            "source": self.source,
            "sha256": self.sha256,
            "entries_taken": len(self.taken.tensors),
            "entries": self.entries,
            "notes": list(self.taken.notes),
        }
