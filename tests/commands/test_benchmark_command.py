"""``dermafed benchmark`` as a user runs it."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ForkServer

Benchmark = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def benchmark(fork_server: ForkServer) -> Benchmark:
    """Run ``dermafed benchmark`` in a process that need not import anything."""
    return lambda *arguments: fork_server.run("dermafed", "benchmark", *arguments)


def figures(out: Path) -> dict[tuple[str, ...], float]:
    """Return raw.csv without what a clock and a process say."""
    with (out / "raw.csv").open(encoding="utf-8") as file:
        return {
            (row["strategy"], row["partition"], row["model"], row["seed"], row["metric"]): float(row["value"])
            for row in csv.DictReader(file)
            if not row["metric"].startswith(("seconds", "server_megabytes"))
        }


@pytest.fixture(scope="module")
def smoke(
    tmp_path_factory: pytest.TempPathFactory, cache_dir: str, fork_server: ForkServer
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The four cells are processes as a user's are; the one that starts them need not import anything."""
    out = tmp_path_factory.mktemp("benchmark") / "smoke"
    cache = f"data.cache-dir={cache_dir}"
    arguments = ["conf/benchmark-smoke.toml", "--out", str(out), "--set", cache]
    for smaller in (
        "stylegan2.channel-max=8",
        "stylegan2.latent-size=8",
        "evaluation.images=40",
        "evaluation.threads=1",
        "evaluation.utility-steps=10",
    ):
        arguments += ["--set", smaller]
    return out, fork_server.run("dermafed", "benchmark", *arguments, timeout=600)


