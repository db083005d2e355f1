"""The floors of the house, the style of the code, and what imports without Flower and Ray."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*command: str) -> str:
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_imports_go_downwards_only() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    assert "0 broken" in run(str(lint), "--no-cache")


@pytest.mark.parametrize("arguments", [["check", "--no-cache", "."], ["format", "--no-cache", "--check", "."]])
def test_ruff_is_content(arguments: list[str]) -> None:
    run(sys.executable, "-m", "ruff", *arguments)


def test_mypy_is_content(tmp_path: Path) -> None:
    assert "Success" in run(sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path))


def test_models_and_metrics_work_without_flower_and_ray() -> None:
    """On a machine with a GPU and neither of them, training steps and metrics must still run."""
    run(
        sys.executable,
        "-c",
        "import sys\n"
        "sys.modules['flwr'] = sys.modules['ray'] = sys.modules['flwr_datasets'] = None\n"
        "import torch\n"
        "from federation.config import parse_assignments, resolve\n"
        "from federation.models import build_model\n"
        "from federation.metrics.features import LesionCNNExtractor\n"
        "from federation.metrics.fidelity import kid\n"
        "from data_partitions.dataset import ImageDataset\n"
        "from data_partitions.sources import load_index\n"
        "from server.evaluation.yardsticks import measure_yardsticks\n"
        "model = build_model(resolve([parse_assignments(['model.conditional=false', 'model.channel-max=8'])]))\n"
        "model.train_step(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64), torch.Generator())\n",
    )


def test_only_the_packages_that_are_shipped_exist() -> None:
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    found = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
    assert packages == found - {"tests", "benchmarks"}
    assert packages == set(pyproject["tool"]["importlinter"]["root_packages"])


def test_the_readme_names_files_and_keys_that_exist() -> None:
    from federation.config import Configuration

    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    keys = set(Configuration().to_flat())
    for key in re.findall(r"--set ([a-z.-]+)=", text):
        assert key in keys, key
    for path in re.findall(
        r"`((?:conf|docs|benchmarks|federation|server|clients|strategies|commands)/[\w./-]+)`", text
    ):
        assert (REPOSITORY / path).exists(), path
