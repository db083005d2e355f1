"""A second extractor beside the first, and what can be said of images without any: spectrum and colours.

An extractor may be blind to just what a generator lacks. So whatever the first says of fidelity, a second one of
another architecture, fitted to other images, says too; and where the two put generated images on different sides of
images whose quality is known, nobody should rank by either alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from federation.metrics.features import FeatureExtractor
from federation.metrics.fidelity import fid, kid
from federation.metrics.image_statistics import ImageStatistics, band_edges, ratios
from server.evaluation.scores import Draws
from server.evaluation.supply import ImageSupply

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMPARED_YARDSTICKS = {
    "kid_blurred_16": "real images blurred by way of 16 pixels",
    "kid_blurred_8": "real images blurred by way of 8 pixels",
    "kid_pca_gaussian": "a Gaussian on 64 components",
}
"""What both extractors place generated images beside, with the row of real images; in words."""
_REAL = "real training images"
_FIGURES = ("kid", "fid")


@dataclass(frozen=True, kw_only=True)
class SecondReference:
    """The second extractor, and all that generated images are compared with."""

    extractor: FeatureExtractor
    real: NDArray[np.floating]
    """(n, d): its features of the real images."""
    labels: NDArray[np.int64]
    """(n,): their classes."""
    stand_in: NDArray[np.floating]
    """(m, d): of real training images in the generator's place."""
    real_pixels: ImageStatistics
    """Of the real images."""
    stand_in_pixels: ImageStatistics
    """Of the real training images."""
    yardsticks: Mapping[str, float]
    """KID by the second extractor of :data:`COMPARED_YARDSTICKS`."""
    first_yardsticks: Mapping[str, float]
    """The same by the first one; empty where it takes too long."""
    seed: int
    """``data.split-seed``."""


class SecondOpinion:
    """Judges the images that the first extractor is shown, as they come.

    Parameters
    ----------
    supply
        The images that are judged.
    reference
        What they are compared with.
    """

    def __init__(self, supply: ImageSupply, reference: SecondReference) -> None:
        self.supply = _WatchedSupply(supply, self)
        self._reference = reference
        self._draws = Draws()
        self._pixels = ImageStatistics(reference.real_pixels.side)

    def watch(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Yield the batches of a draw as they are; after the last, judge the draw."""
        reference, rows = self._reference, []
        for batch in batches:
            rows.append(reference.extractor.features(batch))
            self._pixels.update(batch)
            yield batch
        generated = np.concatenate(rows)
        self._draws.add(
            {
                "kid": kid(reference.real, generated, seed=reference.seed)[0],
                "fid": fid(reference.real, generated),
            }
        )

    def sections(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``second``, ``spectrum`` and ``colours``, which belong beside the first extractor's `scores`.

        Parameters
        ----------
        scores
            What :func:`server.evaluation.scores.score_supply` made of :attr:`supply`.
        """
        reference = self._reference
        overlap = self.supply.overlap(reference.labels)
        second: dict[str, Any] = {
            "extractor": reference.extractor.name,
            "preprocessing": reference.extractor.preprocessing,
            "num_features": reference.extractor.num_features,
            **self._summary(overlap),
            "draws": self._draws.moved_apart(overlap),
            "real": {
                "kid": kid(reference.real, reference.stand_in, seed=reference.seed)[0],
                "fid": fid(reference.real, reference.stand_in),
            },
            "yardsticks": dict(reference.yardsticks),
            "first_yardsticks": dict(reference.first_yardsticks),
        }
        second["disagreements"] = list(disagreements(scores, second))
        real = reference.real_pixels
        return {
            "second": second,
            "spectrum": {
                "to_cycles": list(band_edges(real.side)),
                "ratio": ratios(self._pixels.band_powers, real.band_powers),
                "real": ratios(reference.stand_in_pixels.band_powers, real.band_powers),
            },
            "colours": {
                "deviation": self._pixels.colour_deviations.tolist(),
                "ratio": ratios(self._pixels.colour_deviations, real.colour_deviations),
                "real": ratios(reference.stand_in_pixels.colour_deviations, real.colour_deviations),
            },
        }

    def _summary(self, overlap: float) -> dict[str, Any]:
        found = self._draws.summary(_FIGURES, overlap)
        del found["kid_sd"]  # it is not measured of every draw here
        return found


class _WatchedSupply:
    """A supply whose draws a second opinion sees too; everything else is the supply's own."""

    def __init__(self, supply: ImageSupply, opinion: SecondOpinion) -> None:
        self._supply, self._opinion = supply, opinion
        self.knows_classes, self.num_images = supply.knows_classes, supply.num_images

    def has_class(self, label: int) -> bool:
        return self._supply.has_class(label)

    def batches(self, labels: NDArray[np.int64], purpose: str) -> Iterator[NDArray[np.uint8]]:
        return self._supply.batches(labels, purpose)

    def draw(
        self, labels: NDArray[np.int64], purpose: str, *, whole: bool = False
    ) -> tuple[NDArray[np.int64] | None, Iterator[NDArray[np.uint8]]]:
        drawn, batches = self._supply.draw(labels, purpose, whole=whole)
        return drawn, self._opinion.watch(batches)

    def follows(self, labels: NDArray[np.int64]) -> bool:
        return self._supply.follows(labels)

    def overlap(self, labels: NDArray[np.int64], label: int | None = None) -> float:
        return self._supply.overlap(labels, label)


def disagreements(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield what the two extractors put on different sides of the generated images.

    An extractor has placed them where its whole interval of KID lies on one side; without an interval it has not, and
    where only one of the two has, they do not contradict each other.

    Parameters
    ----------
    first
        With ``kid``, ``kid_interval``, ``real`` and ``extractor``.
    second
        The same of the second, with ``yardsticks`` and ``first_yardsticks`` on the same real images.
    """
    rows = {"real": (_REAL, first["real"]["kid"], second["real"]["kid"])}
    for name, words in COMPARED_YARDSTICKS.items():
        rows[name] = (words, second["first_yardsticks"].get(name), second["yardsticks"].get(name))
    for name, (words, by_first, by_second) in rows.items():
        sides = _side(first, by_first), _side(second, by_second)
        if None in sides or sides[0] == sides[1]:
            continue
        yield {
            "against": name,
            "first": str(sides[0]),
            "second": str(sides[1]),
            "say": (
                f"generated images are {sides[0]} than {words} by {first['extractor']} ({first['kid']:.3f} against "
                f"{by_first:.3f}), and {sides[1]} by {second['extractor']} ({second['kid']:.3f} against "
                f"{by_second:.3f})"
            ),
        }


def _side(section: Mapping[str, Any], other: float | None) -> str | None:
    """Say on which side of another KID the generated images are; None where that cannot be said."""
    interval = section.get("kid_interval")
    if interval is None or other is None:
        return None
    return "better" if interval[1] < other else "worse" if interval[0] > other else None
