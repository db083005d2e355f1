"""Where things that can be computed again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(setting: str = "") -> Path:
    """Return the folder that ``data.cache-dir`` names; empty: the user's cache folder.

    That is ``$XDG_CACHE_HOME/dermafed``, else ``~/.cache/dermafed``.
    """
    if setting:
        return Path(setting).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dermafed"
