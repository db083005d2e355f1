"""The floors of the house, the style of the code, and what imports without Flower and Ray."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LONGEST_FUNCTION = 60
"""Lines, signature and docstring included."""


def run(*command: str) -> str:
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def packages() -> list[str]:
    """Return the packages that are shipped."""
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return list(pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])


def test_imports_go_downwards_only() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    assert "0 broken" in run(str(lint), "--no-cache")


def test_no_circle_of_imports() -> None:
    """An import within a function is one too; what only annotations need is none."""
    graph = grimp.build_graph(*packages(), exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # Whoever imports nothing of the rest, or is imported by nothing of it, is in no circle.
    while True:
        imported = set().union(*imports.values()) if imports else set()
        free = {module for module, found in imports.items() if not found or module not in imported}
        if not free:
            break
        imports = {module: found - free for module, found in imports.items() if module not in free}
    circles = [f"{module} imports {', '.join(sorted(found))}" for module, found in sorted(imports.items())]
    assert not circles, "\n".join(circles)


def test_no_function_is_longer_than_a_screen() -> None:
    too_long = []
    for path in sorted(path for package in packages() for path in (REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    too_long.append(f"{path.relative_to(REPOSITORY)}: {node.name} has {lines} lines")
    assert not too_long, "\n".join(too_long)


@pytest.mark.parametrize("arguments", [["check", "--no-cache", "."], ["format", "--no-cache", "--check", "."]])
def test_ruff_is_content(arguments: list[str]) -> None:
    run(sys.executable, "-m", "ruff", *arguments)


def test_a_formula_does_not_begin_a_docstring() -> None:
    """There its first letter must be large (D403), and of the gradient g the generator G would be made."""
    formula = re.compile(r"[A-Z](_\w+)? ?[←=+−·/]")
    found = [
        f"{path.relative_to(REPOSITORY)}: {docstring.splitlines()[0]}"
        for package in packages()
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and formula.match(docstring := ast.get_docstring(node) or "")
    ]
    assert not found, "\n".join(found)


def test_mypy_is_content() -> None:
    assert "Success" in run(sys.executable, "-m", "mypy", "--cache-dir", os.devnull)


def test_models_and_metrics_work_without_flower_and_ray() -> None:
    """On a machine with a GPU and neither of them, training steps and metrics must still run."""
    run(
        sys.executable,
        "-c",
        "import sys\n"
        "sys.modules['flwr'] = sys.modules['ray'] = sys.modules['flwr_datasets'] = None\n"
        "import torch\n"
        "from federation.batch import Batch\n"
        "from federation.config import parse_assignments, resolve\n"
        "from federation.models import build_model\n"
        "from federation.metrics.features import LesionCNNExtractor\n"
        "from federation.metrics.fidelity import kid\n"
        "from data_partitions.dataset import ImageDataset\n"
        "from data_partitions.sources import load_index\n"
        "from server.evaluation.yardsticks import measure_yardsticks\n"
        "model = build_model(resolve([parse_assignments(['model.conditional=false', 'stylegan2.channel-max=8'])]))\n"
        "batch = Batch(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))\n"
        "model.train_step(batch, torch.Generator())\n",
    )


def test_only_the_packages_that_are_shipped_exist() -> None:
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    found = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
    assert set(packages()) == found - {"tests", "benchmarks"}
    assert set(packages()) == set(pyproject["tool"]["importlinter"]["root_packages"])


def test_the_readme_names_files_and_keys_that_exist() -> None:
    from federation.config import schema

    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    keys = set(schema()().to_flat())
    for key in re.findall(r"--set ([a-z0-9.-]+)=", text):
        assert key in keys, key
    for path in re.findall(
        r"`((?:conf|docs|benchmarks|federation|server|clients|strategies|commands)/[\w./-]+)`", text
    ):
        assert (REPOSITORY / path).exists(), path
