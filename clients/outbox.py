"""The one way out of a hospital: every message that leaves it is made here, under the hospital's own policy.

What a question's answer is made of comes as plain tensors and numbers; what goes out is what the policy lets go. In a
simulation the same code has an open policy. What changes an update on its way (an attack, and for real sites clipping
or noise) is a filter here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from torch import Tensor

from clients.hospital import Identity, is_site
from clients.policy import QUESTIONS, OpenPolicy, Policy, load_policy
from federation.errors import ConfigurationError, NotFiniteError, PolicyError, StorageError, WireError
from federation.exchange import (
    ARRAYS,
    CLASS_COUNTS,
    CONFIG,
    DEPLOYED,
    METRICS,
    NUM_EXAMPLES,
    REFUSED,
    REQUIRED_METRICS,
    RUN_DIRECTORY_FAILED,
    SITE,
    SITE_FAILED,
    pack_arrays,
)
from federation.models.anatomy import Anatomy

Filter = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Changes entries on their way out; names and shapes stay."""

# What of our own errors speaks of settings and weights alone. All others may hold a file's name, or an image's.
_SPEAKING = (ConfigurationError, NotFiniteError, PolicyError, WireError)
_PATH = re.compile(r"(?:[A-Za-z]:)?[\\/][^\s'\":;,]+")
_MOST_NAMED = 4


@dataclass(frozen=True)
class Answer:
    """What a question's answer is made of, before anything of it may leave."""

    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, int | float] = field(default_factory=dict)
    """Of a reply to training, beside its arrays."""
    facts: Mapping[str, bool | int | float | str | list[int]] = field(default_factory=dict)
    """Of any other answer."""
    filters: Sequence[Filter] = ()
    """Through which the arrays go, in turn."""


