"""Fidelity and diversity of generated images: as a whole, by class and by hospital."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from federation.metrics.diversity import vendi_score, within_class_spread
from federation.metrics.feature_cache import features_of_batches
from federation.metrics.features import FeatureExtractor
from federation.metrics.fidelity import LARGEST_SUBSET, fid, fid_caveat, kid
from federation.metrics.intervals import spread
from federation.metrics.neighbours import prdc
from federation.models.classifier import Progress
from server.evaluation.supply import ImageSupply

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_OF_A_GROUP = 32
"""Images of a class or a hospital below which its figures would be noise: KID's own deviation is then as large as
the distances that are to be told apart."""
K_PRECISION, K_DENSITY = 3, 5

FIGURES = ("kid", "fid", "precision", "density", "recall", "coverage")
_CLOSER = {which: f"the {which} is closer to the real images by KID" for which in ("first", "second")}
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
    own: Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]] = field(default_factory=dict)
    """Real images of each hospital, and others of its own, of other patients: what it is to itself, (n, d) each."""
    everyone: NDArray[np.floating] | None = None
    """Real images of all hospitals, of other patients than `features`, (m, d)."""
    real_say: str = ""
    """Which images `own` and `everyone` are."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """All that generated images are compared with."""

    real: RealSet
    """Real images, which the generator has not learned from."""
    train_features: NDArray[np.floating]
    """(m, d), of real training images: what the figures are for real images of other patients."""
    sites: SiteReference
    """What stands for each hospital."""
    classes: Sequence[str]
    """Names of the labels."""
    part: str
    """Name of the part that `real` is."""


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
        """Return mean and 95 % interval over draws of each figure, and two deviations of KID.

        ``kid_sd`` is the estimate's own, as on validation images: of subsets, or the jackknife's; mean over draws.
        ``kid_sd_of_draws`` is that of one set of images among the draws; None with one.
        """
        apart = self.moved_apart(overlap)
        found: dict[str, Any] = {}
        for name in names:
            values = apart.get(name, [])
            over_draws = spread(values, bounds=_BOUNDS.get(name)) if values else {"mean": None, "interval": None}
            found[name], found[f"{name}_interval"] = over_draws["mean"], over_draws["interval"]
            if name == "kid":
                found |= self._deviations(overlap)
        return found

    def _deviations(self, overlap: float) -> dict[str, float | None]:
        own = [value for value in self.values.get("kid_sd", []) if value is not None]
        measured = [value for value in self.values.get("kid", []) if value is not None]
        several = len(measured) > 1
        return {
            "kid_sd": float(np.mean(own)) if own else None,
            "kid_sd_of_draws": float(np.std(measured, ddof=1) / np.sqrt(1 - overlap)) if several else None,
        }


def score_supply(
    supply: ImageSupply,
    extractor: FeatureExtractor,
    reference: Reference,
    *,
    num_draws: int,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge fidelity and diversity over several draws.

    Parameters
    ----------
    supply
        The images that are judged.
    extractor
        Whose features are compared.
    reference
        What they are compared with.
    num_draws
        Draws, at least 1; intervals need 2.
    seed
        ``data.split-seed``.
    progress
        Called with what is being done, how much is done, and of how much.

    Returns
    -------
    The ``test`` section: figures with intervals over draws, those of real images in the generator's place, by class and
    by hospital.
    """
    real = reference.real
    groups = _Groups(reference, seed)
    for draw in range(num_draws):
        if progress is not None:
            progress("judging generated images", draw, num_draws)
        labels, batches = supply.draw(real.labels, f"draw {draw}")
        groups.add(features_of_batches(extractor, batches), labels)

    overlap = supply.overlap(real.labels)
    per_site = groups.site_figures(overlap)
    whole = groups.whole.summary((*FIGURES, "vendi", "spread"), overlap)
    stand_in = reference.train_features[: len(real.features)]
    return {
        "extractor": extractor.name,
        "preprocessing": extractor.preprocessing,
        **_describe_comparison(supply, reference, groups.num_generated, num_draws),
        **whole,
        "draws": groups.whole.moved_apart(overlap),
        "fid_caveat": fid_caveat(len(real.features), groups.num_generated, real.features.shape[1]),
        "real": compare(real.features, stand_in, seed=seed) | {"vendi": vendi_score(stand_in)},
        "per_site": per_site,
        "per_class": groups.class_figures(supply)
        if supply.knows_classes
        else {"not_measured": "the generated images bear no class"},
        # A federation asks both: one distance to all, and the mean of the distances to each.
        "fid_all": whole["fid"],
        **_means_over_sites(per_site),
    }


