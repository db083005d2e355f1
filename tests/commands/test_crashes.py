"""Nothing is lost when something dies: this process, Ray's processes, a machine of a cluster's worker."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Forked, ForkServer
from ray._raylet import GcsClient

from federation.run_directory import RunDirectory, read_lines

TINY = [
    "--set=rounds=5",
    "--set=data.phantom-images=400",
    "--set=partition.min-images=1",
    "--set=partition.hospitals=4",
    "--set=partition.scheme=iid",
    "--set=participation.fraction=0.75",
    "--set=stylegan2.channel-max=16",
    "--set=stylegan2.latent-size=16",
    "--set=training.local-steps=2",
    "--set=training.batch-size=4",
    "--set=evaluation.every=2",
    "--set=evaluation.images=40",
    "--set=evaluation.utility=false",
    "--set=evaluation.authenticity=false",
    "--set=evaluation.draws=1",
    "--set=evaluation.threads=1",
    "--set=checkpoint.every=1",
]
IN_PROCESS = "--set=simulation.engine=in-process"


class Runs:
    """Starts ``run_simulation.py``, in processes that need not import anything.

    Parameters
    ----------
    fork_server
        Starts them.
    cache_dir
        Of all of them.
    """

    def __init__(self, fork_server: ForkServer, cache_dir: str) -> None:
        self._fork_server, self._cache_dir = fork_server, cache_dir

    def start(self, *arguments: str, run_dir: Path) -> Forked:
        """Start a run, which may be killed."""
        cache = f"--set=data.cache-dir={self._cache_dir}"
        return self._fork_server.start("run_simulation.py", cache, f"--run-dir={run_dir}", *arguments)

    def finish(self, *arguments: str, run_dir: Path) -> str:
        """Let a run come to its end; return what it printed."""
        process = self.start(*arguments, run_dir=run_dir)
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return printed


@pytest.fixture(scope="module")
def runs(fork_server: ForkServer, cache_dir: str) -> Runs:
    return Runs(fork_server, cache_dir)


def what_a_run_computed(run_dir: Path) -> dict[str, object]:
    """Return all that must not depend on how a run came to its end."""
    checkpoint = RunDirectory(run_dir).checkpoint_rounds()[-1]
    files = (run_dir / "final" / "generator.safetensors", run_dir / "checkpoints" / f"round-{checkpoint:04d}")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (files[0], files[1] / "global.safetensors")]
    # The two newest of each hospital, which are always kept; an older one goes once the thread that saves beside the
    # next round is done with the checkpoint that needs it no more, be that before or after the message of a round.
    states = {
        path.parent.name + "/" + path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in sorted((run_dir / "hospitals").iterdir())
        for path in sorted(folder.glob("round-*.safetensors"))[-2:]
    }
    scores = [(line["round"], line["images"], line["kid"]) for line in read_lines(run_dir / "metrics.jsonl")]
    hospitals = [
        (line["round"], line["site"], line["status"], line["loss_generator"], line["bytes_up"])
        for line in read_lines(run_dir / "hospitals.jsonl")
    ]
    return {"networks": digests, "states": states, "scores": scores, "hospitals": hospitals}


@pytest.fixture(scope="module")
def straight(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "straight"
    runs.finish(*TINY, IN_PROCESS, run_dir=run_dir)
    return run_dir


def wait_until(process: Forked, condition: object, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("engine", ["in-process", "ray"])
def test_killed_at_random_moments_and_resumed_ends_like_one_that_was_not(
    engine: str, runs: Runs, straight: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """kill -9: while it starts, within rounds, while it saves, while it judges; each time it goes on."""
    run_dir = tmp_path / "killed"
    stream = random.Random(f"{engine} 1")
    kills = 5 if engine == "in-process" else 2 if pytestconfig.getoption("whole") else 1
    hospitals = run_dir / "hospitals.jsonl"
    for number in range(kills):
        process = runs.start(
            "--resume",
            *([] if (run_dir / "config.toml").exists() else TINY),
            f"--set=simulation.engine={engine}",
            # A second one takes seconds to start; the last run has as many as fit.
            *(["--set=simulation.workers=1"] if engine == "ray" else []),
            run_dir=run_dir,
        )
        # From a moment in which it has got further, a random while: a round takes about a tenth of a second.
        before = hospitals.stat().st_size if hospitals.exists() else 0
        if number == 0:
            wait_until(process, run_dir.exists)
        else:
            wait_until(process, lambda before=before: hospitals.exists() and hospitals.stat().st_size != before)
        if number == kills - 1:
            # On a busy machine it might have been killed each time before its first save, and rightly start anew.
            wait_until(process, lambda: RunDirectory(run_dir).checkpoint_rounds() != [])
        time.sleep(stream.uniform(0, 0.4))
        process.kill()
        process.communicate()
    printed = runs.finish(
        "--resume",
        *([] if (run_dir / "config.toml").exists() else TINY),
        f"--set=simulation.engine={engine}",
        "--set=simulation.workers=0",
        run_dir=run_dir,
    )
    assert "resumed after round" in printed
    assert what_a_run_computed(run_dir) == what_a_run_computed(straight)


def test_a_run_killed_before_it_saved_anything_starts_anew(runs: Runs, straight: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / ".config.toml.4711.toml").write_text("seed =")  # what a process leaves that was killed while it wrote
    process = runs.start("--resume", *TINY, IN_PROCESS, "--set=rounds=1", run_dir=run_dir)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "starting anew" in errors
    assert [line["round"] for line in read_lines(run_dir / "metrics.jsonl")] == [0, 1]


def children(process_id: int, name: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text()
        except OSError:
            continue
        parent = int(text[text.rindex(")") + 2 :].split()[1])
        if parent == process_id and text[text.index("(") + 1 : text.rindex(")")] == name:
            found.append(int(entry.parent.name))
    return found


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_ray_dying_ends_with_a_message_and_a_run_that_can_go_on(
    name: str, runs: Runs, straight: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = runs.start(*TINY, "--set=rounds=400", "--set=simulation.workers=1", run_dir=run_dir)
    wait_until(process, lambda: RunDirectory(run_dir).checkpoint_rounds()[-1:] >= [2])
    (victim,) = children(process.pid, name)
    os.kill(victim, signal.SIGKILL)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert f"Ray died: its process {name} ({victim}) ended" in errors
    assert "Traceback" not in errors
    assert f"go on with --resume --run-dir {run_dir}" in printed
    done = RunDirectory(run_dir).checkpoint_rounds()[-1]
    resumed = runs.finish("--resume", IN_PROCESS, f"--set=rounds={done + 1}", run_dir=run_dir)
    assert f"resumed after round {done}" in resumed


def count_nodes(port: int) -> int:
    """Return how many machines have joined the Ray cluster whose head listens at the port."""
    with socket.socket() as attempt:
        if attempt.connect_ex(("127.0.0.1", port)):
            return 0
    # As ray.nodes() does it, which would have to join the cluster first.
    return len(GcsClient(address=f"127.0.0.1:{port}").get_all_node_info())


@pytest.fixture
def cluster() -> Iterator[str]:
    """Two Ray nodes of one core each, as two machines would be; their address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    # Of its own: in the usual place a head node leaves its address, which others would take for a running cluster.
    # Short, as sockets lie below it.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    common = ["--num-cpus=1", "--object-store-memory=200000000", "--block", "--disable-usage-stats"]
    commands = [
        [ray, "start", "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}", *common],
        [ray, "start", f"--address=127.0.0.1:{port}", *common],
    ]
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            nodes.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            )
            deadline = time.monotonic() + 100
            while count_nodes(port) < len(nodes):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        for node in nodes:
            os.killpg(node.pid, signal.SIGTERM)
        for node in nodes:
            node.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_ray_cluster_of_two_machines_computes_the_same(
    cluster: str, runs: Runs, straight: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "cluster"
    printed = runs.finish(*TINY, f"--set=simulation.address={cluster}", run_dir=run_dir)
    assert what_a_run_computed(run_dir) == what_a_run_computed(straight)
    # One core at each node: two workers can only be at two nodes.
    assert len({line["worker_pid"] for line in read_lines(run_dir / "hospitals.jsonl")}) == 2
    assert "2 workers side by side" in printed


def test_an_address_without_a_cluster_is_refused(runs: Runs, tmp_path: Path) -> None:
    process = runs.start(*TINY, "--set=simulation.address=127.0.0.1:9", run_dir=tmp_path / "run")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2, errors
    assert "simulation.address = '127.0.0.1:9': no Ray cluster answers there" in errors
    assert not (tmp_path / "run").exists()
