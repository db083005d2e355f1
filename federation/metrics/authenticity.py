"""Does a generator draw new images, or copies of those it was trained on?

Every figure here means little alone. Lesions look alike, so an honest generator comes near to training
images too, and a set of real images that was held out says how near is near. What to compare with what
is decided in ``server/evaluation/authenticity.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from federation.metrics.intervals import wilson_interval
from federation.metrics.neighbours import nearest_neighbours
from federation.seeding import numpy_stream

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

NEAR_DUPLICATE_BITS = 4
"""Two images are near-duplicates if their perceptual hashes differ in no more of 64 bits.

Chosen on HAM10000's validation images, not on the test images that are judged by it, at 32 px (at 128 px): the most
bits at which no more than 5 % of them count as near-duplicates of training images of other lesions, each compared in
eight orientations with 5,921. Within 4 bits lie 3.5 % (3.8 %) of 1,041 validation images, 91 % (99.8 %) of copies
compressed to JPEG at quality 50 and 97 % (100 %) of copies with noise of 4 grey levels: a lesion in the middle of plain
skin has few low frequencies to tell it apart. At 2 bits that is 0.9 % (0.7 %), but only 67 % (96 %) of the compressed
copies are found; at 6 bits it is 11 %. The share among real test images has to stand beside every share. Distances are
even: half of the bits of a hash are always set."""

_HASHES_AT_ONCE = 64  # memory: 64 queries x 8 orientations x 10,000 references x 9 bytes = 46 MB


def authentic_percentage(
    train: NDArray[np.floating], generated: NDArray[np.floating], *, train_radii: NDArray[np.float64] | None = None
) -> float:
    """Return AuthPct: how many generated images are no closer to a training image than another training image is.

    A generated image is authentic if it lies farther from its nearest training image than that training
    image lies from the training image nearest to it.

    Parameters
    ----------
    train
        Features (n, d), n at least 2.
    generated
        Features (m, d).
    train_radii
        Distance of each training image from its nearest other one, (n,), where it is known already.

    Returns
    -------
    In percent, from 0 (copies) to 100. Fresh real images do not reach 100, and with several images of one
    lesion in training they exceed what single images would give: compare with the figure of held-out images.

    References
    ----------
    Alaa et al. 2022, https://arxiv.org/abs/2102.08921, Section 4.2
    """
    if train_radii is None:
        train_radii = nearest_neighbours(train, train, exclude_self=True)[0][:, 0]
    distances, rows = nearest_neighbours(generated, train)
    return 100.0 * float(np.mean(distances[:, 0] > train_radii[rows[:, 0]]))


def compare_nearest(
    images: NDArray[np.floating], train: NDArray[np.floating], test: NDArray[np.floating]
) -> dict[str, Any]:
    """Tell whether images lie nearer to training images than to as many test images.

    Parameters
    ----------
    images
        Features (n, d), usually of generated images.
    train, test
        Features (m, d) each. Of equal number, since the distance to the nearest of many is short.

    Returns
    -------
    dict
        ``median_to_train``, ``median_to_test``: median distance to the nearest image of either kind.
        ``share_nearer_to_train``: share of `images`; ties count half. About .5 if nothing was copied.
        ``interval``: 95 % interval of that share as [low, high].

    Raises
    ------
    ValueError
        If there are not as many training as test images.

    Notes
    -----
    Images that share their nearest real image share the verdict, so they are no independent observations.
    Wilson's interval is taken at the effective number (Σ c)² / Σ c², c the images that each real image is
    nearest to. In 80 draws of real images with 580 references of each kind and 1,500 images compared, the share
    spread by .020; this gives .023, and counting every image .013.
    """
    if len(train) != len(test):
        raise ValueError(f"training and test images must be as many, not {len(train)} and {len(test)}")
    to_train, train_rows = (column[:, 0] for column in nearest_neighbours(images, train))
    to_test, test_rows = (column[:, 0] for column in nearest_neighbours(images, test))
    share = float(np.mean(to_train < to_test) + np.mean(to_train == to_test) / 2)
    nearest = np.where(to_train <= to_test, train_rows, test_rows + len(train))
    effective = max(1, round(len(images) ** 2 / float(np.square(np.bincount(nearest)).sum())))
    return {
        "median_to_train": float(np.median(to_train)),
        "median_to_test": float(np.median(to_test)),
        "share_nearer_to_train": share,
        "interval": list(wilson_interval(round(share * effective), effective)),
    }


@dataclass(frozen=True)
class ScoredImages:
    """Images of one kind, members or non-members, as an attack on membership sees them."""

    scores: ArrayLike
    """(n,), high where an attacker would say "trained on". Or (repetitions, n), over which the area is averaged; NaN
    where an image takes no part in a repetition. Repetitions differ by chance: they are resampled with the groups."""
    groups: ArrayLike
    """Patient or lesion of each, (n,)."""
    strata: ArrayLike
    """Class, or class and site, of each, (n,); of one type for both kinds, which can be sorted."""


def membership_auc(
    members: ScoredImages, non_members: ScoredImages, *, num_resamples: int = 200, seed: int
) -> dict[str, Any]:
    """Measure how well a score tells training images from held-out ones: the area under the ROC curve.

    Only a member and a non-member of one stratum are compared. So a class that is more frequent among members, and
    scores higher, is not taken for a leak.

    Parameters
    ----------
    members, non_members
        Images that were trained on, and images that were not; of as many repetitions.
    num_resamples
        Times that groups are drawn with replacement, members and non-members apart, and repetitions, where there are
        several. Images of one group are alike: resampling images would give too narrow an interval.
    seed
        Decides what is drawn.

    Returns
    -------
    dict
        ``auc``: the chance that a member scores above a non-member of its stratum, ties counted half; .5: nothing
        leaks. ``interval``: 95 %, from percentiles, as [low, high]. ``num_members``, ``num_non_members``: images
        that were compared. ``num_left_out``: images of either kind without one of the other in their stratum.

    Raises
    ------
    ValueError
        If shapes do not fit, or no stratum has both members and non-members.

    Notes
    -----
    With U of stratum s the Mann-Whitney statistic, auc = Σ U_s / Σ n_s m_s. A resample enters as a weight of each
    group, which is exact: a pair counts as often as both its groups were drawn.

    The score makes the attack. GAN-Leaks (Chen et al. 2020) takes the distance to the nearest generated image,
    for which an attacker needs images only. LOGAN (Hayes et al. 2019) takes the discriminator's logit; of a family
    without one, the likelihood that its networks give to an image stands in its place.

    References
    ----------
    Chen et al. 2020, GAN-Leaks, https://arxiv.org/abs/1909.03935
    Hayes et al. 2019, LOGAN, https://arxiv.org/abs/1705.07663
    """
    found = _compare(members, non_members, num_resamples, numpy_stream(seed, "membership, resampled groups"))
    if not found.members.any():
        raise ValueError("no stratum has both members and non-members")
    area, interval = _area_and_interval(found.won, found.pairs, found.counts)
    return {
        "auc": area,
        "interval": interval,
        "num_members": int(found.members.sum()),
        "num_non_members": int(found.non_members.sum()),
        "num_left_out": int((~found.members).sum() + (~found.non_members).sum()),
    }


FALSE_ALARMS = 0.01
"""Held-out images that :func:`true_positive_rate` lets an attack take for training images, as a share."""


def true_positive_rate(
    members: ScoredImages, non_members: ScoredImages, *, num_resamples: int = 200, seed: int
) -> dict[str, Any]:
    """Measure whom an attack that may hardly err is sure of: its true positive rate at 1 % false positives.

    The area under the curve is a mean over all images. A generator that copies one image of a hundred, and nothing of
    the rest, has an area of .505, and gives one patient of a hundred away.

    Parameters
    ----------
    members, non_members, num_resamples, seed
        As in :func:`membership_auc`.

    Returns
    -------
    dict
        ``tpr``: the share of members that score above so many non-members that no more than
        :data:`FALSE_ALARMS` of them score as high; .01 if nothing leaks. ``tpr_interval``: 95 %, from percentiles over
        resampled groups. Both None where fewer than a hundred non-members are compared: none of so few may score as
        high, and that is another rate, more than 1 % by chance.

    Raises
    ------
    ValueError
        As :func:`membership_auc`.

    Notes
    -----
    Strata are as frequent among non-members as among members: a non-member of stratum s counts n_s / m_s.

    References
    ----------
    Carlini et al. 2022, https://arxiv.org/abs/2112.03570, Section III
    """
    scores, other_scores = _checked_scores(members, non_members)
    stream = numpy_stream(seed, "membership, resampled groups")
    weights = _resampled_weights(members.groups, num_resamples, stream)
    other_weights = _resampled_weights(non_members.groups, num_resamples, stream)
    found, counted = np.zeros((2, len(scores), num_resamples + 1))
    fewest = len(np.asarray(non_members.groups))
    for repetition, (of_one, of_other) in enumerate(zip(scores, other_scores, strict=True)):
        rows, other_rows, frequency = _standardised(of_one, of_other, members.strata, non_members.strata)
        if len(rows):
            found[repetition] = _weight_above(
                of_one[rows], of_other[other_rows], weights[:, rows], other_weights[:, other_rows] * frequency
            )
            counted[repetition] = weights[:, rows].sum(axis=1)
            fewest = min(fewest, len(other_rows))
    if not counted.any():
        raise ValueError("no stratum has both members and non-members")
    if fewest * FALSE_ALARMS < 1:
        return {"tpr": None, "tpr_interval": None}
    rate, interval = _area_and_interval(found, counted, _resampled_repetitions(len(scores), num_resamples, stream))
    return {"tpr": rate, "tpr_interval": interval}


def canonical_orientation(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn and mirror each image so that all eight orientations of it become the same.

    Dermoscopy has no upright, and training turns and mirrors images (``training.flips``), so a generator may have
    learnt a copy in any orientation. Features notice the difference: of turned and slightly enlarged copies of
    HAM10000 images at 32 px, 21 % lay nearest to their original in the features of the lesion classifier; after this,
    90 %.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3).

    Returns
    -------
    uint8 (n, r, r, 3), contiguous: the right half brighter than the left and the lower than the upper, by first
    moments, and left and right differing by no less than upper and lower. Where moments are equal the orientation
    is left as it is.
    """
    side = images.shape[1]
    # Whole numbers, so that a mirrored image has exactly the opposite moment.
    position = 2 * np.arange(side) - (side - 1)
    rightwards = images.sum(axis=(1, 3), dtype=np.int64) @ position
    downwards = images.sum(axis=(2, 3), dtype=np.int64) @ position
    turned = np.array(images)
    turned[rightwards < 0] = turned[rightwards < 0, :, ::-1]
    turned[downwards < 0] = turned[downwards < 0, ::-1]
    is_tall = np.abs(rightwards) < np.abs(downwards)
    turned[is_tall] = turned[is_tall].transpose(0, 2, 1, 3)
    return turned


