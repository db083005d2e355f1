"""What every family of models has in common, and what a hospital does in a round."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator

from federation.settings.section import Section


class ModelSettings(Section):
    """Which generative model is trained."""

    name: str = "stylegan2"
    """The family of models, whose own settings stand in the table of its name: ``stylegan2`` or ``vae``."""
    conditional: bool = True
    """Whether the model is told the diagnosis."""
    initial: str = ""
    """Weights to continue from: a run's directory, its ``final`` folder, a safetensors file of ours, or ``phantoms``, a
    small pair trained on phantoms that comes along. Entries whose names and shapes fit are taken, others are named.
    Empty: random weights."""
    site_embedding: Literal["auto", "on", "off"] = "auto"
    """Whether the generator is told at which hospital an image was taken: looks of cameras then need not be averaged
    into one, and an image of any hospital's look can be asked for. ``auto``: where a family can, there are several
    hospitals, and they train a generator that they share."""
    resolution: int = Field(default=32, ge=32, le=512)
    """Side of the images in pixels, a power of two: 32, 64, 128, 256 or 512."""

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        if not math.log2(self.resolution).is_integer():
            yield f"model.resolution = {self.resolution}: allowed is a power of two: 32, 64, 128, 256 or 512"
        if self.site_embedding == "on" and not configuration.num_sites:
            why = (
                "there is one hospital, and no other to tell it from"
                if configuration.family.knows_sites
                else f"a model of the family {self.name} is not told hospitals"
            )
            switches = ("partition.hospitals", "model.name")
            why += "; leave it at auto, or set it to off"
            yield from self.in_vain("model", ("site_embedding",), why, *switches)


class TrainingSettings(Section):
    """What a hospital does in a round."""

    local_steps: int = Field(default=10, ge=0)
    """Training steps per round at each hospital. Few: networks that are averaged often drift less apart."""
    local_epochs: float = Field(default=0.0, ge=0, le=1000)
    """Passes over the hospital's own images per round, in place of ``local-steps``. 0: unused."""
    batch_size: int = Field(default=8, ge=2, le=4096)
    """Images in a step at one hospital. Small: averaged steps see hospitals x batch-size images, and on a
    processor quality follows the number of steps more than the number of images."""
    threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of a hospital. It changes the last bits of the weights, so it is a setting and never
    derived; two hospitals at one thread each are faster than one at two."""
    learning_rate: float = Field(default=0.002, gt=0, le=1)
    """Adam's step size, of all networks."""
    learning_rate_decay: Literal["none", "cosine"] = "cosine"
    """``cosine``: over all ``rounds`` the step size falls along half a cosine, to a quarter. That of a critic does
    not, as it must keep up with what it judges. A run that is resumed for more rounds falls over all of them."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Adam's decay of the gradient's mean."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Adam's decay of the gradient's square."""
    ema_half_life_images: float = Field(default=5000.0, ge=0)
    """Half-life of running averages, e.g. the generator's, in images shown at one hospital."""
    ema_ramp: float = Field(default=0.1, ge=0, le=1)
    """The half-life is at most this share of the images shown so far, so that early rounds are not judged
    on initial weights (0.05 in StyleGAN2-ADA, for runs a thousand times as long). 0: no ramp."""
    flips: bool = True
    """Whether real images are flipped and turned by quarter turns at random: dermoscopy has no upright."""
    balanced_classes: Literal["auto", "none", "hospital", "federation"] = "auto"
    """Which classes are drawn equally often, for long tails. ``none``: every image is. ``hospital``: those that a
    hospital holds. ``federation``: all together show all classes alike, each hospital those of which it holds more, and
    each weighs as much as it shows; it tells the server its images of each class, and one whose policy forbids that is
    balanced by itself. ``auto``: ``federation`` for conditional models, ``none`` for others. Where the server draws, to
    train the generator or to compare hospitals, it asks for all classes alike too."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the convolutions. ``auto``: bf16 where the processor has it. Weights are always fp32."""

    @field_validator("balanced_classes", mode="before")
    @classmethod
    def _as_it_was(cls, value: object) -> object:
        """Read what the setting was when it was a switch."""
        switch = {"true": "hospital", "false": "none"}
        return switch.get(str(value).lower(), value)

    def count_steps(self, num_images: int) -> int:
        """Return the steps of a round at a hospital with `num_images` training images, at least 1."""
        if self.local_epochs > 0:
            return max(1, math.ceil(self.local_epochs * num_images / self.batch_size))
        return self.local_steps

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        default_steps = type(self).model_fields["local_steps"].default
        if self.local_epochs > 0 and self.local_steps not in (0, default_steps):
            yield (
                f"training.local-steps = {self.local_steps} and training.local-epochs = {self.local_epochs:g}: "
                "give one of them"
            )
        if self.ema_half_life_images == 0 and self.ema_ramp > 0:
            why = "training.ema-half-life-images = 0 keeps nothing that could be shortened; leave it out, or raise that"
            yield from self.in_vain("training", ("ema_ramp",), why, "training.ema-half-life-images")
        if self.local_epochs == 0 and self.local_steps == 0:
            yield (
                "training.local-steps = 0 and training.local-epochs = 0: give one of them, e.g. training.local-steps=40"
            )
