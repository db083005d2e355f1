"""Where the commands begin: whose modules are imported, and packages that do not fit."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from dermafed.command_line import import_problem, requirements, wrong_versions

REPOSITORY = Path(__file__).resolve().parents[1]
PIP = f"run: {sys.executable} -m pip install --upgrade"


def test_others_may_have_modules_of_our_names(tmp_path: Path) -> None:
    for name in ("server", "commands", "clients", "strategies", "federation", "data_partitions"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('somebody else')\n")
    process = subprocess.run(
        [sys.executable, "-P", "-m", "dermafed", "report", str(tmp_path / "nowhere")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith(f"error: run directory {tmp_path / 'nowhere'}: ")


def test_the_entry_point_is_the_one_that_looks_after_that() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"dermafed": "dermafed.command_line:main"}
    assert list(requirements().values()) == project["dependencies"]


def install(folder: Path, name: str, version: str, *lines: str) -> None:
    """Write what a package that is installed there says of itself."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
    )


def test_versions_that_are_not_those_needed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong_versions() == []
    install(tmp_path, "flwr", "1.20.0")
    install(tmp_path, "timm", "0.9.2")
    install(tmp_path, "torch", f"{metadata.version('torch').partition('+')[0]}a0+nv25.1")
    monkeypatch.syspath_prepend(tmp_path)
    needed = requirements()
    assert wrong_versions() == [
        f"package {name}: version {found} is installed, and dermafed needs {needed[name]}; {PIP} '{needed[name]}'"
        for name, found in (("flwr", "1.20.0"), ("timm", "0.9.2"))
    ]


def test_a_torchvision_made_for_another_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "torchvision", "0.30.0", "Requires-Dist: numpy", "Requires-Dist: torch==2.20.0")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "torchvision.py"
    path.write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    spec = importlib.util.spec_from_file_location("torchvision", path)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(RuntimeError) as caught:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    needed = requirements()
    assert import_problem(caught.value) == (
        "package torchvision: version 0.30.0, which is made for torch==2.20.0, cannot be imported beside torch "
        f"{metadata.version('torch')} (operator torchvision::nms does not exist); install two that belong together: "
        f"{PIP} '{needed['torch']}' '{needed['torchvision']}'"
    )


def test_a_package_that_is_missing_and_one_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(ImportError) as broken:
        importlib.import_module("opacus.accountants")
    assert str(import_problem(broken.value)).startswith(
        f"package opacus: version {metadata.version('opacus')} cannot be imported ("
    )
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError) as without_ray:
        importlib.import_module("ray")
    assert str(import_problem(without_ray.value)).endswith(f"{PIP} '{requirements()['flwr']}'")
    monkeypatch.setattr("dermafed.command_line.requirements", lambda: {"no-such-package": "no-such-package>=2"})
    with pytest.raises(ImportError) as missing:
        importlib.import_module("no_such_package")
    assert import_problem(missing.value) == (
        f"package no-such-package: is not installed, and dermafed needs no-such-package>=2; {PIP} 'no-such-package>=2'"
    )


def test_an_error_of_a_run_is_not_taken_for_one_of_a_package() -> None:
    import numpy as np

    with pytest.raises(ValueError, match="reshape") as caught:
        np.zeros(3).reshape(2)
    assert import_problem(caught.value) is None
    with pytest.raises(ImportError) as of_others:
        importlib.import_module("nobody_knows_this")
    assert import_problem(of_others.value) is None
