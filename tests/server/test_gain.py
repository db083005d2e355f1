"""What a hospital gains: junk does not help, what is good helps the more the better it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from federation.config import parse_assignments
from federation.models.classifier import SmallCNN
from federation.seeding import numpy_stream
from server.evaluation.gain import GAIN_IS_OFF, Hospital, judge_gain
from server.evaluation.predictions import TestImages
from server.evaluation.summary_text import describe_judgement
from server.evaluation.utility import UtilityTerms
from server.evaluation.yardsticks import blurred, pca_gaussian
from server.report.gain import gain_picture, gain_sentence, gain_table
from strategies.configuration import resolve

CLASSES = ("bright", "dark", "both", "noise")
NAMES = ("east", "west")
SHARES = (20, 60, 100)


@pytest.fixture(autouse=True)
def _small(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "gain-cache"))
    monkeypatch.setattr(SmallCNN, "batch_size", 16)


def draw_spots(labels: np.ndarray, purpose: str) -> np.ndarray:
    """Bright spots (class 0), dark ones (1), some of each (2), and noise (3): of one mean and one covariance.

    So a Gaussian of a class's pixels says nothing of the class, and what a classifier learns is what images show.
    """
    stream = numpy_stream(0, f"spots, {purpose}")
    count = len(labels)
    places = stream.random((count, 32, 32)) < 6 / 32**2
    signs = np.where(stream.random((count, 32, 32)) < 0.5, 1.0, -1.0)
    signs = np.select([labels[:, None, None] == 0, labels[:, None, None] == 1], [1.0, -1.0], signs)
    marks = np.where(labels[:, None, None] == 3, stream.normal(0, 1, (count, 32, 32)), places * signs)
    blurry = gaussian_filter(marks, sigma=(0, 1.5, 1.5), mode="wrap")
    blurry = (blurry - blurry.mean((1, 2), keepdims=True)) / (blurry.std((1, 2), keepdims=True) + 1e-3)
    images = (
        128 + 30 * blurry[..., None] + stream.normal(0, 8, (count, 32, 32, 3)) + stream.normal(0, 8, (count, 1, 1, 1))
    )
    return np.clip(images, 0, 255).astype(np.uint8)


def hospital(name: str, labels: np.ndarray, own: np.ndarray | None = None) -> Hospital:
    return Hospital(name=name, train=(draw_spots(labels, f"train {name}"), labels), own_test=own)


TEST_LABELS = np.arange(240) % 4
TEST_SITES = np.array(NAMES, dtype=object)[np.arange(240) // 4 % 2]


@pytest.fixture(scope="module")
def measure() -> Callable[..., dict[str, Any]]:
    """Judge: east has few images of three classes, west of two."""
    held = {"east": np.repeat([0, 1, 2], [12, 8, 6]), "west": np.repeat([2, 3], [10, 14])}
    hospitals = [hospital(name, held[name], name == TEST_SITES) for name in NAMES]
    pooled = tuple(np.concatenate([one.train[place] for one in hospitals]) for place in (0, 1))
    test = TestImages(
        images=draw_spots(TEST_LABELS, "test"),
        labels=TEST_LABELS,
        sites=TEST_SITES,
        groups=np.array([f"patient {number // 4}" for number in range(240)], dtype=object),
    )

    def judge(generate: Callable[[np.ndarray, str], np.ndarray] | None, **changes: Any) -> dict[str, Any]:
        given = (f"evaluation.utility-steps={changes.pop('steps', 40)}", "evaluation.utility-seeds=2")
        settings = resolve([parse_assignments(given)]).evaluation
        terms = UtilityTerms(settings=settings, classes=CLASSES, seed=0, threads=changes.pop("threads", 1))
        who = changes.pop("hospitals", hospitals)
        return judge_gain(terms, who, pooled, test, "test", generate, **changes)  # type: ignore[arg-type]

    return judge


def gains(found: dict[str, Any], view: str = "common") -> list[tuple[float, float]]:
    """Return mean and lower end of each hospital's gain."""
    entries = [entry["gain"][view]["balanced_accuracy"] for entry in found["hospitals"]]
    return [(entry["mean"], entry["whole_interval"][0]) for entry in entries]


