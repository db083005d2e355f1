"""Cores and memory by the control groups of containers and batch systems, from literal contents of their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from federation.engine import count_workers
from federation.machine import available_bytes, count_cores, total_bytes
from strategies.configuration import resolve

MIB = 2**20
MEMINFO = (
    "MemTotal:       16384000 kB\nMemFree:         1024000 kB\nMemAvailable:    8192000 kB\nHugePages_Total:       0\n"
)


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/\n"}, 16),
        # docker run --cpus 2, version 2: the container sees its own group as the root.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 16),
        # A job of a batch system: the step is not limited, the job around it is.
        (
            {
                "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
                "sys/fs/cgroup/slurm/job_7/step_0/cpu.max": "max 100000\n",
                "sys/fs/cgroup/slurm/job_7/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/slurm/cpu.max": "max 100000\n",
            },
            4,
        ),
        # Version 1, seen from within a container by a path that is there on the host alone.
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/0123abc\n2:memory:/docker/0123abc\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, 16),
        # Both versions side by side: the second has no such controller.
        (
            {
                "proc/self/cgroup": "9:cpuset:/\n1:cpu:/a\n0::/user.slice\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
    ],
)
def test_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert count_cores(system(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("files", "available", "total"),
    [
        ({}, 8000 * MIB, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 8000 * MIB, None),
        # docker run --memory 2g, of which 1.5 are used; half of that are pages of files that nobody needs.
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{2048 * MIB}\n",
                "sys/fs/cgroup/memory.current": f"{1536 * MIB}\n",
                "sys/fs/cgroup/memory.stat": f"anon {700 * MIB}\ninactive_file {768 * MIB}\nactive_file 5\n",
            },
            1280 * MIB,
            2048 * MIB,
        ),
        # The limit of the job around it, and one of its own that leaves more.
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/memory.max": f"{1000 * MIB}\n",
                "sys/fs/cgroup/job/memory.current": f"{900 * MIB}\n",
                "sys/fs/cgroup/job/step/memory.max": f"{950 * MIB}\n",
                "sys/fs/cgroup/job/step/memory.current": f"{10 * MIB}\n",
            },
            100 * MIB,
            950 * MIB,
        ),
        # Over the limit for a moment: nothing is left, and not less than nothing.
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{100 * MIB}\n",
                "sys/fs/cgroup/memory.current": f"{101 * MIB}\n",
            },
            0,
            100 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "6:memory:/docker/0123abc\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{512 * MIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{400 * MIB}\n",
                "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {100 * MIB}\n",
            },
            212 * MIB,
            512 * MIB,
        ),
        # How version 1 says that there is none.
        (
            {
                "proc/self/cgroup": "6:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "123456\n",
            },
            8000 * MIB,
            None,
        ),
    ],
)
def test_memory(tmp_path: Path, files: dict[str, str], available: int, total: int | None) -> None:
    root = system(tmp_path, files)
    assert available_bytes(root) == available
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert total_bytes(root) == min(machine, total or machine)


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    assert count_cores(tmp_path) == 16


def test_workers_are_counted_by_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = system(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"})
    monkeypatch.setattr("federation.engine.count_cores", lambda: count_cores(root))
    assert count_workers(resolve([])) == 3