def perceptual_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash each image by the signs of its low frequencies, which small changes of colour and detail leave alone.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3). Grey levels are resampled to 32 px, so 32 px and above lose nothing that is hashed.

    Returns
    -------
    uint64 (n,): which of the 8 x 8 lowest frequencies of the cosine transform lie above their median (``phash`` of
    the imagehash package). The number of bits in which two differ says how unlike the images are.
    """
    import imagehash  # slow to import

    bits = [imagehash.phash(Image.fromarray(image)).hash.ravel() for image in images]
    if not bits:
        return np.zeros(0, dtype=np.uint64)
    return np.packbits(np.stack(bits), axis=1).view(np.uint64)[:, 0]


def orientation_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash each image in its eight orientations: four quarter turns, each as it is and mirrored.

    Training may turn and mirror images, so a generator may have learnt a copy in any of them.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3).

    Returns
    -------
    uint64 (n, 8), the first as in :func:`perceptual_hashes`.
    """
    return np.stack(
        [
            perceptual_hashes(np.rot90(mirrored, turns, axes=(1, 2)))
            for mirrored in (images, images[:, :, ::-1])
            for turns in range(4)
        ],
        axis=1,
    )


def smallest_bit_distances(
    hashes: NDArray[np.uint64], references: NDArray[np.uint64], *, block: int = _HASHES_AT_ONCE
) -> NDArray[np.int64]:
    """Find in how few bits each hash, in its best orientation, differs from any reference.

    Parameters
    ----------
    hashes
        uint64 (n,) or (n, orientations).
    references
        uint64 (m,), m at least 1.
    block
        Images compared with all references at once: memory.

    Returns
    -------
    int64 (n,), from 0 to 64.
    """
    queries = hashes.reshape(len(hashes), -1, 1)
    smallest = np.zeros(len(hashes), dtype=np.int64)
    for start in range(0, len(hashes), block):
        rows = slice(start, start + block)
        smallest[rows] = np.bitwise_count(queries[rows] ^ references).min(axis=(1, 2))
    return smallest


