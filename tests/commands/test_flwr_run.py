"""The same apps under Flower's own launcher."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ForkServer

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def flower_environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Flower home of its own; stops the local server that ``flwr run`` leaves behind."""
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    (tmp_path / "flwr").mkdir()
    yield environment
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"FLWR_HOME={tmp_path / 'flwr'}".encode() in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue


def test_flwr_run_gives_the_bytes_of_the_simulation(
    flower_environment: dict[str, str], fork_server: ForkServer, tmp_path: Path, cache_dir: str
) -> None:
    flwr = shutil.which("flwr", path=flower_environment["PATH"])
    assert flwr is not None
    settings = {
        "run-dir": f'"{tmp_path / "run"}"',
        "rounds": "1",
        "data.cache-dir": f'"{cache_dir}"',
        "data.phantom-images": "400",
        "partition.hospitals": "2",
        "partition.scheme": '"iid"',
        "partition.min-images": "1",
        "stylegan2.channel-max": "16",
        "stylegan2.latent-size": "16",
        "training.local-steps": "2",
        "training.batch-size": "4",
        "evaluation.images": "40",
        "evaluation.threads": "1",
        "evaluation.utility": "false",
    }
    process = subprocess.run(
        [
            flwr,
            "run",
            ".",
            "--stream",
            "--run-config",
            " ".join(f"{key}={value}" for key, value in settings.items()),
            "--federation-config",
            "num-supernodes=2 client-resources-num-cpus=1",
        ],
        cwd=REPOSITORY,
        env=flower_environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    printed = process.stdout + process.stderr
    assert process.returncode == 0, printed
    summary = tmp_path / "run" / "summary.json"
    deadline = time.monotonic() + 60
    while not summary.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert summary.exists(), printed
    assert json.loads(summary.read_text())["status"] == "done"

    assignments = [f"--set={key}={value}" for key, value in settings.items() if key != "run-dir"]
    simulated = fork_server.run(
        "run_simulation.py",
        "--set=simulation.engine=in-process",
        f"--run-dir={tmp_path / 'simulated'}",
        *assignments,
    )
    assert simulated.returncode == 0, simulated.stderr
    weights = [(tmp_path / name / "final" / "generator.safetensors").read_bytes() for name in ("run", "simulated")]
    assert weights[0] == weights[1]
