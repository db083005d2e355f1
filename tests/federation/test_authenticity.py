"""Copies are found, fresh draws are not, and a mix of classes is not taken for either."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score

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
    true_positive_rate,
)
from federation.seeding import numpy_stream

R = np.random.RandomState(0).randn(64, 8)
F = np.random.RandomState(1).randn(64, 8) * 0.8 + 0.3


def lesions(count: int, seed: int, resolution: int = 32) -> np.ndarray:
    """Dark blots of random place, size and colour on skin, with fine noise."""
    stream = numpy_stream(seed, "lesions")
    axis = np.linspace(-1, 1, resolution)
    images = np.empty((count, resolution, resolution, 3))
    for image in images:
        depth = np.zeros((resolution, resolution))
        for _ in range(6):
            x, y = stream.uniform(-0.7, 0.7, 2)
            width, height = stream.uniform(0.1, 0.5, 2)
            depth += np.exp(-(((axis[None] - x) / width) ** 2) - ((axis[:, None] - y) / height) ** 2)
        image[:] = [220, 180, 160] - depth[..., None] * stream.uniform(20, 50, 3)
    return np.clip(images + stream.normal(0, 2, images.shape), 0, 255).astype(np.uint8)


def each_its_own(count: int, prefix: str = "lesion") -> np.ndarray:
    return np.array([f"{prefix}-{number}" for number in range(count)])


def plain_auc(member_scores: np.ndarray, non_member_scores: np.ndarray, **given: object) -> dict:
    """Every image its own group, all of one stratum, unless said otherwise."""
    n, m = np.shape(member_scores)[-1], np.shape(non_member_scores)[-1]
    arguments: dict = {
        "member_groups": each_its_own(n),
        "non_member_groups": each_its_own(m),
        "member_strata": np.zeros(n, int),
        "non_member_strata": np.zeros(m, int),
        "seed": 0,
    }
    arguments |= given
    members = ScoredImages(member_scores, arguments.pop("member_groups"), arguments.pop("member_strata"))
    others = ScoredImages(non_member_scores, arguments.pop("non_member_groups"), arguments.pop("non_member_strata"))
    return membership_auc(members, others, **arguments)


# ------------------------------------------------------------------ AuthPct


def test_authentic_percentage_known_values() -> None:
    assert authentic_percentage(R, F) == 60.9375
    assert authentic_percentage(R, R.copy()) == 0.0
    assert authentic_percentage(R, R + 100) == 100.0


def test_authentic_percentage_takes_known_radii() -> None:
    distances = np.linalg.norm(R[:, None] - R[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert authentic_percentage(R, F, train_radii=distances.min(axis=1)) == 60.9375
    assert authentic_percentage(R, F, train_radii=np.zeros(64)) == 100.0


# ------------------------------------------------------------------ nearest images


def test_copies_of_training_images_are_nearer_to_them() -> None:
    result = compare_nearest(R[:32], R, F)
    assert result["share_nearer_to_train"] == 1.0
    assert result["median_to_train"] == 0.0 < result["median_to_test"]
    # Wilson's interval of 32 of 32.
    assert result["interval"] == [pytest.approx(0.892821, abs=1e-6), 1.0]
    swapped = compare_nearest(R[:32], F, R)
    assert swapped["share_nearer_to_train"] == 0.0
    assert (swapped["median_to_test"], swapped["median_to_train"]) == (0.0, result["median_to_test"])


def test_ties_count_half_and_unequal_sets_are_refused() -> None:
    assert compare_nearest(F, R, R.copy())["share_nearer_to_train"] == 0.5
    with pytest.raises(ValueError, match="must be as many, not 64 and 63"):
        compare_nearest(F, R, R[:63])


def test_images_that_share_their_nearest_image_are_one_observation() -> None:
    # A hundred pictures of one training image tell as much as one.
    result = compare_nearest(np.repeat(R[:1], 100, axis=0) + 1e-3, R, F)
    assert result["share_nearer_to_train"] == 1.0
    assert result["interval"] == [pytest.approx(0.206549, abs=1e-6), 1.0]


def test_interval_of_the_share_covers_a_half_for_fresh_draws() -> None:
    stream = numpy_stream(0, "fresh")
    covered = 0
    for _ in range(60):
        # Few references and many images: counting each image would cover .5 in two of three cases.
        train, test, images = (stream.normal(size=(count, 8)) for count in (40, 40, 400))
        low, high = compare_nearest(images, train, test)["interval"]
        covered += low <= 0.5 <= high
    assert covered >= 53


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 1000), st.data())
def test_choosing_groups_gives_the_count_and_divides_one_at_most(
    groups: list[int], seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(groups)))
    rows = choose_groups(np.array(groups), count, numpy_stream(seed, "choose"))
    assert len(rows) == count
    assert np.array_equal(rows, np.unique(rows))
    chosen = np.array(groups)[rows]
    divided = [group for group in set(chosen) if np.sum(chosen == group) < groups.count(group)]
    assert len(divided) <= 1


def test_choosing_groups_divides_none_where_all_are_single() -> None:
    stream = numpy_stream(0, "choose")
    groups = np.repeat(["a", "b", "c", "d"], [3, 3, 1, 1])
    for count in (1, 2, 3, 4, 5, 8):
        for _ in range(20):
            rows = choose_groups(groups, count, stream)
            assert all(np.sum(groups[rows] == group) in (0, np.sum(groups == group)) for group in "cd")
    assert {tuple(choose_groups(groups, 1, stream)) for _ in range(50)} >= {(6,), (7,)}


# ------------------------------------------------------------------ membership


def test_membership_auc_hand_values() -> None:
    # Of 3 x 2 pairs: 3 beats both, 2 beats 1 and ties 2, 1 ties 1 and loses to 2.
    assert plain_auc(np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0]))["auc"] == pytest.approx((2 + 1.5 + 0.5) / 6)
    # Strata: in "a" 1 pair, won; in "b" 2 x 1 pairs, one won and one lost; "c" and "d" have one kind only.
    result = plain_auc(
        np.array([5.0, 4.0, 1.0, 9.0]),
        np.array([0.0, 2.0, 7.0, 7.0]),
        member_strata=np.array(["a", "b", "b", "c"]),
        non_member_strata=np.array(["a", "b", "d", "d"]),
    )
    assert result["auc"] == pytest.approx(2 / 3)
    assert (result["num_members"], result["num_non_members"], result["num_left_out"]) == (3, 2, 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4), st.integers(0, 1000))
def test_membership_auc_is_the_mean_over_pairs_of_one_stratum(n: int, m: int, num_strata: int, seed: int) -> None:
    stream = numpy_stream(seed, "pairs")
    scores, others = stream.integers(0, 5, n).astype(float), stream.integers(0, 5, m).astype(float)
    strata, other_strata = stream.integers(0, num_strata, n), stream.integers(0, num_strata, m)
    pairs = [
        (x > y) + (x == y) / 2
        for x, stratum in zip(scores, strata, strict=True)
        for y, other in zip(others, other_strata, strict=True)
        if stratum == other
    ]
    given = {"member_strata": strata, "non_member_strata": other_strata, "num_resamples": 3}
    if pairs:
        assert plain_auc(scores, others, **given)["auc"] == pytest.approx(np.mean(pairs))
    else:
        with pytest.raises(ValueError, match="no stratum has both"):
            plain_auc(scores, others, **given)


def test_resampling_by_weights_is_resampling_by_copies() -> None:
    """Each resample, written out as rows that repeat, has the same area by scikit-learn."""
    stream = numpy_stream(3, "scores")
    scores, others = stream.normal(0.5, 1, 12), stream.normal(size=9)
    groups, other_groups = np.repeat(["a", "b", "c", "d"], 3), np.repeat(["e", "f", "g"], 3)
    resamples = numpy_stream(7, "membership, resampled groups")
    drawn, other_drawn = resamples.integers(4, size=(50, 4)), resamples.integers(3, size=(50, 3))
    areas = []
    for chosen, other_chosen in zip(drawn, other_drawn, strict=True):
        copied = np.concatenate([scores[groups == "abcd"[number]] for number in chosen])
        other_copied = np.concatenate([others[other_groups == "efg"[number]] for number in other_chosen])
        truth = np.repeat([1, 0], [len(copied), len(other_copied)])
        areas.append(roc_auc_score(truth, np.concatenate([copied, other_copied])))
    result = plain_auc(scores, others, member_groups=groups, non_member_groups=other_groups, num_resamples=50, seed=7)
    assert result["interval"] == pytest.approx(np.quantile(areas, [0.025, 0.975]).tolist())


def test_another_mix_of_classes_is_no_leak() -> None:
    # Melanomas score 2 higher than naevi, and are frequent among members: nothing tells members within a class.
    stream = numpy_stream(0, "mix")
    classes, other_classes = stream.random(3000) < 0.9, stream.random(3000) < 0.1
    scores, others = stream.normal(2.0 * classes), stream.normal(2.0 * other_classes)
    plain = plain_auc(scores, others)
    stratified = plain_auc(scores, others, member_strata=classes, non_member_strata=other_classes)
    assert plain["auc"] > 0.8
    assert stratified["auc"] == pytest.approx(0.5, abs=0.03)
    assert stratified["interval"][0] < 0.5 < stratified["interval"][1]


def test_images_of_one_group_do_not_count_as_many() -> None:
    stream = numpy_stream(0, "copies")
    scores, others = stream.normal(size=100), stream.normal(size=100)
    groups = each_its_own(100)
    by_hundreds = plain_auc(scores, others)["interval"]
    # Every image nine times: resampled by image the interval would shrink to a third, by group it does not.
    copied = np.repeat(scores, 9), np.repeat(others, 9)
    by_image = plain_auc(*copied)["interval"]
    by_group = plain_auc(*copied, member_groups=np.repeat(groups, 9), non_member_groups=np.repeat(groups, 9))[
        "interval"
    ]
    assert by_group == pytest.approx(by_hundreds)
    assert by_image[1] - by_image[0] < 0.5 * (by_group[1] - by_group[0])


def test_interval_covers_a_half_for_exchangeable_images() -> None:
    stream = numpy_stream(0, "cover")
    covered = 0
    for seed in range(60):
        # Groups of four whose scores share a part: an interval by images covers .5 in three of five cases.
        scores, others = (
            np.repeat(stream.normal(size=count), 4) + stream.normal(0, 0.5, 4 * count) for count in (60, 30)
        )
        groups, other_groups = np.repeat(each_its_own(60), 4), np.repeat(each_its_own(30), 4)
        low, high = plain_auc(scores, others, member_groups=groups, non_member_groups=other_groups, seed=seed)[
            "interval"
        ]
        covered += low <= 0.5 <= high
    assert covered >= 53


def test_repetitions_are_averaged_and_absent_images_left_out() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, np.nan]])
    others = np.array([[1.0, 2.0], [np.nan, 1.0]])
    assert plain_auc(scores, others)["auc"] == pytest.approx((4 / 6 + 0.5) / 2)
    result = plain_auc(np.array([1.0, np.nan]), np.array([0.0]))
    assert (result["auc"], result["num_members"]) == (1.0, 1)


def test_intervals_hold_the_chance_of_repetitions() -> None:
    # Whichever groups are drawn, one repetition tells all and the other nothing: the chance is theirs alone.
    scores, others = np.repeat([[1.0], [0.0]], 40, axis=1), np.repeat([[0.0], [1.0]], 100, axis=1)
    result = plain_auc(scores, others)
    assert result["auc"] == 0.5
    assert result["interval"] == [0, 1]
    members, non_members = (
        ScoredImages(of_kind, each_its_own(of_kind.shape[1]), np.zeros(of_kind.shape[1]))
        for of_kind in (scores, others)
    )
    assert true_positive_rate(members, non_members, seed=0) == {"tpr": 0.5, "tpr_interval": [0, 1]}


def test_membership_auc_repeats_and_refuses_what_does_not_fit() -> None:
    stream = numpy_stream(0, "repeat")
    scores, others = stream.normal(size=40), stream.normal(size=30)
    assert plain_auc(scores, others) == plain_auc(scores, others)
    assert plain_auc(scores, others)["interval"] != plain_auc(scores, others, seed=1)["interval"]
    with pytest.raises(ValueError, match="one score, one group and one stratum"):
        plain_auc(scores, others, member_groups=each_its_own(39))
    with pytest.raises(ValueError, match="as many repetitions, not 2 and 1"):
        plain_auc(np.stack([scores, scores]), others)


def test_membership_auc_of_thousands_of_images_takes_a_second() -> None:
    stream = numpy_stream(0, "many")
    started = time.process_time()
    result = plain_auc(
        stream.normal(0.1, 1, 6000),
        stream.normal(size=1500),
        member_groups=stream.integers(4500, size=6000),
        non_member_groups=stream.integers(1100, size=1500),
        member_strata=stream.integers(7, size=6000),
        non_member_strata=stream.integers(7, size=1500),
    )
    assert time.process_time() - started < 5
    # The area of two normal distributions a tenth of a deviation apart.
    assert result["auc"] == pytest.approx(0.5282, abs=0.02)


# ------------------------------------------------------------------ orientations and hashes


def orientations(image: np.ndarray) -> list[np.ndarray]:
    return [np.rot90(mirrored, turns) for mirrored in (image, image[:, ::-1]) for turns in range(4)]


def test_all_orientations_become_one() -> None:
    images = lesions(10, 0)
    expected = canonical_orientation(images)
    for image, upright in zip(images, expected, strict=True):
        turned = np.stack(orientations(image))
        assert len({view.tobytes() for view in turned}) == 8
        assert np.array_equal(canonical_orientation(turned), np.repeat(upright[None], 8, axis=0))
        assert any(np.array_equal(upright, view) for view in turned)
    # Brighter on the right, and more so than below.
    moments = expected.sum(3).astype(float) - expected.sum(3).mean((1, 2), keepdims=True)
    rightwards, downwards = moments[:, :, 16:].sum((1, 2)), moments[:, 16:].sum((1, 2))
    assert np.mean(rightwards) > np.mean(downwards) > 0


def test_canonical_orientation_leaves_its_input_and_flat_images_alone() -> None:
    images = lesions(4, 1)
    images.flags.writeable = False
    before = images.copy()
    canonical_orientation(images)
    assert np.array_equal(images, before)
    flat = np.full((2, 32, 32, 3), 7, dtype=np.uint8)
    assert np.array_equal(canonical_orientation(flat), flat)


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_mirrored_and_turned_copies_have_a_hash_in_common(resolution: int) -> None:
    images = lesions(12, 2, resolution)
    references = perceptual_hashes(images)
    assert references.shape == (12,)
    assert references.dtype == np.uint64
    assert np.array_equal(orientation_hashes(images)[:, 0], references)
    for view in range(1, 8):
        turned = np.stack([orientations(image)[view] for image in images])
        # Resampling to 32 px rounds grey levels, which may move a bit that is on the edge.
        distances = [
            smallest_bit_distances(orientation_hashes(turned)[[row]], references[[row]])[0] for row in range(12)
        ]
        assert max(distances) <= (0 if resolution == 32 else NEAR_DUPLICATE_BITS)
    upright_only = smallest_bit_distances(perceptual_hashes(images[:, :, ::-1]), references)
    assert np.median(upright_only) > NEAR_DUPLICATE_BITS


def test_smallest_bit_distances_are_those_of_all_pairs() -> None:
    stream = numpy_stream(0, "hashes")
    hashes, references = (stream.integers(0, 2**64, size=shape, dtype=np.uint64) for shape in ((70, 8), 30))
    pairs = [
        min((int(hash_) ^ int(reference)).bit_count() for hash_ in row for reference in references) for row in hashes
    ]
    assert smallest_bit_distances(hashes, references).tolist() == pairs
    assert np.array_equal(smallest_bit_distances(hashes, references, block=7), pairs)
    assert smallest_bit_distances(hashes[:, 0], hashes[:, 0]).tolist() == [0] * 70
    assert smallest_bit_distances(np.array([0], np.uint64), np.array([2**64 - 1], np.uint64)).tolist() == [64]


def test_hashes_are_those_of_imagehash() -> None:
    import imagehash

    images = lesions(6, 3)
    hashes = perceptual_hashes(images)
    for one in range(6):
        for other in range(6):
            expected = imagehash.phash(Image.fromarray(images[one])) - imagehash.phash(Image.fromarray(images[other]))
            assert int(hashes[one] ^ hashes[other]).bit_count() == expected
    assert perceptual_hashes(images[:0]).shape == (0,)
