"""Shared by all tests: real images beside the checkout, and a cache that tests may fill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before torch, flwr or ray are imported by a test. Beside another process, two OpenMP threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_IMAGES = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One image cache for the whole session: phantom images are drawn once."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread: the same bits everywhere, and no threads that wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ham10000() -> Path:
    """The folder of real HAM10000 images; skips where it is absent."""
    folder = REAL_IMAGES / "ham10000-128"
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}")
    return folder
