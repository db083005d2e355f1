"""Does the generator copy its training images, and does what a hospital sends give them away?

Every figure stands beside its control: real images that were held out from training take the generated
images' place, or beside a copier, which has training images there. Where real images of people the generator never saw
would look like copies too, the figures say nothing, and the section says that.

Features, thumbnails and hashes see different copies. With every tenth of 20,000 generated images a copy of a HAM10000
training image at 32 px, so that 29 % of these were copied, one false alarm in a hundred finds 29 % of them by
thumbnails where copies have noise of 8 grey levels, and 4 % by the features of the lesion classifier, to which that
looks like texture; of copies a tenth brighter 4 % and 19 %; compressed to JPEG at quality 50, 29 % and 20 %; slightly
enlarged, 24 % and 25 %. One flag is made of both, at a stated level: :meth:`_Judgement.copies`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from federation.metrics.authenticity import (
    NEAR_DUPLICATE_BITS,
    ScoredImages,
    authentic_percentage,
    choose_groups,
    compare_nearest,
    membership_auc,
    orientation_hashes,
    perceptual_hashes,
    smallest_bit_distances,
    true_positive_rate,
)
from federation.metrics.copies import FLAG_LEVEL, CopySearch, is_flagged
from federation.metrics.features import FeatureExtractor
from federation.metrics.neighbours import nearest_neighbours
from federation.models.classifier import Progress
from federation.seeding import numpy_stream
from server.evaluation.attacks import UPLOADS
from server.evaluation.generated_images import (
    AT_ONCE,
    NO_PAIRS,
    ClosestPairs,
    GeneratedImages,
    features_and_thumbnails,
    pass_through,
)
from server.evaluation.sample_sheet import write_sample_sheet

if TYPE_CHECKING:
    from numpy.typing import NDArray

ScoreImages = Callable[["NDArray[np.uint8]", "NDArray[np.int64]"], "NDArray[np.floating]"]
"""Maps uint8 (n, r, r, 3) and classes (n,), n any number from 1, to scores (n,): high for what looks real."""

FEWEST_IMAGES = 16
"""Of each kind: below, a nearest image is a matter of chance."""
FEWEST_GROUPS = 4
"""Patients or lesions on either side of a comparison: two in each half of the test part."""
TOLERATED_AUC_ERROR = 0.02
"""How far from .5 the null control's area may lie although its interval excludes .5. Many images make any
difference significant; at .52 an attacker who sees one image of either kind picks the right one in 52 of 100 cases."""

# Of the test part: no figure should depend on which were drawn. On HAM10000 the area of five is off by .004 by their
# chance alone (one standard deviation), that of so many by .002. Odd: one of them is in the middle.
_NUM_HALVINGS = 21
_UNUSUALLY_CLOSE = 0.01  # quantile of the distances of test images to training images
_NO_RESAMPLES = 2  # of what has no interval


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """Real images of one part, training or test."""

    images: NDArray[np.uint8]
    """(n, r, r, 3)."""
    labels: NDArray[np.int64]
    """(n,)."""
    groups: NDArray[Any]
    """Patient or lesion of each, (n,), str."""
    sites: NDArray[Any]
    """Hospital of each as the source knows it, (n,), str; one name throughout where it does not."""
    ids: NDArray[Any] | None = None
    """Image id of each, (n,), str. Needed of training images."""

    def __len__(self) -> int:
        return len(self.labels)

    def strata(self, *, by_site: bool) -> NDArray[Any]:
        """Name what an image may be compared within, (n,): its class, or its class and site."""
        pairs = zip(self.labels, self.sites, strict=True)
        return np.array([f"{label}\x1f{site}" if by_site else str(label) for label, site in pairs], dtype=str)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """The networks that one hospital sent in, as whoever receives them sees them."""

    site: str
    """Name of the hospital."""
    scores: ScoreImages
    rows: NDArray[np.int64]
    """Which of the training images this hospital trained on."""
    by_site: bool
    """Whether the hospitals are the sources' sites. Its images are then compared with test images of the same
    site and class; else of the same class."""


@dataclass(frozen=True, kw_only=True)
class ComparedImages:
    """What is compared with what."""

    generated: Iterable[NDArray[np.uint8]]
    """Batches, uint8 (any number, r, r, 3) each; they are looked at once."""
    num_generated: int
    """How many images come in them."""
    most_features: int = 1_000_000
    """Of how many of them features are taken, where these cost much: the first ones."""
    train: RealImages
    """What the generator was trained on, with ids."""
    test: RealImages
    """What nothing was trained on; no group of it is in `train`."""
    classes: tuple[str, ...] = ()
    """Names of the classes; empty: nothing is told by class."""
    known_groups: str
    """A sentence: what a group is in these data. Patients that are not known may stand on both sides."""


NO_UPLOAD = "no hospital's upload is at hand"


@dataclass(frozen=True, kw_only=True)
class TrainedNetworks:
    """The networks whose scores of images are attacks, or why there are none."""

    final: ScoreImages | None = None
    """Scores of the final networks. They are given training and test images mixed at random, so that a score which
    depends on the rest of the batch tells nothing."""
    without_final: str = "the model has no networks that score images"
    """Why there are none."""
    uploads: Mapping[str, Upload | str] = field(default_factory=dict)
    """By name in :data:`server.evaluation.attacks.UPLOADS`: what that hospital sent, or why there is nothing."""
    score: str = ""
    """What the scores are, in a word, e.g. ``discriminator``; empty where it is not known."""


NO_NETWORKS = TrainedNetworks()


def judge_authenticity(
    images: ComparedImages,
    extractor: FeatureExtractor,
    *,
    extractor_saw_train: bool,
    seed: int,
    networks: TrainedNetworks = NO_NETWORKS,
    num_resamples: int = 200,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], ClosestPairs]:
    """Compare generated images with those that the generator was trained on, and with held-out ones.

    Parameters
    ----------
    images
        Generated, training and test images.
    extractor
        What distances are measured with, on images in :func:`federation.metrics.authenticity.canonical_orientation`, so
        that a mirrored copy is one.
    extractor_saw_train
        Whether training images are among those that the extractor learnt from. It may then place them by heart,
        and no figure of its features can be relied on.
    seed
        ``data.split-seed``: halves and resamples do not move with the run's seed.
    networks
        What can be attacked beside the images.
    num_resamples
        Resamples of groups behind each interval of an area.
    progress
        Called between the pieces of work.

    Returns
    -------
    section
        Of plain types: ``valid`` and ``reason``, see :func:`_validity`; ``copies``, see :meth:`_Judgement.copies`;
        ``nearest``, see :meth:`_Judgement.nearest`; ``auth_pct``, ``auth_pct_control``: of generated, and of test
        images; ``membership``, see :meth:`_Judgement.membership`; ``near_duplicates``, see :func:`_near_duplicates`;
        ``closest_pairs``, see :meth:`_Judgement.closest_pairs`. Where there are too few images, it is ``not_measured``
        alone.
    pairs
        The closest pairs, for :func:`draw_closest_pairs`.
    """
    lacking = _what_lacks(images)
    if lacking:
        return {"not_measured": lacking}, NO_PAIRS
    judgement = _Judgement(images, extractor, seed, num_resamples, _Steps(progress, 5))
    return judgement.section(networks, extractor_saw_train=extractor_saw_train), judgement.generated.closest


def draw_closest_pairs(path: Path, pairs: ClosestPairs, train: NDArray[np.uint8], *, scale: int) -> None:
    """Write a png with each generated image above the training image that it is closest to.

    It shows real images: whether it may be drawn is a matter of ``report.show-real-images``.

    Parameters
    ----------
    path
        Where to; written atomically.
    pairs
        At least one, from :func:`judge_authenticity`.
    train
        The training images, uint8 (m, r, r, 3), as they were judged.
    scale
        Pixels of the picture per pixel of an image.
    """
    rows = [("generated", pairs.images), ("training", train[pairs.rows[:, 1]])]
    write_sample_sheet(path, rows, scale=scale)


class _Steps:
    """Tells how far the judgement is."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, -1

    def next(self, what: str) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(f"authenticity: {what}", self.done, self.total)


