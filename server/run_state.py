"""What changes from round to round at the server, and how a checkpoint holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
from flwr.app import ArrayRecord

from federation.exchange import pack_arrays
from federation.run_directory import to_json

# Files of a checkpoint, where there is something to keep.
_GLOBAL = "global.safetensors"
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
    (folder / "state.json").write_text(to_json(entries, indent=2) + "\n", encoding="utf-8")


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
    entries = json.loads((folder / "state.json").read_text(encoding="utf-8"))
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