class _Groups:
    """Figures of all generated images, and of those of each class and hospital, draw by draw.

    Parameters
    ----------
    reference
        What they are compared with.
    seed
        See :func:`compare`.
    """

    def __init__(self, reference: Reference, seed: int) -> None:
        self.reference = reference
        self.seed = seed
        self.whole = Draws()
        self.per_class = [Draws() for _ in reference.classes]
        self.per_site = {name: Draws() for name in reference.sites.features}
        # Of the last draw; every one has as many.
        self.num_generated, self.num_of_class = 0, [0] * len(reference.classes)

    def add(self, generated: NDArray[np.floating], labels: NDArray[np.int64] | None) -> None:
        """Judge one draw: features (n, d), and labels (n,) where they are known."""
        real = self.reference.real
        self.num_generated = len(generated)
        figures = compare(real.features, generated, seed=self.seed) | {"vendi": vendi_score(generated)}
        if labels is not None:
            figures["spread"] = self._add_classes(generated, labels)
        self.whole.add(figures)
        for name, features in self.reference.sites.features.items():
            found = compare_group(features, generated, seed=self.seed)
            if found is not None:
                self.per_site[name].add(found)

    def _add_classes(self, generated: NDArray[np.floating], labels: NDArray[np.int64]) -> float | None:
        """Judge each class; return the mean over classes of how varied they are."""
        real, num_classes = self.reference.real, len(self.reference.classes)
        ratios = within_class_spread(real.features, real.labels, generated, labels, num_classes=num_classes)
        known = []
        for label, ratio in enumerate(ratios):
            of_class = generated[labels == label]
            self.num_of_class[label] = len(of_class)
            found = compare_group(real.features[real.labels == label], of_class, seed=self.seed)
            if found is not None:
                self.per_class[label].add(found | {"spread": ratio})
                known += [] if ratio is None else [ratio]
        return float(np.mean(known)) if known else None

    def site_figures(self, overlap: float) -> list[dict[str, Any]]:
        """Return the figures of each hospital, and what real images score against it."""
        return [
            {
                "name": name,
                "num_real": len(features),
                **_of_group(draws, len(features), FIGURES, overlap),
                **self._of_real_images(name),
            }
            for (name, features), draws in zip(
                self.reference.sites.features.items(), self.per_site.values(), strict=True
            )
        ]

    def _of_real_images(self, name: str) -> dict[str, float]:
        """Return the KID of a hospital's own other real images, and of those of all hospitals, where there are enough.

        Even real images of all hospitals are far from one that differs from the others.
        """
        sites = self.reference.sites
        pairs = {"real_kid": sites.own.get(name)}
        if sites.everyone is not None:
            pairs["all_real_kid"] = sites.features[name], sites.everyone
        found = {key: kid_of_group(*pair, seed=self.seed) for key, pair in pairs.items() if pair is not None}
        return {key: value for key, value in found.items() if value is not None}

    def class_figures(self, supply: ImageSupply) -> list[dict[str, Any]]:
        """Return the figures of each class."""
        labels = self.reference.real.labels
        counts = np.bincount(labels, minlength=len(self.reference.classes)).tolist()
        return [
            {
                "name": name,
                "num_real": num_real,
                "num_generated": num_generated,
                **_of_group(draws, min(num_real, num_generated), (*FIGURES, "spread"), supply.overlap(labels, label)),
            }
            for label, (name, num_real, num_generated, draws) in enumerate(
                zip(self.reference.classes, counts, self.num_of_class, self.per_class, strict=True)
            )
        ]


def _describe_comparison(
    supply: ImageSupply, reference: Reference, num_generated: int, num_draws: int
) -> dict[str, Any]:
    """Say how many images are compared, and how."""
    real = reference.real.features
    return {
        "num_features": int(real.shape[1]),
        "part": reference.part,
        "num_real": len(real),
        "num_generated": num_generated,
        "num_draws": num_draws,
        "classes_say": _say_classes(supply, reference),
        "subset_size": min(len(real), num_generated, LARGEST_SUBSET),
        "nearest_k": {"precision": K_PRECISION, "density": K_DENSITY},
        "per_site_say": reference.sites.say,
        "per_site_real_say": reference.sites.real_say,
        "intervals_say": (
            f"95 % t intervals of the mean over {num_draws} draws of generated images against the same real ones"
            + ("" if supply.num_images is None else f", from a pool of {supply.num_images:,} (corrected for overlap)")
        ),
    }


def _say_classes(supply: ImageSupply, reference: Reference) -> str:
    if supply.follows(reference.real.labels):
        return "generated images have the classes of the real ones, in proportion"
    if not supply.knows_classes:
        return "generated images bear no class: distances hold a difference in the mix of classes too"
    return "generated images have classes in their own proportions: distances hold that difference too"


def _means_over_sites(per_site: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of the distances to each hospital, and of how many hospitals it is."""
    means: dict[str, Any] = {}
    for figure in ("fid", "kid"):
        known = [entry[figure] for entry in per_site if entry.get(figure) is not None]
        means[f"{figure}_avg"] = float(np.mean(known)) if known else None
        means[f"num_{figure}_avg_sites"] = len(known)
    return means


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
        ``verdict``: which is closer to real images by KID, or that draws do not tell. ``second`` has the same by the
        second extractor, where both were judged by it, and ``disagreement``: a sentence where the two contradict
        each other, else nothing.
    """
    found: dict[str, Any] = _compare_by_one(first, second)
    others: list[dict[str, Any]] = [judged["second"] for judged in (first, second) if judged.get("second")]
    if len({other["extractor"] for other in others}) != 1 or len(others) != 2:
        return found
    found["second"] = {"extractor": others[0]["extractor"], **_compare_by_one(*others), "disagreement": ""}
    if {found["verdict"], found["second"]["verdict"]} == set(_CLOSER.values()):
        found["second"]["disagreement"] = (
            f"the two extractors disagree: {found['verdict']} of {first['extractor']}, and "
            f"{found['second']['verdict']} of {others[0]['extractor']}; neither should be ranked above the other"
        )
    return found


def _compare_by_one(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Compare by the features of one extractor."""
    found: dict[str, Any] = {}
    for name in (*FIGURES, "vendi"):
        if first.get(name) is None or second.get(name) is None:
            continue
        found[name] = {"difference": first[name] - second[name], "interval": _welch_interval(first, second, name)}
    interval = found["kid"]["interval"]
    if interval is None:
        found["verdict"] = "one draw each: set evaluation.draws to 2 or more to compare"
    elif interval[0] > 0:
        found["verdict"] = _CLOSER["second"]
    elif interval[1] < 0:
        found["verdict"] = _CLOSER["first"]
    else:
        found["verdict"] = "draws do not tell the two apart by KID"
    return found


def _welch_interval(first: Mapping[str, Any], second: Mapping[str, Any], name: str) -> list[float] | None:
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
