"""Runs the cells of a benchmark, each in a process of its own, so many side by side."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from federation.config import Configuration, load_stored_toml, with_new_names
from federation.errors import RunDirectoryError
from federation.run_directory import RunDirectory, read_json, read_lines, write_text, writing
from federation.toml_files import with_end
from server.benchmark.plan import Cell
from strategies.configuration import resolve

_POLL_SECONDS = 0.3
_GRACE_SECONDS = 30
# Of what a failed run has said, the end.
_REASON_LINES = 3
_PATHS = ("data.root", "data.csv", "data.cache-dir", "evaluation.extractor-weights", "evaluation.utility-weights")


@dataclass(frozen=True)
class Outcome:
    """What came of a cell."""

    cell: Cell
    directory: RunDirectory
    summary: dict[str, Any] | None
    """Of a run that is done; None of one that failed."""
    reason: str = ""
    """Why it failed."""


@dataclass
class _Process:
    cell: Cell
    directory: RunDirectory
    process: subprocess.Popen[bytes]
    started: float
    log_begins: int
    """Size of the log when it started: earlier attempts have written there too."""


class CellRunner:
    """Runs cells that are not done yet.

    Parameters
    ----------
    folder
        Where the cells' run directories go.
    jobs
        Cells side by side.
    say
        Called with a line for each cell that ends.
    show
        Called often with how many are done, of how many, and what the running ones are at.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int,
        say: Callable[[str], None],
        show: Callable[[int, int, list[str]], None],
    ) -> None:
        self.folder, self.jobs, self.say, self.show = folder, jobs, say, show

    def directory(self, cell: Cell) -> RunDirectory:
        """Return a cell's run directory."""
        return RunDirectory(self.folder / cell.key)

    def is_done(self, cell: Cell) -> bool:
        """Return whether a cell has run to its end, here or where the folder comes from."""
        path = self.directory(cell).summary
        try:
            return path.is_file() and read_json(path).get("status") == "done"
        except RunDirectoryError:
            return False

    def check(self, cells: Iterable[Cell]) -> None:
        """Refuse to go on where a cell was run with other settings.

        Raises
        ------
        RunDirectoryError
            Naming what differs.
        """
        problems = []
        for cell in cells:
            directory = self.directory(cell)
            if not directory.config.is_file():
                continue
            before = comparable(resolve([load_stored_toml(directory.config)]))
            now = comparable(cell.configuration)
            problems += [
                f"{directory.path}: {key} was {before[key]!r} and is {now[key]!r} now; give another --out, or set it "
                "back"
                for key in now
                if before[key] != now[key]
            ]
        if problems:
            more = len(problems) - 8
            raise RunDirectoryError(problems[:8] + ([f"and {more} more like these"] if more > 0 else []))

    def run(self, cells: Iterable[Cell]) -> list[Outcome]:
        """Run what is not done; return what came of each cell, in their order."""
        cells = list(cells)
        outcomes: dict[str, Outcome] = {}
        waiting = []
        for cell in cells:
            done = self._finished(cell)
            if done is not None:
                outcomes[cell.key] = done
            else:
                waiting.append(cell)
        running: list[_Process] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    running.append(self._start(waiting.pop(0)))
                time.sleep(_POLL_SECONDS)
                for entry in list(running):
                    if entry.process.poll() is not None:
                        running.remove(entry)
                        outcomes[entry.cell.key] = self._end(entry)
                        self._say(outcomes[entry.cell.key], len(outcomes), len(cells), entry.started)
                        self._compare_extractors(outcomes[entry.cell.key], outcomes.values())
                self.show(len(outcomes), len(cells), [_what(entry) for entry in running])
        finally:
            _interrupt([entry.process for entry in running])
        return [outcomes[cell.key] for cell in cells]

    def _finished(self, cell: Cell) -> Outcome | None:
        directory = self.directory(cell)
        if not directory.summary.is_file():
            return None
        try:
            summary = read_json(directory.summary)
        except RunDirectoryError as error:  # the run finds out anew what stood there
            self.say(f"{error}: {cell.key} is judged again")
            return None
        if summary.get("status") != "done":
            return None
        if summary["test"].get("kid") is None:
            return Outcome(cell, directory, None, "its KID is not a finite number")
        return Outcome(cell, directory, summary)

    def _start(self, cell: Cell) -> _Process:
        directory = self.directory(cell)
        arguments = [sys.executable, "-m", "dermafed", "simulate", "--run-dir", str(directory.path)]
        settings = self.folder / f"{cell.key}.toml"
        if directory.config.is_file():
            # It may have been begun on another machine, where images lie elsewhere.
            own = cell.configuration.to_flat()
            write_text(settings, tomli_w.dumps({key: own[key] for key in _PATHS}))
            arguments.append("--resume")
        else:
            write_text(settings, with_end(cell.configuration.to_toml()))
        arguments += ["--config", str(settings)]
        written = self.folder / f"{cell.key}.log"
        with writing(written), written.open("ab") as log:
            log_begins = log.tell()
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": str(cell.configuration.training.threads)},
                # Ctrl-C is ours to pass on: once, and to all.
                start_new_session=True,
            )
        return _Process(cell, directory, process, time.monotonic(), log_begins)

    def _end(self, entry: _Process) -> Outcome:
        done = self._finished(entry.cell)
        if done is not None:
            return done
        written = (self.folder / f"{entry.cell.key}.log").read_bytes()[entry.log_begins :]
        log = written.decode("utf-8", errors="replace")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith(("error:", "failed:"))] or lines[-_REASON_LINES:]
        code = entry.process.returncode
        how = f"ended by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Outcome(entry.cell, entry.directory, None, f"{how}: {' '.join(said)[:500]}")

    def _say(self, outcome: Outcome, done: int, total: int, started: float) -> None:
        seconds = time.monotonic() - started
        place = f"{done}/{total}  {outcome.cell.key}"
        if outcome.summary is None:
            self.say(f"{place}  FAILED after {seconds:.0f} s: {outcome.reason}")
        else:
            self.say(f"{place}  KID {_kid(outcome.summary)}  {seconds:.0f} s")

    def _compare_extractors(self, ended: Outcome, outcomes: Iterable[Outcome]) -> None:
        """Say at once, and not when all are done, that a cell cannot be compared with those before it."""
        if ended.summary is None:
            return
        found = ended.summary["test"].get("extractor")
        before = [
            one.summary["test"].get("extractor")
            for one in outcomes
            if one.summary is not None and one.cell.place[:2] == ended.cell.place[:2]
        ]
        others = sorted({str(name) for name in before if name != found})
        if others:
            self.say(
                f"{ended.cell.key} was judged by {found}, and others by {', '.join(others)}: they cannot be compared. "
                "An extractor that is trained here differs from machine to machine; go on where the cells were begun, "
                "or begin anew with another --out"
            )