def worth(share: float) -> Callable[[np.ndarray, str], np.ndarray]:
    """Return a generator of which so many images show the class that was asked for, and the others any."""

    def generate(labels: np.ndarray, purpose: str) -> np.ndarray:
        stream = numpy_stream(2, purpose)
        shown = np.where(stream.random(len(labels)) < share, labels, stream.integers(4, size=len(labels)))
        return draw_spots(shown, f"held out, {purpose}")

    return generate


def repeated(labels: np.ndarray, purpose: str) -> np.ndarray:
    return np.repeat(draw_spots(np.array([0]), "one image"), len(labels), axis=0)


def permuted(labels: np.ndarray, purpose: str) -> np.ndarray:
    return draw_spots(numpy_stream(1, purpose).permutation(4)[labels * 0 + np.arange(len(labels)) % 4], purpose)


def gaussian(labels: np.ndarray, purpose: str) -> np.ndarray:
    return np.concatenate(
        [
            pca_gaussian(draw_spots(np.full(20, label), f"fitted {label}"), int((labels == label).sum()), seed=3)
            for label in np.unique(labels)
        ]
    )


def blurred_of_others(labels: np.ndarray, purpose: str) -> np.ndarray:
    return blurred(draw_spots((labels + 1) % 4, purpose), 8)


@pytest.mark.parametrize("junk", [permuted, gaussian, repeated, blurred_of_others])
def test_junk_is_no_gain(measure: Callable[..., dict[str, Any]], junk: Callable[..., np.ndarray]) -> None:
    found = measure(junk)
    assert all(lower <= 0 for _, lower in gains(found))
    assert found["mean"]["balanced_accuracy"]["whole_interval"][0] <= 0
    assert found["mean"]["balanced_accuracy"]["mean"] < 0.05
    assert "gain nothing" in gain_sentence(found) or "lose" in gain_sentence(found)