def _what_lacks(images: ComparedImages) -> str:
    """Say in a sentence why there is too little to judge; empty where there is enough."""
    counts = {"training": len(images.train), "test": len(images.test), "generated": images.num_generated}
    few = [f"{count} {kind} images" for kind, count in counts.items() if count < FEWEST_IMAGES]
    if few:
        return f"too few images: {', '.join(few)}, and {FEWEST_IMAGES} of each kind are needed"
    num_groups = len(np.unique(images.test.groups))
    if num_groups < FEWEST_GROUPS:
        return f"too few patients or lesions in the test part: {num_groups}, and {FEWEST_GROUPS} are needed"
    return ""


class _Judgement:
    """The comparisons of one judgement, on features and thumbnails of all images.

    Parameters
    ----------
    images
        Enough of each kind, see :func:`_what_lacks`.
    extractor, seed, num_resamples
        See :func:`judge_authenticity`.
    steps
        Told what is being done.
    """

    def __init__(
        self, images: ComparedImages, extractor: FeatureExtractor, seed: int, num_resamples: int, steps: _Steps
    ) -> None:
        assert images.train.ids is not None, "closest pairs name the training image"
        self.images, self.train, self.test = images, images.train, images.test
        self.train_ids = images.train.ids
        self.extractor_name = extractor.name
        self.seed = seed
        self.num_resamples = num_resamples
        self.steps = steps
        steps.next("features")
        train_features, train_thumbnails = features_and_thumbnails(extractor, images.train.images)
        test_features, test_thumbnails = features_and_thumbnails(extractor, images.test.images)
        steps.next(f"{images.num_generated:,} generated images")
        self.generated: GeneratedImages = pass_through(
            images.generated, extractor, train_features, most_features=images.most_features
        )
        groups = self.train.groups, self.test.groups
        self.by_features = CopySearch(train_features, test_features, *groups)
        self.by_thumbnails = CopySearch(train_thumbnails, test_thumbnails, *groups)
        self.train_features, self.test_features = train_features, test_features
        self.test_to_train = nearest_neighbours(test_features, train_features)[0][:, 0]
        self.train_radii = nearest_neighbours(train_features, train_features, exclude_self=True)[0][:, 0]
        self.halves = _halve_groups(self.test.groups, seed)
        self.near_halves = [self.by_features.nearness(test_features[first]) for first in self.halves]

    def section(self, networks: TrainedNetworks, *, extractor_saw_train: bool) -> dict[str, Any]:
        """Return all that is found; see :func:`judge_authenticity`."""
        nearest = self.nearest()
        membership = self.membership(networks)
        self.steps.next("near-duplicates")
        near_duplicates = _near_duplicates(self.generated.hashes, self.train.images, self.test.images)
        self.steps.next("done")
        valid, reason = _validity(membership["null_control"], self.extractor_name, extractor_saw_train)
        return {
            "valid": valid,
            "reason": reason,
            "copies": self.copies(extractor_saw_train=extractor_saw_train),
            "extractor": self.extractor_name,
            "num_train": len(self.train),
            "num_test": len(self.test),
            "num_generated": len(self.generated),
            "num_with_features": len(self.generated.features),
            "known_groups": self.images.known_groups,
            "nearest": nearest,
            **self.authentic_percentages(),
            "membership": membership,
            "near_duplicates": near_duplicates,
            "closest_pairs": self.closest_pairs(),
            "projection": {
                "not_measured": "distances to projections in the latent space are part of the latent-space tools"
            },
        }

    def copies(self, *, extractor_saw_train: bool) -> dict[str, Any]:
        """Say by one flag if some of the generated images are copies; see :func:`federation.metrics.copies.copy_test`.

        The test is made twice, by features and by thumbnails. ``flagged`` is what
        :func:`federation.metrics.copies.is_flagged` says of the two at ``level``, None where there is none. Of each of
        ``features`` and ``thumbnails`` there is what the test found, or in ``not_measured`` why none was made;
        ``control_p`` is what it says of one half of the test images, and where that is significant itself, to either
        side, there is none. ``nearer_to_held_out`` is true where generated images come nearest to held-out ones:
        whoever drew them saw these, and no flag can be relied on.
        """
        found: dict[str, Any] = {}
        made = []
        generated = self.generated
        for name, by, references in (
            ("features", self.by_features, generated.features),
            ("thumbnails", self.by_thumbnails, generated.thumbnails),
        ):
            if name == "features" and extractor_saw_train:
                found[name] = {"not_measured": _learnt_from_train(self.extractor_name)}
                continue
            known = self.near_halves if name == "features" else None
            control, test = by.control(self.halves, known), by.test(*by.nearness(references))
            if min(control.p, control.p_opposite) <= FLAG_LEVEL / 2:
                found[name] = {
                    "not_measured": "with real test images in the generator's place "
                    f"{control.num_trained_on} of {control.num_looked_at} that they come nearest to are training ones, "
                    f"{control.expected:.0f} by chance: {name} or the split itself tell the two apart"
                }
            elif test.smallest_p > FLAG_LEVEL / 2:
                found[name] = {
                    "not_measured": f"too few patients or lesions: of {test.num_looked_at} looked at, all could be "
                    f"training ones by chance (p = {test.smallest_p:.2g})"
                }
            else:
                made.append(test)
                found[name] = asdict(test) | {"control_p": control.p}
        return {
            "flagged": is_flagged([test.p for test in made]) if made else None,
            "nearer_to_held_out": is_flagged([test.p_opposite for test in made]) if made else None,
            "level": FLAG_LEVEL,
            **found,
        }

    def nearest(self) -> dict[str, Any]:
        """Tell whether generated images lie nearer to training images than to test images.

        What :func:`compare_nearest` returns, on as many training as test images; ``control_share`` is what one
        half of the test images gets against the other half and as many training images. With k times as many training
        as test images, a copy's original is among the chosen with a chance of 1 / k: a generator that only copies gets
        .5 + .5 / k, ``copier_share``. Hence ``share_unusually_close``, by all training images: the share of generated
        images closer to one than 99 % of test images are; .01 if nothing was copied.
        """
        stream = numpy_stream(self.seed, "authenticity, sets of equal size")
        train, test = self.train, self.test
        count = min(len(train), len(test))
        train_rows, test_rows = choose_groups(train.groups, count, stream), choose_groups(test.groups, count, stream)
        train_chosen, test_chosen = self.train_features[train_rows], self.test_features[test_rows]
        result = compare_nearest(self.generated.features, train_chosen, test_chosen)
        copied = self.train_features[self._copied_rows(len(self.generated.features))]
        copier = compare_nearest(copied, train_chosen, test_chosen)
        control_shares = []
        for first in self.halves:
            others = np.flatnonzero(~first)
            count_of_half = min(len(others), len(train))
            train_rows = choose_groups(train.groups, count_of_half, stream)
            test_rows = others[choose_groups(test.groups[others], count_of_half, stream)]
            control = compare_nearest(
                self.test_features[first], self.train_features[train_rows], self.test_features[test_rows]
            )
            control_shares.append(control["share_nearer_to_train"])
        unusually_close = np.quantile(self.test_to_train, _UNUSUALLY_CLOSE)
        return {
            **result,
            "control_share": float(np.mean(control_shares)),
            "copier_share": copier["share_nearer_to_train"],
            "num_train": count,
            "num_test": count,
            "share_unusually_close": float(np.mean(self.generated.to_train < unusually_close)),
        }

    def authentic_percentages(self) -> dict[str, float]:
        """Return ``auth_pct`` of generated images and, as its control, of test images."""
        return {
            name: authentic_percentage(self.train_features, features, train_radii=self.train_radii)
            for name, features in (
                ("auth_pct", self.generated.features),
                ("auth_pct_control", self.test_features),
            )
        }

    def membership(self, networks: TrainedNetworks) -> dict[str, Any]:
        """Attack membership by each thing that may give it away, within classes and sites.

        Each attack has what :func:`membership_auc` and :func:`true_positive_rate` return, and ``by_class`` the same of
        each class, or why that was not measured.

        ``generator`` and ``thumbnails``: the score is the nearness of a generated image, by features and by thumbnails;
        ``num_references`` says how many images are generated, and ``copier`` what training images in their place get,
        as many drawn with replacement: the scale. ``null_control``: the same by features, with one half of the test
        images in the generated ones' place and the other half as non-members, over ``num_halvings``. ``networks`` and
        the uploads: the score is that of the trained networks, named in ``score``.
        """
        self.steps.next("membership by generated images")
        found: dict[str, Any] = {
            "score": networks.score,
            "null_control": self._null_control(),
            "generator": self._attack_by_generated_images(self.by_features, self.generated.features),
            "thumbnails": self._attack_by_generated_images(self.by_thumbnails, self.generated.thumbnails),
        }
        self.steps.next("membership by networks")
        found["networks"] = {"not_measured": networks.without_final}
        if networks.final is not None:
            found["networks"] = self._attack_by_scores(networks.final, self.train, by_site=True)
        for name in UPLOADS:
            upload = networks.uploads.get(name, NO_UPLOAD)
            if isinstance(upload, str):
                found[name] = {"not_measured": upload}
                continue
            members = _some_of(self.train, upload.rows)
            found[name] = self._attack_by_scores(upload.scores, members, by_site=upload.by_site)
            found[name] |= {"site": upload.site}
        return found

    def closest_pairs(self) -> list[dict[str, Any]]:
        """Return the generated images closest to training images.

        ``percentile`` is the percentage of test images that lie closer to their nearest training image.
        """
        closest = self.generated.closest
        return [
            {
                "generated": int(generated),
                "train_image_id": str(self.train_ids[trained]),
                "distance": float(distance),
                "percentile": 100.0 * float(np.mean(self.test_to_train < distance)),
            }
            for (generated, trained), distance in zip(closest.rows, closest.distances, strict=True)
        ]

    def _copied_rows(self, count: int) -> NDArray[np.int64]:
        """Return which training images a copier draws when it draws so many: at random, with replacement."""
        return numpy_stream(self.seed, "authenticity, a copier").integers(len(self.train), size=count)

    def _attack_by_generated_images(self, by: CopySearch, generated: NDArray[np.floating]) -> dict[str, Any]:
        attack = self._attack(*by.nearness(generated), self.train, by_site=True)
        if "not_measured" in attack:
            return attack
        attack["num_references"] = len(generated)
        copied = by.train[np.unique(self._copied_rows(len(generated)))]
        copier = self._attack(*by.nearness(copied), self.train, by_site=True, num_resamples=_NO_RESAMPLES)
        for of_these, of_copier in (
            (attack, copier),
            *((attack["by_class"][name], copier["by_class"][name]) for name in attack["by_class"]),
        ):
            if "not_measured" not in of_these:
                of_these["copier"] = {name: of_copier[name] for name in ("auc", "tpr")}
        return attack

    def _null_control(self) -> dict[str, Any]:
        """Attack with one half of the test images in the generated ones' place: what is found there is no copying."""
        halves = self.halves
        member_scores = np.empty((len(halves), len(self.train)))
        # An image that stands for a generated one takes no part as a non-member.
        non_member_scores = np.full((len(halves), len(self.test)), np.nan)
        for number, (first, (of_train, of_test)) in enumerate(zip(halves, self.near_halves, strict=True)):
            member_scores[number] = of_train
            non_member_scores[number, ~first] = of_test[~first]
        attack = self._attack(member_scores, non_member_scores, self.train, by_site=True)
        if "not_measured" not in attack:
            attack |= {
                "num_references": round(float(np.mean([first.sum() for first in halves]))),
                "num_halvings": len(halves),
            }
        return attack

    def _attack_by_scores(self, scores: ScoreImages, members: RealImages, *, by_site: bool) -> dict[str, Any]:
        """Attack with the scores of trained networks."""
        num_members, test = len(members), self.test
        order = numpy_stream(self.seed, "authenticity, mixed batches").permutation(num_members + len(test))
        values = np.empty(len(order))
        for start in range(0, len(order), AT_ONCE):
            rows = order[start : start + AT_ONCE]
            is_member = rows < num_members
            images = np.empty((len(rows), *test.images.shape[1:]), dtype=np.uint8)
            labels = np.empty(len(rows), dtype=np.int64)
            for real, chosen, offset in ((members, is_member, 0), (test, ~is_member, num_members)):
                images[chosen] = real.images[rows[chosen] - offset]
                labels[chosen] = real.labels[rows[chosen] - offset]
            values[rows] = scores(images, labels)
        if not np.isfinite(values).all():
            return {"not_measured": "the networks' scores are not finite"}
        return self._attack(values[:num_members], values[num_members:], members, by_site=by_site)

    def _attack(
        self,
        member_scores: NDArray[np.float64],
        non_member_scores: NDArray[np.float64],
        members: RealImages,
        *,
        by_site: bool,
        num_resamples: int | None = None,
    ) -> dict[str, Any]:
        """Measure an attack, or say why there are too few images to do so; and the same within each class."""
        scores, other_scores = np.atleast_2d(member_scores, non_member_scores)
        strata, other_strata = members.strata(by_site=by_site), self.test.strata(by_site=by_site)
        within = "classes and sites" if by_site else "classes"

        def measure(rows: NDArray[np.bool_], other_rows: NDArray[np.bool_]) -> dict[str, Any]:
            groups, other_groups = members.groups[rows], self.test.groups[other_rows]
            lacking = _what_is_too_little(
                {"training": (strata[rows], groups), "test": (other_strata[other_rows], other_groups)}, within
            )
            if lacking:
                return {"not_measured": lacking}
            pair = (
                ScoredImages(scores[:, rows], groups, strata[rows]),
                ScoredImages(other_scores[:, other_rows], other_groups, other_strata[other_rows]),
            )
            resamples = self.num_resamples if num_resamples is None else num_resamples
            return membership_auc(*pair, num_resamples=resamples, seed=self.seed) | true_positive_rate(
                *pair, num_resamples=resamples, seed=self.seed
            )

        found = measure(np.ones(len(members), dtype=bool), np.ones(len(self.test), dtype=bool))
        if "not_measured" not in found:
            found["by_class"] = {
                name: measure(members.labels == label, self.test.labels == label)
                for label, name in enumerate(self.images.classes)
            }
        return found


