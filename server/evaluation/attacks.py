"""The attacks on membership that a judgement holds: of earlier versions too, and what they are called.

By what networks score an image is a matter of their family; see :attr:`federation.models.anatomy.Anatomy.membership`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ATTACKS = ("null_control", "generator", "networks", "upload")
"""In the order in which they are shown."""

_DISCRIMINATOR = "discriminator"


def read_membership(authenticity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``membership`` of a judgement under the names that it has now.

    When the only networks that scored were discriminators, their attack bore that name, and no score was named.
    """
    found = authenticity.get("membership")
    membership = dict(found) if isinstance(found, Mapping) else {}
    if _DISCRIMINATOR in membership:
        membership["networks"] = membership.pop(_DISCRIMINATOR)
        membership["score"] = _DISCRIMINATOR
    return membership


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
