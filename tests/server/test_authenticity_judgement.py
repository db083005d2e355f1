"""A generator that copies is caught, an honest one is not, and a judge that cannot tell says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_partitions.dataset import load_images
from data_partitions.sources import load_index
from data_partitions.split import split_parts
from federation.run_directory import to_json
from federation.seeding import numpy_stream
from federation.settings.data import DataSettings
from server.evaluation.attacks import ATTACKS, UPLOADS, read_membership, words_of
from server.evaluation.authenticity import (
    ComparedImages,
    RealImages,
    TrainedNetworks,
    Upload,
    draw_closest_pairs,
    judge_authenticity,
)
from server.evaluation.generated_images import ClosestPairs
from server.evaluation.summary_text import _authenticity_lines

SIDE = 32


class Colours:
    """Mean colours on a grid of 4 x 4: cheap, and another for every image."""

    name = "colours"
    num_features = 48
    resolution = None
    preprocessing = "none"

    def features(self, images: np.ndarray) -> np.ndarray:
        step = images.shape[1] // 4
        grid = images.reshape(len(images), 4, step, 4, step, 3).mean((2, 4))
        return grid.reshape(len(images), -1) / 127.5 - 1


class Memory(Colours):
    """An extractor that knows the training images by heart and puts them far from all others."""

    name = "memory"

    def __init__(self, train: RealImages) -> None:
        self.known = {self._key(image) for image in train.images}

    @staticmethod
    def _key(image: np.ndarray) -> bytes:
        return np.sort(image, axis=None).tobytes()  # the same in every orientation

    def features(self, images: np.ndarray) -> np.ndarray:
        is_known = np.array([self._key(image) in self.known for image in images])
        return super().features(images) + 10 * is_known[:, None]


def real_images(count: int, seed: int, prefix: str, *, per_group: int = 1, site: str = "") -> RealImages:
    """Blotches on skin; images of one group are the same lesion, seen again with noise."""
    stream = numpy_stream(seed, "blotches")
    num_groups = -(-count // per_group)
    axis = np.linspace(-1, 1, SIDE)
    lesions = np.empty((num_groups, SIDE, SIDE, 3))
    for lesion in lesions:
        depth = np.zeros((SIDE, SIDE))
        for _ in range(5):
            x, y = stream.uniform(-0.7, 0.7, 2)
            width, height = stream.uniform(0.15, 0.5, 2)
            depth += np.exp(-(((axis[None] - x) / width) ** 2) - ((axis[:, None] - y) / height) ** 2)
        lesion[:] = [220, 180, 160] - depth[..., None] * stream.uniform(20, 50, 3)
    rows = np.arange(count) // per_group
    images = np.clip(lesions[rows] + stream.normal(0, 3, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    sites = np.array(["north", "south"])[rows % 2] if not site else np.repeat(site, count)
    return RealImages(
        images=images,
        labels=stream.integers(3, size=num_groups)[rows],
        groups=np.array([f"{prefix}-{number}" for number in rows], dtype=object),
        sites=sites.astype(object),
        ids=np.array([f"{prefix}-{number:04d}" for number in range(count)], dtype=object),
    )


TRAIN = real_images(240, 0, "train")
TEST = real_images(240, 1, "test")
FRESH = real_images(200, 2, "fresh").images


def judge(generated: np.ndarray, **given: Any) -> tuple[dict[str, Any], ClosestPairs]:
    images = ComparedImages(
        generated=given.pop("batches", [generated]),
        num_generated=len(generated),
        classes=given.pop("classes", ()),
        train=given.pop("train", TRAIN),
        test=given.pop("test", TEST),
        known_groups="lesions, not patients",
    )
    upload = given.pop("upload", None)
    networks = TrainedNetworks(
        final=given.pop("network_scores", None),
        uploads={} if upload is None else {"upload_smallest": upload},
        score=given.pop("score", ""),
    )
    arguments: dict[str, Any] = {"extractor_saw_train": False, "seed": 0, "num_resamples": 100}
    return judge_authenticity(images, given.pop("extractor", Colours()), networks=networks, **(arguments | given))


def noisy_copies(count: int) -> np.ndarray:
    """Each training image in turn, in a random orientation, a little noisy."""
    stream = numpy_stream(0, "copies")
    copies = []
    for image in TRAIN.images[np.arange(count) % len(TRAIN)]:
        turned = np.rot90(image[:, ::-1] if stream.random() < 0.5 else image, int(stream.integers(4)))
        copies.append(np.clip(turned + stream.normal(0, 2, image.shape), 0, 255))
    return np.array(copies).astype(np.uint8)


@pytest.fixture(scope="module")
def honest() -> dict[str, Any]:
    return judge(FRESH)[0]


@pytest.fixture(scope="module")
def copied() -> dict[str, Any]:
    return judge(noisy_copies(240))[0]


def test_fresh_draws_are_authentic(honest: dict[str, Any]) -> None:
    assert honest["valid"] is True
    assert "neither colours nor the split" in honest["reason"]
    nearest = honest["nearest"]
    assert nearest["interval"][0] < 0.5 < nearest["interval"][1]
    assert nearest["control_share"] == pytest.approx(0.5, abs=0.08)
    assert nearest["median_to_train"] == pytest.approx(nearest["median_to_test"], rel=0.1)
    assert nearest["share_unusually_close"] <= 0.05
    assert honest["auth_pct"] == pytest.approx(honest["auth_pct_control"], abs=12)
    for attack in ("generator", "null_control"):
        low, high = honest["membership"][attack]["interval"]
        assert low < 0.5 < high
        assert high - low < 0.2
    assert honest["near_duplicates"]["to_train"] <= 0.05


def test_copies_are_caught_in_any_orientation(copied: dict[str, Any], honest: dict[str, Any]) -> None:
    assert copied["valid"] is True
    assert copied["auth_pct"] <= 2
    assert copied["nearest"]["share_nearer_to_train"] >= 0.99
    assert copied["nearest"]["share_unusually_close"] >= 0.99
    assert copied["membership"]["generator"]["auc"] >= 0.99
    assert copied["near_duplicates"]["to_train"] >= 0.9
    assert copied["near_duplicates"]["to_test"] <= 0.05
    # What is a matter of real images alone does not move with the generator.
    for name in ("auth_pct_control", "known_groups", "reason"):
        assert copied[name] == honest[name]
    assert copied["membership"]["null_control"] == honest["membership"]["null_control"]
    assert copied["nearest"]["control_share"] == honest["nearest"]["control_share"]
    duplicates = [section["near_duplicates"]["of_real_test_to_train"] for section in (copied, honest)]
    assert duplicates[0] == duplicates[1] <= 0.05


def test_a_few_exact_copies_are_the_closest_pairs() -> None:
    generated = FRESH.copy()
    generated[[7, 90]] = TRAIN.images[[33, 12], :, ::-1]
    section, pairs = judge(generated)
    first, second, third = section["closest_pairs"][:3]
    assert len(section["closest_pairs"]) == 8
    assert (first["generated"], first["train_image_id"], first["distance"]) == (7, "train-0033", 0.0)
    assert (second["generated"], second["train_image_id"], second["percentile"]) == (90, "train-0012", 0.0)
    assert third["distance"] > 0
    assert pairs.rows[:2].tolist() == [[7, 33], [90, 12]]
    assert [pair["generated"] for pair in section["closest_pairs"]] == pairs.rows[:, 0].tolist()


def test_percentile_is_that_of_test_images() -> None:
    # The test images themselves as generated ones: the closest of 240 has none below it, the eighth seven.
    section, _ = judge(TEST.images)
    percentiles = [pair["percentile"] for pair in section["closest_pairs"]]
    assert percentiles == pytest.approx([100 * number / 240 for number in range(8)])


def test_section_holds_what_the_report_reads(honest: dict[str, Any]) -> None:
    assert json.loads(to_json(honest)) == honest  # plain types only
    assert set(honest) == {
        *("valid", "reason", "copies", "extractor", "num_train", "num_test", "num_generated", "num_with_features"),
        *("known_groups", "nearest"),
        *("auth_pct", "auth_pct_control", "membership", "near_duplicates", "closest_pairs", "projection"),
    }
    assert (honest["extractor"], honest["num_train"], honest["num_generated"]) == ("colours", 240, 200)
    assert honest["nearest"]["num_train"] == honest["nearest"]["num_test"] == 240
    assert honest["membership"]["null_control"]["num_references"] == 120
    assert honest["membership"]["generator"]["num_references"] == 200
    assert honest["membership"]["networks"] == {"not_measured": "the model has no networks that score images"}
    for name in UPLOADS:
        assert honest["membership"][name] == {"not_measured": "no hospital's upload is at hand"}
    assert tuple(name for name in honest["membership"] if name != "score") == ATTACKS
    assert list(honest["projection"]) == ["not_measured"]


def test_unequal_parts_are_compared_at_equal_size() -> None:
    # Every distance to the nearest of four times as many images is shorter, and the share must not follow.
    large = {"train": real_images(480, 5, "train"), "test": real_images(480, 6, "test")}
    small = {"train": real_images(120, 7, "train"), "test": real_images(120, 8, "test")}
    for train, test in ((large["train"], small["test"]), (small["train"], large["test"])):
        section, _ = judge(FRESH, train=train, test=test)
        nearest = section["nearest"]
        assert nearest["num_train"] == nearest["num_test"] == 120
        assert section["num_train"] == len(train)
        assert nearest["interval"][0] < 0.5 < nearest["interval"][1]
        assert nearest["control_share"] == pytest.approx(0.5, abs=0.1)


def test_an_extractor_that_knows_the_training_images_is_found_out() -> None:
    section, _ = judge(FRESH, extractor=Memory(TRAIN))
    control = section["membership"]["null_control"]
    # Training images are far from all others: non-members look like members.
    assert control["auc"] < 0.05
    assert section["valid"] is False
    assert "memory or the split itself tells training from test images" in section["reason"]
    # The search for copies goes by thumbnails alone then, and is told.
    said = list(_authenticity_lines(section))
    assert len(said) == 2
    assert said[0].startswith("authenticity: not valid")
    assert "not flagged" in said[1]


def test_the_null_control_does_not_hang_on_how_the_test_part_is_halved() -> None:
    # The real images are the same; the seed decides halves and resamples.
    controls = [judge(FRESH[:16], seed=seed)[0]["membership"]["null_control"] for seed in range(8)]
    width = np.mean([high - low for low, high in (control["interval"] for control in controls)])
    assert np.std([control["auc"] for control in controls], ddof=1) < width / 15


def test_an_extractor_that_saw_training_images_is_never_trusted() -> None:
    section, _ = judge(FRESH, extractor_saw_train=True)
    assert section["valid"] is False
    assert "learnt from training images" in section["reason"]


# ------------------------------------------------------------------ trained networks


def honest_logits(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Depends on image and class, and on nothing that training leaves behind."""
    return images.mean((1, 2, 3)) / 100 + labels