def _what_is_too_little(kinds: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], within: str) -> str:
    """Say in a sentence why two kinds, each with strata and groups, cannot be compared; empty where they can."""
    (strata, _), (other_strata, _) = kinds.values()
    shared = np.intersect1d(strata, other_strata)
    for kind, (strata, groups) in kinds.items():
        comparable = np.isin(strata, shared)
        count, num_groups = int(comparable.sum()), len(np.unique(groups[comparable]))
        if count < FEWEST_IMAGES or num_groups < FEWEST_GROUPS:
            return (
                f"too few to compare within {within}: {count} {kind} images of {num_groups} "
                f"patients or lesions, and {FEWEST_IMAGES} of {FEWEST_GROUPS} are needed"
            )
    return ""


def _some_of(real: RealImages, rows: NDArray[np.int64]) -> RealImages:
    return RealImages(
        images=real.images[rows], labels=real.labels[rows], groups=real.groups[rows], sites=real.sites[rows]
    )


def _halve_groups(groups: NDArray[Any], seed: int) -> list[NDArray[np.bool_]]:
    """Return for each halving which images are in the first half, (n,); no group is divided."""
    stream = numpy_stream(seed, "authenticity, halves of the test part")
    names, codes = np.unique(groups, return_inverse=True)
    return [(stream.permutation(len(names)) < len(names) // 2)[codes] for _ in range(_NUM_HALVINGS)]


def _near_duplicates(
    generated_hashes: NDArray[np.uint64], train: NDArray[np.uint8], test: NDArray[np.uint8]
) -> dict[str, Any]:
    """Return shares of images whose hash, in any orientation, is within ``threshold_bits`` of another image's.

    ``to_train``, ``to_test``: of generated images, to a training image's or to a test image's. The more are compared,
    the more are near by chance: ``to_train`` is to be read against ``of_real_test_to_train``, not against ``to_test``.
    """
    test_hashes, train_hashes = orientation_hashes(test), perceptual_hashes(train)

    def share(hashes: NDArray[np.uint64], references: NDArray[np.uint64]) -> float:
        return float(np.mean(smallest_bit_distances(hashes, references) <= NEAR_DUPLICATE_BITS))

    return {
        "threshold_bits": NEAR_DUPLICATE_BITS,
        "to_train": share(generated_hashes, train_hashes),
        "to_test": share(generated_hashes, test_hashes[:, 0]),
        "num_generated_compared": len(generated_hashes),
        "num_train_compared": len(train),
        "num_test_compared": len(test),
        "of_real_test_to_train": share(test_hashes, train_hashes),
    }


def _learnt_from_train(extractor: str) -> str:
    return (
        f"{extractor} learnt from training images and may know them by heart, so nearness to them is no sign of copying"
    )


def _validity(null_control: dict[str, Any], extractor: str, extractor_saw_train: bool) -> tuple[bool, str]:
    """Decide whether the figures can be read, and say why (not).

    They can if the extractor did not learn from training images, and the null control's area is .5, within its
    interval or :data:`TOLERATED_AUC_ERROR`. By chance alone one split in twenty is not: of 1,000 lots of who of
    HAM10000's lesions is trained on, the others being test lesions, 5.3 %.
    """
    if extractor_saw_train:
        return False, _learnt_from_train(extractor)
    if "not_measured" in null_control:
        return False, f"there is no null control: {null_control['not_measured']}"
    area, (low, high) = null_control["auc"], null_control["interval"]
    found = f"with real test images in the generator's place the area is {area:.3f} [{low:.3f}, {high:.3f}]"
    if low <= 0.5 <= high or abs(area - 0.5) <= TOLERATED_AUC_ERROR:
        return True, f"{found}: neither {extractor} nor the split tells training from test images"
    return False, (
        f"{found}, not .5: {extractor} or the split itself tells training from test images (chance alone puts one "
        "split in twenty beyond its interval), so areas and distances cannot be read as copying by the generator"
    )