def choose_groups(groups: Sequence[str] | NDArray[Any], count: int, stream: np.random.Generator) -> NDArray[np.int64]:
    """Choose images of randomly drawn groups until there are `count`.

    Parameters
    ----------
    groups
        Group of each image, (n,).
    count
        At most n.
    stream
        Draws the order of the groups.

    Returns
    -------
    int64 (count,): rows, ascending. Groups are whole, but for one at most where none fits what is missing: a
    distance to the nearest image depends on how many there are.
    """
    assert count <= len(groups)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes = np.bincount(codes)
    chosen, missing = [], count
    passed_over = -1
    for group in stream.permutation(len(sizes)):
        if sizes[group] <= missing:
            chosen.append(group)
            missing -= int(sizes[group])
        elif passed_over < 0:
            passed_over = int(group)
    rows = np.flatnonzero(np.isin(codes, chosen))
    if missing:
        rows = np.sort(np.concatenate([rows, np.flatnonzero(codes == passed_over)[:missing]]))
    return rows


@dataclass(frozen=True)
class _Comparison:
    """Pairs of a member and a non-member of one stratum."""

    won: NDArray[np.float64]
    """Weight of the pairs in which the member scores higher, (repetitions, 1 + resamples). The first column counts
    every image once: the estimate itself."""
    pairs: NDArray[np.float64]
    """Weight of all pairs, likewise."""
    counts: NDArray[np.float64]
    """How often each repetition was drawn, likewise."""
    members: NDArray[np.bool_]
    """Which members were compared, (n,)."""
    non_members: NDArray[np.bool_]
    """Which non-members were compared, (m,)."""


