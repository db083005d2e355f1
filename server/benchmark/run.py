"""A benchmark from its file to its tables."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from data_partitions.wording import counted
from federation.config import with_new_names
from federation.errors import ConfigurationError, RunDirectoryError
from federation.machine import count_cores
from federation.run_directory import RunDirectory, read_json, to_json, write_text
from server import resuming
from server.benchmark.archive import (
    CELLS,
    ENVIRONMENT,
    PLAN,
    TRIALS,
    TUNING,
    check_whole,
    where_it_ran,
    write_ignored,
)
from server.benchmark.cells import CellRunner, Outcome
from server.benchmark.figures import raw_csv, raw_rows
from server.benchmark.leaderboard import Leaderboard, csv_table, markdown, tex
from server.benchmark.page import render_page
from server.benchmark.plan import (
    BUDGET_WORDS,
    BenchmarkPlan,
    Cell,
    load_plan,
    make_cells,
    make_trials,
    plan_text,
    trial_values,
)
from server.benchmark.statistics import Results
from server.environment import describe_environment
from server.inputs import RunInputs, prepare_inputs


@dataclass(frozen=True)
class Finished:
    """A benchmark that has run to its end."""

    board: Leaderboard
    folder: Path
    failed: int
    """Cells that failed."""


def run_benchmark(
    path: Path,
    folder: Path,
    *,
    assignments: Sequence[str] = (),
    resume: bool,
    jobs: int,
    say: Callable[[str], None],
    show: Callable[[int, int, list[str]], None],
    prepare: Callable[[str, int, int], None],
) -> Finished:
    """Run what is not done of a benchmark; write its tables.

    Parameters
    ----------
    path
        The benchmark file.
    folder
        Where everything goes.
    assignments
        ``KEY=VALUE`` for every cell.
    resume
        Whether the folder may hold a part of this benchmark already.
    jobs
        Runs side by side; 0: as many as there are cores for.
    say
        Called with lines for a person.
    show
        Called often with runs that are done, of how many, and what is running.
    prepare
        Called while images are read.

    Raises
    ------
    InputError
        If anything is wrong with the file, a cell's settings or its images; nothing was written then.
    """
    plan = load_plan(path, assignments)
    directory = RunDirectory(folder, "--out")
    _check_resumable(folder, resume=resume)
    with directory.taken(resume=resume):
        if directory.note:
            say(directory.note)
        trials = make_trials(plan, path)
        chosen = _chosen_before(plan, folder)
        cells = make_cells(plan, path, chosen)
        jobs = jobs or default_jobs(cells)
        runner, trial_runner = (CellRunner(folder / name, jobs, say, show) for name in (CELLS, TRIALS))
        is_new = any(not runner.is_done(cell) for cell in cells) or (bool(trials) and not chosen)
        check_cells({trial_runner: trials, runner: cells}, is_new, prepare, say)
        trial_runner.check(trials)
        runner.check(cells if chosen or not trials else [])
        _begin(plan, folder)
        with _saying_how_to_go_on(path, folder, say):
            facts = _facts(folder, _command(path, assignments), jobs, is_new=is_new)
            say(_describe_cells(plan, len(cells), jobs, is_new=is_new))
            if trials and not chosen:
                chosen = _tune(plan, trial_runner, trials, folder, say)
                cells = make_cells(plan, path, chosen)
            return finish(plan, folder, runner.run(cells), facts, chosen)


def _check_resumable(folder: Path, *, resume: bool) -> None:
    """Refuse to go on in a folder that holds no benchmark."""
    if resume and not (folder / PLAN).is_file():
        raise RunDirectoryError(
            f"--out {folder}: holds no benchmark to go on with; leave --resume out to start one there"
        )


def _begin(plan: BenchmarkPlan, folder: Path) -> None:
    """Keep the plan beside the results, and say what of them is committed."""
    write_text(folder / PLAN, plan_text(plan))
    write_ignored(folder)


def _describe_cells(plan: BenchmarkPlan, num_cells: int, jobs: int, *, is_new: bool) -> str:
    said = (
        f"{counted(num_cells, 'cell')} ({len(plan.strategies)} strategies x "
        f"{counted(len(plan.partitions), 'partition')} x {counted(len(plan.models), 'model')} x "
        f"{counted(len(plan.seeds), 'seed')}), equal {BUDGET_WORDS[plan.budget]}, {jobs} side by side"
    )
    return said if is_new else f"{said}\nevery cell is done: no image is read, and the tables are made again"


def _command(path: Path, assignments: Sequence[str]) -> str:
    """Return the command that runs the benchmark, for who reads its tables."""
    return shlex.join(
        ["dermafed", "benchmark", path.name, *(part for given in assignments for part in ("--set", given))]
    )


def _chosen_before(plan: BenchmarkPlan, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what tuning has chosen when the benchmark was begun; empty where it has not."""
    kept = folder / TUNING
    if plan.tuning is None or not kept.is_file():
        return {}
    written: dict[str, dict[str, Any]] = read_json(kept)
    chosen = {strategy: with_new_names(values) for strategy, values in written.items()}
    for strategy, table in plan.strategies.items():
        tried = [with_new_names(values) for values in trial_values(plan, strategy)] if "tune" in table else []
        if (strategy in chosen) != bool(tried) or (tried and chosen[strategy] not in tried):
            raise RunDirectoryError(
                f"{kept}: what was chosen for {strategy} is not among what the file tries now; give another --out, or "
                "set the file back"
            )
    return chosen


