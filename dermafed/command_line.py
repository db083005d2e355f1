"""Where the commands begin, before anything is imported that is not Python's own.

What is wrong with the installed packages is said here, in a sentence, and not by a traceback from their depths.
"""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import NoReturn

_HOME = Path(__file__).resolve().parents[1]
_OWN = ("dermafed", "commands", "server", "clients", "strategies", "data_partitions", "federation")
# Packages whose modules are not called as they are, and modules that come along with a package.
_MODULES = {"pillow": "PIL", "scikit-learn": "sklearn"}
_BROUGHT_ALONG = {"ray": "flwr", "datasets": "flwr-datasets"}


def main() -> NoReturn:
    """Entry point of ``dermafed``."""
    _run("main")


def run_simulation() -> NoReturn:
    """Entry point of ``run_simulation.py``."""
    _run("run_simulation")


def _run(entry: str) -> NoReturn:
    # Others have a server.py or a package "commands" too, on PYTHONPATH; workers take over this order.
    sys.path.insert(0, str(_HOME))
    try:
        problems = wrong_versions()
        if not problems:
            getattr(importlib.import_module("commands.main"), entry)()
    except Exception as error:
        problem = import_problem(error)
        if problem is None:
            raise
        problems = [problem]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(2 if problems else 0)


def requirements() -> dict[str, str]:
    """Return what dermafed needs, by the package's name, e.g. ``"numpy>=2.0"``: of the checkout, else as installed."""
    pyproject = _HOME / "pyproject.toml"
    if pyproject.is_file():
        listed = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        listed = [line for line in metadata.requires("dermafed") or [] if "extra ==" not in line]
    return {re.split(r"[^A-Za-z0-9._-]", line)[0]: line for line in listed}


def wrong_versions() -> list[str]:
    """Return a sentence for each installed package of a version that is not the one needed.

    One that is missing is not named: it is when it is needed.
    """
    from packaging.requirements import Requirement
    from packaging.version import Version

    problems = []
    for name, needed in requirements().items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        # A build of one's own, e.g. 2.11.0a0+nv25.1, counts as the release that it is called after.
        if not Requirement(needed).specifier.contains(Version(found).base_version):
            problems.append(
                f"package {name}: version {found} is installed, and dermafed needs {needed}; {_install(needed)}"
            )
    return problems


def import_problem(error: Exception) -> str | None:
    """Return what is wrong with a package that cannot be imported; None where that is not what happened.

    Parameters
    ----------
    error
        With its traceback.
    """
    name = _importing(error)
    if name is None:
        return None
    needed = requirements()[name]
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"package {name}: is not installed, and dermafed needs {needed}; {_install(needed)}"
    if name == "torchvision":
        # Compiled for one version of torch alone.
        pinned = next((line for line in metadata.requires(name) or [] if re.match(r"torch\b(?!-)", line)), "torch")
        return (
            f"package torchvision: version {found}, which is made for {pinned}, cannot be imported beside torch "
            f"{metadata.version('torch')} ({reason}); install two that belong together: "
            f"{_install(requirements()['torch'], needed)}"
        )
    return f"package {name}: version {found} cannot be imported ({reason}); dermafed needs {needed}; {_install(needed)}"


def _importing(error: Exception) -> str | None:
    """Return the needed package in whose import an exception was raised."""
    by_module = {_MODULES.get(name, name.replace("-", "_")): name for name in requirements()} | _BROUGHT_ALONG
    called = ""
    for module, function in _frames(error.__traceback__):
        if module in _OWN:
            called = ""  # what is called from our own code last
        elif module in by_module and not called:
            # The body of a module runs while it is imported, and never else.
            called = by_module[module] if function == "<module>" else "-"
    if called:
        return called if called in by_module.values() else None
    if isinstance(error, ImportError) and error.name:
        return by_module.get(error.name.partition(".")[0])
    return None


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, str]]:
    """Yield the outermost package and the function of each frame, the outermost first."""
    while traceback is not None:
        frame = traceback.tb_frame
        yield str(frame.f_globals.get("__name__", "")).partition(".")[0], frame.f_code.co_name
        traceback = traceback.tb_next


def _install(*needed: str) -> str:
    quoted = " ".join(f"'{line}'" for line in needed)
    return f"run: {sys.executable} -m pip install --upgrade {quoted}"
