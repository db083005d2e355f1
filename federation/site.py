"""A hospital as the server knows it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """What a hospital has said of itself."""

    name: str
    node_id: int
    num_images: int
    """Its training images: its weight in an average."""
    class_counts: tuple[int, ...] = ()
    """Of each class; empty unless a strategy needs them."""
    is_deployed: bool = False
    """Whether it is a real site and not a simulated one."""


def folder_name(site: str) -> str:
    """Return a folder's name for a site: what file systems refuse becomes ``_``, and a hash keeps names apart."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", site).lstrip(".")
    return name if name == site else f"{name}-{hashlib.blake2b(site.encode(), digest_size=4).hexdigest()}"
