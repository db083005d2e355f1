"""The attacks on membership that a judgement holds: of earlier versions too, and what they are called.

By what networks score an image is a matter of their family; see :attr:`federation.models.anatomy.Anatomy.membership`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UPLOADS = ("upload_smallest", "upload_largest")
"""What the hospitals with the fewest and with the most images sent in the last round."""
ATTACKS = ("null_control", "generator", "thumbnails", "networks", *UPLOADS)
"""In the order in which they are shown."""

_DISCRIMINATOR = "discriminator"


def read_membership(authenticity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``membership`` of a judgement under the names that it has now.

    When the only networks that scored were discriminators, their attack bore that name, and no score was named. Of
    uploads there was one, the largest hospital's.
    """
    found = authenticity.get("membership")
    membership = dict(found) if isinstance(found, Mapping) else {}
    if _DISCRIMINATOR in membership:
        membership["networks"] = membership.pop(_DISCRIMINATOR)
        membership["score"] = _DISCRIMINATOR
    if "upload" in membership:
        membership["upload_largest"] = membership.pop("upload")
    return membership


def copies_sentence(copies: Mapping[str, Any], num_generated: int) -> str:
    """Say what the section ``copies`` of a judgement found."""
    tests = {name: copies[name] for name in ("features", "thumbnails") if "p" in copies.get(name, {})}
    if copies.get("flagged") is None or not tests:
        why = next((copies[name]["not_measured"] for name in ("features", "thumbnails") if name in copies), "not made")
        return f"copies of training images: not measured: {why}."
    name, test = min(tests.items(), key=lambda entry: float(entry[1]["p"]))
    evidence = (
        f"of the {test['num_looked_at']} patients or lesions that {num_generated:,} generated images come nearest to "
        f"(by {name}), {test['num_trained_on']} were trained on, {test['expected']:.0f} by chance (p = {test['p']:.2g})"
    )
    if copies["flagged"]:
        return f"copies of training images: FLAGGED: {evidence}."
    if copies.get("nearer_to_held_out"):
        return (
            f"copies of training images: cannot be told: {evidence}. So few are no chance: whoever drew these images "
            "saw held-out ones."
        )
    return f"copies of training images: not flagged: {evidence}."


@dataclass(frozen=True)
class ScoreWords:
    """How the attack by a score of trained networks is spoken of."""

    name: str
    """The score in a word, or what has it."""
    holder: str
    """What an attacker has."""
    looks_at: str
    """What the attacker looks at there."""
    sent: str
    """What the attacker looks at in what a hospital sends."""
    subject: str
    """What tells training images from held-out ones, or does not: the subject of a sentence."""
    in_general: str
    """What the literature looks at, after the word from."""


def words_of(score: object) -> ScoreWords:
    """Return the words for a score, e.g. ``evidence lower bound``; for one without a name where it is no text."""
    if score == _DISCRIMINATOR:
        return ScoreWords(
            name=_DISCRIMINATOR,
            holder="final discriminator",
            looks_at="its logit",
            sent="the logit of the discriminator it sends",
            subject="the final discriminator",
            in_general="a discriminator",
        )
    named = score if isinstance(score, str) else ""
    return ScoreWords(
        name=named or "networks",
        holder="final networks",
        looks_at=f"their {named or 'score'}",
        sent=f"the {named or 'score'} of the networks it sends",
        subject=f"the {named or 'score'} of the final networks",
        in_general=f"the {named or 'score'} of trained networks, as from the logit of a discriminator",
    )
