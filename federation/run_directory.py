"""Names and formats of everything that a run leaves behind.

Every file is written whole or not at all, so that a reader never sees half of one::

    config.toml       the resolved configuration
    environment.json  versions, device, git commit
    partition.json    counts and hashes; partition.png the picture
    split.csv         image, part, hospital (simulation only)
    metrics.jsonl     a line per evaluated round, from round 0
    hospitals.jsonl   a line per hospital per round
    extractor/        the network whose features were compared, where it was trained for this run
    samples/          round-0003.png, …
    looks.png         the same lesions as each hospital (of many, the first 64), where the generator is told them
    checkpoints/      round-0010/, …: what --resume needs
    hospitals/        what the simulated hospitals keep for themselves
    upload/           what one hospital sent in the last round, for the test of what it gives away (simulation only)
    final/            generator.safetensors and model.json: enough to generate
    summary.json      the verdict
    report.html       the same for a person; closest-pairs.png where real images may be shown
    tensorboard/      event files
    log.txt           everything that was said
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from federation.errors import RunDirectoryError, StorageError

_REMEDY = "make room on its disk, or give the rights to write there"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what it is where the block cannot write: the disk is full, or read-only, or a quota is used up.

    Raises
    ------
    StorageError
        Naming `path` and the remedy.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for what the system says
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        in_the_way = isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError)
        remedy = "move away what is in its way" if in_the_way else _REMEDY
        message = f"{path}: cannot be written ({reason}); {remedy}"
        raise StorageError(message, reason) from error


# What a lock says that another process holds; anything else says that there are no locks.
_LOCKED = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, it becomes `path`.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Serialise to json that every reader takes: numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def default_path(name: str, now: datetime | None = None) -> Path:
    """Return ``runs/<utc time>-<name>`` below the working directory."""
    moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    return Path("runs") / f"{moment}-{name}"


@contextmanager
def taken_directory(
    path: str, name: str, *, resume: bool = False, now: datetime | None = None
) -> Iterator[RunDirectory]:
    """Take a run's directory for as long as the block runs, before anything is read or computed for the run.

    A name that is looked at early and taken late is another run's by then: jobs of an array start in one second.

    Parameters
    ----------
    path
        ``run-dir``. Empty: :func:`default_path`; where another run has that, ``-2``, ``-3``, … behind it.
    name
        Of the run.
    resume
        Whether the directory is that of a run to go on with.
    now
        For the default path.

    Raises
    ------
    RunDirectoryError
        If it holds something or, to resume, no configuration; if another process runs there; if it cannot be written.
    """
    if path:
        directory = RunDirectory(Path(path))
        with directory.taken(resume=resume):
            if resume and not directory.config.is_file():
                raise RunDirectoryError(
                    f"run directory {path}: has no config.toml to resume; leave --resume out to start a run there"
                )
            yield directory
        return
    first = default_path(name, now).absolute()
    for number in itertools.count(1):
        directory = RunDirectory(first if number == 1 else first.with_name(f"{first.name}-{number}"))
        made = _make_folder(directory.path, directory.option)
        if made:
            break
    with directory.taken(made=made):
        yield directory


def check_free(path: Path, option: str = "--run-dir") -> None:
    """Refuse a path that holds something already; `option` is what a person gives it with.

    Raises
    ------
    RunDirectoryError
        With the remedy.
    """
    try:
        is_taken = path.exists() and (not path.is_dir() or holds_something(path))
    except OSError as error:
        raise RunDirectoryError(
            f"run directory {path}: cannot be read ({error.strerror}); give another {option}"
        ) from None
    if is_taken:
        raise RunDirectoryError(
            f"run directory {path}: exists already; give another {option}, remove it, or continue it with --resume"
        )


def holds_something(path: Path) -> bool:
    """Return whether a directory holds anything but what a run leaves that was killed before it saved anything."""
    return any(not entry.name.startswith(".config.toml.") for entry in path.iterdir())


def _make_folder(path: Path, option: str) -> list[Path]:
    """Make a folder; return it and those above it that were made with it, the lowest first; none if it was there.

    Raises
    ------
    RunDirectoryError
        If it cannot be made.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileExistsError:
        if path.is_dir():
            return []
        raise RunDirectoryError(
            f"run directory {path}: cannot be made, a file is in its way; give another {option}"
        ) from None
    except OSError as error:
        raise RunDirectoryError(
            f"run directory {path}: cannot be made ({error.strerror}); give another {option}"
        ) from None
    return missing


