"""What of a benchmark is committed: small files, from which its tables are made and from which it goes on elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_partitions.wording import counted
from federation.errors import RunDirectoryError
from federation.run_directory import RunDirectory, read_json, write_text
from server.benchmark.cells import Outcome

PLAN, TUNING, CELLS, TRIALS, ENVIRONMENT = "benchmark.toml", "tuning.json", "cells", "trials", "environment.json"
TABLES = ("raw.csv", "leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html")
"""What is made anew from the cells."""
CELL_FILES = (
    "config.toml",
    "environment.json",
    "partition.json",
    "hospitals.jsonl",
    "metrics.jsonl",
    "releases.jsonl",
    "summary.json",
)
"""What is kept of a cell: settings, versions, counts and figures; no weights, no images, and no names of images but
those of the closest pairs in the summary."""

_HEAD = "# What is committed of a benchmark, after each cell if need be: git add the folder. The rest stays here."


def ignored() -> str:
    """Return the ``.gitignore`` of a benchmark's folder: everything but what is committed."""
    kept = [".gitignore", PLAN, TUNING, ENVIRONMENT, *TABLES]
    kept += [f"{folder}/*/{name}" for folder in (CELLS, TRIALS) for name in CELL_FILES]
    return "\n".join([_HEAD, "*", "!*/", *(f"!/{name}" for name in kept)]) + "\n"


def write_ignored(folder: Path) -> None:
    """Write the ``.gitignore`` where there is none."""
    path = folder / ".gitignore"
    if not path.exists():
        write_text(path, ignored())


def check_whole(finished: Iterable[RunDirectory]) -> None:
    """Refuse to go on where a finished cell lacks a file that the tables are made from, or that tells its settings.

    Parameters
    ----------
    finished
        The cells that are done.

    Raises
    ------
    RunDirectoryError
        Naming the files.
    """
    problems = [
        f"{path}: is missing, and its cell is finished; put it back (git checkout, a copy), or remove "
        f"{directory.path} to run the cell anew"
        for directory in finished
        for path in (directory.config, directory.hospitals, directory.metrics)
        if not path.is_file()
    ]
    if problems:
        raise RunDirectoryError(problems)


def where_it_ran(outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return when, on what and with which version the cells ran, as they say themselves.

    So a page that is made again, on another day and another machine, is the same.

    Parameters
    ----------
    outcomes
        The cells.
    facts
        Of the benchmark's last part: its ``date``, for cells that do not say theirs, and ``jobs``.
    """
    found = [read_json(path) for one in outcomes if (path := one.directory.environment).is_file()]
    days = sorted({str(entry["created"])[:10] for entry in found if entry.get("created")}) or [str(facts["date"])]
    machines = dict.fromkeys(_machine(entry) for entry in found if entry.get("cores"))
    side_by_side = f"{counted(int(facts['jobs']), 'run')} side by side"
    return [
        ("Date", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"),
        ("Machine", "; ".join([*machines, side_by_side])),
        ("dermafed", ", ".join(_versions(found))),
    ]


def _machine(entry: dict[str, Any]) -> str:
    said = [counted(int(entry["cores"]), "core"), str(entry.get("processor") or "")]
    if entry.get("device") not in (None, "cpu"):
        said.append(str(entry["device"]))
    return ", ".join(part for part in said if part)


def _versions(found: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield from dict.fromkeys(str(entry["dermafed"]) for entry in found if entry.get("dermafed"))
