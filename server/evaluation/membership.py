"""The networks that a run leaves behind, as attacks on membership: what they know scores higher.

Which of a model's networks score images, and by what, its family says: a discriminator's logit, the evidence lower
bound of an autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from server.evaluation.attacks import UPLOADS
from strategies.sharing import private_prefixes, sharing_policy

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scores = Callable[["NDArray[np.uint8]", "NDArray[np.int64]"], "NDArray[np.float64]"]
"""Maps uint8 (n, r, r, 3) and labels (n,) to a score for each image: high for what was learned from."""

# Of earlier versions, which kept the largest hospital's upload alone; the second is of the time when the only networks
# that scored were discriminators.
_OLD_WEIGHTS = ("networks.safetensors", "discriminator.safetensors")
_DESCRIPTION = "upload.json"
# Divisible by every group of the minibatch standard deviation that a batch of training may have.
_BATCH = 256


@dataclass(frozen=True)
class AttackedUpload:
    """What one hospital sent in the last round, or why there is nothing."""

    scores: Scores | None
    reason: str
    """Why there is none; empty where there is."""
    site: str = ""
    """The hospital; empty where it is not known."""


@dataclass(frozen=True)
class Attacked:
    """What can be attacked, or why it cannot."""

    final: Scores | None
    final_reason: str
    """Why there is none; empty where there is."""
    uploads: Mapping[str, AttackedUpload]
    """By name in :data:`server.evaluation.attacks.UPLOADS`."""
    score: str = ""
    """What the scores are, in a word; empty where it is not known."""


def nothing_attacked(reason: str, score: str = "") -> Attacked:
    """Return none, for one reason."""
    return Attacked(None, reason, without_uploads(reason), score)


def without_uploads(reason: str) -> dict[str, AttackedUpload]:
    """Return no upload, for one reason."""
    return {name: AttackedUpload(None, reason) for name in UPLOADS}


def save_uploads(
    directory: RunDirectory,
    anatomy: Anatomy,
    server_round: int,
    uploads: Mapping[str, tuple[str, Mapping[str, NDArray[Any]]]],
) -> None:
    """Keep the scoring networks that hospitals sent; nothing where they do not send all of them.

    Parameters
    ----------
    directory
        Where to: ``upload/``, a file for each and ``upload.json``.
    anatomy
        Says which networks score.
    server_round
        The round.
    uploads
        Of the ``smallest`` and the ``largest`` hospital: its name, and all that it sent. Where the two are one, it is
        kept once, as the largest.
    """
    sites: dict[str, str] = {}
    for which in ("largest", "smallest"):
        if which not in uploads:
            continue
        site, arrays = uploads[which]
        chosen = {
            name: np.ascontiguousarray(value)
            for name, value in arrays.items()
            if name.partition(".")[0] in anatomy.scoring
        }
        if site in sites.values() or {name.partition(".")[0] for name in chosen} != set(anatomy.scoring):
            continue
        if not sites:
            # Gone before weights change: it names the hospitals that they are of.
            with writing(directory.upload):
                (directory.upload / _DESCRIPTION).unlink(missing_ok=True)
        with written_atomically(directory.upload / _weights_of(which)) as temporary:
            safetensors.numpy.save_file(chosen, temporary)
        sites[which] = site
    if sites:
        description = {"round": server_round, "sites": sites}
        write_text(directory.upload / _DESCRIPTION, to_json(description, indent=2) + "\n")


def _weights_of(which: str) -> str:
    return f"{which}.safetensors"


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
    uploads = _load_uploads(directory, configuration, last_round, device)
    return Attacked(final, final_reason, uploads, anatomy.membership)


def _load_uploads(
    directory: RunDirectory, configuration: Configuration, last_round: int, device: torch.device | str
) -> dict[str, AttackedUpload]:
    """Read what hospitals sent in the last round, of earlier versions the largest hospital's."""
    if not (directory.upload / _DESCRIPTION).is_file():
        return without_uploads("the run directory keeps no hospital's upload")
    description = read_json(directory.upload / _DESCRIPTION)
    if description["round"] != last_round:
        return without_uploads(f"the upload that is kept is of round {description['round']}, not of the last")
    sites, only_largest = description.get("sites"), "there is one hospital: its upload is the largest's"
    if sites is None:
        sites, only_largest = {"largest": description["site"]}, "the run's version kept the largest hospital's alone"
    found = without_uploads(only_largest)
    for which, site in sites.items():
        names = (_weights_of(which), *_OLD_WEIGHTS)
        path = next((directory.upload / name for name in names if (directory.upload / name).is_file()), None)
        scores, reason = _load(path or directory.upload / names[0], configuration, device)
        found[f"upload_{which}"] = AttackedUpload(scores, reason, site)
    return found


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
