"""What was released is counted, however often the server is killed and goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from three_numbers import Arrays, strategy

from federation.errors import RunDirectoryError
from federation.run_directory import read_lines
from strategies.release_ledger import Release, ReleaseLedger, digest_of


def releases(*server_rounds: int, start: int = 0) -> list[Release]:
    return [Release(number, 1.0, f"{start + count:032x}") for count, number in enumerate(server_rounds)]


def enter(path: Path, entries: list[Release]) -> None:
    """Count them as one process does, which then ends."""
    ledger = ReleaseLedger(path)
    for entry in entries:
        ledger.enter(entry)


def epsilon_of_a_run(run_dir: Path) -> float:
    rule = strategy(
        "strategy.name=dp-fedavg-gan", "stylegan2.loss=logistic", "strategy.noise-multiplier=1", f"run-dir={run_dir}"
    )
    found: float = rule.report()["epsilon"]
    return found


def test_rounds_released_again_after_a_resume_are_in_epsilon(tmp_path: Path) -> None:
    path = tmp_path / "releases.jsonl"
    enter(path, releases(*range(1, 18)))  # killed in round 18
    enter(path, releases(*range(11, 25), start=100))  # resumed from 10, to the end at 24
    assert [line["round"] for line in read_lines(path)] == [*range(1, 18), *range(11, 25)]
    assert epsilon_of_a_run(tmp_path) == pytest.approx(34.5488, abs=1e-4)  # of 31 releases; 24 are 28.6229


def test_the_same_bits_again_count_once(tmp_path: Path) -> None:
    path = tmp_path / "releases.jsonl"
    enter(path, releases(1, 2))
    enter(path, releases(1, 2))
    assert ReleaseLedger(path).read() == releases(1, 2)
    assert epsilon_of_a_run(tmp_path) == pytest.approx(5.4200, abs=1e-4)


def test_a_digest_is_of_names_shapes_types_and_bits() -> None:
    arrays: Arrays = {"a": np.float32([0, 1]), "b": np.float32([[2, 3]])}
    assert digest_of(arrays) == digest_of(dict(reversed(arrays.items())))
    assert digest_of(arrays) == digest_of({"a": np.float32([9, 0, 9, 1])[1::2], "b": np.float32([[2], [3]]).T})
    others: list[Arrays] = [
        arrays | {"a": np.float32([-0.0, 1])},
        arrays | {"a": np.float64([0, 1])},
        arrays | {"b": np.float32([2, 3])},
        {"a": arrays["a"], "c": arrays["b"]},
    ]
    assert digest_of(arrays) not in [digest_of(other) for other in others]


def test_a_line_that_a_killed_process_began_is_of_no_release(tmp_path: Path) -> None:
    """Nothing leaves before the whole line is on the disk."""
    path = tmp_path / "releases.jsonl"
    enter(path, releases(1, 2))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"round": 3, "noise_mult')
    assert ReleaseLedger(path).read() == releases(1, 2)
    enter(path, releases(3, start=7))
    assert path.read_bytes().startswith(whole)
    assert ReleaseLedger(path).read() == [*releases(1, 2), *releases(3, start=7)]


@pytest.mark.parametrize("line", ["{", "[]", '{"round": 2, "digest": "0"}', '{"round": null}'])
def test_a_line_that_counts_nothing_is_refused_by_name(line: str, tmp_path: Path) -> None:
    path = tmp_path / "releases.jsonl"
    enter(path, releases(1))
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    with pytest.raises(RunDirectoryError, match=r"releases\.jsonl: line 2 counts no release .* restore the file"):
        ReleaseLedger(path).read()
