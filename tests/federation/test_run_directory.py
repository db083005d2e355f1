"""Files are whole or absent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from federation.errors import RunDirectoryError
from federation.run_directory import (
    RunDirectory,
    check_free,
    default_path,
    read_lines,
    to_json,
    write_text,
    written_atomically,
)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), written_atomically(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_nan() -> None:
    assert to_json({"a": float("nan"), "b": [float("inf"), 1.5]}) == '{"a": null, "b": [null, 1.5]}'


def test_default_path() -> None:
    moment = datetime(2026, 11, 20, 9, 5, 7, tzinfo=UTC)
    assert default_path("phantom", moment) == Path("runs/20261120T090507Z-phantom")


def test_an_existing_run_is_refused(tmp_path: Path) -> None:
    check_free(tmp_path)  # empty is free
    (tmp_path / "config.toml").touch()
    with pytest.raises(RunDirectoryError, match="exists already; give another --run-dir, remove it, or continue"):
        RunDirectory(tmp_path).create()


def test_lines_after_a_round_are_dropped(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append(directory.metrics, [{"round": 0, "kid": 1.0}, {"round": 5, "kid": 0.5}])
    directory.append(directory.metrics, [{"round": 10, "kid": 0.25}])
    with directory.metrics.open("a") as file:
        file.write('{"round": 15, "ki')  # killed while writing
    assert [line["round"] for line in read_lines(directory.metrics)] == [0, 5, 10]
    directory.keep_rounds(5)
    assert read_lines(directory.metrics) == [{"round": 0, "kid": 1.0}, {"round": 5, "kid": 0.5}]


def test_checkpoints_are_whole_and_the_newest_are_kept(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.checkpoint_rounds() == []
    for number in (10, 20, 30):
        directory.write_checkpoint(
            number, 2, lambda folder, number=number: (folder / "state.json").write_text(json.dumps(number))
        )
    assert directory.checkpoint_rounds() == [20, 30]

    def fail(folder: Path) -> None:
        (folder / "state.json").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        directory.write_checkpoint(40, 2, fail)
    assert directory.checkpoint_rounds() == [20, 30]
