"""The networks that a run leaves behind, as attacks on membership: what they know scores higher.

Which of a model's networks score images, and by what, its family says: a discriminator's logit, the evidence lower
bound of an autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
import torch

from federation.config import Configuration
from federation.errors import WireError
from federation.images import to_floats
from federation.models import build_model
from federation.models.anatomy import Anatomy
from federation.run_directory import (
    RunDirectory,
    read_json,
    read_lines,
    to_json,
    write_text,
    writing,
    written_atomically,
)
from federation.sharing import SharingPolicy, load_tensors, named_tensors
from strategies.sharing import private_prefixes, sharing_policy

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scores = Callable[["NDArray[np.uint8]", "NDArray[np.int64]"], "NDArray[np.float64]"]
"""Maps uint8 (n, r, r, 3) and labels (n,) to a score for each image: high for what was learned from."""

_WEIGHTS = "networks.safetensors"
# As it was called when the only networks that scored were discriminators.
_OLD_WEIGHTS = "discriminator.safetensors"
_DESCRIPTION = "upload.json"
# Divisible by every group of the minibatch standard deviation that a batch of training may have.
_BATCH = 256


@dataclass(frozen=True)
class Attacked:
    """What can be attacked, or why it cannot."""

    final: Scores | None
    final_reason: str
    """Why there is none; empty where there is."""
    upload: Scores | None
    upload_reason: str
    upload_site: str
    """The hospital that sent it."""
    score: str = ""
    """What the scores are, in a word; empty where it is not known."""


def nothing_attacked(reason: str, score: str = "") -> Attacked:
    """Return none, for one reason."""
    return Attacked(None, reason, None, reason, "", score)


def save_upload(
    directory: RunDirectory, anatomy: Anatomy, site: str, server_round: int, arrays: dict[str, NDArray[Any]]
) -> None:
    """Keep the scoring networks that one hospital sent; nothing where it does not send all of them."""
    chosen = {
        name: np.ascontiguousarray(value) for name, value in arrays.items() if name.partition(".")[0] in anatomy.scoring
    }
    if {name.partition(".")[0] for name in chosen} != set(anatomy.scoring):
        return
    # Gone before its weights change: it names the hospital that they are of.
    with writing(directory.upload):
        (directory.upload / _DESCRIPTION).unlink(missing_ok=True)
    with written_atomically(directory.upload / _WEIGHTS) as temporary:
        safetensors.numpy.save_file(chosen, temporary)
    write_text(directory.upload / _DESCRIPTION, to_json({"site": site, "round": server_round}, indent=2) + "\n")


def load_attacked(directory: RunDirectory, configuration: Configuration, device: torch.device | str) -> Attacked:
    """Read the scoring networks of a finished run."""
    anatomy = configuration.anatomy
    if not anatomy.scoring:
        return nothing_attacked(f"model.name = {configuration.model.name} has no score of an image to attack with")
    # The last round is always evaluated, be it the one that the run was started for or one where it ended early.
    judged = read_lines(directory.metrics) if directory.metrics.is_file() else []
    last_round = judged[-1]["round"] if judged else configuration.rounds
    policy = sharing_policy(configuration, last_round)
    what = " and ".join(part for part in anatomy.scoring if policy.is_private(part))
    is_private = bool(what)
    if is_private and not (directory.upload / _DESCRIPTION).is_file():
        always = SharingPolicy(anatomy, private_prefixes(configuration))
        if any(always.is_private(part) for part in anatomy.scoring):
            reason = f"strategy.private keeps the {what} at the hospitals: none was ever sent"
        else:
            reason = f"in round {last_round} the {what} stayed at the hospitals"
        return nothing_attacked(reason, anatomy.membership)
    rounds = directory.checkpoint_rounds()
    final, final_reason = None, "the run directory has no checkpoint of the last round"
    if is_private:  # under a strategy that carries them to the server and back
        final_reason = f"hospitals have a {what} of their own: there is none of the federation"
    elif rounds and rounds[-1] == last_round:
        path = directory.checkpoint(rounds[-1]) / "global.safetensors"
        final, final_reason = _load(path, configuration, device)
    upload, upload_reason, site = None, "the run directory keeps no hospital's upload", ""
    if (directory.upload / _DESCRIPTION).is_file():
        description = read_json(directory.upload / _DESCRIPTION)
        site = description["site"]
        if description["round"] == last_round:
            weights = directory.upload / _WEIGHTS
            weights = weights if weights.is_file() else directory.upload / _OLD_WEIGHTS
            upload, upload_reason = _load(weights, configuration, device)
        else:
            upload_reason = f"the upload that is kept is of round {description['round']}, not of the last"
    return Attacked(final, final_reason, upload, upload_reason, site, anatomy.membership)


def _load(path: Path, configuration: Configuration, device: torch.device | str) -> tuple[Scores | None, str]:
    """Return the scores of a file's networks, or why there are none."""
    try:
        arrays = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        return None, f"{path} cannot be read ({error})"
    model = build_model(configuration, device=torch.device(device))
    networks = {part: model.networks[part] for part in model.anatomy.scoring}
    names = set(named_tensors(networks))
    missing = sorted(names - arrays.keys())
    if missing:
        return None, f"{path} holds no whole {' and '.join(networks)}: {missing[0]} was not shared"
    try:
        load_tensors(networks, {name: arrays[name] for name in names})
    except (WireError, RuntimeError) as error:
        return None, f"{path}: {error}"
    conditional = model.num_classes > 0

    @torch.no_grad()
    def scores(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        found = []
        for start in range(0, len(images), _BATCH):
            rows = slice(start, start + _BATCH)
            batch = to_floats(torch.from_numpy(np.ascontiguousarray(images[rows])).to(device))
            asked = torch.from_numpy(labels[rows]).to(device) if conditional else None
            found.append(model.membership_scores(batch, asked).double().cpu().numpy())
        return np.concatenate(found)

    return scores, ""