def test_the_smoke_benchmark_ends_with_its_tables(smoke: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = smoke
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 cells (2 strategies x 1 partition x 1 model x 2 seeds), equal images" in done.stdout
    assert "4/4" in done.stdout
    for name in ("raw.csv", "leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html"):
        assert f"wrote {out / name}" in done.stdout
        assert (out / name).stat().st_size > 500
    found = figures(out)
    assert {key[0] for key in found} == {"fedgan", "alone"}
    images = {value for key, value in found.items() if key[-1] == "images"}
    assert images == {2 * 3 * 2 * 8}  # rounds x hospitals x steps x batch, for all
    # Alone sends nothing; FedGAN sends three networks down and up.
    assert {value for key, value in found.items() if key[0] == "alone" and key[-1] == "megabytes"} == {0.0}
    assert {value for key, value in found.items() if key[0] == "alone" and key[-1] == "gain_over_alone"} == {0.0}
    summary = json.loads((out / "cells" / "alone--iid--model--seed-1" / "summary.json").read_text())
    own = summary["test"]["own_generators"]
    assert [entry["name"] for entry in own] == ["hospital-00", "hospital-01", "hospital-02"]
    kids = [entry["kid"] for entry in own]
    expected = sum(kids) / 3 - found["fedgan", "iid", "model", "1", "kid"]
    assert found["fedgan", "iid", "model", "1", "gain_over_alone"] == pytest.approx(expected)
    page = (out / "leaderboard.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    # Two seeds and one comparison: 2 of the 4 ways to give two differences signs.
    assert "the least p that was possible is 0.500, for 1 comparison" in page
    assert "the least p that was possible is 0.500, for 1 comparison" in " ".join(done.stdout.split())


TINY = """
name = "tiny"
budget = "images"
baseline = "fedgan"
seeds = [0]
hyperparameters = "untuned"
[base]
rounds = 2
data.phantom-images = 400
partition = { scheme = "iid", hospitals = 3, min-images = 1 }
stylegan2 = { channel-max = 8, channel-base = 32, latent-size = 8 }
training = { local-steps = 1, batch-size = 2 }
evaluation = { every = 2, images = 16, draws = 1, threads = 1, utility = false, authenticity = false }
[strategies.fedgan]
[strategies.fedmedian]
[strategies.unlucky]
strategy.name = "fedgan"
attack = { name = "scaled", scale = 1e300 }
participation = { min-replies = 3, retries = 0 }
[partitions.iid]
"""


def git(folder: Path, *arguments: str | Path) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def untimed(path: Path) -> list[str]:
    """The lines of a csv file without those that a clock and a process say."""
    clocks = (",seconds", ",server_megabytes")
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not any(one in line for one in clocks)]


def test_a_failed_cell_is_reported_and_a_clone_of_what_is_committed_goes_on_to_the_same_tables(
    benchmark: Benchmark, tmp_path: Path, cache_dir: str
) -> None:
    """As after a machine was lost: one cell is done, one has failed, one was committed while it ran."""
    path, out, cache = tmp_path / "tiny.toml", tmp_path / "first" / "out", f"data.cache-dir={cache_dir}"
    path.write_text(TINY)
    done = benchmark(path, "--out", out, "--set", cache)
    assert done.returncode == 1
    assert "unlucky--iid--model--seed-0  FAILED" in done.stdout
    assert "at least 3 are needed (participation.min-replies)" in done.stdout
    assert "1 of 3 cells failed" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    before = figures(out)
    assert {key[0] for key in before} == {"fedgan", "fedmedian"}
    assert "Failed: unlucky--iid--model--seed-0" in (out / "leaderboard.md").read_text()

    git(out.parent, "init", "--quiet")
    (out / "cells" / "fedgan--iid--model--seed-0" / "summary.json").unlink()
    git(out.parent, "add", "out")
    git(out.parent, "commit", "--quiet", "--message", "cells")
    committed = git(out.parent, "ls-files").splitlines()
    cell = "out/cells/fedmedian--iid--model--seed-0"
    names = ("config.toml", "environment.json", "hospitals.jsonl", "metrics.jsonl", "partition.json", "summary.json")
    assert [name for name in committed if "fedmedian" in name] == [f"{cell}/{name}" for name in names]
    assert (out.parent / cell / "final" / "generator.safetensors").is_file()
    assert {Path(name).suffix for name in committed} == {"", ".toml", ".json", ".jsonl", ".csv", ".md", ".tex", ".html"}
    git(tmp_path, "clone", "--quiet", out.parent, "second")

    again = tmp_path / "second" / "out"
    refused = benchmark(path, "--out", again, "--set", cache)
    assert refused.returncode == 2
    assert str(again) in refused.stderr
    other = benchmark(path, "--out", again, "--set", cache, "--set", "rounds=3", "--resume")
    assert other.returncode == 2
    assert "rounds was 2 and is 3 now" in other.stderr
    resumed = benchmark(path, "--out", again, "--set", cache, "--resume")
    assert resumed.returncode == 1
    ran = [line.split()[1] for line in resumed.stdout.splitlines() if line.split()[:1] in (["2/3"], ["3/3"])]
    assert sorted(ran) == ["fedgan--iid--model--seed-0", "unlucky--iid--model--seed-0"]
    assert "at least 3 are needed (participation.min-replies)" in resumed.stdout
    assert figures(again) == before
    for name in ("raw.csv", "leaderboard.csv"):
        assert untimed(again / name) == untimed(out / name)
        assert len(untimed(again / name)) > 20
    assert git(again, "status", "--porcelain", cell.removeprefix("out/")) == ""


def test_being_ended_ends_the_runs_and_nothing_is_lost(
    fork_server: ForkServer, benchmark: Benchmark, tmp_path: Path, cache_dir: str
) -> None:
    """By SIGTERM, as a cluster ends a job: it takes the way of Ctrl-C."""
    path, out = tmp_path / "tiny.toml", tmp_path / "out"
    path.write_text(TINY.replace("rounds = 2", "rounds = 2000"))
    arguments = [path, "--out", out, "--jobs", "1", "--set", f"data.cache-dir={cache_dir}"]
    process = fork_server.start("dermafed", "benchmark", *arguments)
    lines = out / "cells" / "fedgan--iid--model--seed-0" / "hospitals.jsonl"
    deadline = time.monotonic() + 120
    while not lines.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    second = benchmark(*arguments, "--resume")
    assert second.returncode == 2, second.stderr
    assert "another process runs there; wait for its end, or give another --out" in second.stderr
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert f"go on with dermafed benchmark {path} --out {out} --resume" in printed
    summary = json.loads((lines.parent / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert list((lines.parent / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conf/no-such-file.toml"], "conf/no-such-file.toml: cannot be read"),
        (["conf/smoke.toml"], "unknown key; the nearest known key is"),
        (["conf/benchmark-smoke.toml", "--set", "strategy.nam=fedadam"], "strategy.nam"),
        (["conf/benchmark-smoke.toml", "--set", "partition.hospitals=500"], "partition.hospitals = 500"),
        (["conf/benchmark-smoke.toml", "--resume"], "holds no benchmark to go on with"),
    ],
)
def test_wrong_input_ends_before_anything_is_written(
    benchmark: Benchmark, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    done = benchmark(*arguments, "--out", out)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
