"""Toml files as people write them, on Windows too."""

from __future__ import annotations

import codecs
import tomllib
from typing import Any

from federation.errors import ConfigurationError

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""What a file begins with that Notepad or PowerShell has written, and how it is read then."""
_FIRST, _LAST = "# Whole where its last line says that it ends.", "# It ends."


def with_end(text: str) -> str:
    """Return a toml text that :func:`parse_toml` takes only whole.

    A copy that a full disk has cut at the end of a line is toml still, and would leave the rest to defaults.
    """
    return f"{_FIRST}\n{text.rstrip()}\n{_LAST}\n"


def parse_toml(content: bytes, origin: str) -> dict[str, Any]:
    """Return the tables of a toml file.

    Parameters
    ----------
    content
        UTF-8, with or without a byte order mark, or UTF-16 with one.
    origin
        What the file is, for messages.

    Raises
    ------
    ConfigurationError
        If it is another encoding, not toml, or not all of what :func:`with_end` has made.
    """
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        # As text is read everywhere: with the line ends of any system.
        text = content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{origin}: is not text in UTF-8 (byte 0x{content[error.start]:02x} in line {line}); save it as UTF-8"
        ) from None
    if text.startswith(_FIRST) and _LAST not in text.splitlines():
        raise ConfigurationError(f"{origin}: has been cut short, its last line is missing")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{origin}: is not valid toml: {error}") from None
