"""The user's home folder, which a container's user may not have."""

from __future__ import annotations

from pathlib import Path

from federation.errors import DataError


def expand_home(path: str, key: str) -> Path:
    """Return a path as a user writes it, ``~`` and ``~name`` replaced by a home folder.

    Parameters
    ----------
    path
        As it was given.
    key
        What it was given as, for the message.

    Raises
    ------
    DataError
        If there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(
            f"{key} = {path!r}: there is no home folder that {Path(path).parts[0]} stands for; give the whole path"
        ) from None


def check_home(path: Path, variable: str) -> None:
    """Refuse to make a folder called ``~``, which is what libraries take for the home of a user who has none.

    Raises
    ------
    DataError
        Naming the environment variable by which the library takes another folder.
    """
    if path.parts[0] == "~":
        raise DataError(
            f"this user has no home folder, and nothing can be kept in {path}; set the environment variable {variable} "
            "to a folder that can be written"
        )
