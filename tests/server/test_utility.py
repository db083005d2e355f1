"""Classifiers trained on synthetic images and tested on real ones."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from federation.config import parse_assignments
from federation.diagnoses import find_melanoma_class
from federation.errors import InputError, NotFiniteError
from federation.models.classifier import SmallCNN, fit_classifier
from federation.seeding import numpy_stream
from federation.settings.evaluation import UTILITY_YARDSTICKS, EvaluationSettings
from server.evaluation.predictions import (
    TestImages,
    score_predictions,
    sensitivity_at_specificity,
)
from server.evaluation.utility import (
    RealParts,
    UtilityTerms,
    count_synthetic,
    describe_arm,
    find_rare_classes,
    join_classes,
    judge_utility,
    share_beside_real,
    summarise_recognition,
)
from strategies.configuration import resolve

CLASSES = ("narrow", "wide", "plain", "never")
HAM10000 = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
HAM10000_LABELS = np.repeat(np.arange(7), [203, 331, 619, 73, 642, 3967, 86])


@pytest.fixture(autouse=True)
def _one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread: the same bits everywhere, no threads that wait for each other on a busy machine; an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_stripes(labels: np.ndarray, seed: int, purpose: str = "real") -> np.ndarray:
    """Narrow stripes (class 0), wide stripes (1) or none (2), turned at random, of one mean colour."""
    stream = numpy_stream(seed, f"stripes, {purpose}")
    width = np.array([2, 8, 64])[labels]
    stripes = ((np.arange(32)[None, :] + 64) // width[:, None]) % 2 * 2.0 - 1.0
    stripes[labels == 2] = 0
    images = 128 + 50 * np.broadcast_to(stripes[:, :, None, None], (len(labels), 32, 32, 3))
    turned = stream.random(len(labels)) < 0.5
    images = np.where(turned[:, None, None, None], images.transpose(0, 2, 1, 3), images)
    return np.clip(images + stream.normal(0, 15, images.shape), 0, 255).astype(np.uint8)


class Generator:
    """Draws stripes of the class that is asked for, or of the next one, and remembers what it was asked for."""

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift
        self.asked: list[tuple[str, list[int]]] = []
        self._busy = threading.Lock()

    def __call__(self, labels: np.ndarray, purpose: str) -> np.ndarray:
        assert self._busy.acquire(blocking=False), "two threads draw at once"
        try:
            self.asked.append((purpose, np.bincount(labels, minlength=4).tolist()))
            return draw_stripes((labels + self.shift) % 3, 0, purpose)
        finally:
            self._busy.release()


def settings_of(**values: Any) -> EvaluationSettings:
    chosen = {"utility-steps": 12, "utility-seeds": 1, **{name.replace("_", "-"): it for name, it in values.items()}}
    return resolve([parse_assignments([f"evaluation.{name}={value}" for name, value in chosen.items()])]).evaluation


def judge(generate: Generator | None, arms: tuple[str, ...], **changes: Any) -> dict[str, Any]:
    """Judge with 300 real images to train on, 30 to validate and 90 to test; a third of each class."""
    labels = {name: np.arange(count) % 3 for name, count in (("train", 300), ("validation", 30), ("test", 90))}
    settings = changes.pop("settings", None) or settings_of()
    parts = {}
    for number, (name, values) in enumerate(labels.items()):
        images, given = changes.pop(f"{name}_images", None), changes.pop(f"{name}_labels", values)
        parts[name] = (draw_stripes(values, number) if images is None else images, given)
    progress = changes.pop("progress", None)
    yardsticks = [arm for arm in arms if arm in UTILITY_YARDSTICKS]
    of_generator = [arm for arm in arms if arm not in yardsticks]
    given = {"utility_arms": ",".join(of_generator), "utility_yardsticks": ",".join(yardsticks)}
    settings = settings.model_copy(update=given)
    terms = UtilityTerms(settings=settings, **{"classes": CLASSES, "seed": 0, **changes})
    (train, train_labels), (test, test_labels) = parts["train"], parts["test"]
    sites = {part: np.array(["a", "b"])[np.arange(len(parts[part][1])) % 2] for part in ("train", "test")}
    groups = np.array([f"lesion {number // 2}" for number in range(len(test_labels))])
    real = RealParts(
        train=(train, train_labels),
        train_sites=sites["train"],
        validation=parts["validation"],
        test=TestImages(images=test, labels=test_labels, sites=sites["test"], groups=groups),
    )
    return judge_utility(terms, real, generate, progress=progress)


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "seconds"}


def test_scores_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    probabilities = np.array(
        [[0.9, 0.1, 0], [0.8, 0.2, 0], [0.4, 0.6, 0], [0.7, 0.1, 0.2], [0.3, 0.5, 0.2], [0.1, 0.7, 0.2]]
    )
    scores = score_predictions(labels, probabilities, ["nv", "mel", "df"])
    assert scores["sensitivity"] == {"nv": 0.75, "mel": 1.0, "df": None}
    assert scores["balanced_accuracy"] == 0.875
    # Pairs of one positive and one negative that are ordered rightly: all 8 for nv; for mel .5 beats
    # .1, .2, .1 but not .6, and .7 beats all.
    assert scores["macro_auroc"] == pytest.approx((8 / 8 + 7 / 8) / 2)
    # All four nv must be below the threshold, so it is .6, and .7 alone is above.
    assert scores["melanoma_sensitivity_at_90_specificity"] == 0.5


def test_predictions_of_an_absent_class_count_as_wrong_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_predictions(np.array([1, 1]), np.array([[0.0, 0, 1], [0, 1, 0]]), ["nv", "mel", "df"])
    assert scores == {
        "balanced_accuracy": 0.5,
        "macro_auroc": None,
        "macro_auroc_within_sites": None,
        "melanoma_sensitivity_at_90_specificity": None,
        "calibration_error": 0.5,
        "sensitivity": {"nv": None, "mel": 0.5, "df": None},
    }


def test_calibration_error_by_hand() -> None:
    # .92 and right one time in two: off by .42; .62 and always right: off by .38. Half of the images each.
    probabilities = np.array([[0.92, 0.08], [0.92, 0.08], [0.62, 0.38], [0.38, 0.62]])
    scores = score_predictions(np.array([0, 1, 0, 1]), probabilities, ["a", "b"])
    assert scores["calibration_error"] == pytest.approx(0.40)
    assert scores["melanoma_sensitivity_at_90_specificity"] is None


def test_melanoma_is_found_by_name() -> None:
    assert find_melanoma_class(HAM10000) == "mel"
    assert find_melanoma_class(["NV", "MEL"]) == "MEL"
    assert find_melanoma_class(["Benign", "Malignant"]) == "Malignant"
    assert find_melanoma_class(["nv", "melanocytic"]) is None


def test_sensitivity_at_specificity_by_hand() -> None:
    negatives = np.arange(10) / 10
    positives = np.array([0.05, 0.8, 0.85, 0.95])
    scores, positive = np.concatenate([negatives, positives]), np.arange(14) >= 10
    # 9 of 10 negatives may not be above: .8 is the threshold, and a score that equals it is not above.
    assert sensitivity_at_specificity(positive, scores, specificity_percent=90) == 0.5
    # 10 of 11, since 9 are less than 90 %: the threshold is .9.
    scores, positive = np.concatenate([[0.97], scores]), np.concatenate([[False], positive])
    assert sensitivity_at_specificity(positive, scores, specificity_percent=90) == 0.25


def test_sensitivity_at_specificity_is_a_point_of_the_roc_curve() -> None:
    stream = numpy_stream(0, "scores")
    for _ in range(20):
        positive = stream.random(57) < 0.3
        scores = (stream.random(57) + 0.3 * positive).round(1)  # many ties
        false_positive, true_positive, _ = roc_curve(positive, scores, drop_intermediate=False)
        best = true_positive[false_positive <= 0.1].max()
        assert sensitivity_at_specificity(positive, scores, specificity_percent=90) == pytest.approx(best)


def test_rare_classes_and_what_each_arm_gets_of_ham10000() -> None:
    rare = find_rare_classes(HAM10000_LABELS, 7)
    assert [HAM10000[label] for label in rare] == ["akiec", "bcc", "df", "vasc"]

    def count(arm: str, ratio: float = 1.0) -> list[int]:
        return count_synthetic(arm, HAM10000_LABELS, num_classes=7, ratio=ratio).tolist()

    assert count("real") == [0] * 7
    assert count("synthetic", 3.0) == [846, 846, 846, 846, 846, 846, 845]  # 5,921, whatever the ratio
    assert count("real+synthetic", 0.1) == [85, 85, 85, 85, 84, 84, 84]  # 592
    assert count("rare") == [846 - 203, 846 - 331, 0, 846 - 73, 0, 0, 846 - 86]


def test_a_class_without_training_images_is_neither_rare_nor_asked_for() -> None:
    labels = np.repeat([0, 2], [12, 4])
    assert find_rare_classes(labels, 3).tolist() == []  # 4 is half of 8, and not less
    assert find_rare_classes(np.repeat([0, 2], [13, 3]), 3).tolist() == [2]
    assert count_synthetic("synthetic", labels, num_classes=3, ratio=1.0).tolist() == [8, 0, 8]


def test_the_first_images_of_each_class_are_joined() -> None:
    synthetic = {1: np.arange(4, dtype=np.uint8).repeat(12).reshape(4, 2, 2, 3), 2: np.full((3, 2, 2, 3), 9, np.uint8)}
    images, labels = join_classes(synthetic, np.array([0, 2, 1]))
    assert images[:, 1, 1, 2].tolist() == [0, 1, 9]
    assert labels.tolist() == [1, 1, 2]


def test_no_class_has_more_synthetic_images_than_real_ones() -> None:
    def share(arm: str) -> float:
        counts = count_synthetic(arm, HAM10000_LABELS, num_classes=7, ratio=3.0)
        return share_beside_real(arm, HAM10000_LABELS, counts)

    assert share("real+synthetic") == share("real+gaussian") == share("real+permuted") == 1.0
    assert share("rare") == 4 / 7  # four of seven classes, each as often as its real images


def test_arms_describe_themselves() -> None:
    counts = count_synthetic("rare", HAM10000_LABELS, num_classes=7, ratio=1.0)
    assert describe_arm("rare", 5921, counts, HAM10000) == (
        "5,921 real images, augmented, with rare classes drawn as often as the others; in the rare classes as many "
        "synthetic ones beside them: akiec (+643), bcc (+515), df (+773), vasc (+760)."
    )


def test_recognition_by_hand() -> None:
    asked = np.array([0, 0, 2, 2])
    summary = summarise_recognition(asked, [np.array([0, 1, 2, 2]), np.array([0, 2, 2, 2])], ["a", "b", "c"])
    assert summary["num_generated"] == 4
    assert summary["mean"]["values"] == [0.75, 0.75]
    assert summary["share"]["a"]["values"] == [0.5, 0.5]
    assert summary["share"]["b"] is None
    assert summary["share"]["c"]["mean"] == 1.0
    assert summary["confusion"] == [[0.5, 0.25, 0.25], [0, 0, 0], [0, 0, 1.0]]
    assert summary["chance"] == 0.5
    balance = summary["class_balance"]
    assert balance["asked"] == {"a": 0.5, "b": 0.0, "c": 0.5}
    assert balance["recognised"] == {"a": 0.25, "b": 0.125, "c": 0.625}
    assert balance["total_variation"]["values"] == [0.25, 0.25]


def test_good_synthetic_images_serve_and_mislabelled_ones_do_not() -> None:
    settings = settings_of(utility_steps=50)
    serving = judge(Generator(), ("real", "synthetic"), settings=settings)
    misleading = judge(Generator(shift=1), ("real", "synthetic"), settings=settings)
    assert serving["arms"]["real"] == misleading["arms"]["real"]
    real, synthetic = serving["arms"]["real"], serving["arms"]["synthetic"]
    assert real["balanced_accuracy"]["mean"] > 0.9
    assert real["macro_auroc"]["mean"] > 0.95
    assert synthetic["balanced_accuracy"]["mean"] > 0.9
    assert synthetic["sensitivity"]["wide"]["mean"] > 0.8
    assert synthetic["sensitivity"]["never"] is None
    assert misleading["arms"]["synthetic"]["balanced_accuracy"]["mean"] < 0.4
    assert (real["num_train_images"], real["num_synthetic_images"]) == (300, 0)
    assert (synthetic["num_train_images"], synthetic["num_synthetic_images"]) == (300, 300)
    # The generator that takes one class for another is found out, though it draws all of them alike.
    assert serving["recognised"]["mean"]["mean"] > 0.9
    assert serving["recognised"]["real_share"] == real["sensitivity"]
    assert misleading["recognised"]["mean"]["mean"] < 0.1
    assert misleading["recognised"]["class_balance"]["total_variation"]["mean"] < 0.1
    assert np.array(misleading["recognised"]["confusion"])[[0, 1, 2], [1, 2, 0]].min() > 0.8
    assert {name: serving[name] for name in ("classifier", "steps", "num_seeds", "melanoma_class")} == {
        "classifier": "slim-cnn-32",
        "steps": 50,
        "num_seeds": 1,
        "melanoma_class": None,
    }
    assert (serving["num_test_images"], serving["num_validation_images"]) == (90, 30)
    assert serving["classes"] == list(CLASSES)
    assert serving["classes_without_test_images"] == serving["classes_without_train_images"] == ["never"]


def test_one_worker_or_two_same_figures_and_each_seed_has_images_of_its_own() -> None:
    labels = np.repeat([0, 1, 2], [60, 60, 10])  # the last one is rare
    changes = {"train_images": draw_stripes(labels, 5), "train_labels": labels}
    arms = ("real", "synthetic", "real+synthetic", "rare")
    settings = settings_of(utility_seeds=2, utility_steps=10, utility_ratio=0.5)
    generators = [Generator(), Generator()]
    calls: list[tuple[str, int, int]] = []
    one = judge(generators[0], arms, settings=settings, threads=1, **changes)
    two = judge(generators[1], arms, settings=settings, threads=2, progress=lambda *call: calls.append(call), **changes)
    assert without_seconds(one) == without_seconds(two)
    assert torch.get_num_threads() == 1

    asked = dict(generators[0].asked)
    assert generators[0].asked == generators[1].asked
    assert len(asked) == len(generators[0].asked) == 12  # 3 classes to train on and to be recognised, 2 seeds
    # 130 / 3 for `synthetic`; it has no class of fewer than `rare` needs, 43 - 10.
    assert asked["utility, seed 0, narrow"] == [44, 0, 0, 0]
    assert asked["utility, seed 1, plain"] == [0, 0, 43, 0]
    assert asked["recognised, seed 1, wide"] == [0, 100, 0, 0]
    assert {name: (arm["num_train_images"], arm["num_synthetic_images"]) for name, arm in two["arms"].items()} == {
        "real": (130, 0),
        "synthetic": (130, 130),
        "real+synthetic": (195, 65),
        "rare": (163, 33),
    }
    assert two["rare_classes"] == ["plain"]
    for arm in two["arms"].values():
        first, second = arm["calibration_error"]["values"]
        assert first != second  # seeds differ

    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert calls[-1][1:] == (80, 80)
    assert {description for description, _, _ in calls} >= {
        "classifier, rare images, seed 1 of 2",
        "classifier, real+synthetic images, seed 2 of 2",
        "synthetic images, wide, seed 2 of 2",
    }


def test_test_images_choose_nothing() -> None:
    seen = judge(Generator(), ("real",))
    labels = np.arange(50) % 3
    other = judge(Generator(), ("real",), test_images=draw_stripes(labels, 9), test_labels=(labels + 1) % 3)
    assert other["arms"]["real"]["balanced_accuracy"] != seen["arms"]["real"]["balanced_accuracy"]
    for name in ("mean", "share", "confusion"):
        assert other["recognised"][name] == seen["recognised"][name]


def test_what_cannot_be_measured_says_why() -> None:
    assert judge(None, ("real", "synthetic")) == {
        "not_measured": "an unconditional generator gives no labels to train a classifier on"
    }
    one_class = judge(Generator(), ("real",), train_labels=np.zeros(300, dtype=np.int64))
    assert one_class == {"not_measured": "training images are of one class, and a classifier needs two to tell apart"}
    reason = {"not_measured": "no class is rare: each has at least half of an even share of the training images"}
    assert judge(Generator(), ("rare",)) == reason
    result = judge(Generator(), ("synthetic", "rare"))
    assert result["arms"]["rare"] == reason
    assert result["rare_classes"] == []
    assert result["recognised"] == {
        "not_measured": "no classifier was trained on real images alone: evaluation.utility-arms leaves out real"
    }


def test_weights_that_are_not_there_are_refused_before_anything_is_drawn() -> None:
    generator = Generator()
    settings = settings_of(utility_classifier="efficientnet-b2", utility_weights="/nowhere/b2.pth")
    with pytest.raises(InputError, match=r"EfficientNet-B2 weights /nowhere/b2\.pth: cannot be read"):
        judge(generator, ("real",), settings=settings)
    assert generator.asked == []


def test_interrupt_does_not_wait_for_classifiers() -> None:
    before = threading.active_count()

    def interrupt(description: str, done: int, total: int) -> None:
        if done == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    # A process that was started in the background ignores the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            judge(
                Generator(),
                ("real", "synthetic"),
                settings=settings_of(utility_steps=1_000_000),
                threads=2,
                progress=interrupt,
            )
    finally:
        signal.signal(signal.SIGINT, handler)
    assert threading.active_count() == before


def test_error_in_one_classifier_stops_the_others() -> None:
    calls: list[int] = []

    def fail(description: str, done: int, total: int) -> None:
        calls.append(done)
        if description.startswith("classifier, synthetic") and done > 5:
            raise NotFiniteError("the loss is nan")

    with pytest.raises(NotFiniteError, match="the loss is nan"):
        judge(
            Generator(),
            ("real", "synthetic"),
            settings=settings_of(utility_steps=1_000_000),
            threads=2,
            progress=fail,
        )
    assert calls[-1] < 1000


def test_classifiers_of_real_images_are_trained_once_for_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a benchmark the strategies of a seed share them; figures and progress are those of trained ones."""
    trained: list[str] = []

    def counted(classifier: Any, *arguments: Any, **options: Any) -> Any:
        trained.append(options["description"].split(",")[1])
        return fit_classifier(classifier, *arguments, **options)

    monkeypatch.setattr("server.evaluation.utility.fit_classifier", counted)
    steps: list[int] = []
    arms = ("real", "synthetic")
    first = judge(Generator(), arms, progress=lambda description, done, total: steps.append(done))
    assert trained == [" real images", " synthetic images"]
    again = judge(Generator(), arms, progress=lambda description, done, total: steps.append(done))
    assert trained == [" real images", " synthetic images", " synthetic images"]
    assert without_seconds(again) == without_seconds(first)
    assert (max(steps), steps[-1]) == (24, 24)
    judge(Generator(), arms, seed=1)
    assert trained[3:] == [" real images", " synthetic images"]


