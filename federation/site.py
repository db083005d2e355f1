"""A hospital as the server knows it."""

from __future__ import annotations

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