@pytest.fixture(scope="module")
def known(measure: Callable[..., dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Held-out images of the right class in the generator's place, by their share in percent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SmallCNN, "batch_size", 16)
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        found = {percent: measure(worth(percent / 100)) for percent in SHARES}
        torch.set_num_threads(before)
        return found


def test_a_generator_of_known_worth_gains_the_more_the_better_it_is(known: dict[int, dict[str, Any]]) -> None:
    means = [known[percent]["mean"]["balanced_accuracy"]["mean"] for percent in SHARES]
    assert means[0] < means[1] < means[2]
    best = known[100]
    assert best["mean"]["balanced_accuracy"]["test_interval"][0] > 0
    assert all(mean > 0.05 for mean, _ in gains(best))
    # Of the way to pooled images nothing is said where these are not surely better than own ones.
    share = best["mean"]["balanced_accuracy"]["share_of_way_to_pooled"]
    assert share is None or 0.5 < share < 3
    # Classes that a hospital has no image of are found with the generator alone.
    for entry, others in zip(best["hospitals"], (1, 2), strict=True):
        assert entry["arms"]["own"]["others"]["balanced_accuracy"]["mean"] == 0
        assert entry["gain"]["others"]["balanced_accuracy"]["mean"] > 0.2
        assert len(entry["held"]) == 4 - others


def test_what_is_said_of_each_hospital(known: dict[int, dict[str, Any]]) -> None:
    east, west = known[100]["hospitals"]
    assert (east["name"], east["num_train_images"], east["held"]) == ("east", 26, ["bright", "dark", "both"])
    assert (west["num_own_test_images"], west["judged"]) == (120, True)
    assert set(east["arms"]) == {"own", "own+synthetic", "own+permuted", "own+gaussian"}
    common, own = (east["arms"]["own"][view]["balanced_accuracy"] for view in ("common", "own"))
    assert common["values"] != own["values"]
    # A gain is above the best of the three, and its interval no better than against any of them.
    gain = east["gain"]["common"]["balanced_accuracy"]
    means = {arm: entry["common"]["balanced_accuracy"]["mean"] for arm, entry in east["arms"].items()}
    with_it = means.pop("own+synthetic")
    assert gain["over"] == max(means, key=lambda arm: means[arm])
    assert gain["mean"] == pytest.approx(with_it - max(means.values()))
    references = known[100]["references"]
    assert references["pooled"]["common"]["balanced_accuracy"]["mean"] > 0.3
    assert references["federated"]["common"]["macro_auroc"]["mean"] > 0.5


def test_own_images_are_shown_alike_whatever_comes_beside_them(known: dict[int, dict[str, Any]]) -> None:
    first, last = (
        [entry["arms"][arm]["common"]["balanced_accuracy"]["values"] for entry in known[percent]["hospitals"]]
        for percent, arm in ((20, "own"), (100, "own"))
    )
    assert first == last


def test_words_and_tables(known: dict[int, dict[str, Any]]) -> None:
    found = known[100]
    sentence = gain_sentence(found)
    assert sentence.startswith("By generated images beside their own, classifiers of the 2 hospitals gain")
    table = gain_table(found)
    assert [str(row[0].content) for row in table.bodies[0].rows] == ["east", "west", "Mean"]
    assert {len(row) for row in table.bodies[0].rows} == {len(table.columns)}
    picture = gain_picture(found)
    assert picture is not None
    assert "no gain" in picture.svg
    lines = list(describe_judgement({"gain": found, **nothing_else()}))
    assert lines[0].startswith("what each hospital gains, balanced accuracy on 240 real test images above the best")
    assert lines[1].startswith("  east  +0.")
    assert lines[3].startswith("  mean  +0.")
    off = list(describe_judgement({"gain": {"not_measured": GAIN_IS_OFF}, **nothing_else()}))
    assert not any(line.startswith("what each hospital gains") for line in off)


def nothing_else() -> dict[str, Any]:
    figures = dict.fromkeys(("kid", "fid", "precision", "recall", "coverage", "vendi"))
    test = {"num_generated": 1, "num_real": 1, "part": "test", "num_draws": 1, "extractor": "x", "fid_caveat": ""}
    absent = {"not_measured": "it is not"}
    return {"test": {**test, **figures, "real": figures}, "utility": absent, "authenticity": absent}


def test_who_cannot_be_judged_is_shown(measure: Callable[..., dict[str, Any]]) -> None:
    hospitals = [hospital("one class", np.full(6, 1)), hospital("two", np.array([0, 0, 2, 2]))]
    found = measure(worth(1.0), hospitals=hospitals, steps=10)
    assert found["hospitals"][0]["judged"] == "its training images are of one class"
    assert found["hospitals"][0]["gain"]["common"]["balanced_accuracy"]["mean"] is not None
    assert found["hospitals"][0]["gain"]["own"]["balanced_accuracy"] is None  # hospitals that are no sites
    assert found["mean"]["num_hospitals"] == 1
    assert str(gain_table(found).bodies[0].rows[0][0].note) == "not judged: its training images are of one class"


def test_what_cannot_be_measured_says_why(measure: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    assert "unconditional" in measure(None)["not_measured"]
    alone = [hospital("alone", np.array([0, 1]))]
    assert measure(repeated, hospitals=alone)["not_measured"] == "there is one hospital, and nothing to join"


def test_two_workers_find_the_same_and_progress_is_whole(
    measure: Callable[..., dict[str, Any]], known: dict[int, dict[str, Any]]
) -> None:
    calls: list[tuple[int, int]] = []
    generate = worth(1.0)
    found = measure(generate, threads=2, progress=lambda _, done, total: calls.append((done, total)))
    assert {**found, "seconds": 0} == {**known[100], "seconds": 0}
    # 2 seeds of 40 steps: 4 arms at 2 hospitals, pooled, and both hospitals in the federation.
    assert (880, 880) in calls
    assert calls[-1] == (1, 2)  # the intervals of two hospitals


@pytest.fixture(autouse=True, scope="module")
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
