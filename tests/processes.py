"""Processes that find PyTorch, Flower and Ray imported already: each is forked from one that did nothing but import.

A process of its own is what many tests are about: it is killed, interrupted, starts Ray, returns an exit code. That
its imports take eight seconds is not. Run as a script, this is the process that imports and forks.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]

# What a run imports in the end, from the first optimizer to the report.
IMPORTS = (
    "commands.main",
    "clients.app",
    "federation.engine.ray",
    "matplotlib.pyplot",
    "ray",
    "server.app",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "torchvision",
)


class ForkServer:
    """Starts processes, as `subprocess` does.

    Parameters
    ----------
    folder
        Where their output goes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, __file__], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> Any:
        """Send a request; return the answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, *arguments: object, env: Mapping[str, str] | None = None) -> Forked:
        """Start ``dermafed ...``, or ``python run_simulation.py ...``, in the repository."""
        output = Path(tempfile.mkdtemp(dir=self._folder))
        return Forked(self, [str(argument) for argument in arguments], dict(os.environ if env is None else env), output)

    def run(self, *arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Start a process and wait for its end."""
        process = self.start(*arguments)
        try:
            printed, errors = process.communicate(timeout)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(arguments, process.returncode or 0, printed, errors)

    def close(self) -> None:
        """End the process that forks, and what a failed test has left running."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()


class Forked:
    """One process: what tests use of ``subprocess.Popen``."""

    def __init__(self, server: ForkServer, arguments: list[str], env: dict[str, str], output: Path) -> None:
        self._server = server
        self._output = output
        self.returncode: int | None = None
        self.pid: int = server.ask(start=arguments, env=env, output=str(output))

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask(poll=self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end; return what it printed, and its errors."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked process", timeout)
            time.sleep(0.02)
        printed, errors = ((self._output / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return printed, errors


def _serve() -> dict[str, Any] | None:
    """Answer requests until there are no more; in a child return what it should do."""
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        answer: int | None
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
            running.discard(pid)
        else:
            answer = os.fork()
            if not answer:
                return request
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return None


def _become(request: dict[str, Any]) -> None:
    """Be the process that was asked for: its environment, output, arguments and program."""
    os.environ.clear()
    os.environ.update(request["env"])
    for number, (name, mode) in enumerate(
        ((os.devnull, os.O_RDONLY), ("stdout", os.O_WRONLY | os.O_CREAT), ("stderr", os.O_WRONLY | os.O_CREAT))
    ):
        opened = os.open(Path(request["output"]) / name, mode, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    random.seed()
    # A shell that runs the tests in the background has it ignored, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = request["start"]
    if sys.argv[0] == "dermafed":
        from commands.main import main

        main()
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def _main() -> None:
    import gc
    import importlib

    sys.path[0] = str(REPOSITORY)  # where a program in the repository would look
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()
    request = _serve()
    if request is not None:
        _become(request)


if __name__ == "__main__":
    _main()
