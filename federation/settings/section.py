"""What every table of the configuration is."""

from __future__ import annotations

import os
import re
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
    items = re.findall(r"(?:\\[\\,]|[^,])+", names)
    return tuple(re.sub(r"\\([\\,])", r"\1", item.strip()) for item in items if item.strip())


def join_names(names: Iterable[str]) -> str:
    """Join names, none of which begins or ends with a blank, so that :func:`split_names` gives them back."""
    return ",".join(re.sub(r"([\\,])", r"\\\1", name) for name in names)


def printable(path: str) -> str:
    r"""Return a path with bytes that are no UTF-8, as archives of other systems have them, written ``\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


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
