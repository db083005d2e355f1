"""Are some of many generated images copies of training images?

Of thousands of generated images a few hundred may be copies of training images, turned, moved by a pixel and a little
noisy. Means do not show that: the area under a membership attack's curve is .63 where every tenth of 20,000 images of
HAM10000 is such a copy. Its far end does: copies come nearer to their original than anything else comes to any real
image. So every real image, trained on or held out, is given the distance of the nearest generated image, in units of
how lonely it is (:meth:`Surroundings.loneliness`), and one asks who stands at the top: by chance, training images as
often as there are training images (:func:`copy_test`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import hypergeom

from federation.metrics.neighbours import nearest_neighbours

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Nearness = tuple["NDArray[np.float64]", "NDArray[np.float64]"]
"""Minus the distance of the nearest of some images, of each training and of each held-out image."""

THUMBNAIL_SIDE = 8
"""Pixels of a thumbnail. A copy that is moved by a pixel, of 32, still has nearly the same."""

FLAG_LEVEL = 0.01
"""How often copying may be flagged where nothing was copied."""

_SHARE_LOOKED_AT = 0.02  # of all patients or lesions: those that generated images come nearest to
_FEWEST_LOOKED_AT = 40
# Among so many there is one of another lesion, or else the last of them stands for it.
_MOST_NEIGHBOURS = 16
_LEAST_DISTANCE = 1e-9  # two images of different lesions may be the same bytes


def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return mean colours on a grid of 8 x 8: a distance that no network can be blind to.

    On HAM10000 at 32 px they find copies under noise of 8 grey levels, of which the features of the lesion classifier
    find nearly none, and these find copies that are a tenth brighter, which thumbnails do not.

    Parameters
    ----------
    images
        uint8 (n, r, r, 3), r a multiple of 8; in :func:`federation.metrics.authenticity.canonical_orientation`, so that
        orientation does not count.

    Returns
    -------
    float32 (n, 192), grey levels.

    Raises
    ------
    ValueError
        If the side is no multiple of 8.
    """
    side, remainder = divmod(images.shape[1], THUMBNAIL_SIDE)
    if remainder:
        raise ValueError(f"thumbnails need a side that is a multiple of {THUMBNAIL_SIDE}, not {images.shape[1]}")
    grid = images.reshape(len(images), THUMBNAIL_SIDE, side, THUMBNAIL_SIDE, side, 3)
    return grid.mean((2, 4), dtype=np.float32).reshape(len(images), -1)


