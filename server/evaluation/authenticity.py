"""Does the generator copy its training images, and does what a hospital sends give them away?

Every figure stands beside its control: real images that were held out from training take the generated
images' place. Where real images of people the generator never saw would look like copies too, the
figures say nothing, and the section says that.

Features and hashes see different copies. Of copies of HAM10000 training images at 32 px, turned and
then compressed to JPEG at quality 50, 88 % lie nearest to their original in the features of the lesion
classifier, and slightly enlarged ones 90 %; noise of 8 grey levels leaves 45 %, because it looks like
texture. Hashes find 81 % of the noisy copies, and 9 % of the enlarged ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from federation.metrics.authenticity import (
    NEAR_DUPLICATE_BITS,
    ScoredImages,
    authentic_percentage,
    canonical_orientation,
    choose_groups,
    compare_nearest,
    membership_auc,
    orientation_hashes,
    perceptual_hashes,
    smallest_bit_distances,
)
from federation.metrics.features import FeatureExtractor
from federation.metrics.neighbours import nearest_neighbours
from federation.models.classifier import Progress
from federation.seeding import numpy_stream
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

_NUM_HALVINGS = 5  # of the test part: no figure should depend on one of them
_NUM_CLOSEST_PAIRS = 8
_UNUSUALLY_CLOSE = 0.01  # quantile of the distances of test images to training images
_AT_ONCE = 500  # images: memory only


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

    generated: NDArray[np.uint8]
    """uint8 (n, r, r, 3)."""
    train: RealImages
    """What the generator was trained on, with ids."""
    test: RealImages
    """What nothing was trained on; no group of it is in `train`."""
    known_groups: str
    """A sentence: what a group is in these data. Patients that are not known may stand on both sides."""


@dataclass(frozen=True, kw_only=True)
class TrainedNetworks:
    """The networks whose scores of images are attacks, or why there are none."""

    final: ScoreImages | None = None
    """Scores of the final networks. They are given training and test images mixed at random, so that a score which
    depends on the rest of the batch tells nothing."""
    without_final: str = "the model has no networks that score images"
    """Why there are none."""
    upload: Upload | None = None
    """One hospital's."""
    without_upload: str = "no hospital's upload is at hand"
    """Why there is none."""
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
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Compare generated images with those that the generator was trained on, and with held-out ones.

    Parameters
    ----------
    images
        Generated, training and test images.
    extractor
        What distances are measured with, on images in :func:`canonical_orientation`, so that a mirrored copy is one.
    extractor_saw_train
        Whether training images are among those that the extractor learnt from. It may then place them by heart,
        and no figure can be relied on.
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
        Of plain types: ``valid`` and ``reason``, see :func:`_validity`; ``nearest``, see :meth:`_Judgement.nearest`;
        ``auth_pct``, ``auth_pct_control``: of generated, and of test images; ``membership``, see
        :meth:`_Judgement.membership`; ``near_duplicates``, see :func:`_near_duplicates`; ``closest_pairs``, see
        :meth:`_Judgement.closest_pairs`. Where there are too few images, it is ``not_measured`` alone.
    pairs
        int64 (p, 2): rows of the generated and of the training images in the closest pairs, for
        :func:`draw_closest_pairs`.
    """
    lacking = _what_lacks(images)
    if lacking:
        return {"not_measured": lacking}, np.zeros((0, 2), dtype=np.int64)
    judgement = _Judgement(images, extractor, seed, num_resamples, _Steps(progress, 5))
    return judgement.section(networks, extractor_saw_train=extractor_saw_train), judgement.closest_rows()


def draw_closest_pairs(
    path: Path, generated: NDArray[np.uint8], train: NDArray[np.uint8], pairs: NDArray[np.int64], *, scale: int
) -> None:
    """Write a png with each generated image above the training image that it is closest to.

    It shows real images: whether it may be drawn is a matter of ``report.show-real-images``.

    Parameters
    ----------
    path
        Where to; written atomically.
    generated, train
        uint8 (n, r, r, 3) and (m, r, r, 3), as they were judged.
    pairs
        int64 (p, 2), p at least 1, from :func:`judge_authenticity`.
    scale
        Pixels of the picture per pixel of an image.
    """
    rows = [("generated", generated[pairs[:, 0]]), ("training", train[pairs[:, 1]])]
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
    counts = {"training": len(images.train), "test": len(images.test), "generated": len(images.generated)}
    few = [f"{count} {kind} images" for kind, count in counts.items() if count < FEWEST_IMAGES]
    if few:
        return f"too few images: {', '.join(few)}, and {FEWEST_IMAGES} of each kind are needed"
    num_groups = len(np.unique(images.test.groups))
    if num_groups < FEWEST_GROUPS:
        return f"too few patients or lesions in the test part: {num_groups}, and {FEWEST_GROUPS} are needed"
    return ""


class _Judgement:
    """The comparisons of one judgement, on features of all images.

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
        self.generated_features = _features(extractor, images.generated)
        self.train_features = _features(extractor, images.train.images)
        self.test_features = _features(extractor, images.test.images)
        steps.next("nearest images")
        distances, rows = nearest_neighbours(self.generated_features, self.train_features)
        self.to_train, self.nearest_rows = distances[:, 0], rows[:, 0]
        self.test_to_train = nearest_neighbours(self.test_features, self.train_features)[0][:, 0]
        self.train_radii = nearest_neighbours(self.train_features, self.train_features, exclude_self=True)[0][:, 0]
        self.halves = _halve_groups(self.test.groups, seed)
        self.closest = np.argsort(self.to_train, kind="stable")[:_NUM_CLOSEST_PAIRS]

    def section(self, networks: TrainedNetworks, *, extractor_saw_train: bool) -> dict[str, Any]:
        """Return all that is found; see :func:`judge_authenticity`."""
        images = self.images
        nearest = self.nearest()
        membership = self.membership(networks)
        self.steps.next("near-duplicates")
        near_duplicates = _near_duplicates(images.generated, self.train.images, self.test.images)
        self.steps.next("done")
        valid, reason = _validity(membership["null_control"], self.extractor_name, extractor_saw_train)
        return {
            "valid": valid,
            "reason": reason,
            "extractor": self.extractor_name,
            "num_train": len(self.train),
            "num_test": len(self.test),
            "num_generated": len(images.generated),
            "known_groups": images.known_groups,
            "nearest": nearest,
            **self.authentic_percentages(),
            "membership": membership,
            "near_duplicates": near_duplicates,
            "closest_pairs": self.closest_pairs(),
            "projection": {
                "not_measured": "distances to projections in the latent space are part of the latent-space tools"
            },
        }

    def nearest(self) -> dict[str, Any]:
        """Tell whether generated images lie nearer to training images than to test images.

        What :func:`compare_nearest` returns, on as many training as test images; ``control_share`` is what one
        half of the test images gets against the other half and as many training images. With k times as many training
        as test images, a copy's original is among the chosen with a chance of 1 / k: a generator that only copies gets
        .5 + .5 / k. Hence ``share_unusually_close``, by all training images: the share of generated images closer to
        one than 99 % of test images are; .01 if nothing was copied.
        """
        stream = numpy_stream(self.seed, "authenticity, sets of equal size")
        train, test = self.train, self.test
        count = min(len(train), len(test))
        train_rows, test_rows = choose_groups(train.groups, count, stream), choose_groups(test.groups, count, stream)
        result = compare_nearest(
            self.generated_features, self.train_features[train_rows], self.test_features[test_rows]
        )
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
            "num_train": count,
            "num_test": count,
            "share_unusually_close": float(np.mean(self.to_train < unusually_close)),
        }

    def authentic_percentages(self) -> dict[str, float]:
        """Return ``auth_pct`` of generated images and, as its control, of test images."""
        return {
            name: authentic_percentage(self.train_features, features, train_radii=self.train_radii)
            for name, features in (
                ("auth_pct", self.generated_features),
                ("auth_pct_control", self.test_features),
            )
        }

    def membership(self, networks: TrainedNetworks) -> dict[str, Any]:
        """Attack membership by each thing that may give it away: see :func:`membership_auc`, within classes and sites.

        ``generator``: the score is the nearness of a generated image. ``null_control``: the same with one half of the
        test images in the generated ones' place and the other half as non-members, over five halvings;
        ``num_references`` says how many images were in that place. ``networks`` and ``upload``: the score is that of
        the trained networks, named in ``score``.
        """
        self.steps.next("membership by generated images")
        null_control, generator = self._null_control(), self._attack_by_generated_images()
        self.steps.next("membership by networks")
        final: dict[str, Any] = {"not_measured": networks.without_final}
        if networks.final is not None:
            final = self._attack_by_scores(networks.final, self.train, by_site=True)
        uploaded: dict[str, Any] = {"not_measured": networks.without_upload}
        if networks.upload is not None:
            upload = networks.upload
            uploaded = self._attack_by_scores(upload.scores, _some_of(self.train, upload.rows), by_site=upload.by_site)
            uploaded["site"] = upload.site
        return {
            "score": networks.score,
            "null_control": null_control,
            "generator": generator,
            "networks": final,
            "upload": uploaded,
        }

    def closest_rows(self) -> NDArray[np.int64]:
        """Return the rows of the generated and of the training images in the closest pairs, (p, 2)."""
        return np.stack([self.closest, self.nearest_rows[self.closest]], axis=1)

    def closest_pairs(self) -> list[dict[str, Any]]:
        """Return the generated images closest to training images.

        ``percentile`` is the percentage of test images that lie closer to their nearest training image.
        """
        return [
            {
                "generated": int(row),
                "train_image_id": str(self.train_ids[self.nearest_rows[row]]),
                "distance": float(self.to_train[row]),
                "percentile": 100.0 * float(np.mean(self.test_to_train < self.to_train[row])),
            }
            for row in self.closest
        ]

    def _attack_by_generated_images(self) -> dict[str, Any]:
        attack = self._attack(
            -nearest_neighbours(self.train_features, self.generated_features)[0][:, 0],
            -nearest_neighbours(self.test_features, self.generated_features)[0][:, 0],
            self.train,
            by_site=True,
        )
        if "not_measured" not in attack:
            attack["num_references"] = len(self.generated_features)
        return attack

    def _null_control(self) -> dict[str, Any]:
        """Attack with one half of the test images in the generated ones' place: what is found there is no copying."""
        halves = self.halves
        member_scores = np.empty((len(halves), len(self.train)))
        # An image that stands for a generated one takes no part as a non-member.
        non_member_scores = np.full((len(halves), len(self.test)), np.nan)
        for number, first in enumerate(halves):
            references = self.test_features[first]
            member_scores[number] = -nearest_neighbours(self.train_features, references)[0][:, 0]
            non_member_scores[number, ~first] = -nearest_neighbours(self.test_features[~first], references)[0][:, 0]
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
        for start in range(0, len(order), _AT_ONCE):
            rows = order[start : start + _AT_ONCE]
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
    ) -> dict[str, Any]:
        """Measure an attack, or say why there are too few images to do so."""
        strata, other_strata = members.strata(by_site=by_site), self.test.strata(by_site=by_site)
        shared = np.intersect1d(strata, other_strata)
        within = "classes and sites" if by_site else "classes"
        for kind, real, own in (("training", members, strata), ("test", self.test, other_strata)):
            comparable = np.isin(own, shared)
            count, num_groups = int(comparable.sum()), len(np.unique(real.groups[comparable]))
            if count < FEWEST_IMAGES or num_groups < FEWEST_GROUPS:
                return {
                    "not_measured": f"too few to compare within {within}: {count} {kind} images of {num_groups} "
                    f"patients or lesions, and {FEWEST_IMAGES} of {FEWEST_GROUPS} are needed"
                }
        return membership_auc(
            ScoredImages(member_scores, members.groups, strata),
            ScoredImages(non_member_scores, self.test.groups, other_strata),
            num_resamples=self.num_resamples,
            seed=self.seed,
        )