def memorising(known: np.ndarray) -> Any:
    keys = {image.tobytes() for image in known}

    def logits(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return honest_logits(images, labels) + 2.0 * np.array([image.tobytes() in keys for image in images])

    return logits


def test_a_discriminator_that_memorises_is_caught_and_an_honest_one_is_not() -> None:
    caught = judge(FRESH, network_scores=memorising(TRAIN.images))[0]["membership"]["networks"]
    assert caught["auc"] > 0.95
    assert caught["interval"][0] > 0.9
    assert (caught["num_members"], caught["num_non_members"]) == (240, 240)
    fair = judge(FRESH, network_scores=honest_logits)[0]["membership"]["networks"]
    assert fair["interval"][0] < 0.5 < fair["interval"][1]


def test_the_section_says_what_the_networks_score_by() -> None:
    section, _ = judge(FRESH[:16], network_scores=honest_logits, score="evidence lower bound")
    assert section["membership"]["score"] == "evidence lower bound"


@pytest.mark.parametrize(
    ("stated", "line", "subject"),
    [
        # As an earlier version wrote it, and as it is written now.
        ({"discriminator": {"auc": 0.7, "interval": [0.6, 0.8]}}, "discriminator 0.700", "the final discriminator"),
        (
            {"score": "discriminator", "networks": {"auc": 0.7, "interval": [0.6, 0.8]}},
            "discriminator 0.700",
            "the final discriminator",
        ),
        (
            {"score": "evidence lower bound", "networks": {"auc": 0.7, "interval": [0.6, 0.8]}},
            "evidence lower bound 0.700",
            "the evidence lower bound of the final networks",
        ),
        ({"score": "", "networks": {"not_measured": "none"}}, "networks     not measured: none", "the score of"),
    ],
)
def test_an_attack_is_called_by_what_its_networks_score_by(
    honest: dict[str, Any], stated: dict[str, Any], line: str, subject: str
) -> None:
    others = {name: honest["membership"][name] for name in ("null_control", "generator", "upload_largest")}
    section = honest | {"membership": others | stated}
    membership = read_membership(section)
    assert set(membership) == {"score", *ATTACKS} - {"thumbnails", "upload_smallest"}
    assert words_of(membership["score"]).subject.startswith(subject)
    *lines, _ = _authenticity_lines(section)
    # One below the other, in one order.
    assert [text.split()[0] for text in lines[1:]] == ["null", "generator", line.split()[0], "upload"]
    assert " ".join(lines[3].split()).startswith(" ".join(line.split()))
    assert len({text.index(" 0.") for text in lines[1:] if "not measured" not in text}) == 1


def test_a_score_that_depends_on_its_batch_tells_nothing() -> None:
    # Where training and test images came one after the other, this would rank them perfectly.
    calls = iter(range(100))

    def batch_number(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.repeat(float(next(calls)), len(images))

    large_train, large_test = real_images(800, 6, "train"), real_images(800, 7, "test")
    section, _ = judge(FRESH, train=large_train, test=large_test, network_scores=batch_number)
    assert next(calls) >= 3
    assert section["membership"]["networks"]["auc"] == pytest.approx(0.5, abs=0.05)


def test_scores_belong_to_their_images() -> None:
    seen: dict[bytes, float] = {}

    def remember(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        for image, label in zip(images, labels, strict=True):
            seen[image.tobytes()] = float(label)
        return images.mean((1, 2, 3))

    judge(FRESH, network_scores=remember)
    for real in (TRAIN, TEST):
        assert [seen[image.tobytes()] for image in real.images] == real.labels.tolist()


def test_diverged_logits_are_not_measured() -> None:
    section, _ = judge(FRESH, network_scores=lambda images, labels: np.full(len(images), np.nan))
    assert section["membership"]["networks"] == {"not_measured": "the networks' scores are not finite"}


@pytest.mark.parametrize("by_site", [True, False])
def test_an_upload_is_attacked_by_its_own_images(by_site: bool) -> None:
    rows = np.flatnonzero(TRAIN.sites == "north")
    upload = Upload(site="north", scores=memorising(TRAIN.images[rows]), rows=rows, by_site=by_site)
    attack = judge(FRESH, upload=upload)[0]["membership"]["upload_smallest"]
    assert attack["site"] == "north"
    assert attack["auc"] > 0.9
    assert attack["num_members"] == 120
    # Of another site's images nothing is asked where hospitals are sites.
    assert attack["num_non_members"] == (120 if by_site else 240)
    assert attack["num_left_out"] == (120 if by_site else 0)


def test_a_site_is_not_taken_for_membership() -> None:
    """Images of the north score high, members or not."""
    stream = numpy_stream(0, "sites")
    rows = np.flatnonzero(TRAIN.sites == "north")
    north = {image.tobytes() for real in (TRAIN, TEST) for image in real.images[real.sites == "north"]}

    def by_site_only(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.array([image.tobytes() in north for image in images]) + stream.random(len(images))

    within, _ = judge(FRESH, upload=Upload(site="north", scores=by_site_only, rows=rows, by_site=True))
    across, _ = judge(FRESH, upload=Upload(site="north", scores=by_site_only, rows=rows, by_site=False))
    low, high = within["membership"]["upload_smallest"]["interval"]
    assert low < 0.5 < high
    assert across["membership"]["upload_smallest"]["auc"] > 0.7


def test_an_upload_of_few_images_is_not_measured() -> None:
    upload = Upload(site="small", scores=honest_logits, rows=np.arange(9), by_site=False)
    assert judge(FRESH, upload=upload)[0]["membership"]["upload_smallest"] == {
        "not_measured": "too few to compare within classes: 9 training images of 9 patients or lesions, and 16 of 4 "
        "are needed",
        "site": "small",
    }


# ------------------------------------------------------------------ the rest


def test_too_few_images_are_not_judged() -> None:
    section, pairs = judge(FRESH[:15], train=real_images(12, 0, "train"))
    assert section == {
        "not_measured": "too few images: 12 training images, 15 generated images, and 16 of each kind are needed"
    }
    assert pairs.rows.shape == (0, 2)
    section, _ = judge(FRESH, test=real_images(30, 1, "test", per_group=10))
    assert section == {"not_measured": "too few patients or lesions in the test part: 3, and 4 are needed"}


def test_parts_without_a_common_stratum_have_no_null_control() -> None:
    section, _ = judge(FRESH, train=real_images(60, 0, "train", site="east"))
    assert "0 training images of 0 patients" in section["membership"]["null_control"]["not_measured"]
    assert section["valid"] is False
    assert section["reason"].startswith("there is no null control: too few to compare within classes and sites")


def test_smallest_data_are_judged_and_the_judgement_repeats() -> None:
    few = {"train": real_images(16, 0, "train"), "test": real_images(16, 1, "test", per_group=4)}
    section, pairs = judge(FRESH[:16], **few)
    assert "not_measured" not in section
    assert pairs.rows.shape == (8, 2)
    assert judge(FRESH[:16], **few)[0] == section


def test_progress_ends_at_its_total() -> None:
    calls: list[tuple[str, int, int]] = []
    judge(FRESH[:16], progress=lambda what, done, total: calls.append((what, done, total)))
    assert [done for _, done, _ in calls] == list(range(6))
    assert {total for _, _, total in calls} == {5}


def test_closest_pairs_are_drawn_one_above_the_other(tmp_path: Path) -> None:
    generated, train = (np.zeros((3, 8, 8, 3), dtype=np.uint8) for _ in range(2))
    generated[2], train[0], train[1] = [200, 0, 0], [0, 150, 0], [0, 0, 100]
    path = tmp_path / "report" / "pairs.png"
    rows = np.array([[2, 1], [0, 0]])
    pairs = ClosestPairs(rows=rows, distances=np.zeros(2), images=generated[rows[:, 0]])
    draw_closest_pairs(path, pairs, train, scale=2)
    sheet = np.asarray(Image.open(path))
    assert list(tmp_path.rglob("*.*")) == [path]
    columns = [64, 64 + 18]
    assert [sheet[5, column + 5].tolist() for column in columns] == [[200, 0, 0], [0, 0, 0]]
    assert [sheet[18 + 5, column + 5].tolist() for column in columns] == [[0, 0, 100], [0, 150, 0]]


def test_real_lesions(ham10000: Path, cache_dir: str) -> None:
    """Held-out images of HAM10000 pass for authentic, and copies of its training images do not."""
    index = load_index(DataSettings(source="ham10000", root=str(ham10000), cache_dir=cache_dir), resolution=SIDE)
    images, parts = load_images(index, SIDE, cache_dir), split_parts(index.groups, 0)

    def part(name: str, most: int) -> RealImages:
        rows = np.flatnonzero(parts == name)
        rows = np.sort(numpy_stream(0, name).permutation(rows)[:most])
        ids = index.table["image_id"].to_numpy()
        return RealImages(
            images=images[rows],
            labels=index.labels[rows],
            groups=index.groups[rows],
            sites=index.sites[rows],
            ids=ids[rows],
        )

    train, test = part("train", 600), part("test", 400)
    fresh, _ = judge(part("validation", 300).images, train=train, test=test)
    assert fresh["valid"] is True
    low, high = fresh["membership"]["generator"]["interval"]
    assert low < 0.5 < high
    assert fresh["near_duplicates"]["to_train"] < 0.05
    assert fresh["nearest"]["share_unusually_close"] < 0.05

    # A tenth of what it draws are training images, mirrored.
    generated = part("validation", 300).images
    generated[:30] = train.images[:30, :, ::-1]
    mixed, pairs = judge(generated, train=train, test=test)
    assert mixed["near_duplicates"]["to_train"] >= 0.1
    assert mixed["nearest"]["share_unusually_close"] >= 0.1
    assert mixed["auth_pct"] < fresh["auth_pct"] - 5
    assert all(pair["distance"] == 0.0 for pair in mixed["closest_pairs"])
    assert np.array_equal(pairs.rows[:, 0], pairs.rows[:, 1])


# ------------------------------------------------------------------ many images, batch by batch


def test_copies_among_many_are_flagged_and_the_flag_says_by_what(
    honest: dict[str, Any], copied: dict[str, Any]
) -> None:
    assert honest["copies"]["flagged"] is False
    assert "not flagged: of the 40 patients or lesions" in list(_authenticity_lines(honest))[-1]
    assert copied["copies"]["flagged"] is True
    assert copied["copies"]["features"]["num_trained_on"] == 40
    assert copied["copies"]["level"] == 0.01
    assert "FLAGGED: of the 40 patients or lesions that 240 generated images" in list(_authenticity_lines(copied))[-1]


def test_images_that_were_drawn_from_held_out_ones_are_told() -> None:
    section, _ = judge(TEST.images)
    assert section["copies"]["nearer_to_held_out"] is True
    assert section["copies"]["flagged"] is False
    assert "cannot be told" in list(_authenticity_lines(section))[-1]


def test_an_extractor_that_cannot_be_trusted_leaves_thumbnails() -> None:
    copies = judge(noisy_copies(240), extractor_saw_train=True)[0]["copies"]
    assert "learnt from training images" in copies["features"]["not_measured"]
    assert copies["flagged"] is True  # by one test, at the whole level
    known = judge(FRESH, extractor=Memory(TRAIN))[0]["copies"]
    assert "features or the split itself tell the two apart" in known["features"]["not_measured"]
    assert known["flagged"] is False


def test_too_few_lesions_are_not_tested_for_copies() -> None:
    few = {"train": real_images(16, 0, "train"), "test": real_images(16, 1, "test", per_group=4)}
    copies = judge(FRESH[:16], **few)[0]["copies"]
    assert copies["flagged"] is None
    assert "too few patients or lesions" in copies["thumbnails"]["not_measured"]


def test_each_class_is_attacked_or_said_to_be_too_small() -> None:
    train, test = real_images(120, 3, "train"), real_images(120, 4, "test")
    train.labels[:3], train.labels[3:], test.labels[:3], test.labels[3:] = 1, 0, 1, 0
    attack = judge(train.images, train=train, test=test, classes=("nv", "df"))[0]["membership"]["thumbnails"]
    assert attack["by_class"]["nv"]["auc"] == 1
    assert attack["by_class"]["nv"]["copier"]["auc"] > 0.7
    assert attack["by_class"]["df"]["not_measured"].startswith(
        "too few to compare within classes and sites: 3 training"
    )
    assert (attack["auc"], attack["tpr"]) == (1, 1)
    # As many as there are training images, drawn with replacement, miss e^-1 of them.
    assert attack["copier"]["tpr"] == pytest.approx(1 - np.exp(-1), abs=0.15)


def test_batches_of_any_size_give_the_same_section_and_the_closest_images() -> None:
    generated = np.concatenate([real_images(700, 9, "more").images, TRAIN.images[5:6]])
    whole, pairs = judge(generated)
    cut, same = judge(generated, batches=[generated[:1], generated[1:640], generated[640:]])
    assert whole == cut
    assert whole["num_generated"] == 701
    assert np.array_equal(pairs.images, same.images)
    assert np.array_equal(pairs.images, generated[pairs.rows[:, 0]])
    assert pairs.rows[0].tolist() == [700, 5]
