"""What changes from round to round at the server, and how a checkpoint holds it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
from flwr.app import ArrayRecord

from federation.errors import RunDirectoryError
from federation.exchange import pack_arrays
from federation.run_directory import RunDirectory, to_json
from federation.site import folder_name

# Files of a checkpoint, where there is something to keep.
_GLOBAL, _STATE = "global.safetensors", "state.json"
_STRATEGY, _OWN = "strategy.safetensors", "own.safetensors"


@dataclass(frozen=True)
class RunState:
    """All that changes from round to round at the server: never in place, so that a round can be saved later."""

    completed_rounds: int
    record: ArrayRecord
    """The global networks, without entries that are private to hospitals."""
    num_images: int
    """Images shown so far."""
    num_evaluations: int
    """Passes of an image through a network so far, in hospitals' training."""
    images_shown: float
    """Images shown so far at one hospital, in the mean of each round's hospitals, weighted by their training images:
    the federation's clock."""
    last_rounds: Mapping[str, int]
    """The last round in which each hospital's reply was taken."""
    strategy: Mapping[str, np.ndarray]
    """What the strategy carries along."""
    own: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    """Of each hospital what is its own of the parts that draw, as last sent; empty where there are none."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The global networks by name; not to be written to."""
        return {name: array.numpy() for name, array in self.record.items()}


def write_state(folder: Path, state: RunState, *, seconds: float, seconds_by_work: Mapping[str, float]) -> None:
    """Write all that is needed to go on after a round into a folder.

    `seconds` and `seconds_by_work` are those of the run so far.
    """
    entries = {
        "round": state.completed_rounds,
        "num_images": state.num_images,
        "num_evaluations": state.num_evaluations,
        "images_shown": state.images_shown,
        "seconds": seconds,
        "seconds_by_work": seconds_by_work,
        "last_rounds": state.last_rounds,
    }
    safetensors.numpy.save_file(state.arrays, folder / _GLOBAL)
    for file, arrays in (
        (_STRATEGY, state.strategy),
        (_OWN, {f"{site}/{name}": value for site, own in state.own.items() for name, value in own.items()}),
    ):
        if arrays:
            safetensors.numpy.save_file(
                {name: np.array(value, order="C") for name, value in arrays.items()}, folder / file
            )
    entries["blake2b"] = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    (folder / _STATE).write_text(to_json(entries, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint holds."""

    state: RunState
    seconds: float
    seconds_by_work: Mapping[str, float]


def read_state(folder: Path, before: RunState, evaluations: float, num_hospitals: int) -> SavedState:
    """Read a checkpoint.

    Parameters
    ----------
    folder
        Of :func:`write_state`.
    before
        The state that a run begins with, whose order of entries is the networks': a file's is another.
    evaluations
        Passes through a network for each image that is shown, for a checkpoint of an earlier version, which did not
        count them.
    num_hospitals
        Of the federation, for the same: there each had been shown as many images, if all were in every round.
    """
    entries = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    arrays = safetensors.numpy.load_file(folder / _GLOBAL)
    state = RunState(
        completed_rounds=entries["round"],
        record=pack_arrays({name: arrays[name] for name in before.arrays}),
        num_images=entries["num_images"],
        images_shown=entries.get("images_shown", entries["num_images"] / num_hospitals),
        num_evaluations=entries.get("num_evaluations", round(entries["num_images"] * evaluations)),
        last_rounds=entries["last_rounds"],
        strategy=_load_arrays(folder / _STRATEGY),
        own=_by_site(_load_arrays(folder / _OWN)),
    )
    return SavedState(state, entries["seconds"], entries["seconds_by_work"])


def newest_whole(directory: RunDirectory) -> tuple[int, dict[int, str]]:
    """Find the checkpoint to go on from: copying a run may have cut short or lost a file of the newest.

    Returns
    -------
    The round of the newest that is whole, with all that hospitals have kept for it; 0 if there is no checkpoint. And
    what is wrong with those of later rounds, by round.

    Raises
    ------
    RunDirectoryError
        If there are checkpoints, and none is whole.
    """
    problems: dict[int, str] = {}
    for server_round in reversed(directory.checkpoint_rounds()):
        problem = _damage(directory, server_round)
        if not problem:
            return server_round, problems
        problems[server_round] = problem
    if problems:
        raise RunDirectoryError(
            [f"{problem}; put it back from a copy, or start the run anew" for problem in problems.values()]
        )
    return 0, problems


def _damage(directory: RunDirectory, server_round: int) -> str:
    """Say what of a checkpoint is not as it was written; empty if it is whole."""
    folder = directory.checkpoint(server_round)
    path = folder / _STATE
    try:
        entries = json.loads(path.read_bytes())
        last_rounds = dict(entries["last_rounds"])
        # An earlier version wrote no digests.
        unknown = dict.fromkeys([_GLOBAL, *(file.name for file in folder.glob("*.safetensors"))], "")
        for name, digest in entries.get("blake2b", unknown).items():
            path = folder / name
            if digest and _digest(path) != digest:
                return f"{path}: is not as it was written"
            _check_tensors(path)
        if directory.hospital_states.is_dir():  # a simulation
            for site, last_round in last_rounds.items():
                path = directory.hospital_state(folder_name(site), last_round)
                _check_tensors(path)
    except FileNotFoundError:
        return f"{path}: is gone"
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        return f"{path}: is damaged ({error})"
    return ""


def _check_tensors(path: Path) -> None:
    """Raise if a file holds no tensors, or less than its header says."""
    with safetensors.safe_open(path, framework="np"):
        pass


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a checkpoint's global networks, by name."""
    with safetensors.safe_open(folder / _GLOBAL, framework="np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(path) if path.is_file() else {}


def _by_site(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        site, name = key.rsplit("/", 1)
        found.setdefault(site, {})[name] = value
    return found