def _features(extractor: FeatureExtractor, images: NDArray[np.uint8]) -> NDArray[np.floating]:
    chunks = (images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE))
    return np.concatenate([extractor.features(canonical_orientation(chunk)) for chunk in chunks])


def _some_of(real: RealImages, rows: NDArray[np.int64]) -> RealImages:
    return RealImages(
        images=real.images[rows], labels=real.labels[rows], groups=real.groups[rows], sites=real.sites[rows]
    )


def _halve_groups(groups: NDArray[Any], seed: int) -> list[NDArray[np.bool_]]:
    """Return for each halving which images are in the first half, (n,); no group is divided."""
    stream = numpy_stream(seed, "authenticity, halves of the test part")
    names, codes = np.unique(groups, return_inverse=True)
    return [(stream.permutation(len(names)) < len(names) // 2)[codes] for _ in range(_NUM_HALVINGS)]


def _near_duplicates(generated: NDArray[np.uint8], train: NDArray[np.uint8], test: NDArray[np.uint8]) -> dict[str, Any]:
    """Return shares of images whose hash, in any orientation, is within ``threshold_bits`` of another image's.

    ``to_train``, ``to_test``: of generated images, to a training image's or to a test image's. The more are compared,
    the more are near by chance: ``to_train`` is to be read against ``of_real_test_to_train``, not against ``to_test``.
    """
    generated_hashes, test_hashes = orientation_hashes(generated), orientation_hashes(test)
    train_hashes = perceptual_hashes(train)

    def share(hashes: NDArray[np.uint64], references: NDArray[np.uint64]) -> float:
        return float(np.mean(smallest_bit_distances(hashes, references) <= NEAR_DUPLICATE_BITS))

    return {
        "threshold_bits": NEAR_DUPLICATE_BITS,
        "to_train": share(generated_hashes, train_hashes),
        "to_test": share(generated_hashes, test_hashes[:, 0]),
        "num_train_compared": len(train),
        "num_test_compared": len(test),
        "of_real_test_to_train": share(test_hashes, train_hashes),
    }


def _validity(null_control: dict[str, Any], extractor: str, extractor_saw_train: bool) -> tuple[bool, str]:
    """Decide whether the figures can be read, and say why (not).

    They can if the extractor did not learn from training images, and the null control's area is .5, within its
    interval or :data:`TOLERATED_AUC_ERROR`.
    """
    if extractor_saw_train:
        return False, (
            f"{extractor} learnt from training images and may know them by heart, so nearness to them is no sign of "
            "copying"
        )
    if "not_measured" in null_control:
        return False, f"there is no null control: {null_control['not_measured']}"
    area, (low, high) = null_control["auc"], null_control["interval"]
    found = f"with real test images in the generator's place the area is {area:.3f} [{low:.3f}, {high:.3f}]"
    if low <= 0.5 <= high or abs(area - 0.5) <= TOLERATED_AUC_ERROR:
        return True, f"{found}: neither {extractor} nor the split tells training from test images"
    return False, (
        f"{found}, not .5: {extractor} or the split itself tells training from test images, so the figures cannot "
        "be read as copying by the generator"
    )
