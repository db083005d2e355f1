"""Who takes part in a round, who does harm, and how long others wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from federation.settings.section import Section


class AttackSettings(Section):
    """Hospitals that do harm, on purpose or not. For simulations alone."""

    name: Literal["none", "flipped-labels", "random", "scaled", "sign-flipped", "free-rider", "noisy-camera"] = "none"
    """``flipped-labels``: classes in reverse. ``random``: noise of the update's size in its place. ``scaled``,
    ``sign-flipped``: the update times ``scale``, or times minus ``scale``. ``free-rider``: sends back what it got.
    ``noisy-camera``: grain of ``scale`` in its images."""
    hospitals: int = Field(default=1, ge=1)
    """How many do so, drawn with ``partition.seed``: the same ones whatever ``seed``."""
    scale: float = Field(default=1.0, gt=0)
    """Strength of ``random``, ``scaled`` (1 would be none) and ``sign-flipped``; for ``noisy-camera`` the standard
    deviation of the grain, where pixels are from -1 to 1."""

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        if self.name == "none":
            nothing = "attack.name = none attacks nothing; set attack.name"
            yield from self.in_vain("attack", ("hospitals", "scale"), nothing, "attack.name")
            return
        if self.name in ("free-rider", "flipped-labels"):
            yield from self.in_vain(
                "attack", ("scale",), f"attack.name = {self.name} has no strength; leave it out", "attack.name"
            )
        if self.name == "scaled" and self.scale == 1:
            yield "attack.scale = 1: attack.name = scaled would change nothing; set attack.scale=10, say"
        if self.hospitals > configuration.partition.hospitals:
            yield (
                f"attack.hospitals = {self.hospitals}: there are {configuration.partition.hospitals} hospitals "
                "(partition.hospitals); lower it"
            )
        if self.name == "flipped-labels" and not configuration.model.conditional:
            yield "attack.name = flipped-labels: model.conditional = false hears no class; choose another attack"
        if self.name == "flipped-labels" and len(configuration.class_names) == 1:
            yield (
                f"attack.name = flipped-labels: data.classes = {configuration.data.classes!r} is one class, and there "
                "is no other to take it for; choose another attack"
            )

    @property
    def harms_updates(self) -> bool:
        """Whether what is sent is falsified, and not the images."""
        return self.name not in ("none", "flipped-labels", "noisy-camera")


class ParticipationSettings(Section):
    """Who takes part in a round, and how long others wait for them."""

    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the hospitals asked in each round, drawn anew from ``seed`` and round; at least one."""
    min_replies: int = Field(default=1, ge=1)
    """A round with fewer usable replies ends the run; its last good state is saved."""
    retries: int = Field(default=1, ge=0, le=100)
    """How often a hospital that failed is asked again within the round, in a simulation by a new process."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Chance of each hospital to be away for a round, drawn from ``seed`` and round; so many are there as the
    strategy and ``min-replies`` need."""
    train_seconds: float = Field(default=0.0, ge=0)
    """How long a hospital may take to train in a round: in a simulation from the moment it begins, at real sites
    from the moment it is asked. 0: as long as it likes."""
    describe_seconds: float = Field(default=600.0, gt=0)
    """How long the hospitals may take, before the first round, to read their images and say who they are."""

    def asked(self, num_hospitals: int) -> int:
        """Return how many of so many hospitals are asked in a round."""
        return max(1, round(self.fraction * num_hospitals))

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        hospitals = configuration.partition.hospitals
        asked = self.asked(hospitals)
        if self.min_replies > asked:
            yield (
                f"participation.min-replies = {self.min_replies}: only {asked} of "
                f"partition.hospitals = {hospitals} are asked in a round "
                f"(participation.fraction = {self.fraction:g}); lower it, or ask more"
            )
        if asked == hospitals:
            why = f"of partition.hospitals = {hospitals} that is {asked}, which is all; lower it, or leave it out"
            yield from self.in_vain("participation", ("fraction",), why, "partition.hospitals")
        if self.min_replies >= asked:
            why = (
                f"{asked} of {hospitals} hospitals are asked in a round, and participation.min-replies = "
                f"{self.min_replies} lets none of them be away; lower that, ask more hospitals, or leave it out"
            )
            switches = ("participation.min-replies", "participation.fraction", "partition.hospitals")
            yield from self.in_vain("participation", ("dropout",), why, *switches)
        if configuration.simulation.engine == "in-process":
            why = "simulation.engine = in-process waits for every hospital; leave it out, or set simulation.engine=ray"
            fields = ("train_seconds", "describe_seconds")
            yield from self.in_vain("participation", fields, why, "simulation.engine")