class Surroundings:
    """The neighbours of real images, trained on or not: which are which must not matter.

    Parameters
    ----------
    real
        Features (n, d), n at least 2.
    groups
        Patient or lesion of each, (n,).
    """

    def __init__(self, real: NDArray[np.floating], groups: ArrayLike) -> None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
        k = min(_MOST_NEIGHBOURS, len(real) - 1)
        self.distances, self.rows = nearest_neighbours(real, real, k=k, exclude_self=True)
        self.is_other = codes[self.rows] != codes[:, None]

    def loneliness(self, absent: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Return how lonely each image is: its distance from the nearest one of another patient or lesion.

        Parameters
        ----------
        absent
            Images that are not counted as neighbours, (n,); None: all are.

        Returns
        -------
        float64 (n,), positive.

        Notes
        -----
        A lesion in the middle of plain skin has something near in any set of images, be it copied or not; a rare one
        has not. Dividing by this tells how hard an image is to come near to. On 20,000 images of HAM10000 of which a
        tenth are copies, it finds 24 % of the training images at one false alarm in a hundred, where the bare distance
        finds 20 % (29 % were copied).

        References
        ----------
        Watson et al. 2022, https://arxiv.org/abs/2111.08440 (difficulty calibration)
        """
        counts = self.is_other if absent is None else self.is_other & ~absent[self.rows]
        first = np.where(counts.any(axis=1), counts.argmax(axis=1), counts.shape[1] - 1)
        return np.maximum(self.distances[np.arange(len(first)), first], _LEAST_DISTANCE)


@dataclass(frozen=True)
class CopyTest:
    """Who stands at the top of the patients or lesions that generated images come nearest to."""

    num_looked_at: int
    """How many of them are looked at."""
    num_trained_on: int
    """How many of these were trained on."""
    expected: float
    """How many would be by chance."""
    p: float
    """The chance of so many or more, if what is generated does not depend on who was trained on."""
    p_opposite: float
    """The chance of so few or fewer. Tiny where whoever drew the images saw held-out ones."""
    smallest_p: float
    """What `p` would be if all of them were trained on: below this nothing could have come out."""


def copy_test(
    members: NDArray[np.float64], member_groups: ArrayLike, non_members: NDArray[np.float64], other_groups: ArrayLike
) -> CopyTest:
    """Ask if generated images come nearest to training images more often than chance allows.

    Each patient or lesion has the score of its image that a generated one came nearest to. Of all, the 2 % with the
    highest scores are looked at (40 at least, and never more than a half). Which of them were trained on was drawn by
    lot, so their number is hypergeometric: Fisher's exact test, one-sided. Nothing is assumed of images, distances or
    the generator.

    Parameters
    ----------
    members, non_members
        Scores (n,) and (m,) of images that were trained on, and that were not; high where a generated image is near:
        minus the distance of the nearest, over the loneliness. 0 is an exact copy, -1 as near as another real image.
    member_groups, other_groups
        Patient or lesion of each, (n,) and (m,). None is on both sides.

    Notes
    -----
    It is exact where the split is by lot over patients or lesions, as ours is. It cannot see fewer copied lesions than
    would tell from chance a lot so lopsided: with four fifths of all in training, about 60 of HAM10000's 5,564,
    however often each is copied. A generator that is merely better on what it learned from moves no image to the top.

    References
    ----------
    Fisher 1935, The Design of Experiments, chapter 2
    Chen et al. 2020, GAN-Leaks, https://arxiv.org/abs/1909.03935 (the distance, and that it needs calibrating)
    Carlini et al. 2022, https://arxiv.org/abs/2112.03570 (why the far end of the curve, and not its area)
    """
    scores, is_member = _scores_of_groups(members, member_groups, non_members, other_groups)
    total, num_members = len(scores), int(is_member.sum())
    looked_at = min(max(math.ceil(_SHARE_LOOKED_AT * total), _FEWEST_LOOKED_AT), total // 2)
    # Of equal scores none is better than another: held-out ones first can only weaken the claim.
    order = np.lexsort((is_member, -scores))
    found = int(is_member[order[:looked_at]].sum())
    null = hypergeom(total, num_members, looked_at)
    return CopyTest(
        num_looked_at=looked_at,
        num_trained_on=found,
        expected=looked_at * num_members / total,
        p=float(null.sf(found - 1)),
        p_opposite=float(null.cdf(found)),
        smallest_p=float(null.sf(min(looked_at, num_members) - 1)),
    )


def is_flagged(p_values: Sequence[float]) -> bool:
    """Return whether any of several tests is significant at :data:`FLAG_LEVEL` over their number (Bonferroni)."""
    return min(p_values) <= FLAG_LEVEL / len(p_values)


class CopySearch:
    """Real images, among which copies are searched for, by one kind of distance.

    Parameters
    ----------
    train, test
        Features or thumbnails (n, d) and (m, d) of images that were trained on, and of held-out ones.
    train_groups, test_groups
        Patient or lesion of each, (n,) and (m,).
    """

    def __init__(
        self, train: NDArray[np.floating], test: NDArray[np.floating], train_groups: ArrayLike, test_groups: ArrayLike
    ) -> None:
        self.train, self.test_images = train, test
        self.train_groups, self.test_groups = np.asarray(train_groups), np.asarray(test_groups)
        groups = np.concatenate([self.train_groups, self.test_groups])
        self._surroundings = Surroundings(np.concatenate([train, test]), groups)

    def nearness(self, references: NDArray[np.floating]) -> Nearness:
        """Return minus the distance of the nearest of `references` (k, d), of training and of held-out images."""
        of_train, of_test = (nearest_neighbours(real, references)[0][:, 0] for real in (self.train, self.test_images))
        return -of_train, -of_test

    def test(
        self, of_train: NDArray[np.float64], of_test: NDArray[np.float64], stand_in: NDArray[np.bool_] | None = None
    ) -> CopyTest:
        """Ask if some of the images that were searched are copies.

        Parameters
        ----------
        of_train, of_test
            Their :meth:`nearness`, (n,) and (m,).
        stand_in
            Held-out images that stand for generated ones, (m,), and so are held out no longer; None: none.
        """
        held_out = np.ones(len(self.test_images), dtype=bool) if stand_in is None else ~stand_in
        num_train = len(self.train)
        lonely = self._surroundings.loneliness(np.concatenate([np.zeros(num_train, dtype=bool), ~held_out]))
        return copy_test(
            of_train / lonely[:num_train],
            self.train_groups,
            (of_test / lonely[num_train:])[held_out],
            self.test_groups[held_out],
        )

    def control(self, halves: Sequence[NDArray[np.bool_]], nearness: Sequence[Nearness] | None = None) -> CopyTest:
        """Ask the same of held-out images that stand for generated ones, while the others are held out.

        Parameters
        ----------
        halves
            Which held-out images these are, (m,), several times; no group is divided.
        nearness
            Of each, where it is known already.

        Returns
        -------
        The middle one of the tests by its p.
        """
        if nearness is None:
            nearness = [self.nearness(self.test_images[first]) for first in halves]
        tests = [self.test(*near, first) for near, first in zip(nearness, halves, strict=True)]
        return sorted(tests, key=lambda test: test.p)[len(tests) // 2]


def _scores_of_groups(
    members: NDArray[np.float64], member_groups: ArrayLike, non_members: NDArray[np.float64], other_groups: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the highest score of each group, and whether it was trained on."""
    found = []
    for scores, groups in ((members, member_groups), (non_members, other_groups)):
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
        highest = np.full(codes.max(initial=-1) + 1, -np.inf)
        np.maximum.at(highest, codes, scores)
        found.append(highest)
    return np.concatenate(found), np.repeat([True, False], [len(found[0]), len(found[1])])
