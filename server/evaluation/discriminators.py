"""The discriminators that a run leaves behind, as attacks on membership: an image that it knows scores higher."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
import torch

from federation.config import Configuration
from federation.errors import WireError
from federation.exchange import load_tensors
from federation.images import to_floats
from federation.models import build_model
from federation.run_directory import RunDirectory, read_lines, to_json, write_text, written_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scores = Callable[["NDArray[np.uint8]", "NDArray[np.int64]"], "NDArray[np.float64]"]
"""Maps uint8 (n, r, r, 3) and labels (n,) to a score for each image: high for what was learned from."""

_PREFIX = "discriminator."
_WEIGHTS = "discriminator.safetensors"
_DESCRIPTION = "upload.json"
# Divisible by every group of the minibatch standard deviation that a batch of training may have.
_BATCH = 256


@dataclass(frozen=True)
class Discriminators:
    """What can be attacked, or why it cannot."""

    final: Scores | None
    final_reason: str
    """Why there is none; empty where there is."""
    upload: Scores | None
    upload_reason: str
    upload_site: str
    """The hospital that sent it."""


def without_discriminators(reason: str) -> Discriminators:
    """Return none, for one reason."""
    return Discriminators(None, reason, None, reason, "")


def save_upload(directory: RunDirectory, site: str, server_round: int, arrays: dict[str, NDArray[Any]]) -> None:
    """Keep the discriminator that one hospital sent; nothing where it sends none."""
    chosen = {name: np.ascontiguousarray(value) for name, value in arrays.items() if name.startswith(_PREFIX)}
    if not chosen:
        return
    # Gone before its weights change: it names the hospital that they are of.
    (directory.upload / _DESCRIPTION).unlink(missing_ok=True)
    with written_atomically(directory.upload / _WEIGHTS) as temporary:
        safetensors.numpy.save_file(chosen, temporary)
    write_text(directory.upload / _DESCRIPTION, to_json({"site": site, "round": server_round}, indent=2) + "\n")


def load_discriminators(
    directory: RunDirectory, configuration: Configuration, device: torch.device | str
) -> Discriminators:
    """Read the discriminators of a finished run."""
    is_private = "discriminator" in configuration.private_prefixes
    if is_private and not (directory.upload / _DESCRIPTION).is_file():
        return without_discriminators("strategy.private keeps discriminators at the hospitals: none was ever sent")
    rounds = directory.checkpoint_rounds()
    # The last round is always evaluated, be it the one that the run was started for or one where it ended early.
    judged = read_lines(directory.metrics) if directory.metrics.is_file() else []
    last_round = judged[-1]["round"] if judged else configuration.rounds
    final, final_reason = None, "the run directory has no checkpoint of the last round"
    if is_private:  # under a strategy that carries them to the server and back
        final_reason = "hospitals have discriminators of their own: there is none of the federation"
    elif rounds and rounds[-1] == last_round:
        path = directory.checkpoint(rounds[-1]) / "global.safetensors"
        final, final_reason = _load(path, configuration, device)
    upload, upload_reason, site = None, "the run directory keeps no hospital's upload", ""
    if (directory.upload / _DESCRIPTION).is_file():
        description = json.loads((directory.upload / _DESCRIPTION).read_text(encoding="utf-8"))
        site = description["site"]
        if description["round"] == last_round:
            upload, upload_reason = _load(directory.upload / _WEIGHTS, configuration, device)
        else:
            upload_reason = f"the upload that is kept is of round {description['round']}, not of the last"
    return Discriminators(final, final_reason, upload, upload_reason, site)


def _load(path: Path, configuration: Configuration, device: torch.device | str) -> tuple[Scores | None, str]:
    """Return a discriminator's scores, or why there are none."""
    try:
        arrays = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        return None, f"{path} cannot be read ({error})"
    model = build_model(configuration, device=torch.device(device))
    network = model.networks["discriminator"]
    names = {_PREFIX + name for name in network.state_dict()}
    missing = sorted(names - arrays.keys())
    if missing:
        return None, f"{path} holds no whole discriminator: {missing[0]} was not shared"
    try:
        load_tensors({"discriminator": network}, {name: arrays[name] for name in names})
    except (WireError, RuntimeError) as error:
        return None, f"{path}: {error}"
    group = configuration.model.minibatch_std
    conditional = model.num_classes > 0

    @torch.no_grad()
    def scores(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        found = []
        for start in range(0, len(images), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(images)))
            # A group must be whole: the last one is filled with the first images of its batch.
            filled = np.resize(rows, len(rows) + (-len(rows) % group if group else 0))
            batch = to_floats(torch.from_numpy(np.ascontiguousarray(images[filled])).to(device))
            asked = torch.from_numpy(labels[filled]).to(device) if conditional else None
            found.append(network(batch, asked)[: len(rows)].double().cpu().numpy())
        return np.concatenate(found)

    return scores, ""