class Outbox:
    """Lets out what a policy lets out.

    Parameters
    ----------
    policy
        The hospital's own.
    is_site
        Whether it is a real one. A simulated hospital's errors go out whole, to be read by who simulates it.
    """

    def __init__(self, policy: Policy, *, is_site: bool) -> None:
        self.policy = policy
        self.is_site = is_site

    @classmethod
    def of(cls, identity: Identity) -> Outbox:
        """Return the outbox of a node.

        Raises
        ------
        PolicyError
            If its policy file is not as it should be. What is wrong stands in the error's cause, for the site's log
            alone: it may quote the file, and names its path.
        """
        if not identity.site:
            return cls(OpenPolicy(), is_site=False)
        if not identity.policy:
            return cls(Policy(), is_site=True)
        try:
            return cls(load_policy(Path(identity.policy)), is_site=True)
        except ConfigurationError as error:
            raise PolicyError(
                "the policy file of this hospital is not as it should be, so that nothing leaves; its log says what is "
                "wrong with it"
            ) from error

    @classmethod
    def closed(cls, node_config: Mapping[str, object]) -> Outbox:
        """Return the outbox of a node of which nothing is known yet but whether it is a real site."""
        return cls(Policy(questions=""), is_site=is_site(node_config))

    # ------------------------------------------------------------------ before anything is done

    def check_question(self, question: str) -> None:
        """Refuse what is not answered, or what nobody here knows.

        Raises
        ------
        PolicyError
            Naming the question and those that are answered.
        """
        if question in QUESTIONS and self.policy.answers(question):
            return
        known = "is not answered here" if question in QUESTIONS else "is no question that is known here"
        raise PolicyError(f"{question!r} {known}; the policy of this hospital lets it answer: {self.policy.questions}")

    def problems(self, entries: Sequence[str], anatomy: Anatomy, numbers: Sequence[str], *, classes: bool) -> list[str]:
        """Say what a run would ask for that may not leave, a sentence each.

        Parameters
        ----------
        entries
            Names of all entries that it would have sent.
        anatomy
            Of the model.
        numbers
            Names of the numbers that it needs.
        classes
            Whether it would have images counted by class.
        """
        found = []
        if kept := self._kept(entries, anatomy):
            parts = sorted({name.split(".")[0] for name in kept})
            found.append(
                f"{', '.join(parts)}: the run would have {len(kept)} entries sent that may not leave "
                f"({_some(kept)}); the policy of this hospital lets go: parts = {self.policy.parts!r}. "
                f"Keep them back (strategy.private), or choose a strategy that does not send them"
            )
        if refused := [name for name in numbers if not self.policy.sends_number(name)]:
            found.append(
                f"{', '.join(refused)}: the strategy needs these numbers of each hospital; the policy of this hospital "
                f"lets go: numbers = {self.policy.numbers!r}; choose another strategy.name"
            )
        if classes and not self.policy.tells("classes"):
            found.append(
                "class counts: the strategy needs the number of images of each class; the policy of this hospital "
                f"lets it tell: counts = {self.policy.counts!r}; choose another strategy.name"
            )
        if not self.policy.tells("images"):
            found.append(self._untold())
        return found

    def _untold(self) -> str:
        return (
            "number of images: every strategy weighs by it; the policy of this hospital lets it tell: "
            f"counts = {self.policy.counts!r}"
        )

    def _kept(self, entries: Sequence[str], anatomy: Anatomy) -> list[str]:
        networks = anatomy.of_kind("trained", "average", "frozen")
        return [name for name in entries if not self.policy.sends_entry(name, networks)]

    # ------------------------------------------------------------------ what leaves

    def send(self, message: Message, question: str, answer: Answer, anatomy: Anatomy) -> Message:
        """Return the reply to a message, holding what may leave.

        Raises
        ------
        PolicyError
            If an entry of the model may not, or the number of images: half an update is none.
        """
        if question != "train":
            return Message(RecordDict({CONFIG: ConfigRecord({**self._facts(answer)})}), reply_to=message)
        if not self.policy.tells("images"):
            raise PolicyError(self._untold())
        if kept := self._kept(list(answer.arrays), anatomy):
            raise PolicyError(
                f"{_some(kept)}: may not leave; the policy of this hospital lets go: parts = {self.policy.parts!r}"
            )
        arrays = answer.arrays
        for change in answer.filters:
            arrays = change(arrays)
        numbers = {
            name: value
            for name, value in answer.numbers.items()
            if name in REQUIRED_METRICS or self.policy.sends_number(name)
        }
        return Message(RecordDict({ARRAYS: pack_arrays(arrays), METRICS: MetricRecord({**numbers})}), reply_to=message)

    def _facts(self, answer: Answer) -> dict[str, bool | int | float | str | list[int]]:
        if not self.is_site:
            return dict(answer.facts)
        allowed = {SITE, DEPLOYED}
        if self.policy.tells("images"):
            allowed.add(NUM_EXAMPLES)
        if self.policy.tells("classes"):
            allowed.add(CLASS_COUNTS)
        counts = {NUM_EXAMPLES, CLASS_COUNTS}  # never by a pattern for numbers
        return {
            name: value
            for name, value in answer.facts.items()
            if name in allowed or (name not in counts and self.policy.sends_number(name))
        }

    def send_error(self, message: Message, error: Exception) -> Message:
        """Return a reply that says what went wrong, without a path, a file's name or an image's.

        Raises
        ------
        Exception
            The error itself, in a simulation, unless the server is to tell it from others.
        """
        # What is to be changed in settings or policy is told apart from what went wrong.
        code = REFUSED if isinstance(error, PolicyError | ConfigurationError) else SITE_FAILED
        if not self.is_site:
            if isinstance(error, StorageError):
                code = RUN_DIRECTORY_FAILED
            elif not isinstance(error, PolicyError):
                raise error
            return Message(Error(code, str(error)), reply_to=message)
        logging.getLogger("dermafed").error("a question could not be answered", exc_info=error)
        return Message(Error(code, scrubbed(error)), reply_to=message)


def scrubbed(error: Exception) -> str:
    """Return what may be said of an error outside: its kind, and its words where they are of settings and weights."""
    kind = type(error).__name__
    if not isinstance(error, _SPEAKING):
        return f"{kind}: see the log of this hospital, as its words may name files or images"
    return f"{kind}: {_PATH.sub('(path)', str(error))}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
