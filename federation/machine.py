"""What this machine gives to this process: cores and memory, within what a container or a batch system leaves it.

Containers and batch systems limit a process by control groups (https://docs.kernel.org/admin-guide/cgroup-v2.html, and
version 1 of them). A limit of a group holds for all groups in it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def count_cores(root: Path = _ROOT) -> int:
    """Return how many cores this process may keep busy: by its affinity, and by the CPU quota of its control groups.

    A quota of a core and a half counts as two: rounded down, a part of it would lie idle.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.
    """
    quotas = []
    for folder in _groups(root, "cpu"):
        if (limit := _read(folder / "cpu.max")) is not None:
            quota, _, period = limit.partition(" ")
            quotas.append(math.inf if quota == "max" else int(quota) / int(period))
        elif (limit := _read(folder / "cpu.cfs_quota_us")) is not None and int(limit) > 0:  # -1: none
            quotas.append(int(limit) / int((folder / "cpu.cfs_period_us").read_text()))
    cores = len(os.sched_getaffinity(0))
    return min([cores, *(max(1, math.ceil(quota)) for quota in quotas if quota < cores)])


def available_bytes(root: Path = _ROOT) -> int | None:
    """Return the memory that new processes could have without swapping; None where the system does not say.

    That is what the machine has left, or what the least of the control groups' limits leaves: pages of files that were
    not used of late count as free, as the system takes them back first.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.
    """
    left = [limit - used for limit, used in _memory(root)]
    meminfo = _fields(root / "proc" / "meminfo")
    if "MemAvailable:" in meminfo:
        left.append(1024 * meminfo["MemAvailable:"])
    return max(0, min(left)) if left else None


def total_bytes(root: Path = _ROOT) -> int:
    """Return the memory that this process and its like may have in all: the machine's, or what control groups allow."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _memory(root))])


def _memory(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit of each control group that has one, and what is used of it, in bytes."""
    for folder in _groups(root, "memory"):
        for limit_file, used_file, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _read(folder / limit_file)
            if limit is not None and limit != "max":
                used = int((folder / used_file).read_text()) - _fields(folder / "memory.stat").get(cached, 0)
                yield int(limit), used


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of this process's control group for a controller, and those above it.

    In a container they may be seen from outside, by a path that is not there: then what is there is the container's.
    """
    mounts = root / "sys" / "fs" / "cgroup"
    for line in (_read(root / "proc" / "self" / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mounts / controller if controllers else mounts
        folder = base / path.lstrip("/")
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(base) and group.is_dir())


def _read(path: Path) -> str | None:
    """Return what a file of the system says; None where there is none, as on another system, or of another version."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number in each line."""
    return {words[0]: int(words[1]) for line in (_read(path) or "").splitlines() if len(words := line.split()) > 1}