def _compare(
    members: ScoredImages, non_members: ScoredImages, num_resamples: int, stream: np.random.Generator
) -> _Comparison:
    scores, other_scores = _checked_scores(members, non_members)
    weights = _resampled_weights(members.groups, num_resamples, stream)
    other_weights = _resampled_weights(non_members.groups, num_resamples, stream)
    won = np.zeros((len(scores), num_resamples + 1))
    pairs = np.zeros_like(won)
    compared, others_compared = np.zeros(scores.shape[1], dtype=bool), np.zeros(other_scores.shape[1], dtype=bool)
    for repetition, rows, other_rows in _comparable(scores, other_scores, members.strata, non_members.strata):
        compared[rows] = others_compared[other_rows] = True
        of_rows, of_others = weights[:, rows], other_weights[:, other_rows]
        won[repetition] += _mann_whitney(
            scores[repetition, rows], other_scores[repetition, other_rows], of_rows, of_others
        )
        pairs[repetition] += of_rows.sum(axis=1) * of_others.sum(axis=1)
    counts = _resampled_repetitions(len(scores), num_resamples, stream)
    return _Comparison(won, pairs, counts, compared, others_compared)


def _checked_scores(
    members: ScoredImages, non_members: ScoredImages
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores of either kind, (repetitions, images)."""
    scores, other_scores = (
        np.atleast_2d(np.asarray(images.scores, dtype=np.float64)) for images in (members, non_members)
    )
    if len(scores) != len(other_scores):
        raise ValueError(f"scores must have as many repetitions, not {len(scores)} and {len(other_scores)}")
    for images, known in ((members, scores), (non_members, other_scores)):
        if any(np.shape(values) != known.shape[1:] for values in (images.groups, images.strata)):
            raise ValueError("every image needs one score, one group and one stratum")
    return scores, other_scores


def _comparable(
    scores: NDArray[np.float64], other_scores: NDArray[np.float64], strata: ArrayLike, other_strata: ArrayLike
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Give each repetition, and the rows of either kind in it, of each stratum that has both."""
    strata, other_strata = np.asarray(strata), np.asarray(other_strata)
    for stratum in np.intersect1d(strata, other_strata):
        here, others_here = np.flatnonzero(strata == stratum), np.flatnonzero(other_strata == stratum)
        for repetition, (of_one, of_other) in enumerate(zip(scores, other_scores, strict=True)):
            rows = here[~np.isnan(of_one[here])]
            other_rows = others_here[~np.isnan(of_other[others_here])]
            if len(rows) and len(other_rows):
                yield repetition, rows, other_rows


def _standardised(
    scores: NDArray[np.float64], other_scores: NDArray[np.float64], strata: ArrayLike, other_strata: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows of either kind in strata that have both, and how much each non-member counts."""
    strata, other_strata = np.asarray(strata), np.asarray(other_strata)
    rows, other_rows = np.flatnonzero(~np.isnan(scores)), np.flatnonzero(~np.isnan(other_scores))
    names, codes = np.unique(np.concatenate([strata[rows], other_strata[other_rows]]), return_inverse=True)
    here, there = codes[: len(rows)], codes[len(rows) :]
    counts, other_counts = (np.bincount(found, minlength=len(names)) for found in (here, there))
    both = (counts > 0) & (other_counts > 0)
    kept, other_kept = both[here], both[there]
    frequency = counts[there[other_kept]] / other_counts[there[other_kept]]
    return rows[kept], other_rows[other_kept], frequency


def _weight_above(
    scores: NDArray[np.float64],
    other_scores: NDArray[np.float64],
    weights: NDArray[np.float64],
    other_weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the weight of members that no more than :data:`FALSE_ALARMS` of non-members equal, (resamples,)."""
    order = np.argsort(-other_scores, kind="stable")
    as_high = np.zeros((len(other_weights), len(order) + 1))
    np.cumsum(other_weights[:, order], axis=1, out=as_high[:, 1:])
    # How many non-members score as high as each member, or higher.
    ranks = np.searchsorted(-other_scores[order], -scores, side="right")
    # A resample may hold no non-member, and rounding must not move one that is just allowed.
    allowed = as_high[:, ranks] <= FALSE_ALARMS * as_high[:, -1:] * (1 + 1e-9)
    return np.asarray((weights * (allowed & (as_high[:, -1:] > 0))).sum(axis=1))


def _area_and_interval(
    won: NDArray[np.float64], pairs: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[float, list[float]]:
    """Return the share of pairs won, and its 95 % interval.

    From pairs won and all, and how often a repetition counts, each (repetitions, 1 + resamples).
    """
    # A repetition, or a resample of one, without a single pair says nothing.
    counted = counts * (pairs > 0)
    shares = np.divide(won, pairs, out=np.zeros_like(won), where=pairs > 0)
    areas = (counted * shares).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    resampled = areas[1:][counted[:, 1:].any(axis=0)]
    return float(areas[0]), np.quantile(resampled, [0.025, 0.975]).tolist() if len(resampled) else [0.0, 1.0]


def _mann_whitney(
    scores: NDArray[np.float64],
    other_scores: NDArray[np.float64],
    weights: NDArray[np.float64],
    other_weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the weight of pairs won by `scores`, (resamples,); weights are (resamples, images)."""
    order = np.argsort(other_scores, kind="stable")
    ranked = other_scores[order]
    # Weight of the others up to each rank; at the two ends of a tie, the mean counts it half.
    below = np.zeros((len(weights), len(order) + 1))
    np.cumsum(other_weights[:, order], axis=1, out=below[:, 1:])
    lower, upper = (np.searchsorted(ranked, scores, side=side) for side in ("left", "right"))
    return np.asarray((weights * (below[:, lower] + below[:, upper])).sum(axis=1) / 2)


def _resampled_weights(groups: ArrayLike, num_resamples: int, stream: np.random.Generator) -> NDArray[np.float64]:
    """Return how often each image counts, (1 + resamples, images): once, and as often as its group was drawn."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    drawn = stream.integers(len(names), size=(num_resamples, len(names)))
    # One histogram for all resamples: each has its own range of numbers.
    numbers = drawn + len(names) * np.arange(num_resamples)[:, None]
    counts = np.bincount(numbers.ravel(), minlength=num_resamples * len(names)).reshape(num_resamples, len(names))
    return np.concatenate([np.ones((1, len(codes))), counts[:, codes]])


def _resampled_repetitions(
    num_repetitions: int, num_resamples: int, stream: np.random.Generator
) -> NDArray[np.float64]:
    """Return how often each repetition counts, (repetitions, 1 + resamples): once, and as often as it was drawn."""
    return _resampled_weights(np.arange(num_repetitions), num_resamples, stream).T
