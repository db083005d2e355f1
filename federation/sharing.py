"""What of a model a federation shares, in a round: one decision, which server and hospitals read alike.

What becomes of each entry:

============================================  ==========================================================
weights, biases, noise strengths              averaged, or private where a part or layer is named
running averages and their buffers            as the part that they follow
integer buffers                               private: a mean of counters is no counter
state of training, e.g. ``training.ada_p``    private, or averaged where ``strategy.averaged-state`` says so
frozen parts                                  private: nobody changes them
private entries of what draws                 in simulations sent when a round is judged, never averaged
Adam's moments, number of steps               private, and never a named tensor of the wire
random streams                                none is carried: each is made anew from seed, round and site
============================================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from federation.errors import ConfigurationError
from federation.models.anatomy import Anatomy

OWN = "own."
"""Before the names of entries that are a hospital's own and are sent to be judged; they are never averaged."""


class SharingPolicy:
    """Which entries of a model are averaged, and which stay at a hospital.

    Parameters
    ----------
    anatomy
        What the parts are.
    private
        Prefixes of entries that never leave a hospital, e.g. ``("discriminator",)`` or ``("generator.mapping",)``, in
        which ``*`` stands for anything. They take the same entries of running averages with them. Everything else is
        averaged, buffers such as the running mean of w included, except integer buffers.
    averaged_state
        State of training that is averaged too, e.g. ``("ada-p",)``; all else of it stays.
    """

    def __init__(self, anatomy: Anatomy, private: Iterable[str] = (), averaged_state: Iterable[str] = ()) -> None:
        self.anatomy = anatomy
        self.private = tuple(private)
        self._states = anatomy.of_kind("state")
        self.averaged_state = frozenset(
            f"{part}.{name.replace('-', '_')}" for part in self._states for name in averaged_state
        )
        # What follows is private where its leader is.
        for follower, leader in anatomy.averages.items():
            parts = [prefix.partition(".") for prefix in self.private]
            self.private += tuple(follower + dot + rest for head, dot, rest in parts if fnmatchcase(leader, head))

    def is_shared(self, name: str, value: Tensor) -> bool:
        """Whether the entry called `name` (``part.parameter``) is averaged."""
        if not value.is_floating_point():
            return False
        part = name.partition(".")[0]
        if part in self._states:
            return name in self.averaged_state
        return self.anatomy.parts[part].kind != "frozen" and not self.is_private(name)

    def is_private(self, name: str) -> bool:
        """Whether `private` names this entry."""
        return any(is_within(name, prefix) for prefix in self.private)

    def keeps_whole(self, part: str) -> bool:
        """Whether `private` leaves nothing of a trained part to be averaged, as far as one name of it says."""
        return any(is_within(part, prefix) or prefix == part + ".*" for prefix in self.private)

    def keeps_drawing(self) -> bool:
        """Whether hospitals have something of what draws, or of what it follows, of their own."""
        names = {*self.anatomy.drawing, *self.anatomy.learned_to_draw}
        heads = {prefix.split(".")[0] for prefix in self.private}
        # Of a pattern it is what stands before the first star that rules a part out.
        stems = {head.split("*")[0] for head in heads if "*" in head}
        return bool(heads & names) or any(
            stem.startswith(name) or name.startswith(stem) for stem in stems for name in names
        )

    def check(self, names: Iterable[str]) -> None:
        """Refuse a prefix that no entry has.

        Raises
        ------
        ConfigurationError
            Naming the prefix and the parts that there are.
        """
        names = [name for name in names if name.partition(".")[0] not in self._states]
        for prefix in self.private:
            if not any(is_within(name, prefix) for name in names):
                parts = sorted({name.split(".")[0] for name in names})
                raise ConfigurationError(
                    f"strategy.private = {prefix!r}: no network or layer has this name; "
                    f"give a network ({', '.join(parts)}) or the beginning of a parameter's name"
                )


def is_within(name: str, prefix: str) -> bool:
    """Whether a prefix of :class:`SharingPolicy` names an entry, or all entries of a network or a layer."""
    if "*" in prefix:
        return fnmatchcase(name, prefix) or fnmatchcase(name, prefix + ".*")
    return name == prefix or name.startswith(prefix + ".")


def named_tensors(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return every parameter and buffer by its full name, e.g. ``generator.mapping.w_mean``, without a copy."""
    return {
        f"{network}.{name}": value
        for network, module in networks.items()
        for name, value in module.state_dict().items()
    }


def shared_tensors(networks: Mapping[str, nn.Module], policy: SharingPolicy) -> dict[str, Tensor]:
    """Return the entries that are averaged, in the order of the parts."""
    return {name: value for name, value in named_tensors(networks).items() if policy.is_shared(name, value)}


def private_tensors(networks: Mapping[str, nn.Module], policy: SharingPolicy) -> dict[str, Tensor]:
    """Return the entries that stay at a hospital."""
    return {name: value for name, value in named_tensors(networks).items() if not policy.is_shared(name, value)}


def own_drawing(networks: Mapping[str, nn.Module], policy: SharingPolicy) -> dict[str, Tensor]:
    """Return what is a hospital's own of the parts that draw, as it is sent to be judged."""
    return {
        OWN + name: value
        for name, value in drawing_tensors(networks, policy.anatomy).items()
        if value.is_floating_point() and policy.is_private(name)
    }


def drawing_tensors(networks: Mapping[str, nn.Module], anatomy: Anatomy) -> dict[str, Tensor]:
    """Return the entries of the parts that draw, by full name."""
    return named_tensors({part: networks[part] for part in anatomy.drawing})


def trained_names(networks: Mapping[str, nn.Module], anatomy: Anatomy) -> set[str]:
    """Return the full names of the entries that optimisers move."""
    return {f"{part}.{name}" for part in anatomy.trained for name, _ in networks[part].named_parameters()}


@torch.no_grad()
def load_tensors(networks: Mapping[str, nn.Module], values: Mapping[str, Tensor | np.ndarray]) -> None:
    """Copy values into the networks' own entries, in place; names must be known and shapes equal."""
    targets = named_tensors(networks)
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            # What another process lent to us cannot be written to, which torch insists on.
            value = torch.from_numpy(value if value.flags.writeable else value.copy())
        targets[name].copy_(value)