def test_real_images_are_shown_as_often_whatever_comes_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real images of each step, and how they are augmented, are the same to the bit in all arms that have any."""
    seen: dict[str, list[torch.Tensor]] = {}
    sizes: dict[str, set[int]] = {}
    original = SmallCNN.forward

    def forward(network: SmallCNN, images: torch.Tensor) -> Any:
        if network.training:
            seen[arm].append(images[: SmallCNN.batch_size].clone())
            sizes[arm].add(len(images))
        return original(network, images)

    monkeypatch.setattr(SmallCNN, "forward", forward)
    for arm in ("real", "real+synthetic", "rare", "real+gaussian", "real+permuted", "synthetic"):
        seen[arm], sizes[arm] = [], set()
        labels = np.repeat([0, 1, 2], [60, 60, 10])
        judge(Generator(), (arm,), train_images=draw_stripes(labels, 5), train_labels=labels)
    shown = torch.cat(seen.pop("real"))
    synthetic = seen.pop("synthetic")
    for batches in seen.values():
        assert torch.equal(torch.cat(batches), shown)
    assert not torch.equal(torch.cat(synthetic), shown)
    # Beside 64 real ones of three classes as many synthetic ones, and of one rare class a third of that.
    assert sizes == {
        "real": {64},
        "real+synthetic": {128},
        "rare": {64 + 21},
        "real+gaussian": {128},
        "real+permuted": {128},
        "synthetic": {64},
    }


def test_yardsticks_say_what_junk_is_worth() -> None:
    arms = ("real", "synthetic", "gaussian", "real+synthetic", "real+permuted")
    found = judge(Generator(), arms, settings=settings_of(utility_steps=25))
    accuracy = {arm: entry["balanced_accuracy"]["mean"] for arm, entry in found["arms"].items()}
    unsure = {arm: entry["calibration_error"]["mean"] for arm, entry in found["arms"].items()}
    assert accuracy["real+synthetic"] > 0.8
    assert unsure["real+permuted"] > unsure["real+synthetic"] + 0.1
    assert "minus_real" not in found["arms"]["real"]
    apart = found["arms"]["real+permuted"]["minus_real"]["balanced_accuracy"]
    assert apart["mean"] == pytest.approx(accuracy["real+permuted"] - accuracy["real"])
    assert apart["whole_interval"] is None  # one seed
    assert apart["test_interval"][0] <= apart["mean"] <= apart["test_interval"][1]
    # Classes do not depend on the site here: it says nothing.
    assert found["site_alone"]["macro_auroc"]["mean"] == pytest.approx(0.5, abs=0.1)
    assert found["site_alone"]["macro_auroc_within_sites"]["mean"] == 0.5