def _kid(summary: Mapping[str, Any]) -> str:
    kid = summary.get("test", {}).get("kid")
    return "–" if kid is None else f"{kid:.4f}"


def _what(entry: _Process) -> str:
    """Say what a running cell is at."""
    lines = read_lines(entry.directory.hospitals) if entry.directory.hospitals.is_file() else []
    rounds = entry.cell.configuration.rounds
    at = f"round {lines[-1]['round']}/{rounds}" if lines else "beginning"
    if lines and lines[-1]["round"] == rounds:
        at = "being judged"
    return f"{entry.cell.key}: {at}"


def _interrupt(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask runs to end, so that each saves its last round; then end them without mercy."""
    try:
        for process in processes:
            if process.poll() is None:
                # Not as Ctrl-C does: a script's background jobs have that ignored, and what they start inherits it.
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
    finally:
        # Also where a second Ctrl-C cuts the waiting short: none may go on by itself.
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


# What may differ between a cell and its continuation: where it and its images are, and how it is run.
_MAY_DIFFER = re.compile(
    r"^(run-dir|resume|data\.(classes|root|csv|cache-dir)|evaluation\.utility-weights|simulation\..*|checkpoint\..*)$"
)


def comparable(configuration: Configuration) -> dict[str, Any]:
    """Return the settings on which a cell's figures depend."""
    return {key: value for key, value in with_new_names(configuration.to_flat()).items() if not _MAY_DIFFER.match(key)}
