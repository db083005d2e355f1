"""What every table of the configuration is."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

Scalar = int | float | bool | str
"""Values of settings: Flower's run configuration and the messages to hospitals take nothing else."""


def kebab(name: str) -> str:
    """Return the key of a field."""
    return name.replace("_", "-")


def split_names(names: str) -> tuple[str, ...]:
    r"""Split a comma string into names without surrounding blanks.

    A comma in a name is written ``\,`` and a backslash ``\\``, as :func:`join_names` does: ``Melanoma\, NOS,Nevus``.
    """
    items = re.findall(r"(?:\\[\\,]|[^,])+", composed(names))
    return tuple(re.sub(r"\\([\\,])", r"\1", item.strip()) for item in items if item.strip())


def join_names(names: Iterable[str]) -> str:
    """Join names, none of which begins or ends with a blank, so that :func:`split_names` gives them back."""
    return ",".join(re.sub(r"([\\,])", r"\\\1", name) for name in names)


def composed(name: str) -> str:
    """Return a name with each letter and its accents as one character: a Mac writes file names with "ä" as two."""
    return unicodedata.normalize("NFC", name)


def printable(path: str) -> str:
    r"""Return a path with bytes that are no UTF-8, as archives of other systems have them, written ``\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class InVain(str):
    """A problem of one setting: it is switched on, and beside other settings nothing reads it.

    It is none where a later layer has made it so: a preset's options go with what ``--set`` switches off. Nor is it
    where the value was accepted before, as those in a run's own file were.

    Parameters
    ----------
    key, value
        The setting.
    why
        Why nothing reads it, and what to do.
    switches
        The keys that make it so.
    """

    key: str
    switches: tuple[str, ...]

    def __new__(cls, key: str, value: Scalar, why: str, switches: Iterable[str]) -> InVain:
        """Make the sentence."""
        problem = super().__new__(
            cls, f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}: {why}"
        )
        problem.key, problem.switches = key, tuple(switches)
        return problem


class Section(BaseModel):
    """A table of the configuration."""

    model_config = ConfigDict(
        alias_generator=kebab,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def problems(self, configuration: Any) -> Iterator[str]:
        """Yield a sentence for each combination of values that makes no sense.

        Parameters
        ----------
        configuration
            The whole :class:`federation.config.Configuration`, whose every value is allowed by itself.
        """
        yield from ()

    def in_vain(self, table: str, fields: Iterable[str], why: str, *switches: str) -> Iterator[InVain]:
        """Yield a sentence for each of some fields that differs from its default, where nothing reads it.

        Parameters
        ----------
        table
            Name of this table.
        fields
            Names of its fields.
        why, switches
            See :class:`InVain`.
        """
        for name in fields:
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                yield InVain(f"{table}.{kebab(name)}", value, why, switches)
