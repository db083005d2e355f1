"""The second extractor speaks beside the first, and it is said where the two put images in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from federation.metrics.fidelity import fid, kid
from federation.metrics.image_statistics import image_statistics
from federation.seeding import numpy_stream
from server.evaluation.scores import RealSet, Reference, SiteReference, compare_draws, score_supply
from server.evaluation.second_opinion import SecondOpinion, SecondReference, disagreements
from server.evaluation.summary_text import describe_comparison, describe_judgement, second_lines
from server.evaluation.supply import PoolSupply
from server.report.judgements import second_sentences


class Brightness:
    """An extractor that sees the mean red, green and blue, and nothing else."""

    name, num_features, preprocessing = "brightness@0001", 3, "8-bit RGB"

    def features(self, images: np.ndarray) -> np.ndarray:
        return (images.mean((1, 2)) - 128) / 20


class Texture:
    """An extractor that sees how much neighbours differ, by colour, and nothing else."""

    name, num_features, preprocessing = "texture@0002", 3, "8-bit RGB"

    def features(self, images: np.ndarray) -> np.ndarray:
        return (np.abs(np.diff(images.astype(float), axis=1)).mean((1, 2)) - 11.3) / 2.3


def draw(count: int, seed: int, *, colours: float = 1.0, texture: float = 10.0) -> np.ndarray:
    stream = numpy_stream(seed, "images")
    means = 128 + 20 * colours * stream.normal(size=(count, 1, 1, 3))
    strength = texture * (1 + 0.2 * stream.normal(size=(count, 1, 1, 3)))
    return np.clip(means + strength * stream.normal(size=(count, 16, 16, 3)), 0, 255).astype(np.uint8)


def judge(images: np.ndarray, num_draws: int = 4) -> dict[str, Any]:
    """Judge a pool of images by brightness, and by texture as the second opinion."""
    real, train = draw(300, 1), draw(300, 2)
    first, second = Brightness(), Texture()
    features = second.features(real)
    yardstick = draw(300, 3, colours=0.4, texture=7)  # worse than real by both
    opinion = SecondOpinion(
        PoolSupply(images, None, seed=0),
        SecondReference(
            extractor=second,
            real=features,
            labels=np.zeros(len(real), dtype=np.int64),
            stand_in=second.features(train),
            real_pixels=image_statistics(real),
            stand_in_pixels=image_statistics(train),
            yardsticks={"kid_pca_gaussian": kid(features, second.features(yardstick))[0]},
            first_yardsticks={"kid_pca_gaussian": kid(first.features(real), first.features(yardstick))[0]},
            seed=0,
        ),
    )
    scores = score_supply(
        opinion.supply,
        first,
        Reference(
            real=RealSet(first.features(real), np.zeros(300, int), np.full(300, "a", dtype=object)),
            train_features=first.features(train),
            sites=SiteReference({}, "none"),
            classes=("all",),
            part="test",
        ),
        num_draws=num_draws,
        seed=0,
    )
    return scores | opinion.sections(scores)


@pytest.fixture(scope="module")
def flat() -> dict[str, Any]:
    """Images of the right colours and of hardly any texture: good by the first extractor, bad by the second."""
    return judge(draw(2000, 4, texture=3))


def test_the_second_sees_the_very_images_of_every_draw() -> None:
    images = draw(500, 5)
    found = judge(images)
    supply, extractor, real = PoolSupply(images, None, seed=0), Texture(), Texture().features(draw(300, 1))
    drawn = [
        extractor.features(np.concatenate(list(supply.draw(np.zeros(300, int), f"draw {number}")[1])))
        for number in range(4)
    ]
    second = found["second"]
    assert second["extractor"] == "texture@0002"
    assert second["kid"] == pytest.approx(np.mean([kid(real, rows)[0] for rows in drawn]), abs=1e-12)
    assert second["fid"] == pytest.approx(np.mean([fid(real, rows) for rows in drawn]), abs=1e-9)
    assert len(second["draws"]["kid"]) == 4
    assert second["kid_interval"][0] < second["kid"] < second["kid_interval"][1]
    # Another set of real images is told from neither.
    assert second["disagreements"] == []
    assert second["real"]["kid"] == pytest.approx(second["kid"], abs=0.02)
    np.testing.assert_allclose(found["spectrum"]["ratio"], 1, atol=0.1)
    np.testing.assert_allclose(found["colours"]["ratio"], 1, atol=0.1)


def test_what_the_first_cannot_see_the_second_says_and_the_two_are_said_to_disagree(flat: dict[str, Any]) -> None:
    assert flat["kid"] < flat["second"]["first_yardsticks"]["kid_pca_gaussian"]
    assert flat["second"]["kid"] > flat["second"]["yardsticks"]["kid_pca_gaussian"]
    (entry,) = flat["second"]["disagreements"]
    assert (entry["against"], entry["first"], entry["second"]) == ("kid_pca_gaussian", "better", "worse")
    lines = list(second_lines(flat))
    (line,) = (line for line in lines if "disagree" in line)
    assert line == f"  the two extractors disagree: {entry['say']}"
    assert entry["say"].startswith("generated images are better than a Gaussian on 64 components by brightness@0001 (")
    assert ", and worse by texture@0002 (" in entry["say"]
    # Texture of 3 in place of 10 has a tenth of the power; colours are as varied as real ones.
    assert flat["spectrum"]["ratio"][-1] == pytest.approx(0.09, abs=0.02)
    assert f"The two extractors disagree: {entry['say']}." in second_sentences(flat)
    assert "By a second extractor (texture@0002) the KID is" in second_sentences(flat)
    assert any(line.startswith("  spectrum   power beside real images', from 1 cycle") for line in lines)
    assert any(line.startswith("  colours    mean red, green and blue vary") for line in lines)


def test_half_of_the_variety_of_colours_is_said() -> None:
    found = judge(draw(1500, 6, colours=0.5))
    np.testing.assert_allclose(found["colours"]["ratio"], 0.5, atol=0.05)
    np.testing.assert_allclose(found["colours"]["real"], 1, atol=0.12)


def test_without_an_interval_on_both_sides_nothing_is_contradicted() -> None:
    first = {"extractor": "a", "kid": 0.3, "kid_interval": [0.2, 0.4], "real": {"kid": 0.01}}
    second = {
        "extractor": "b",
        "kid": 0.7,
        "kid_interval": [0.6, 0.8],
        "real": {"kid": 0.02},
        "yardsticks": {"kid_blurred_8": 0.5, "kid_blurred_16": 0.9},
        "first_yardsticks": {"kid_blurred_8": 0.5, "kid_blurred_16": 0.1},
    }
    found = {entry["against"]: (entry["first"], entry["second"]) for entry in disagreements(first, second)}
    assert found == {"kid_blurred_16": ("worse", "better"), "kid_blurred_8": ("better", "worse")}
    for without in (first | {"kid_interval": None}, first | {"kid_interval": [0.05, 0.6]}):
        assert list(disagreements(without, second)) == []
    assert list(disagreements(first, second | {"first_yardsticks": {}})) == []  # too dear: only real images are left


def test_two_sources_in_another_order_by_each_are_ranked_by_neither(flat: dict[str, Any]) -> None:
    pale = judge(draw(2000, 7, colours=0.3))
    found = compare_draws(flat, pale)
    assert found["verdict"] == "the first is closer to the real images by KID"
    assert found["second"]["verdict"] == "the second is closer to the real images by KID"
    assert found["second"]["disagreement"].startswith("the two extractors disagree: the first is closer")
    lines = list(describe_comparison(found))
    assert lines[-1] == found["second"]["disagreement"]
    assert not [line for line in lines if line.startswith("  second ")]
    good = compare_draws(judge(draw(2000, 8)), flat)
    assert good["second"]["disagreement"] == ""
    # What an earlier version judged has no second opinion.
    assert "second" not in compare_draws({key: value for key, value in flat.items() if key != "second"}, pale)


def test_a_judgement_of_an_earlier_version_is_described_as_it_was(flat: dict[str, Any]) -> None:
    whole = {"test": flat, "utility": {"not_measured": "-"}, "authenticity": {"not_measured": "-"}}
    new = ("second", "spectrum", "colours")
    earlier = whole | {"test": {key: value for key, value in flat.items() if key not in new}}
    kept = [line for line in describe_judgement(whole) if line not in set(second_lines(flat))]
    assert list(describe_judgement(earlier)) == kept
    assert list(second_lines(earlier["test"])) == []
    assert second_sentences(earlier["test"]) == ""
