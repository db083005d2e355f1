"""Cells that an earlier version ran: their tables can be made again."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

import server.benchmark.run
from federation.config import RENAMED_KEYS, load_toml
from federation.errors import RunDirectoryError
from server.benchmark.archive import TABLES
from server.benchmark.cells import CellRunner, _Process
from server.benchmark.plan import Cell, load_plan, make_cells
from server.benchmark.run import Finished, run_benchmark

REPOSITORY = Path(__file__).resolve().parents[2]
COMMITTED = REPOSITORY / "docs" / "benchmarks" / "robustness"
PLAN = REPOSITORY / "conf" / "benchmark-robustness.toml"
ROOT = "data.root=/images/ham10000"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The committed cells as docs/benchmarks/README.md says to lay them out."""
    folder = tmp_path / "out"
    folder.mkdir()
    with tarfile.open(COMMITTED / "cells.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    shutil.copy(PLAN, folder / "benchmark.toml")
    return folder


def go_on(folder: Path) -> Finished:
    return run_benchmark(
        PLAN,
        folder,
        assignments=[ROOT],
        resume=True,
        jobs=1,
        say=lambda text: None,
        show=lambda done, total, running: None,
        prepare=lambda what, done, total: None,
    )


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def like(text: str) -> Any:
    """A number but for what other processors round; any other text as it stands."""
    try:
        return pytest.approx(float(text), rel=1e-12)
    except ValueError:
        return text


def read(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def test_the_committed_tables_are_made_again(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [load_toml(path).values for path in unpacked.glob("cells/*/config.toml")]
    assert len(configs) == 18
    # What the test is about: the cells have the keys of their time.
    assert all(RENAMED_KEYS.keys() & config.keys() for config in configs)
    # The images are not here: nothing is run, and nobody looks for them.
    monkeypatch.setattr(CellRunner, "_start", lambda runner, cell: pytest.fail(f"{cell.key} would run again"))
    assert go_on(unpacked).failed == 0
    for name in ("leaderboard.csv", "raw.csv"):
        made, committed = (rows((folder / name).read_text(encoding="utf-8")) for folder in (unpacked, COMMITTED))
        assert made[0] == committed[0]
        assert len(made) == len(committed)
        for ours, theirs in zip(made[1:], committed[1:], strict=True):
            assert [read(cell) for cell in ours] == [like(cell) for cell in theirs]
    # Nor is there a word of what they did not count.
    assert (unpacked / "leaderboard.md").read_text(encoding="utf-8") == (COMMITTED / "leaderboard.md").read_text(
        encoding="utf-8"
    )


def git(folder: Path, *arguments: str | Path) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_clone_of_the_cells_committed_so_far_ends_with_the_same_tables_byte_for_byte(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cells that are not done run; here what they would leave is laid where they would leave it."""
    go_on(unpacked)
    begun = tmp_path / "begun" / "out"
    for path in unpacked.rglob("*"):
        if path.is_file() and "seed-2" not in str(path) and path.name not in TABLES:
            (begun / path.relative_to(unpacked)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, begun / path.relative_to(unpacked))
    # What a run leaves that is large, or somebody's.
    for name in (
        "checkpoints/round-0012/global.safetensors",
        "final/model.json",
        "split.csv",
        "samples/round-0012.png",
    ):
        left = begun / "cells" / "fedgan--iid--model--seed-0" / name
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_text("")
    (begun / "cells" / "fedgan--iid--model--seed-0.log").write_text("")
    git(begun.parent, "init", "--quiet")
    git(begun.parent, "add", "out")
    git(begun.parent, "commit", "--quiet", "--message", "two seeds")
    git(tmp_path, "clone", "--quiet", begun.parent, "clone")
    cloned = tmp_path / "clone" / "out"
    found = {path.name for path in cloned.rglob("*") if path.is_file()}
    assert found == {".gitignore", "benchmark.toml", "environment.json", "config.toml", "hospitals.jsonl",
                     "metrics.jsonl", "summary.json"}  # fmt: skip

    ran = []

    def run(runner: CellRunner, cell: Cell) -> _Process:
        ran.append(cell.key)
        shutil.copytree(unpacked / "cells" / cell.key, runner.directory(cell).path)
        return _Process(cell, runner.directory(cell), subprocess.Popen(["true"]), 0.0, 0)

    monkeypatch.setattr(CellRunner, "_start", run)
    monkeypatch.setattr(server.benchmark.run, "check_images", lambda cells, prepare, say: None)
    go_on(cloned)
    assert len(ran) == 6
    assert all(key.endswith("seed-2") for key in ran)
    for name in TABLES:
        assert (cloned / name).read_bytes() == (unpacked / name).read_bytes(), name


@pytest.mark.parametrize("name", ["config.toml", "hospitals.jsonl", "metrics.jsonl"])
def test_a_finished_cell_without_one_of_its_files_is_named(unpacked: Path, name: str) -> None:
    lost = unpacked / "cells" / "fedgan--iid--model--seed-0" / name
    lost.unlink()
    with pytest.raises(RunDirectoryError) as caught:
        go_on(unpacked)
    assert list(caught.value.problems) == [
        f"{lost}: is missing, and its cell is finished; put it back (git checkout, a copy), or remove {lost.parent} to "
        "run the cell anew"
    ]


def test_a_cell_of_another_extractor_is_told_of_when_it_ends(unpacked: Path, tmp_path: Path) -> None:
    """And not when all are done: on another machine an extractor that is trained is another one."""
    said: list[str] = []
    runner = CellRunner(unpacked / "cells", 1, said.append, lambda done, total, running: None)
    outcomes = runner.run(make_cells(load_plan(PLAN, [ROOT]), PLAN)[:2])
    runner._compare_extractors(outcomes[0], outcomes)
    assert said == []
    assert outcomes[1].summary is not None
    outcomes[1].summary["test"]["extractor"] = "lesion-cnn-32@beef"
    runner._compare_extractors(outcomes[1], outcomes)
    assert said[0].startswith(
        f"{outcomes[1].cell.key} was judged by lesion-cnn-32@beef, and others by lesion-cnn-32@059d: they cannot be "
        "compared."
    )


def test_a_cell_of_other_settings_is_refused_under_their_names_of_today(unpacked: Path) -> None:
    plan = load_plan(PLAN, [ROOT, "stylegan2.gamma=0.7"])
    cells = make_cells(plan, PLAN)
    with pytest.raises(RunDirectoryError) as caught:
        CellRunner(unpacked / "cells", 1, print, print).check(cells)
    found = caught.value.problems
    assert found[0].endswith("stylegan2.gamma was 0.1 and is 0.7 now; give another --out, or set it back")
    assert found[-1] == "and 10 more like these"
    summary = json.loads((unpacked / "cells" / cells[0].key / "summary.json").read_text(encoding="utf-8"))
    assert "evaluations" not in summary
