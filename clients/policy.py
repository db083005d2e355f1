"""What may leave a site: its own file, which no server can change.

A node's configuration names the file (``policy="/etc/dermafed/policy.toml"``). Without one a real site sends networks
and its number of training images, and nothing else. ::

    questions = "describe, train"
    parts = "decoder, decoder_ema"
    counts = "images, classes"
    numbers = "loss-*, seconds"
    cache-dir = "/srv/dermafed/cache"
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from federation.errors import ConfigurationError
from federation.settings.section import Section, kebab, split_names
from federation.sharing import OWN
from federation.toml_files import parse_toml

QUESTIONS = ("describe", "train", "preflight")
"""What a hospital can be asked."""
COUNTS = ("images", "classes")
"""What of its images a hospital may count for others."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Policy(Section):
    """What may leave a site. All that is not named stays."""

    questions: str = "describe, train"
    """Which questions are answered, of :data:`QUESTIONS`, separated by commas."""
    parts: str = "*"
    """Which entries of the model may be sent: parts (``decoder``), beginnings of entries' names, or patterns with
    ``*``, separated by commas. ``*`` is every entry of every network; what a rule sends beside them, such as
    SCAFFOLD's ``control.*``, and state of training (``training``) are named for themselves."""
    own: bool = False
    """Whether what is this hospital's alone may be handed over all the same, to be judged."""
    counts: str = "images"
    """Which counts may be told, of :data:`COUNTS`. Without ``images`` a hospital can take part in nothing."""
    numbers: str = ""
    """Which other numbers a reply may hold: names or patterns, e.g. ``loss-*, seconds``. Steps and images shown, which
    follow from the settings, always go with a reply."""
    cache_dir: str = ""
    """Where decoded images are kept. Empty: in the site's state folder."""

    def answers(self, question: str) -> bool:
        """Whether a question is answered."""
        return question in split_names(self.questions)

    def tells(self, count: str) -> bool:
        """Whether a count may be told."""
        return count in split_names(self.counts)

    def sends_number(self, name: str) -> bool:
        """Whether a reply may hold a number of this name."""
        return any(fnmatchcase(name, pattern) for pattern in split_names(self.numbers))

    def sends_entry(self, name: str, networks: tuple[str, ...]) -> bool:
        """Whether an entry may be sent.

        Parameters
        ----------
        name
            As it stands on the wire.
        networks
            The parts of the model that are networks: what ``*`` stands for.
        """
        if name.startswith(OWN):
            return self.own
        for pattern in split_names(self.parts):
            if pattern == "*":
                if name.split(".")[0] in networks:
                    return True
            elif fnmatchcase(name, pattern) or fnmatchcase(name, pattern + ".*"):
                return True
        return False

    def contradictions(self) -> Iterator[str]:
        """Yield what is wrong with the values."""
        for key, value, allowed in (("questions", self.questions, QUESTIONS), ("counts", self.counts, COUNTS)):
            for name in split_names(value):
                if name not in allowed:
                    yield f"{key} = {value!r}: {name!r} is not known; allowed are {', '.join(allowed)}"
        if not split_names(self.parts):
            yield "parts is empty: nothing could be sent; name parts of the model, or * for all networks"


class OpenPolicy(Policy):
    """A simulation's hospital: everything may leave, as nobody's images are in it but the simulating person's."""

    questions: str = ", ".join(QUESTIONS)
    own: bool = True
    counts: str = ", ".join(COUNTS)
    numbers: str = "*"

    def sends_entry(self, name: str, networks: tuple[str, ...]) -> bool:
        """See :class:`Policy`."""
        return True


def load_policy(path: Path) -> Policy:
    """Read a site's policy.

    Raises
    ------
    ConfigurationError
        Naming each key that is not known or whose value is not allowed, or a file that cannot be read, or that
        others than its owner could change or replace.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())  # of the file that is read, whatever is put in its place meanwhile
            content = file.read()
    except OSError as error:
        raise ConfigurationError(
            f"policy {path}: cannot be read ({error.strerror}); give the site's own file"
        ) from None
    _check_owned(path, status)
    values = parse_toml(content, f"policy {path}")
    known = [kebab(name) for name in Policy.model_fields]
    problems = []
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            problems.append(f"policy {path}: {key}: unknown key; the nearest known key is {nearest}")
    policy = _validated(path, {key: value for key, value in values.items() if key in known}, problems)
    if problems or policy is None:
        raise ConfigurationError(problems)
    return policy


def _check_owned(path: Path, status: os.stat_result) -> None:
    """Refuse a file that others than its owner could write to or replace, as ssh does with keys."""
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(
            f"policy {path}: belongs to another user (uid {status.st_uid}); run chown {os.geteuid()} {path}"
        )
    if status.st_mode & _OTHERS_WRITE:
        raise ConfigurationError(
            f"policy {path}: others than its owner can write to it (mode {stat.S_IMODE(status.st_mode):04o}); run "
            f"chmod go-w {path}"
        )
    for folder in dict.fromkeys((*path.absolute().parents, *path.resolve().parents)):
        mode = folder.stat().st_mode
        if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
            raise ConfigurationError(
                f"policy {path}: others can put another file in its place, since they can write to the folder {folder} "
                f"(mode {stat.S_IMODE(mode):04o}); run chmod go-w {folder}, or keep the file elsewhere"
            )


def _validated(path: Path, values: dict[str, Any], problems: list[str]) -> Policy | None:
    """Return the policy of known keys; add what is wrong with their values to `problems`."""
    try:
        policy = Policy.model_validate(values)
    except ValidationError as error:
        for detail in error.errors():
            key = ".".join(str(part) for part in detail["loc"])
            problems.append(f"policy {path}: {key} = {detail['input']!r}: {detail['msg']}")
        return None
    problems += (f"policy {path}: {problem}" for problem in policy.contradictions())
    return policy
