"""``dermafed report``: what a person types, sees and finds on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commands.main import _exit_code, cli
from federation.config import parse_assignments
from strategies.configuration import resolve

REPOSITORY = Path(__file__).resolve().parents[2]
DERMAFED = [sys.executable, "-c", "from commands.main import main; main()"]


def report(*arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    try:
        return _exit_code(lambda: cli(["report", *map(str, arguments)]))
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that failed before its first round."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.toml").write_text(resolve([parse_assignments(["name=early", "rounds=7"])]).to_toml())
    (path / "summary.json").write_text(json.dumps({"status": "failed", "rounds": 0, "reason": "no room"}))
    return path


def test_a_process_writes_the_report_and_nothing_else(run_dir: Path) -> None:
    process = subprocess.run(
        [*DERMAFED, "report", str(run_dir)], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == f"report: {run_dir / 'report.html'}\n"
    assert sorted(path.name for path in run_dir.iterdir()) == ["config.toml", "report.html", "summary.json"]
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>\n")
    assert page.endswith("</html>")
    assert "<title>early · dermafed report</title>" in page
    assert "The run failed after round 0 of 7: no room." in page


def test_it_is_made_again(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "report.html").write_text("an older one")
    assert report(run_dir) == 0
    first = (run_dir / "report.html").read_bytes()
    assert report(run_dir) == 0
    assert (run_dir / "report.html").read_bytes() == first != b"an older one"
    assert capsys.readouterr().err == ""


def test_all_problems_at_once(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "summary.json").write_text('{"status": "do')
    (run_dir / "metrics.jsonl").write_text('{"round": 0}\nround 1\n')
    assert report(run_dir) == 2
    captured = capsys.readouterr()
    remedy = "restore it from a copy, or move it away: the report then says what is missing"
    assert captured.out == ""
    assert captured.err == (
        f"error: {run_dir / 'metrics.jsonl'}: line 2 is not valid json (Expecting value); {remedy}\n"
        f"error: {run_dir / 'summary.json'}: is not valid json (line 1: Unterminated string starting at); {remedy}\n"
    )
    assert sorted(path.name for path in run_dir.iterdir()) == ["config.toml", "metrics.jsonl", "summary.json"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "does not exist; give the folder of a run"),
        ("file", "is a file; give the folder of a run"),
        ("empty", "has no config.toml, so it holds no run; give the folder that --run-dir named"),
    ],
)
def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert report(tmp_path / name) == 2
    assert capsys.readouterr().err == f"error: run directory {tmp_path / name}: {words}\n"
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_place_that_cannot_be_written_to(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "report.html").mkdir()
    assert report(run_dir) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"failed: {run_dir / 'report.html'}: cannot be written (")
    assert list((run_dir / "report.html").iterdir()) == []
    assert not [path for path in run_dir.iterdir() if path.name.startswith(".")]
