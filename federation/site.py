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
    """Its training images: its weight in an average, unless it has a share."""
    class_counts: tuple[int, ...] = ()
    """Of each class; empty unless they were asked for and told."""
    share: int = 0
    """What it shows of all that a federation balanced over classes shows, in parts of
    :data:`federation.balance.WHOLE`; 0: it weighs by its images."""
    number: int = 0
    """Its place among all hospitals, by name: its row where a generator is told hospitals."""
    is_deployed: bool = False
    """Whether it is a real site and not a simulated one."""

    @property
    def size(self) -> int:
        """Its weight in an average."""
        return self.share or self.num_images


def folder_name(site: str) -> str:
    """Return a folder's name for a site: what file systems refuse becomes ``_``, and a hash keeps names apart."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", site).lstrip(".")
    return name if name == site else f"{name}-{hashlib.blake2b(site.encode(), digest_size=4).hexdigest()}"
