"""Whether a run can go on in its directory: refused by name where it would be another run."""

from __future__ import annotations

from collections.abc import Iterator

from federation.config import Configuration, load_stored_toml, with_new_names
from federation.errors import RunDirectoryError
from federation.run_directory import RunDirectory, read_lines
from server.run_state import RunState, shapes_in
from strategies.catalogue import STRATEGIES
from strategies.configuration import names_in_use, resolve
from strategies.release_ledger import ReleaseLedger

# What a resumed run may change: how long it goes on and how it is run, not what is computed.
_RESUMABLE = (
    "rounds",
    "run-dir",
    "resume",
    "simulation.",
    "checkpoint.",
    "early-stopping.",
    "evaluation.overlap",
    "participation.min-replies",
    "participation.retries",
    "participation.train-seconds",
    "participation.describe-seconds",
)


def check_directory(directory: RunDirectory, configuration: Configuration, state: RunState) -> None:
    """Check, to resume, that the run directory is that of this very configuration.

    `state` is the one that a run of this configuration begins with.

    Raises
    ------
    RunDirectoryError
        Naming what differs, or what is not counted of what was released.
    """
    if not configuration.resume:
        return
    # Both by the names of today: a value that has two is no difference.
    before = with_new_names(resolve([load_stored_toml(directory.config)]).to_flat())
    names = names_in_use(configuration.strategy)
    fixed = [key for name in names for key in STRATEGIES[name].resumed_with]
    problems = [
        f"{key}: the run was started with {before[key]!r} and cannot go on with {value!r}; set {key} back"
        for key, value in with_new_names(configuration.to_flat()).items()
        if before[key] != value and (not key.startswith(_RESUMABLE) or key in fixed)
    ]
    problems += _architecture_problems(directory, state)
    if any(STRATEGIES[name].counts_releases for name in names):
        problems += _release_problems(directory)
    if problems:
        raise RunDirectoryError(problems)


def _architecture_problems(directory: RunDirectory, state: RunState) -> Iterator[str]:
    """Say how the networks of the newest checkpoint differ from ours, as those of another version may."""
    rounds = directory.checkpoint_rounds()
    if not rounds:
        return
    folder = directory.checkpoint(rounds[-1])
    found = shapes_in(folder)
    expected = {name: value.shape for name, value in state.arrays.items()}
    differing = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    for name in differing[:8]:
        yield (
            f"{folder / 'global.safetensors'}: {name}: found {found.get(name, 'nothing')}, expected "
            f"{expected.get(name, 'nothing')}; resume with the version of dermafed that wrote it"
        )


def _release_problems(directory: RunDirectory) -> Iterator[str]:
    """Say which rounds that the newest checkpoint stands on were released and are not counted."""
    counted = {release.server_round for release in ReleaseLedger(directory.releases).read()}
    missing = [
        number for number in range(1, max(directory.checkpoint_rounds(), default=0) + 1) if number not in counted
    ]
    if missing:
        yield (
            f"{directory.releases}: counts no release of round {missing[0]}, which the newest checkpoint stands on: "
            "epsilon would be too small; restore the file from a copy, or start a new run (an earlier version of "
            "dermafed wrote no such file)"
        )


def check_extractor(directory: RunDirectory, name: str) -> None:
    """Refuse to go on with another extractor than that of the scores written so far.

    Raises
    ------
    RunDirectoryError
        Naming both.
    """
    path = directory.metrics
    names = [line["extractor"] for line in read_lines(path)] if path.exists() else []
    if names and names[-1] != name:
        raise RunDirectoryError(
            f"run directory {directory.path}: its scores are of {names[-1]}, and here the extractor is "
            f"{name}: they could not be compared; resume where the run was started, "
            "with the same evaluation.extractor, evaluation.threads and data.cache-dir"
        )
