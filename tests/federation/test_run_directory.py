"""Files are whole or absent."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from federation.errors import RunDirectoryError, StorageError
from federation.run_directory import (
    RunDirectory,
    check_free,
    default_path,
    read_json,
    read_lines,
    taken_directory,
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
    with (
        pytest.raises(RunDirectoryError, match="exists already; give another --run-dir, remove it, or continue"),
        RunDirectory(tmp_path).taken(),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_runs_of_one_name_that_start_in_one_second_have_directories_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    now = datetime(2026, 11, 20, 9, 5, 7, tzinfo=UTC)
    with taken_directory("", "phantom", now=now) as first, taken_directory("", "phantom", now=now) as second:
        first.config.touch()
        with taken_directory("", "phantom", now=now) as third:
            pass
        second.config.touch()
        # Another process cannot go on in what a run has taken and not written to yet.
        with (
            pytest.raises(RunDirectoryError, match="another process runs there"),
            taken_directory(str(first.path), "phantom", resume=True),
        ):
            pass
    names = [f"20261120T090507Z-phantom{suffix}" for suffix in ("", "-2", "-3")]
    assert [directory.path for directory in (first, second, third)] == [tmp_path / "runs" / name for name in names]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names[:2]  # nothing was written to the third


def test_a_directory_is_taken_before_anything_is_written_to_it(tmp_path: Path) -> None:
    path = tmp_path / "above" / "run"
    with taken_directory(str(path), "phantom"):
        with pytest.raises(RunDirectoryError, match="another process runs there"), taken_directory(str(path), "other"):
            pass
        assert path.is_dir()  # nor does the second one remove what the first has made
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_that_cannot_be_written_is_refused_at_once(user: Path, resume: bool) -> None:
    folder = user / "run"
    folder.mkdir()
    if resume:
        (folder / "config.toml").touch()
    folder.chmod(0o555)
    before = list(folder.iterdir())
    with (
        pytest.raises(RunDirectoryError, match=r"run: cannot be written \(Permission denied\); give another --run-dir"),
        taken_directory(str(folder), "phantom", resume=resume),
    ):
        pass
    assert list(folder.iterdir()) == before
    folder.chmod(0o300)
    with (
        pytest.raises(RunDirectoryError, match=r"run: cannot be read \(Permission denied\)"),
        taken_directory(str(folder), "phantom", resume=resume),
    ):
        pass
    with pytest.raises(RunDirectoryError, match=r"inner: cannot be made \(Permission denied\)"):
        folder.chmod(0o500)
        with taken_directory(str(folder / "inner"), "phantom"):
            pass


def test_lines_after_a_round_are_dropped(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append(directory.metrics, [{"round": 0, "kid": 1.0}, {"round": 5, "kid": 0.5}])
    directory.append(directory.metrics, [{"round": 10, "kid": 0.25}])
    with directory.metrics.open("a") as file:
        file.write('{"round": 15, "ki')  # killed while writing
    assert [line["round"] for line in read_lines(directory.metrics)] == [0, 5, 10]
    directory.keep_rounds(5)
    assert read_lines(directory.metrics) == [{"round": 0, "kid": 1.0}, {"round": 5, "kid": 0.5}]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"round": 0}\n' + bytes(20) + b'\n{"round": 2}\n')
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl: line 2 is damaged .*; put the file back from a copy"):
        read_lines(path)


def test_a_folder_in_the_way_of_lines_is_named(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.metrics.mkdir()
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl: cannot be read \(Is a directory\); put"):
        read_lines(directory.metrics)
    with pytest.raises(StorageError, match=r"metrics\.jsonl: cannot be written \(Is a directory\); move away what is"):
        directory.append(directory.metrics, [{"round": 1}])


def test_a_damaged_description_is_named(tmp_path: Path) -> None:
    path = tmp_path / "partition.json"
    path.write_text('{"digest": ')
    with pytest.raises(RunDirectoryError, match=r"partition\.json: is damaged .*; put it back from a copy"):
        read_json(path)


@pytest.fixture
def room() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond so many bytes, as a disk does that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lines_for_which_there_is_no_room_leave_none_of_them(room: Callable[[int], None], tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append(directory.metrics, [{"round": 0}])
    room(40)
    with pytest.raises(
        StorageError, match=r"metrics\.jsonl: cannot be written \(File too large\); make room on its disk"
    ):
        directory.append(directory.metrics, [{"round": 1}, {"round": 2}, {"round": 3}])
    assert directory.metrics.read_text() == '{"round": 0}\n'


def test_a_library_without_room_is_named_like_the_system(room: Callable[[int], None], tmp_path: Path) -> None:
    """safetensors raises an error of its own, which is no OSError."""
    path = tmp_path / "weights.safetensors"
    room(1000)
    with pytest.raises(StorageError, match="weights.safetensors: cannot be written .*File too large"):  # noqa: SIM117
        with written_atomically(path) as temporary:
            save_file({"w": np.zeros(1000, np.float32)}, temporary)
    assert list(tmp_path.iterdir()) == []


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

    with pytest.raises(StorageError, match=r"cannot be written \(disk full\); make room on its disk"):
        directory.write_checkpoint(40, 2, fail)
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["round-0020", "round-0030"]
    assert directory.checkpoint_rounds() == [20, 30]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks_holds_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with taken_directory(str(tmp_path / "run"), "phantom") as directory:
        assert directory.note == (
            f"run directory {tmp_path / 'run'}: its file system has no locks ({os.strerror(code)}): nothing keeps a "
            "second process from running there, so start none"
        )


@pytest.mark.parametrize("code", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_another_holds_is_told_from_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunDirectoryError, match="another process runs there"):
        RunDirectory(tmp_path).lock()
