"""Whether a run can go on in its directory: refused by name where it would be another run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version

import pandas as pd

from data_partitions.partition import split_table_of
from data_partitions.wording import counted, first_names
from federation.config import Configuration, load_stored_toml, with_new_names
from federation.errors import RunDirectoryError
from federation.run_directory import RunDirectory, read_json, read_lines
from server.inputs import RunInputs
from server.run_state import RunState, newest_whole, shapes_in
from strategies.catalogue import STRATEGIES
from strategies.configuration import names_in_use, resolve
from strategies.release_ledger import ReleaseLedger

# What a resumed run may change: how long it goes on and how it is run, not what is computed. Of a path it is what lies
# there that counts, and not where: see check_images, check_extractor.
_RESUMABLE = (
    "data.root",
    "data.csv",
    "data.cache-dir",
    "model.initial",
    "evaluation.extractor-weights",
    "evaluation.utility-weights",
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
    if directory.extractor.is_dir():
        fixed.append("evaluation.extractor-weights")  # of no effect where the run has kept its extractor
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
    newest, _ = newest_whole(directory)
    if not newest:
        return
    folder = directory.checkpoint(newest)
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


def check_images(directory: RunDirectory, inputs: RunInputs) -> None:
    """Refuse to go on with other images than the run was started with, or with the same ones divided otherwise.

    Raises
    ------
    RunDirectoryError
        Saying what differs.
    """
    if not directory.partition.is_file():  # killed before it was written
        return
    try:
        before = json.loads(directory.partition.read_text(encoding="utf-8"))
        held = {name: (entry["images"], entry["classes"]) for name, entry in before["hospitals"].items()}
        classes, digest = tuple(next(iter(before["hospitals"].values()))["classes"]), before["digest"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunDirectoryError(
            f"{directory.partition}: cannot be read ({error}), and without it nobody can tell if the images are those "
            "that the run was started with; restore it from a copy, or start a run anew with another --run-dir"
        ) from None
    now = inputs.manifest()
    holds = {name: (entry["images"], entry["classes"]) for name, entry in now["hospitals"].items()}
    # An earlier version has left no "data".
    same = digest == now["digest"] and classes == inputs.index.classes
    if same and held == holds and before.get("data", now["data"]) == now["data"]:
        return
    found = [*_differing_counts(held, holds), *_differing_rows(directory, inputs)]
    if classes != inputs.index.classes:
        found.insert(0, f"the classes were {', '.join(classes)} and are {', '.join(inputs.index.classes)} now")
    if not found:
        found = ["they have the same names and sizes, and another content, class, group or site"]
    raise RunDirectoryError(
        f"run directory {directory.path}: the images are not those that the run was started with: "
        f"{'; '.join(found)}. Put back what was changed, or start a run anew with another --run-dir"
    )


_Held = Mapping[str, tuple[int, Mapping[str, int]]]


def _differing_counts(before: _Held, now: _Held) -> Iterator[str]:
    """Say which hospitals there are no longer, or hold more or fewer images."""
    if before.keys() != now.keys():
        yield f"the hospitals were {first_names(sorted(before))} and are {first_names(sorted(now))} now"
    changes = []
    for hospital in sorted(before.keys() & now.keys()):
        (images, classes), (images_now, classes_now) = before[hospital], now[hospital]
        if (images, classes) != (images_now, classes_now):
            differing = [
                f"{name} {classes.get(name, 0):,} and {classes_now.get(name, 0):,}"
                for name in sorted(classes.keys() | classes_now.keys())
                if classes.get(name) != classes_now.get(name)
            ]
            changes.append(f"{hospital} {images:,} and {images_now:,} ({first_names(differing)})")
    if changes:
        yield f"training images then and now: {first_names(changes)}"


def _differing_rows(directory: RunDirectory, inputs: RunInputs) -> Iterator[str]:
    """Say which images are new, gone, or elsewhere, where the run has kept their names."""
    if not directory.split.is_file():
        return
    before = pd.read_csv(directory.split, dtype=str, keep_default_na=False).set_index("image_id")
    now = split_table_of(inputs.index, inputs.parts, inputs.partition).astype(str).set_index("image_id")
    for names, what in ((before.index.difference(now.index), "gone"), (now.index.difference(before.index), "new")):
        if len(names):
            yield f"{counted(len(names), 'image')} {'is' if len(names) == 1 else 'are'} {what} ({first_names(names)})"
    both = before.index.intersection(now.index)
    moved = both[(before.loc[both] != now.loc[both]).any(axis=1)]
    if len(moved):
        yield f"{counted(len(moved), 'image')} of the same name would be at another hospital or in another part"
    if len(both) == len(before) == len(now) and len(moved):
        written = read_json(directory.environment) if directory.environment.is_file() else {}
        versions = written.get("packages", {})
        drawn = [(name, versions.get(name, "unknown"), version(name)) for name in ("numpy", "flwr-datasets")]
        told = ", ".join(f"{name} {then} then and {here} here" for name, then, here in drawn)
        yield (
            f"NumPy and flwr-datasets promise no equal draws from version to version ({told}), and dermafed ordered "
            "patients otherwise before partition.seed keyed their order; go on with the versions that began the run"
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
