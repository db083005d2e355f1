"""Fidelity and diversity of generated images: as a whole, by class and by hospital."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from federation.metrics.diversity import vendi_score, within_class_spread
from federation.metrics.feature_cache import features_of_batches
from federation.metrics.features import FeatureExtractor
from federation.metrics.fidelity import LARGEST_SUBSET, fid, fid_caveat, kid
from federation.metrics.intervals import spread
from federation.metrics.neighbours import prdc
from server.evaluation.supply import ImageSupply

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_OF_A_GROUP = 32
"""Images of a class or a hospital below which its figures would be noise: KID's own deviation is then as large as
the distances that are to be told apart."""
K_PRECISION, K_DENSITY = 3, 5

FIGURES = ("kid", "fid", "precision", "density", "recall", "coverage")
_BOUNDS = {"precision": (0.0, 1.0), "recall": (0.0, 1.0), "coverage": (0.0, 1.0)}


@dataclass(frozen=True)
class RealSet:
    """Real images that generated ones are compared with."""

    features: NDArray[np.floating]
    """(n, d)."""
    labels: NDArray[np.int64]
    """(n,)."""
    sites: NDArray[np.object_]
    """(n,): names of hospitals."""


@dataclass(frozen=True)
class SiteReference:
    """What stands for each hospital."""

    features: dict[str, NDArray[np.floating]]
    """By name of the hospital, (n, d) each."""
    say: str
    """Which images they are."""


def compare(real: NDArray[np.floating], generated: NDArray[np.floating], *, seed: int) -> dict[str, float | None]:
    """Return every figure of :data:`FIGURES`, and ``kid_sd``, of one set of generated images.

    Parameters
    ----------
    real, generated
        (n, d) and (m, d), at least 2 rows each. With 5 rows or fewer what rests on the fifth neighbour is None.
    seed
        Which subsets KID draws from more than 1,000 images.
    """
    mean, deviation = kid(real, generated, seed=seed)
    figures: dict[str, float | None] = {"kid": mean, "kid_sd": deviation, "fid": fid(real, generated)}
    if min(len(real), len(generated)) <= max(K_PRECISION, K_DENSITY):
        return figures | dict.fromkeys(("precision", "density", "recall", "coverage"))
    return figures | prdc(real, generated, k_precision=K_PRECISION, k_density=K_DENSITY)


def compare_group(
    real: NDArray[np.floating], generated: NDArray[np.floating], *, seed: int
) -> dict[str, float | None] | None:
    """Return what :func:`compare` does for a class or a hospital; None where there are too few images.

    ``fid`` is None where there are no more images than features: means over hospitals must not mix it in.
    """
    if min(len(real), len(generated)) < LEAST_OF_A_GROUP:
        return None
    figures = compare(real, generated, seed=seed)
    if fid_caveat(len(real), len(generated), real.shape[1]):
        figures["fid"] = None
    return figures


def kid_of_group(real: NDArray[np.floating], generated: NDArray[np.floating], *, seed: int) -> float | None:
    """Return the KID of a class or a hospital; None where there are too few images."""
    if min(len(real), len(generated)) < LEAST_OF_A_GROUP:
        return None
    return kid(real, generated, seed=seed)[0]


class Draws:
    """Figures of several draws, by name."""

    def __init__(self) -> None:
        self.values: dict[str, list[float | None]] = {}

    def add(self, figures: dict[str, float | None]) -> None:
        """Take the figures of one draw."""
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)

    def moved_apart(self, overlap: float) -> dict[str, list[float]]:
        """Return each figure of each draw, as far from the mean of all as if draws had been independent.

        Draws of n images from a pool of N share f = n / N of them (`overlap`). They vary too little, by the factor
        1 - f in variance; and the variance of their mean falls not by the number of draws K but to
        f + (1 - f) / K of that of one independent draw. Both are made good by the factor (1 + f (K - 1)) / (1 - f) in
        variance, so that an interval of the mean over these values is right.
        """
        found = {}
        for name, drawn in self.values.items():
            values = np.array([value for value in drawn if value is not None])
            factor = np.sqrt((1 + overlap * (len(values) - 1)) / (1 - overlap))
            found[name] = (values.mean() + (values - values.mean()) * factor).tolist() if len(values) else []
        return found

    def summary(self, names: Sequence[str], overlap: float) -> dict[str, Any]:
        """Return mean and 95 % interval over draws of each figure, and KID's deviation for one set of images.

        Of a single draw that deviation is the estimate's own.
        """
        apart = self.moved_apart(overlap)
        found: dict[str, Any] = {}
        for name in names:
            values = apart.get(name, [])
            over_draws = spread(values, bounds=_BOUNDS.get(name)) if values else {"mean": None, "interval": None}
            found[name], found[f"{name}_interval"] = over_draws["mean"], over_draws["interval"]
            if name == "kid":
                found["kid_sd"] = None
                if len(values) == 1:
                    found["kid_sd"] = self.values["kid_sd"][0]
                elif values:
                    measured = [value for value in self.values["kid"] if value is not None]
                    found["kid_sd"] = float(np.std(measured, ddof=1) / np.sqrt(1 - overlap))
        return found


def score_supply(
    supply: ImageSupply,
    extractor: FeatureExtractor,
    real: RealSet,
    *,
    real_train_features: NDArray[np.floating],
    sites: SiteReference,
    classes: Sequence[str],
    num_draws: int,
    seed: int,
    part: str,
    progress: Any = None,
) -> dict[str, Any]:
    """Judge fidelity and diversity over several draws.

    Parameters
    ----------
    supply
        The images that are judged.
    extractor
        Whose features are compared.
    real
        Real images, which the generator has not learned from.
    real_train_features
        (m, d), of real training images: what the figures are for real images of other patients.
    sites
        What stands for each hospital.
    classes
        Names of the labels.
    num_draws
        Draws, at least 1; intervals need 2.
    seed
        ``data.split-seed``.
    part
        Name of the part that `real` is.
    progress
        Called with what is being done, how much is done, and of how much.

    Returns
    -------
    The ``test`` section: figures with intervals over draws, those of real images in the generator's place, by class and
    by hospital.
    """
    whole, per_class, per_site = Draws(), [Draws() for _ in classes], {name: Draws() for name in sites.features}
    num_generated, num_of_class = 0, [0] * len(classes)
    for draw in range(num_draws):
        if progress is not None:
            progress("judging generated images", draw, num_draws)
        labels, batches = supply.draw(real.labels, f"draw {draw}")
        generated = features_of_batches(extractor, batches)
        num_generated = len(generated)
        figures = compare(real.features, generated, seed=seed) | {"vendi": vendi_score(generated)}
        if labels is not None:
            ratios = within_class_spread(real.features, real.labels, generated, labels, num_classes=len(classes))
            known = []
            for label, ratio in enumerate(ratios):
                of_class = generated[labels == label]
                num_of_class[label] = len(of_class)
                found = compare_group(real.features[real.labels == label], of_class, seed=seed)
                if found is not None:
                    per_class[label].add(found | {"spread": ratio})
                    known += [] if ratio is None else [ratio]
            figures["spread"] = float(np.mean(known)) if known else None
        whole.add(figures)
        for name, reference in sites.features.items():
            found = compare_group(reference, generated, seed=seed)
            if found is not None:
                per_site[name].add(found)

    overlap = supply.overlap(num_generated)
    stand_in = real_train_features[: len(real.features)]
    section: dict[str, Any] = {
        "extractor": extractor.name,
        "preprocessing": extractor.preprocessing,
        "num_features": int(real.features.shape[1]),
        "part": part,
        "num_real": len(real.features),
        "num_generated": num_generated,
        "num_draws": num_draws,
        "subset_size": min(len(real.features), num_generated, LARGEST_SUBSET),
        "nearest_k": {"precision": K_PRECISION, "density": K_DENSITY},
        "intervals_say": (
            f"95 % t intervals of the mean over {num_draws} draws of generated images against the same real ones"
            + ("" if supply.num_images is None else f", from a pool of {supply.num_images:,} (corrected for overlap)")
        ),
        **whole.summary((*FIGURES, "vendi", "spread"), overlap),
        "draws": whole.moved_apart(overlap),
        "fid_caveat": fid_caveat(len(real.features), num_generated, real.features.shape[1]),
        "real": compare(real.features, stand_in, seed=seed) | {"vendi": vendi_score(stand_in)},
        "per_site_say": sites.say,
        "per_site": [
            {"name": name, "num_real": len(reference), **_of_group(per_site[name], len(reference), FIGURES, overlap)}
            for name, reference in sites.features.items()
        ],
        "per_class": {"not_measured": "the generated images bear no class"},
    }
    if supply.knows_classes:
        counts = np.bincount(real.labels, minlength=len(classes)).tolist()
        section["per_class"] = [
            {
                "name": name,
                "num_real": counts[label],
                "num_generated": num_of_class[label],
                **_of_group(per_class[label], min(counts[label], num_of_class[label]), (*FIGURES, "spread"), overlap),
            }
            for label, name in enumerate(classes)
        ]
    # A federation asks both: one distance to all, and the mean of the distances to each.
    section["fid_all"] = section["fid"]
    for figure in ("fid", "kid"):
        known = [entry[figure] for entry in section["per_site"] if entry.get(figure) is not None]
        section[f"{figure}_avg"] = float(np.mean(known)) if known else None
        section[f"num_{figure}_avg_sites"] = len(known)
    return section


def _of_group(draws: Draws, num_images: int, names: tuple[str, ...], overlap: float) -> dict[str, Any]:
    if not draws.values:
        return {"not_measured": f"n too small: {num_images} images, {LEAST_OF_A_GROUP} are needed"}
    return draws.summary(names, overlap)


def compare_draws(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Say how two sources of images differ that were judged on the same real images.

    Parameters
    ----------
    first, second
        What :func:`score_supply` returned.

    Returns
    -------
    dict
        For each figure ``difference`` (first - second) with its 95 % Welch interval over draws (None with one draw);
        ``verdict``: which is closer to real images by KID, or that draws do not tell.
    """
    found: dict[str, Any] = {}
    for name in (*FIGURES, "vendi"):
        if first.get(name) is None or second.get(name) is None:
            continue
        found[name] = {"difference": first[name] - second[name], "interval": _welch_interval(first, second, name)}
    interval = found["kid"]["interval"]
    if interval is None:
        found["verdict"] = "one draw each: set evaluation.draws to 2 or more to compare"
    elif interval[0] > 0:
        found["verdict"] = "the second is closer to the real images by KID"
    elif interval[1] < 0:
        found["verdict"] = "the first is closer to the real images by KID"
    else:
        found["verdict"] = "draws do not tell the two apart by KID"
    return found


def _welch_interval(first: dict[str, Any], second: dict[str, Any], name: str) -> list[float] | None:
    """Return the 95 % interval of the difference of two means with variances of their own (Welch 1947)."""
    from scipy import stats

    samples = [np.array(entry["draws"][name]) for entry in (first, second)]
    if min(len(values) for values in samples) < 2:
        return None
    errors = [values.var(ddof=1) / len(values) for values in samples]
    difference, error = float(samples[0].mean() - samples[1].mean()), sum(errors)
    if error == 0:
        return [difference, difference]
    freedom = error**2 / sum(part**2 / (len(values) - 1) for part, values in zip(errors, samples, strict=True))
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(error))
    return [difference - half, difference + half]
