"""A tuned benchmark from its file to its tables, its runs made up: what is chosen, kept and refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import server.benchmark.run
from federation.errors import RunDirectoryError
from federation.run_directory import RunDirectory
from server.benchmark.cells import CellRunner, Outcome
from server.benchmark.plan import Cell
from server.benchmark.run import Finished, run_benchmark

PLAN = """
name = "tuned"
budget = "images"
baseline = "fedgan"
seeds = [0, 1]
hyperparameters = "tuned, a trial for each value"
[tuning]
trials = 2
rounds = 3
seed = 7
[base]
rounds = 10
[strategies.fedgan]
[strategies.fedadam]
[strategies.fedadam.tune]
strategy.server-learning-rate = [0.01, 0.1]
[partitions.iid]
partition.scheme = "iid"
"""


class Runs:
    """Stands for the runs: KID is what `kid_of` says of a cell's settings."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.best_rate = 0.01

    def kid_of(self, cell: Cell) -> float:
        strategy = cell.configuration.strategy
        return 1.0 if strategy.name == "fedgan" else 0.5 + abs(strategy.server_learning_rate - self.best_rate)

    def run(self, runner: CellRunner, cells: Iterable[Cell]) -> list[Outcome]:
        outcomes = []
        for cell in cells:
            directory: RunDirectory = runner.directory(cell)
            if not directory.config.is_file():
                self.ran.append(cell.key)
                directory.path.mkdir(parents=True)
                directory.config.write_text(cell.configuration.to_toml())
                directory.hospitals.write_text("")
                directory.metrics.write_text("")
            kid = self.kid_of(cell)
            test = {"kid": kid, "extractor": "e", "num_generated": 9, "num_real": 9, "num_draws": 1}
            summary: dict[str, Any] = {
                "kid": kid,
                "test": test,
                "seconds": 1.0,
                "seconds_by_work": {"training": 1.0},
                "images": 100,
                "rounds": cell.configuration.rounds,
                "peak_memory_bytes": {"server": 1},
            }
            outcomes.append(Outcome(cell, directory, summary))
        return outcomes


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setattr(CellRunner, "run", lambda runner, cells: made.run(runner, cells))
    monkeypatch.setattr(server.benchmark.run, "check_images", lambda cells, prepare, say: None)
    return made


def benchmark(tmp_path: Path, text: str = PLAN, *, resume: bool = False) -> Finished:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return run_benchmark(
        path,
        tmp_path / "out",
        resume=resume,
        jobs=1,
        say=lambda text: None,
        show=lambda done, total, running: None,
        prepare=lambda what, done, total: None,
    )


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_best_trial_is_what_every_cell_runs_with_and_stands_beside_the_tables(tmp_path: Path, runs: Runs) -> None:
    finished = benchmark(tmp_path)
    assert [key for key in runs.ran if "trial" in key] == [
        "fedadam--iid--model--seed-7--trial-server-learning-rate-0.01",
        "fedadam--iid--model--seed-7--trial-server-learning-rate-0.1",
    ]
    cells = [outcome.cell for outcome in finished.board.outcomes]
    rates = {cell.configuration.strategy.server_learning_rate for cell in cells if cell.strategy == "fedadam"}
    assert (len(cells), rates) == (4, {0.01})
    assert json.loads((tmp_path / "out" / "tuning.json").read_text()) == {
        "fedadam": {"strategy.server-learning-rate": 0.01}
    }
    note = "fedadam: 2 trials, chosen strategy.server-learning-rate = 0.01. Untuned: fedgan."
    for name in ("leaderboard.md", "leaderboard.html", "leaderboard.tex"):
        assert note in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_a_resumed_benchmark_keeps_what_was_chosen(tmp_path: Path, runs: Runs) -> None:
    """A trial that failed before could win now, and the cells that are done would be of another setting."""
    benchmark(tmp_path)
    runs.ran.clear()
    runs.best_rate = 0.1
    finished = benchmark(tmp_path, resume=True)
    assert runs.ran == []
    rates = {o.cell.configuration.strategy.server_learning_rate for o in finished.board.outcomes}
    assert rates == {0.0, 0.01}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[0.01, 0.1]", "[0.02, 0.1]", "is not among what the file tries now"),
        ("rounds = 3", "rounds = 4", "rounds was 3 and is 4 now"),
        ("[base]\nrounds = 10", "[base]\nrounds = 11", "rounds was 10 and is 11 now"),
    ],
)
def test_another_file_is_refused_before_anything_is_written(
    tmp_path: Path, runs: Runs, before: str, after: str, message: str
) -> None:
    benchmark(tmp_path)
    kept = everything(tmp_path / "out")
    with pytest.raises(RunDirectoryError, match=message):
        benchmark(tmp_path, PLAN.replace(before, after), resume=True)
    assert everything(tmp_path / "out") == kept


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path, runs: Runs) -> None:
    benchmark(tmp_path)
    other = RunDirectory(tmp_path / "out")
    other.lock()
    with pytest.raises(RunDirectoryError, match="another process runs there; wait for its end, or give another --out"):
        benchmark(tmp_path, resume=True)
    other.unlock()
    benchmark(tmp_path, resume=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, runs: Runs) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RunDirectoryError, match="give another --out"):
        benchmark(tmp_path)
