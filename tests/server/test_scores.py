"""Fidelity and diversity over draws, as a whole, by class and by hospital."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from federation.metrics.fidelity import fid, kid
from federation.seeding import numpy_stream
from server.evaluation.scores import (
    LEAST_OF_A_GROUP,
    Draws,
    RealSet,
    Reference,
    SiteReference,
    compare,
    compare_draws,
    score_supply,
)
from server.evaluation.supply import PoolSupply


class Colours:
    """The simplest extractor: the colours of an image's first four pixels, in [0, 1]."""

    name = "colours@0000"
    num_features = 12
    preprocessing = "8-bit RGB, divided by 255"

    def features(self, images: np.ndarray) -> np.ndarray:
        return images[:, 0, :4].reshape(len(images), 12) / 255


def draw(count: int, seed: int, *, deviation: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Class 0 is dark and class 1 light; class 2 hardly ever occurs."""
    stream = numpy_stream(seed, "images")
    labels = np.array([0, 1] * (count // 2) + [2] * (3 * count // 200))
    centre = np.array([80, 160, 120])[labels]
    images = stream.normal(centre[:, None, None, None], deviation, (len(labels), 1, 4, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


def site_reference(features: np.ndarray, sites: np.ndarray) -> SiteReference:
    """Sites a, of dark images alone, b and c; a's other images are dark too, and everyone's of all kinds."""
    other, labels = draw(200, 4)
    others = Colours().features(other)
    of_sites = {name: features[sites == name] for name in "abc"}
    own = {"a": (of_sites["a"], others[labels == 0]), "c": (of_sites["c"], others)}
    return SiteReference(of_sites, "test images of each site", own, others, "others")


def judge(generated: PoolSupply, num_draws: int = 3) -> dict:
    images, labels = draw(200, 1)
    train, _ = draw(200, 2)
    extractor = Colours()
    sites = np.array(["a", "b"] * 101 + ["c"], dtype=object)
    features = extractor.features(images)
    return score_supply(
        generated,
        extractor,
        Reference(
            real=RealSet(features, labels, sites),
            train_features=extractor.features(train),
            sites=site_reference(features, sites),
            classes=("dark", "light", "rare"),
            part="test",
        ),
        num_draws=num_draws,
        seed=0,
    )


def test_good_images_score_as_real_ones_and_their_figures_are_those_of_the_draws() -> None:
    images, labels = draw(2000, 3)
    supply = PoolSupply(images, labels, seed=0)
    found = judge(supply)
    assert found["kid"] == pytest.approx(found["real"]["kid"], abs=0.01)
    assert found["precision"] == pytest.approx(found["real"]["precision"], abs=0.1)
    assert found["spread"] == pytest.approx(1, abs=0.05)
    assert found["num_real"] == found["num_generated"] == 203
    # The same by hand: the first draw's KID among the three, moved apart by the correction alone.
    extractor = Colours()
    real = extractor.features(draw(200, 1)[0])
    values = []
    for number in range(3):
        _, batches = supply.draw(draw(200, 1)[1], f"draw {number}")
        values.append(kid(real, extractor.features(np.concatenate(list(batches))), seed=0)[0])
    assert found["kid"] == pytest.approx(np.mean(values), abs=1e-12)
    share = 203 / len(images)  # that two draws have in common
    widened = np.mean(values) + (np.array(values) - np.mean(values)) * np.sqrt((1 + 2 * share) / (1 - share))
    np.testing.assert_allclose(found["draws"]["kid"], widened, atol=1e-12)
    assert found["kid_sd_of_draws"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(1 - share))
    # What is called kid_sd is the estimate's own, here as on validation images.
    own = [
        kid(real, extractor.features(np.concatenate(list(supply.draw(draw(200, 1)[1], f"draw {number}")[1]))), seed=0)[
            1
        ]
        for number in range(3)
    ]
    assert found["kid_sd"] == pytest.approx(np.mean(own))
    low, high = found["kid_interval"]
    assert low < found["kid"] < high


def test_intervals_from_a_pool_hold_the_truth_as_often_as_they_say() -> None:
    # Means of 40 of 50 numbers, five times: the draws share most of them.
    stream, covered = numpy_stream(0, "coverage"), 0
    for _ in range(400):
        values = stream.normal(size=50)
        draws = Draws()
        for _ in range(5):
            draws.add({"mean": float(values[stream.choice(50, 40, replace=False)].mean())})
        low, high = draws.summary(["mean"], 40 / 50)["mean_interval"]
        covered += low < 0 < high
    assert 0.92 < covered / 400 < 0.985


def test_shares_have_intervals_between_0_and_1() -> None:
    draws = Draws()
    for value in (0.1, 0.9):
        draws.add({"precision": value, "fid": value})
    found = draws.summary(["precision", "fid"], 0.0)
    assert found["precision_interval"] == [0, 1]
    assert found["fid_interval"][1] > 5


def test_few_images_have_no_figures_of_neighbours() -> None:
    rows = numpy_stream(0, "few").normal(size=(10, 3))
    found = compare(rows[:5], rows[5:], seed=0)
    assert found["kid"] is not None
    assert [found[name] for name in ("precision", "density", "recall", "coverage")] == [None] * 4


def test_each_class_is_compared_with_its_own_and_a_small_one_says_so() -> None:
    images, labels = draw(2000, 3)
    found = judge(PoolSupply(images, 1 - np.minimum(labels, 1), seed=0))  # the classes are mixed up
    honest = judge(PoolSupply(images, labels, seed=0))
    assert found["kid"] == pytest.approx(honest["kid"], abs=0.01), "the whole does not know of classes"
    dark, light, rare = honest["per_class"]
    assert dark["name"] == "dark"
    assert abs(dark["kid"]) < 0.1 < 10 * abs(light["kid"]) + 0.2
    assert all(entry["kid"] > 10 * abs(dark["kid"]) for entry in found["per_class"][:2])
    assert rare == {
        "name": "rare",
        "num_real": 3,
        "num_generated": rare["num_generated"],
        "not_measured": f"n too small: {min(3, rare['num_generated'])} images, {LEAST_OF_A_GROUP} are needed",
    }


def test_hospitals_and_their_mean() -> None:
    images, labels = draw(2000, 3)
    found = judge(PoolSupply(images, labels, seed=0))
    a, b, c = found["per_site"]
    assert [entry["name"] for entry in (a, b, c)] == ["a", "b", "c"]
    assert c["not_measured"] == f"n too small: 1 images, {LEAST_OF_A_GROUP} are needed"
    assert found["fid_avg"] == pytest.approx((a["fid"] + b["fid"]) / 2)
    assert found["num_fid_avg_sites"] == 2
    assert found["fid_all"] == found["fid"]
    # Site a holds dark images alone: the whole generator is far from it, and near the pool.
    assert a["kid"] > 10 * abs(found["kid"])
    extractor, (real, _) = Colours(), draw(200, 1)
    of_a = extractor.features(real)[np.array(["a", "b"] * 101 + ["c"]) == "a"]
    draws = []
    for number in range(3):
        _, batches = PoolSupply(images, labels, seed=0).draw(draw(200, 1)[1], f"draw {number}")
        draws.append(fid(of_a, extractor.features(np.concatenate(list(batches)))))
    assert a["fid"] == pytest.approx(np.mean(draws))


def test_beside_a_hospital_stands_what_its_own_and_everyones_real_images_get() -> None:
    """A generator as good as everyone's real images is far from site a, and no fault of it."""
    images, labels = draw(2000, 3)
    found = judge(PoolSupply(images, labels, seed=0))
    a, b, c = found["per_site"]
    extractor = Colours()
    real, other = (extractor.features(draw(200, seed)[0]) for seed in (1, 4))
    dark = np.array(["a", "b"] * 101 + ["c"]) == "a"
    other_dark = other[draw(200, 4)[1] == 0]
    assert a["real_kid"] == pytest.approx(kid(real[dark], other_dark, seed=0)[0], abs=1e-12)
    assert a["all_real_kid"] == pytest.approx(kid(real[dark], other, seed=0)[0], abs=1e-12)
    assert abs(a["real_kid"]) < 0.01 < 0.1 < a["all_real_kid"]
    assert a["kid"] == pytest.approx(a["all_real_kid"], rel=0.1)
    # Where nothing is known of a site's own other images there is no figure, nor of one image.
    assert "real_kid" not in b
    assert not {"real_kid", "all_real_kid"} & c.keys()
    assert found["per_site_real_say"] == "others"


def test_without_classes_there_is_a_sentence_in_their_place() -> None:
    images, _ = draw(2000, 3)
    found = judge(PoolSupply(images, None, seed=0))
    assert found["per_class"] == {"not_measured": "the generated images bear no class"}
    assert found["spread"] is None


def test_one_draw_has_no_interval_and_the_deviation_of_its_own_estimate() -> None:
    images, labels = draw(2000, 3)
    found = judge(PoolSupply(images, labels, seed=0), num_draws=1)
    assert found["kid_interval"] is None
    assert found["kid_sd"] > 0
    assert found["kid_sd_of_draws"] is None
    assert compare_draws(found, found)["verdict"].startswith("one draw each")


def test_comparison_tells_the_better_and_admits_when_it_cannot() -> None:
    good_images, labels = draw(2000, 3)
    good = judge(PoolSupply(good_images, labels, seed=0), num_draws=8)
    also_good = judge(PoolSupply(draw(2000, 4)[0], labels, seed=0), num_draws=8)
    bad = judge(PoolSupply(draw(2000, 5, deviation=80.0)[0], labels, seed=0), num_draws=8)
    assert compare_draws(good, bad)["verdict"] == "the first is closer to the real images by KID"
    assert compare_draws(bad, good)["verdict"] == "the second is closer to the real images by KID"
    assert compare_draws(good, also_good)["verdict"] == "draws do not tell the two apart by KID"
    difference = compare_draws(good, bad)["kid"]
    assert difference["difference"] == pytest.approx(good["kid"] - bad["kid"])
    assert difference["interval"][1] < 0
    assert compare_draws(good, good)["kid"]["difference"] == 0


def test_interval_of_a_difference_by_welch() -> None:
    # Means 2 and 5, variances 1 and 4 of 3 values each: standard error sqrt(5 / 3), degrees of freedom
    # (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 2) = 50 / 17.
    first = {"kid": 2.0, "draws": {"kid": [1.0, 2.0, 3.0]}}
    second = {"kid": 5.0, "draws": {"kid": [3.0, 5.0, 7.0]}}
    expected = stats.ttest_ind(first["draws"]["kid"], second["draws"]["kid"], equal_var=False).confidence_interval()
    found = compare_draws(first, second)["kid"]
    assert found["difference"] == -3
    assert found["interval"] == pytest.approx([expected.low, expected.high])
