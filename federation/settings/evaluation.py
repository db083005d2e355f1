"""How the global generator is judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from federation.settings.section import Section, split_names

UTILITY_ARMS = ("real", "synthetic", "real+synthetic", "rare")
"""What classifiers that test synthetic images are trained on."""
UTILITY_YARDSTICKS = ("gaussian", "real+gaussian", "real+permuted")
"""What classifiers are trained on whose images need no generator, or say nothing."""

FEWEST_SEARCHED = 16
"""Generated images, below which a search for copies says nothing."""


class EvaluationSettings(Section):
    """How the global generator is judged."""

    every: int = Field(default=50, ge=1)
    """Rounds from one evaluation to the next; round 0 and the last are always evaluated."""
    images: int = Field(default=1000, ge=16, le=100_000)
    """Most generated, and most real, images in an evaluation."""
    extractor: Literal["auto", "inception-v3", "dinov2", "lesion-cnn"] = "auto"
    """Network whose features are compared. ``auto``: Inception where its weights are on this machine or may be
    downloaded, since published figures are of it, else DINOv2 where its weights are on this machine, else a small
    lesion classifier trained on the extractor part."""
    extractor_weights: str = ""
    """Weight file of Inception or, a safetensors file, of DINOv2. Empty: where their own libraries keep it."""
    allow_downloads: bool = False
    """Whether weights of extractors and of pretrained classifiers may be downloaded."""
    draws: int = Field(default=5, ge=1, le=100)
    """Independent sets of generated images in the final evaluation: intervals are over them."""
    utility: bool = True
    """Whether classifiers are trained on synthetic images and tested on real ones at the end."""
    utility_arms: str = "real,synthetic,real+synthetic,rare"
    """What classifiers are trained on, separated by commas: ``real`` images, ``synthetic`` ones,
    ``real+synthetic`` together, or real ones with synthetic ones of the ``rare`` classes alone."""
    utility_yardsticks: str = "gaussian,real+permuted"
    """What they are read against, separated by commas: ``gaussian`` and ``real+gaussian`` have a Gaussian of each
    class's pixels in the generator's place, ``real+permuted`` synthetic images whose labels are dealt out anew. Each
    costs as much as an arm; empty: none."""
    utility_ratio: float = Field(default=1.0, gt=0, le=100)
    """``real+…``: different synthetic images for each real one. A batch has at most as many synthetic ones of a class
    as real ones."""
    utility_classifier: Literal["small-cnn", "efficientnet-b2"] = "small-cnn"
    """The classifier. ``small-cnn`` takes seconds on a processor (its name in figures is ``slim-cnn``),
    ``efficientnet-b2`` a GPU or patience."""
    utility_weights: str = ""
    """``efficientnet-b2``: file of ImageNet weights. Empty: torchvision's usual place, else initial weights
    are random, and the classifier's name says so."""
    utility_seeds: int = Field(default=3, ge=1, le=100)
    """Classifiers trained on each kind of images: intervals are over them."""
    utility_steps: int = Field(default=300, ge=10)
    """Training steps of each of those classifiers; the state that is best on validation images is kept."""
    gain: bool = False
    """Whether it is measured at the end what each hospital gains by the generator: classifiers on its own images, with
    and without generated ones beside them. It trains five classifiers a hospital and seed, as ``utility-…`` say."""
    part: Literal["test", "validation"] = "test"
    """Which real images the final judgement compares with. ``validation``: no test image is read, as long as recipes
    are being chosen; states of classifiers are then chosen on the extractor part."""
    authenticity: bool = True
    """Whether it is tested at the end if the generator copies its training images."""
    searched_images: int = Field(default=0, ge=0, le=1_000_000)
    """Generated images that are searched for copies of training images; at least 16. 0: four times as many as there are
    training images, at most 20,000, and above 32 px as many fewer as an image has more pixels, down to 2,000. Of 1,000
    that copy, a search hears little: there are more training images than that."""
    threads: int = Field(default=2, ge=1, le=256)
    """CPU threads of the evaluation."""
    overlap: Literal["auto", "always", "never"] = "auto"
    """Whether hospitals train the next round while the last one is judged; the scores are the same. ``auto``: where
    the hospitals' work leaves ``evaluation.threads`` cores of this machine free, and nothing waits for the score."""

    @property
    def utility_arm_names(self) -> tuple[str, ...]:
        """The names in ``evaluation.utility-arms`` and ``evaluation.utility-yardsticks``."""
        return split_names(self.utility_arms) + split_names(self.utility_yardsticks)

    def problems(self, configuration: Any) -> Iterator[str]:
        """See :class:`Section`."""
        # Where evaluation.utility is false, the judgement itself says that nothing of this was measured.
        if self.utility and not any(name.startswith("real+") for name in self.utility_arm_names):
            why = f"evaluation.utility-arms = {self.utility_arms!r} has no real+synthetic; add it, or leave this out"
            arms = ("evaluation.utility-arms", "evaluation.utility-yardsticks")
            yield from self.in_vain("evaluation", ("utility_ratio",), why, *arms)
        trains_efficientnet = (self.utility or self.gain) and self.utility_classifier == "efficientnet-b2"
        if self.extractor == "lesion-cnn":
            why = "evaluation.extractor = lesion-cnn is trained here and reads none; leave one of the two out"
            yield from self.in_vain("evaluation", ("extractor_weights",), why, "evaluation.extractor")
            if not trains_efficientnet:
                why = "evaluation.extractor = lesion-cnn and the classifiers are trained here; leave it out"
                switches = ("evaluation.extractor", "evaluation.utility", "evaluation.utility-classifier")
                yield from self.in_vain("evaluation", ("allow_downloads",), why, *switches)
        if not self.authenticity:
            why = "evaluation.authenticity = false searches none; leave one of the two out"
            yield from self.in_vain("evaluation", ("searched_images",), why, "evaluation.authenticity")
        if 0 < self.searched_images < FEWEST_SEARCHED:
            yield (
                f"evaluation.searched-images = {self.searched_images}: fewer than {FEWEST_SEARCHED}, and a nearest "
                "image is a matter of chance; give more, or 0, which leaves the number to a rule"
            )
        if configuration.early_stopping.patience > 0 and self.overlap == "always":
            why = "early-stopping.patience waits for each score before hospitals train on; leave one of the two out"
            yield from self.in_vain("evaluation", ("overlap",), why, "early-stopping.patience")
        for key, given, known in (
            ("utility-arms", self.utility_arms, UTILITY_ARMS),
            ("utility-yardsticks", self.utility_yardsticks, UTILITY_YARDSTICKS),
        ):
            for name in split_names(given):
                if name not in known:
                    yield f"evaluation.{key} = {given!r}: {name!r} is not known; allowed are {', '.join(known)}"
        if self.utility and not split_names(self.utility_arms):
            yield "evaluation.utility-arms is empty: name what to train on, or set evaluation.utility=false"
        if self.utility and self.utility_classifier != "efficientnet-b2":
            why = (
                f"evaluation.utility-classifier = {self.utility_classifier} has no pretrained weights; leave it out, "
                "or set evaluation.utility-classifier=efficientnet-b2"
            )
            yield from self.in_vain("evaluation", ("utility_weights",), why, "evaluation.utility-classifier")