@contextlib.contextmanager
def _saying_how_to_go_on(path: Path, folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; go on with dermafed benchmark {path} --out {folder} --resume")
        raise


def check_cells(
    cells: Mapping[CellRunner, Sequence[Cell]],
    is_new: bool,
    prepare: Callable[[str, int, int], None],
    say: Callable[[str], None],
) -> None:
    """Check that finished cells are whole and, where any is to be run, :func:`check_images`.

    Where everything is done, as in a clone with all cells, nothing but the tables is made: without the images.
    """
    every = [(runner, cell) for runner, its in cells.items() for cell in its]
    check_whole(runner.directory(cell) for runner, cell in every if runner.is_done(cell))
    if is_new:
        check_images([(cell, runner.directory(cell)) for runner, cell in every], prepare, say)


def check_images(
    cells: Sequence[tuple[Cell, RunDirectory]], prepare: Callable[[str, int, int], None], say: Callable[[str], None]
) -> None:
    """Read and divide the images of every partition, so that what is wrong with them shows before anything runs.

    What a user should know about them is said once.

    Raises
    ------
    InputError
        Naming it; or a run, finished or not, that was of other images: its figures could not stand beside the rest.
    """
    read: dict[Any, RunInputs] = {}
    notes: dict[str, None] = {}
    for cell, directory in cells:
        key = (cell.configuration.data, cell.configuration.partition, cell.configuration.model.resolution)
        if key not in read:
            read[key] = prepare_inputs(cell.configuration, prepare)
            notes |= dict.fromkeys(read[key].notes)
        resuming.check_images(directory, read[key])
    for note in notes:
        say(f"data: {note}")


def default_jobs(cells: Sequence[Cell]) -> int:
    """Return how many runs fit side by side: one for each core, or one if a run takes all cores or the GPU."""
    alone = torch.cuda.is_available() or any(cell.configuration.simulation.engine == "ray" for cell in cells)
    threads = max(max(cell.configuration.training.threads, cell.configuration.evaluation.threads) for cell in cells)
    return 1 if alone else max(1, count_cores() // threads)


def _tune(
    plan: BenchmarkPlan, runner: CellRunner, trials: Sequence[Cell], folder: Path, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Run the trials; return, and keep in the folder, what :func:`choose` makes of them."""
    say(f"{counted(len(trials), 'trial')} first, on {trials[0].partition} and {trials[0].model}")
    chosen = choose(plan, runner.run(trials), say)
    write_text(folder / TUNING, to_json(chosen, indent=2) + "\n")
    return chosen


def choose(plan: BenchmarkPlan, outcomes: Sequence[Outcome], say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Return for each strategy that was tuned the values with the least KID on validation images.

    Raises
    ------
    ConfigurationError
        If every trial of a strategy failed.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for strategy in dict.fromkeys(outcome.cell.strategy for outcome in outcomes):
        tried = [outcome for outcome in outcomes if outcome.cell.strategy == strategy]
        scored = [
            (float(outcome.summary["kid"]), number)
            for number, outcome in enumerate(tried)
            if outcome.summary is not None and outcome.summary.get("kid") is not None
        ]
        if not scored:
            raise ConfigurationError(
                f"[strategies.{strategy}.tune]: every trial failed ({tried[0].reason}); try other values"
            )
        kid, best = min(scored)
        chosen[strategy] = trial_values(plan, strategy)[best]
        values = ", ".join(f"{key}={value}" for key, value in chosen[strategy].items())
        say(f"{strategy}: {values} (validation KID {kid:.4f}, best of {counted(len(tried), 'trial')})")
    return chosen


def _facts(folder: Path, command: str, jobs: int, *, is_new: bool) -> dict[str, Any]:
    """Return command and machine, kept in the folder; where no cell is to run, those that are there."""
    path = folder / ENVIRONMENT
    if path.is_file() and not is_new:
        return read_json(path)
    facts = {
        "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "jobs": jobs,
        **describe_environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    }
    write_text(path, to_json(facts, indent=2) + "\n")
    return facts


def finish(
    plan: BenchmarkPlan,
    folder: Path,
    outcomes: Sequence[Outcome],
    facts: Mapping[str, Any],
    chosen: Mapping[str, Mapping[str, Any]],
) -> Finished:
    """Write raw figures, tables and page."""
    rows = raw_rows(outcomes)
    board = Leaderboard.of(plan, Results(rows), outcomes, chosen)
    write_text(folder / "raw.csv", raw_csv(rows))
    write_text(folder / "leaderboard.csv", csv_table(board))
    write_text(folder / "leaderboard.md", markdown(board))
    write_text(folder / "leaderboard.tex", tex(board))
    date, machine, version = where_it_ran(outcomes, facts)
    shown = [
        date,
        ("Budget", f"equal {BUDGET_WORDS[plan.budget]}"),
        ("Cells", f"{len(outcomes) - len(board.failures())} of {len(outcomes)} done"),
        machine,
        version,
    ]
    write_text(folder / "leaderboard.html", render_page(board, shown))
    return Finished(board, folder, len(board.failures()))
