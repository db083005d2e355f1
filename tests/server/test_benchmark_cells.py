"""Cells that an earlier version ran: their tables can be made again."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

import server.benchmark.run
from federation.config import RENAMED_KEYS, load_toml
from federation.errors import RunDirectoryError
from server.benchmark.cells import CellRunner
from server.benchmark.plan import load_plan, make_cells
from server.benchmark.run import run_benchmark

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
    for config in folder.glob("cells/*/config.toml"):
        text = config.read_text(encoding="utf-8")
        assert 'root = "ham10000"' in text
        config.write_text(text.replace('root = "ham10000"', 'root = "/images/ham10000"'), encoding="utf-8")
    shutil.copy(PLAN, folder / "benchmark.toml")
    return folder


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
    # The images are not here, and nothing may be run anew.
    monkeypatch.setattr(server.benchmark.run, "check_images", lambda cells, prepare, say: None)
    monkeypatch.setattr(CellRunner, "_start", lambda runner, cell: pytest.fail(f"{cell.key} would run again"))
    finished = run_benchmark(
        PLAN,
        unpacked,
        assignments=[ROOT],
        resume=True,
        jobs=1,
        say=lambda text: None,
        show=lambda done, total, running: None,
        prepare=lambda what, done, total: None,
    )
    assert finished.failed == 0
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
