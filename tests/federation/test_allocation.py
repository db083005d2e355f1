"""Freed memory is kept, so that a step of training need not ask the system for it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# What a step does: several blocks of some MiB, written to, and all freed.
_STEPS = """
import ctypes, resource
from federation.allocation import keep_freed_memory

if {keep}:
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.memset.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size, blocks = 4 * 2**20, [0] * 6

def steps(count):
    for _ in range(count):
        for number in range(6):
            blocks[number] = libc.malloc(size)
            libc.memset(blocks[number], 1, size)
        for block in reversed(blocks):
            libc.free(block)

steps(5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps(20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(*, keep: bool) -> int:
    process = subprocess.run(
        [sys.executable, "-c", _STEPS.format(keep=keep)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return int(process.stdout)


def test_pages_are_asked_for_once() -> None:
    # 24 MiB, 6,144 pages, in each of 20 steps.
    assert _faults(keep=False) > 60_000
    assert _faults(keep=True) < 2_000
