"""Shared by all tests: real images beside the checkout, and a cache that tests may fill."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ForkServer

# Set before torch, flwr or ray are imported by a test. Beside another process, two OpenMP threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

REPOSITORY = Path(__file__).resolve().parents[1]
_NOBODY = 65534
REAL_IMAGES = REPOSITORY.parent / "shared" / "data"

# They begin first, so that no process works on while the other has nothing left. The first two train an extractor each,
# of HAM10000 and of the phantoms, which later ones find in the cache.
LONGEST_FIRST = (
    "server/test_judge_ladder.py",
    "commands/test_crashes.py",
    "server/test_every_strategy.py",
    "commands/test_benchmark_command.py",
    "commands/test_simulate.py",
    "server/test_participation_and_faults.py",
    "server/test_federated_run.py",
    "commands/test_evaluate.py",
    "commands/test_flwr_run.py",
    "test_architecture.py",
    "data_partitions/test_phantom.py",
    "data_partitions/test_sources.py",
    "federation/test_engine.py",
    "federation/test_engine_order.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--whole``."""
    parser.addoption("--whole", action="store_true", help="also the cases that only repeat others in other words")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first; leave out what is for ``--whole`` alone."""
    if not config.getoption("whole"):
        left_out = [item for item in items if item.get_closest_marker("whole")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)

    def name(item: pytest.Item) -> str:
        return item.path.relative_to(REPOSITORY / "tests").as_posix()

    place = {file: number for number, file in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(name(item), len(place)))  # others stay in their order


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One cache for the whole session and all its processes: images are drawn, and an extractor is trained, once."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the same for all workers
    folder /= "cache"
    folder.mkdir(exist_ok=True)
    return str(folder)


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Starts processes that need not import anything."""
    server = ForkServer(tmp_path_factory.mktemp("processes"))
    yield server
    server.close()


@pytest.fixture
def user() -> Iterator[Path]:
    """An empty folder of a user who is not root: root may read and write everywhere."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(folder, _NOBODY, _NOBODY)
            os.seteuid(_NOBODY)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            for path in folder.rglob("*"):
                if path.is_dir():
                    path.chmod(0o700)


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
