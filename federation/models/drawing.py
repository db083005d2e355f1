"""How images are drawn: from a running model, from an exported one, from a mixture of several; one road for all.

A federation whose hospitals keep generators of their own has the mixture Σ_i p_i(y) G_i(z, y), with p_i(y) a
hospital's share of the images of class y: each image is drawn by one of them, chosen by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from federation.images import to_uint8
from federation.models.protocol import DrawingNetwork, GenerativeModel
from federation.sharing import load_tensors
from federation.site import Site


@dataclass(frozen=True)
class Looks:
    """The hospitals that one network is told, and how often each is asked for.

    Where images of class c were trained on at hospital h in the share p(h | c), drawing h by it gives the federation's
    images: Σ_h p(h | c) G(z, c, h).
    """

    names: tuple[str, ...]
    """Of the hospitals, in the order of the embedding's rows."""
    weights: tuple[tuple[float, ...], ...]
    """Of each hospital: how often it is asked for, for each class, or, of one entry, for any image. Relative."""


def looks_of(sites: Sequence[Site], *, conditional: bool) -> Looks | None:
    """Return how often a federation's images have each hospital's look: as often as it has images of the class.

    Parameters
    ----------
    sites
        All hospitals, with their counts as far as they tell them. Of one that does not, as many of each class are
        assumed as of all images; where none does, its images count.
    conditional
        Whether the generator is told classes; else images count.

    Returns
    -------
    Shares of each class, or of all images, to three decimals: they go with the generator, and counts are nobody's
    business. None where there is no hospital.
    """
    told = [site for site in sites if site.class_counts and conditional]
    if not sites:
        return None
    totals = np.sum([site.class_counts for site in told], axis=0, dtype=float) if told else np.ones(1)
    images = sum(site.num_images for site in told) or 1
    held = np.array([site.class_counts if site in told else totals * site.num_images / images for site in sites])
    of_class = held.sum(axis=0)
    shares = np.round(held / np.where(of_class > 0, of_class, 1.0), 3)
    return Looks(tuple(site.name for site in sites), tuple(tuple(each) for each in shares.tolist()))


def looks_at(number: int, of: int, names: Sequence[str] = ()) -> Looks | None:
    """Return the look of one of so many hospitals alone; None where there are none."""
    alone = tuple((float(other == number),) for other in range(of))
    return Looks(tuple(names) or tuple(str(other) for other in range(of)), alone) if of else None


@dataclass(frozen=True)
class Component:
    """One of the networks that images are drawn with."""

    name: str
    """Of its hospital; empty where it is the federation's."""
    use: Callable[[], DrawingNetwork]
    """Returns the network; it may be the same one as another component's, with other weights."""
    weights: tuple[float, ...] = (1.0,)
    """How often it is chosen for each class, or, of one entry, for any image. Relative to the other components."""
    looks: Looks | None = None
    """Hospitals that the network is told, where it is the federation's; None: none."""


@torch.no_grad()
def draw(
    components: Sequence[Component],
    labels: Tensor | None,
    count: int,
    stream: torch.Generator,
    truncation: float = 1.0,
) -> Tensor:
    """Draw images.

    Parameters
    ----------
    components
        At least one.
    labels
        (count,) int64, or None for an unconditional model.
    count
        Number of images; drawn as one batch, so the caller chooses what memory allows.
    stream
        Of the choice between components, of latents, and of whatever else is drawn by chance.
    truncation
        In [0, 1]; 1 draws from the learned distribution.

    Returns
    -------
    uint8 (count, r, r, 3), on the networks' device.
    """
    network = components[0].use()
    latents = network.latents(count, stream)
    labels = None if labels is None else labels.to(latents.device)
    if not components[0].name:  # the federation's own
        if (looks := components[0].looks) is None:
            return to_uint8(network(latents, labels, stream, truncation))
        weights = torch.tensor(looks.weights, dtype=torch.float64)
        sites = choose_components(weights, labels, count, stream).to(latents.device)
        return to_uint8(network(latents, labels, stream, truncation, sites))
    weights = torch.tensor([component.weights for component in components], dtype=torch.float64)
    chosen = choose_components(weights, labels, count, stream).to(latents.device)
    images = torch.empty(count, network.resolution, network.resolution, 3, dtype=torch.uint8, device=latents.device)
    for number, component in enumerate(components):
        rows = (chosen == number).nonzero()[:, 0]
        if len(rows):
            asked = None if labels is None else labels[rows]
            images[rows] = to_uint8(component.use()(latents[rows], asked, stream, truncation))
    return images


def choose_components(weights: Tensor, labels: Tensor | None, count: int, stream: torch.Generator) -> Tensor:
    """Return which component draws each image, (count,) int64 on the CPU.

    Parameters
    ----------
    weights
        (components, classes), or (components, 1) for any class.
    labels
        (count,), or None.
    count
        Images.
    stream
        Where the choice comes from.
    """
    of_any = weights[:, :1].expand(-1, count)
    odds = of_any if labels is None or weights.shape[1] == 1 else weights[:, labels.cpu()]
    # A class that no component has: all of them, alike.
    odds = torch.where(odds.sum(dim=0) > 0, odds, torch.ones_like(odds))
    shares = odds.T / odds.sum(dim=0)[:, None]
    drawn = torch.rand(count, generator=stream, device=stream.device, dtype=torch.float64).cpu()
    # The first component whose cumulated share is above the draw.
    return (shares.cumsum(dim=1) <= drawn[:, None]).sum(dim=1).clamp(max=len(weights) - 1)


class Drawer:
    """What draws the images of a federation: one network, or a mixture.

    Parameters
    ----------
    components
        At least one.
    num_classes
        Classes that can be asked for; 0: none.
    """

    def __init__(self, components: Sequence[Component], num_classes: int) -> None:
        self.components = tuple(components)
        self.num_classes = num_classes

    def generate(self, labels: Tensor | None, count: int, stream: torch.Generator, truncation: float = 1.0) -> Tensor:
        """Draw images; see :func:`draw`."""
        return draw(self.components, labels, count, stream, truncation)


def drawer_of(model: GenerativeModel, looks: Looks | None = None) -> Drawer:
    """Return what draws a running model's images, with the weights that it has when they are drawn.

    Parameters
    ----------
    model
        Whose images.
    looks
        How often each of the hospitals that it is told is asked for; None where it is told none.

    Raises
    ------
    ValueError
        If it is told hospitals, and nobody says which to ask for.
    """
    if model.num_sites and looks is None:
        raise ValueError("this generator is told hospitals: say how often each is asked for (looks)")
    if not model.num_sites:
        looks = None
    return Drawer([Component("", lambda: model.drawing, looks=looks)], model.num_classes)


def lent_component(
    model: GenerativeModel, name: str, arrays: Mapping[str, np.ndarray], weights: Sequence[float]
) -> Component:
    """Return one of a mixture whose networks take turns in one model, whose parts that draw are overwritten.

    Parameters
    ----------
    model
        Lends its parts.
    name
        Of the hospital.
    arrays
        Entries of the parts that draw, by full name.
    weights
        See :class:`Component`.
    """

    def use() -> DrawingNetwork:
        load_tensors(model.networks, arrays)
        return model.drawing

    return Component(name, use, tuple(weights))