def lock_folder(path: Path) -> tuple[int, str]:
    """Lock a folder against other processes that ask for its lock.

    Returns
    -------
    descriptor
        Closing it ends the lock.
    missing
        Why there is no lock, where the file system has none: Lustre without -o flock, NFS without lockd, …; else empty.

    Raises
    ------
    BlockingIOError
        If another process holds the lock.
    OSError
        If the folder cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _LOCKED:
            return descriptor, error.strerror or str(error)
        os.close(descriptor)
        raise BlockingIOError(error.errno, error.strerror, str(path)) from None
    return descriptor, ""


class RunDirectory:
    """Paths in a run directory, and the writing of its line files.

    Parameters
    ----------
    path
        The directory; :meth:`taken` makes it.
    option
        What a person gives it with, for messages.
    """

    def __init__(self, path: Path, option: str = "--run-dir") -> None:
        self.path = path
        self.option = option
        self.config = path / "config.toml"
        self.environment = path / "environment.json"
        self.initial = path / "initial.safetensors"
        self.partition = path / "partition.json"
        self.partition_picture = path / "partition.png"
        self.split = path / "split.csv"
        self.metrics = path / "metrics.jsonl"
        self.hospitals = path / "hospitals.jsonl"
        self.releases = path / "releases.jsonl"
        self.samples = path / "samples"
        self.looks = path / "looks.png"
        self.checkpoints = path / "checkpoints"
        self.hospital_states = path / "hospitals"
        self.final = path / "final"
        self.upload = path / "upload"
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.closest_pairs = path / "closest-pairs.png"
        self.extractor = path / "extractor"
        self.tensorboard = path / "tensorboard"
        self.log = path / "log.txt"
        self.note = ""
        """What a user should know about the directory; empty: nothing."""
        self._descriptor: int | None = None

    @contextmanager
    def taken(self, *, resume: bool = False, made: Sequence[Path] = ()) -> Iterator[None]:
        """Make the directory, and keep other processes from running there while the block runs.

        What was made and holds nothing at the end goes again.

        Parameters
        ----------
        resume
            Whether it may hold something; it must be there then.
        made
            The directory and those above it that were made for it already.

        Raises
        ------
        RunDirectoryError
            If it holds something, cannot be made or written, or if another process runs there.
        """
        if not resume and not made:
            check_free(self.path, self.option)
            made = _make_folder(self.path, self.option)
        try:
            self.lock()
            if not resume:
                # A run may have begun and ended here since.
                check_free(self.path, self.option)
            self._try_writing()
            yield
        finally:
            with suppress(OSError):  # it holds a run now
                for folder in made:
                    folder.rmdir()
            self.unlock()

    def _try_writing(self) -> None:
        """Refuse a directory that cannot be written now, and not after an hour of work for it."""
        probe = self.path / f".config.toml.{os.getpid()}"
        try:
            probe.write_bytes(b"#")
            probe.unlink()
        except OSError as error:
            raise RunDirectoryError(
                f"run directory {self.path}: cannot be written ({error.strerror}); give another {self.option}, or make "
                "it writable"
            ) from None

    def lock(self) -> None:
        """Keep other processes from running here until this one ends or calls :meth:`unlock`.

        Where the file system has no locks, :attr:`note` says so, and nothing is kept from anybody.

        Raises
        ------
        RunDirectoryError
            If another process runs here already, or the directory cannot be opened.
        """
        try:
            self._descriptor, missing = lock_folder(self.path)
        except BlockingIOError:
            raise RunDirectoryError(
                f"run directory {self.path}: another process runs there; wait for its end, or give another "
                f"{self.option}"
            ) from None
        except OSError as error:
            raise RunDirectoryError(
                f"run directory {self.path}: cannot be read ({error.strerror}); give another {self.option}"
            ) from None
        if missing:
            self.note = (
                f"run directory {self.path}: its file system has no locks ({missing}): nothing keeps a second process "
                "from running there, so start none"
            )

    def unlock(self) -> None:
        """Give the directory back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def hospital_state(self, folder: str, server_round: int) -> Path:
        """Return the path of what a simulated hospital has kept of a round in its folder."""
        return self.hospital_states / folder / f"round-{server_round:04d}.safetensors"

    def sample_sheet(self, server_round: int) -> Path:
        """Return the path of a round's sample sheet."""
        return self.samples / f"round-{server_round:04d}.png"

    def append(self, path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to a line file, all of them or none.

        Raises
        ------
        StorageError
            If there is no room.
        """
        text = "".join(to_json(entry) + "\n" for entry in entries).encode()
        with writing(path), path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                while text:  # a disk that is nearly full takes a part
                    text = text[file.write(text) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise

    def keep_rounds(self, last_round: int) -> None:
        """Drop from the line files what happened after `last_round`, before a run is resumed there."""
        for path in (self.metrics, self.hospitals):
            if path.exists():
                kept = [entry for entry in read_lines(path) if entry["round"] <= last_round]
                write_text(path, "".join(to_json(entry) + "\n" for entry in kept))

    def checkpoint(self, server_round: int) -> Path:
        """Return the directory of a round's checkpoint."""
        return self.checkpoints / f"round-{server_round:04d}"

    def checkpoint_rounds(self) -> list[int]:
        """Return the rounds that have a whole checkpoint, ascending."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(int(entry.name.removeprefix("round-")) for entry in self.checkpoints.glob("round-*"))

    def write_checkpoint(
        self, server_round: int, keep: int, write: Callable[[Path], None], best: int | None = None
    ) -> Path:
        """Write a checkpoint atomically, then remove all but the newest `keep` and the best.

        Parameters
        ----------
        server_round
            The round to save.
        keep
            Checkpoints to leave, at least 1.
        write
            Fills an empty directory.
        best
            Another round whose checkpoint stays, where it has one.

        Raises
        ------
        StorageError
            If it cannot be written; nothing of it stays then.
        """
        target = self.checkpoint(server_round)
        temporary = self.checkpoints / f".round-{server_round:04d}.{os.getpid()}"
        for left in self.checkpoints.glob(".round-*"):  # by a process that was killed while it wrote or removed
            shutil.rmtree(left, ignore_errors=True)
        try:
            with writing(target):
                temporary.mkdir(parents=True)
                write(temporary)
                for path in temporary.iterdir():
                    _synchronise(path)
                if target.exists():  # an interrupted run that was resumed at an earlier round
                    self._remove_checkpoint(server_round)
                temporary.replace(target)
                _synchronise(self.checkpoints)
                for old in self.checkpoint_rounds()[:-keep]:
                    if old != best:
                        self._remove_checkpoint(old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def set_aside(self, server_round: int) -> Path:
        """Give a checkpoint that is damaged another name, under which nothing looks for one; return it."""
        aside = self.checkpoints / f"damaged-round-{server_round:04d}"
        shutil.rmtree(aside, ignore_errors=True)
        with writing(aside):
            return self.checkpoint(server_round).replace(aside)

    def _remove_checkpoint(self, server_round: int) -> None:
        """Remove a checkpoint, so that a process killed meanwhile leaves the whole of it or nothing under its name."""
        doomed = self.checkpoints / f".round-{server_round:04d}.removed"
        shutil.rmtree(doomed, ignore_errors=True)
        self.checkpoint(server_round).replace(doomed)
        shutil.rmtree(doomed)


def _synchronise(path: Path) -> None:
    """Have the system write a file or a directory to its disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a line file. A last line without its end, left by a killed run or just being written, is not read.

    Raises
    ------
    RunDirectoryError
        Naming the line that is not as it was written.
    """
    entries = []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be read ({error.strerror}); put the file back from a copy") from None
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise RunDirectoryError(
                f"{path}: line {number} is damaged ({error}); put the file back from a copy, or remove the line"
            ) from None
        entries.append(entry)
    return entries


def read_json(path: Path) -> dict[str, Any]:
    """Read a json object that we have written.

    Raises
    ------
    RunDirectoryError
        If it is not as it was written.
    """
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no json object")
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path}: is damaged ({error}); put it back from a copy") from None
    return content
