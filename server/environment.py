"""What a reader needs to repeat a run: versions, device, git commit."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from federation.machine import count_cores


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, device and git commit: what a reader needs to repeat a run."""
    packages = ("torch", "torchvision", "numpy", "flwr", "flwr-datasets", "torch-fidelity", "torchmetrics", "pillow")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dermafed": _version("dermafed"),
        "git_commit": _git_commit(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cores": count_cores(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout or a bundle that is not installed
        return None


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:  # no git on this machine
        return None
    return answer.stdout.strip() or None


def _processor_name() -> str:
    try:
        lines: Iterable[str] = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
