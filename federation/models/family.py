"""What a family of generative models tells the rest of the house."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from federation.models.anatomy import Anatomy
from federation.settings.section import Section

if TYPE_CHECKING:
    import torch

    from federation.config import Configuration
    from federation.models.protocol import DrawingNetwork, GenerativeModel


def _no_problems(configuration: Configuration) -> Iterator[str]:
    yield from ()


@dataclass(frozen=True)
class Family:
    """A family: its settings, what it is made of, and how it is built.

    The functions are given the whole configuration and read ``[model]``, ``[training]`` and the family's own table
    (``configuration.own(…)``). None but ``build`` and ``build_drawing`` imports PyTorch.
    """

    settings: type[Section]
    """The table of its name: what no other family has."""
    architecture: frozenset[str]
    """The fields of that table without which what draws cannot be built: they go with an exported generator."""
    anatomy: Callable[[Configuration], Anatomy]
    build: Callable[[Configuration, int, int, torch.device], GenerativeModel]
    """Of a configuration, the number of classes (0: unconditional), the seed of the initial weights and a device."""
    build_drawing: Callable[[Configuration, int], DrawingNetwork]
    """Of a configuration and the number of classes: what images are drawn with, for weights to be loaded into."""
    problems: Callable[[Configuration], Iterator[str]] = _no_problems
    """Yields a sentence for each combination of settings that makes no sense."""
    knows_sites: bool = False
    """Whether what draws can be told at which hospital an image was taken (``model.site-embedding``)."""
