"""The report: it says what the run directory holds, and no more; nothing in it comes from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from PIL import Image

from federation.config import RENAMED_KEYS, parse_assignments, resolve
from federation.errors import RunDirectoryError
from federation.run_directory import RunDirectory
from server.evaluation.sample_sheet import write_sample_sheet
from server.report import write_report
from server.report.groups import _distance_from_real
from server.report.judgements import (
    authenticity_sentence,
    diversity_sentence,
    fidelity_sentence,
    predictive_sentence,
    shorten,
    speed_sentence,
)
from server.report.numerals import duration, figure, percent, share, size_bytes
from server.report.run_record import read_run
from server.report.samples import choose_rounds, read_samples
from server.report.settings import commands
from server.report.tables import log_heat

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = ("nv", "mel", "df")
SITES = ("north", "south & <b>west</b>")
ROUNDS = (0, 2, 4)


# ---------------------------------------------------------------- a run directory, from the schema alone


def spread(mean: float, half: float = 0.02) -> dict[str, Any]:
    return {
        "mean": mean,
        "sd": half / 2.484,
        "interval": [mean - half, mean + half],
        "values": [mean - half / 3, mean, mean + half / 3],
    }


def with_intervals(**figures: float) -> dict[str, Any]:
    return {
        **figures,
        **{f"{name}_interval": [value - 0.0125, value + 0.0125] for name, value in figures.items()},
    }


def a_summary() -> dict[str, Any]:
    def area(value: float, members: int = 900) -> dict[str, Any]:
        return {
            "auc": value,
            "interval": [value - 0.03, value + 0.03],
            "num_members": members,
            "num_non_members": 211,
        }

    def arm(accuracy: float, description: str, num_train: int, num_synthetic: int) -> dict[str, Any]:
        return {
            "description": description,
            "num_train_images": num_train,
            "num_synthetic_images": num_synthetic,
            "balanced_accuracy": spread(accuracy),
            "macro_auroc": spread(accuracy + 0.05),
            "melanoma_sensitivity_at_90_specificity": spread(accuracy - 0.05),
            "calibration_error": spread(0.0911),
            "sensitivity": {"nv": spread(accuracy + 0.011), "mel": spread(accuracy - 0.013), "df": None},
        }

    group = with_intervals(kid=0.51, precision=0.47, density=0.32, recall=0.21, coverage=0.43, spread=0.71)
    return {
        "status": "done",
        "rounds": 4,
        "images": 1280,
        "seconds": 77.25,
        "images_per_second": 41.5,
        "kid_round_0": 905.5,
        "kid": 0.4876,
        "fid": 33.4,
        "best_round": 4,
        "best_kid": 0.4876,
        "extractor": "lesion-cnn-32@4ed5",
        "kid_floor": 0.0071,
        "kid_blurred_16": 0.0822,
        "kid_blurred_8": 0.5938,
        "kid_pca_gaussian": 0.6712,
        "kid_mean_image": 3.4019,
        "test": {
            "extractor": "lesion-cnn-32@4ed5",
            "preprocessing": "32 px, scaled to [-1, 1]",
            "resolution": 32,
            "num_features": 256,
            "part": "test",
            "num_real": 211,
            "num_generated": 212,
            "num_draws": 5,
            "subset_size": 211,
            "kid_sd": 0.0,
            "nearest_k": {"precision": 3, "density": 5},
            **with_intervals(
                kid=0.4764, fid=32.4, precision=0.52, density=0.31, recall=0.33, coverage=0.41, vendi=4.1, spread=0.78
            ),
            "real": {
                "kid": 0.0068,
                "fid": 3.1,
                "precision": 0.82,
                "density": 0.97,
                "recall": 0.81,
                "coverage": 0.95,
                "vendi": 5.8,
            },
            "fid_all": 32.4,
            "fid_avg": 48.1,
            "kid_avg": 0.6123,
            "num_fid_avg_sites": 1,
            "num_kid_avg_sites": 2,
            "fid_caveat": "FID of 211 images on 256 features compares singular covariances: rank by KID",
            "intervals_say": "95 % t intervals of the mean over 5 draws",
            "per_site_say": "the test images of each site",
            "per_site_real_say": "Its own: training images of the site.",
            "per_class": [
                {"name": "nv", "num_real": 120, "num_generated": 121, "fid": 55.5, **group},
                {"name": "mel", "num_real": 84, "num_generated": 85, "fid": None, **group, "kid": -0.0021},
                {"name": "df", "num_real": 7, "num_generated": 7, "not_measured": "n too small: 7 images"},
            ],
            "per_site": [
                {
                    "name": SITES[0],
                    "num_real": 150,
                    "real_kid": 0.031,
                    "all_real_kid": 0.279,
                    **with_intervals(kid=0.37, fid=41.5, precision=0.61),
                },
                {"name": SITES[1], "num_real": 61, "not_measured": "n too small: 20 images, 32 are needed"},
            ],
        },
        "utility": {
            "classifier": "small-cnn-32",
            "steps": 600,
            "num_seeds": 3,
            "num_test_images": 213,
            "num_validation_images": 190,
            "seconds": 31.5,
            "classes": list(CLASSES),
            "classes_without_test_images": ["df"],
            "rare_classes": ["df"],
            "melanoma_class": "mel",
            "arms": {
                "real": arm(0.86, "900 real images.", 900, 0),
                "synthetic": arm(0.613, "900 synthetic images.", 900, 900),
                "real+synthetic": arm(0.87, "900 real and 900 synthetic images.", 1800, 900),
                "rare": {"not_measured": "no class is rare"},
            },
            "recognised": {
                "num_generated": 300,
                "mean": spread(0.64),
                "share": {name: spread(0.64) for name in CLASSES},
                "confusion": [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.2, 0.18, 0.62]],
                "chance": 1 / 3,
                "real_share": {"nv": spread(0.871), "mel": spread(0.847), "df": None},
                "class_balance": {
                    "total_variation": spread(0.166),
                    "asked": dict.fromkeys(CLASSES, 1 / 3),
                    "recognised": {"nv": 0.4, "mel": 0.327, "df": 0.273},
                },
            },
        },
        "authenticity": {
            "valid": True,
            "reason": "with real test images in the generator's place the area is 0.503",
            "extractor": "lesion-cnn-32@4ed5",
            "num_train": 900,
            "num_test": 211,
            "num_generated": 1000,
            "known_groups": "HAM10000 knows lesions, not patients",
            "nearest": {
                "median_to_train": 1.31,
                "median_to_test": 1.33,
                "share_nearer_to_train": 0.511,
                "interval": [0.478, 0.543],
                "control_share": 0.504,
                "num_train": 211,
                "num_test": 211,
                "share_unusually_close": 0.004,
            },
            "auth_pct": 81.2,
            "auth_pct_control": 58.9,
            "membership": {
                "null_control": area(0.503),
                "generator": area(0.508),
                "score": "discriminator",
                "networks": area(0.561),
                "upload": {"not_measured": "no hospital's upload is at hand"},
            },
            "near_duplicates": {
                "threshold_bits": 6,
                "to_train": 0.012,
                "to_test": 0.0041,
                "num_train_compared": 900,
                "num_test_compared": 211,
                "of_real_test_to_train": 0.017,
            },
            "closest_pairs": [
                {"generated": 17 + row, "train_image_id": f"ISIC_00{row}", "distance": 0.41 + row, "percentile": 2.5}
                for row in range(8)
            ],
            "projection": {"not_measured": "distances to projections are part of the latent-space tools"},
        },
        "speed": {
            "images_per_second": 41.5,
            "seconds_per_1000_images": 24.1,
            "time_to_kid": [
                {
                    "yardstick": "mean image",
                    "kid": 3.4019,
                    "round": 2,
                    "images": 640,
                    "evaluations": 1920,
                    "seconds": 33.25,
                },
                {"yardstick": "real images blurred by way of 16 pixels", "kid": 0.0822, "not_reached": True},
            ],
            "bytes": [{"site": site, "up": 123_456_789, "down": 4_578_468} for site in SITES],
            "shares": {"training": 0.61, "transport": 0.09, "aggregation": 0.01, "evaluation": 0.26, "other": 0.03},
            "evaluation_share_of_wall_time": 0.26,
        },
    }


def sheet_colour(server_round: int, row: int, column: int) -> tuple[int, int, int]:
    return (40 * server_round + 10, 60 * row + 5, 15 * column + 3)


def fabricate(
    path: Path, *assignments: str, summary: dict[str, Any] | None = None, sites: tuple[str, ...] = SITES
) -> Path:
    """Write a run directory as a finished run leaves it."""
    directory = RunDirectory(path)
    path.mkdir(parents=True, exist_ok=True)
    configuration = resolve([parse_assignments([f"data.classes={','.join(CLASSES)}", "rounds=4", *assignments])])
    directory.config.write_text(configuration.to_toml())
    directory.environment.write_text(
        json.dumps(
            {
                "created": "2026-01-02T03:04:05+00:00",
                "dermafed": "0.1.0",
                "git_commit": "0123456789abcdef",
                "processor": "A Processor",
                "cores": 2,
                "device": "cpu",
                "packages": {"torch": "2.11.0", "flwr": None},
            }
        )
    )
    counts = {sites[0]: {"nv": 500, "mel": 100, "df": 0}, sites[1]: {"nv": 0, "mel": 250, "df": 50}}
    directory.partition.write_text(
        json.dumps(
            {
                "settings": {"scheme": "natural"},
                "digest": "d1ge57",
                "images": 900,
                "groups": 640,
                "hospitals": {
                    site: {"images": sum(held.values()), "groups": 320 + len(held), "classes": held}
                    for site, held in counts.items()
                },
            }
        )
    )
    lines = []
    for server_round, kid in zip(ROUNDS, (905.5, 1.57, 0.4876), strict=True):
        line = {
            "round": server_round,
            "images": 320 * server_round,
            "evaluations": 960 * server_round,
            "kid": kid,
            "kid_sd": 0.0,
            "fid": 33.4 + kid,
            "precision": 0.11 * server_round,
            "density": 0.07 * server_round,
            "recall": 0.08 * server_round,
            "coverage": 0.1 * server_round,
            "kid_by_class": {"nv": kid * 1.1, "mel": kid * 0.9 - 0.45, "df": None},
            "kid_by_site": dict.fromkeys(sites, kid * 1.2),
            "extractor": "lesion-cnn-32@4ed5",
            "num_real": 190,
            "num_generated": 190,
            "evaluation_seconds": 2.5,
            "seconds": 12.5 + 16 * server_round,
        }
        if server_round:
            line |= {"loss_generator": 1.61, "loss_discriminator": 0.53, "logit_real": 0.4, "logit_fake": -0.7}
            line["augmentation_p"] = 0.0125 * server_round
        lines.append(line)
    directory.append(directory.metrics, lines)
    for server_round in range(1, 5):
        replies = []
        for site in sites:
            reply: dict[str, Any] = {"round": server_round, "site": site, "bytes_down": 4_578_468}
            if (server_round, site) == (3, sites[1]):
                reply |= {"status": "refused", "reason": "generator.weight: is not finite"}
            else:
                reply |= {"status": "ok", "bytes_up": 4_578_468, "num_training_images": 600, "num_images": 160}
                reply |= {"seconds": 3.25, "loss_generator": 1.61, "loss_discriminator": 0.53}
            replies.append(reply)
        directory.append(directory.hospitals, replies)
    conditional, shows_real = configuration.model.conditional, configuration.data.source == "phantom"
    captions = CLASSES if conditional else ("",) * len(CLASSES)
    for server_round in ROUNDS:
        rows = [
            (caption, tiles(server_round, row))
            for row, caption in enumerate((*captions, "real") if shows_real else captions)
        ]
        write_sample_sheet(directory.sample_sheet(server_round), rows, scale=2)
    if summary is None:
        summary = a_summary()
    directory.summary.write_text(json.dumps(summary))
    return path


def tiles(server_round: int, row: int) -> np.ndarray:
    return np.stack([np.full((32, 32, 3), sheet_colour(server_round, row, column), np.uint8) for column in range(12)])


# ---------------------------------------------------------------- reading a page


class Element:
    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Element | str] = []

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.walk() if element.tag == tag]

    def by_id(self, name: str) -> Element:
        return next(element for element in self.walk() if element.attributes.get("id") == name)

    @property
    def text(self) -> str:
        words = (child if isinstance(child, str) else child.text for child in self.children)
        return " ".join(" ".join(words).split())

    def numbers(self) -> list[float]:
        return [float(element.attributes["value"]) for element in self.all("data")]


class Page(HTMLParser):
    """The page as a tree; elements must be closed in order."""

    VOID = ("meta", "link", "br", "img", "input")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(self.source)
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def section(self, name: str) -> str:
        return self.root.by_id(f"{name}-section").text

    def row(self, table: str, head: str) -> Element:
        """The row whose head begins with the words."""
        rows = [row for row in self.root.by_id(table).all("tr") if row.all("th")]
        return next(row for row in rows if row.all("th")[0].text.startswith(head))


def report_of(path: Path) -> Page:
    written = write_report(RunDirectory(path))
    assert written == path / "report.html"
    return Page(written)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return report_of(finished)


# ---------------------------------------------------------------- the numbers


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from leaves(entry)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def test_every_number_is_one_of_the_run_directory(finished: Path, page: Page) -> None:
    known = {float(setting) for setting in (600, 3)}
    for name in ("summary.json", "partition.json"):
        known |= set(leaves(json.loads((finished / name).read_text())))
    for name in ("metrics.jsonl", "hospitals.jsonl"):
        for line in (finished / name).read_text().splitlines():
            known |= set(leaves(json.loads(line)))
    shown = page.root.all("data")
    assert len(shown) > 300
    for element in shown:
        exact, written = float(element.attributes["value"]), element.text
        assert exact in known, element.attributes
        # What is written is the exact value, rounded.
        match = re.fullmatch(r"(−?[\d,.]+)( %| s| MB| min \d\d s)?", written)
        assert match, written
        if "min" in (match[2] or ""):
            continue
        scale = {" %": 0.01, " MB": 1e6}.get(match[2] or "", 1.0)
        read = float(match[1].replace("−", "-").replace(",", "")) * scale
        assert read == pytest.approx(exact, rel=0.0051, abs=0.00051), written


def test_the_verdict_has_each_figure_its_interval_and_the_real_one(page: Page) -> None:
    assert page.row("verdict", "KID").numbers() == [0.4764, 0.4764 - 0.0125, 0.4764 + 0.0125, 0.0068]
    assert page.row("verdict", "FID").numbers() == [32.4, 32.4 - 0.0125, 32.4 + 0.0125, 3.1]
    assert "compares singular covariances" in page.row("verdict", "FID").text
    for label, exact, real in (
        ("Precision", 0.52, 0.82), ("Density", 0.31, 0.97), ("Recall", 0.33, 0.81), ("Coverage", 0.41, 0.95),
        ("Vendi", 4.1, 5.8),
    ):  # fmt: skip
        assert page.row("verdict", label).numbers() == [exact, exact - 0.0125, exact + 0.0125, real]
    assert page.row("verdict", "Within-class").numbers() == [0.78, 0.78 - 0.0125, 0.78 + 0.0125]
    assert page.row("verdict", "Class balance").numbers() == [0.166, 0.166 - 0.02, 0.166 + 0.02]
    assert page.row("verdict", "Training images a second").numbers() == [41.5]
    assert page.row("verdict", "Time to the KID of the mean image").numbers() == [33.25]
    assert "not reached" in page.row("verdict", "Time to the KID of real images").text
    accuracies = [row for row in page.root.by_id("verdict").all("tr") if row.text.startswith("Balanced accuracy")]
    assert [row.numbers() for row in accuracies[:2]] == [
        [0.613, 0.613 - 0.02, 0.613 + 0.02, 0.86],
        [0.87, 0.87 - 0.02, 0.87 + 0.02, 0.86],
    ]
    assert "no class is rare" in accuracies[2].text
    assert page.row("verdict", "Nearer to training").numbers() == [0.511, 0.478, 0.543, 0.504]
    assert page.row("verdict", "AuthPct").numbers() == [81.2, 58.9]
    for label in ("Precision", "Density", "Vendi"):
        assert "as real images is best" in page.row("verdict", label).text
    assert page.row("verdict", "Membership guessed from generated").numbers() == [0.508, 0.508 - 0.03, 0.538, 0.503]
    assert "no hospital's upload" in page.row("verdict", "Membership guessed from the largest hospital").text
    assert page.row("verdict", "Near-duplicates").numbers() == [0.012, 0.017]
    # Extractor, features, resolution and counts stand in the table; what else was done to images below it.
    assert "lesion-cnn-32@4ed5; 256 features; 32 px; 212 generated and 211 real test images, 5 draws" in page.section(
        "verdict"
    )
    assert "Preprocessing: 32 px, scaled to [-1, 1]." in page.section("verdict")


def test_one_image_repeated_is_not_nearest_to_real_images() -> None:
    """It has a precision of 1 and twice the density of real images: as far off as too little of either."""
    assert _distance_from_real("precision", [1.0, 0.8, None, 0.6], 0.8) == pytest.approx([0.2, 0.0, None, 0.2])
    assert _distance_from_real("density", [2.12, 1.0, 0.5], 1.0) == pytest.approx([1.0, 0.0, 0.5])
    assert _distance_from_real("spread", [1.25, 0.75], 0.9) == pytest.approx([0.25, 0.25])
    assert _distance_from_real("recall", [1.0, 0.25], 0.8) == pytest.approx([0.0, 0.75])


def test_the_other_tables(page: Page) -> None:
    assert page.row("per-class", "mel").numbers()[:3] == [84, 85, -0.0021]
    assert "n too small: 7 images" in page.row("per-class", "df").text
    assert page.row("per-site", "south & <b>west</b>").numbers() == [61]
    north = page.row("per-site", SITES[0])
    # The hospital's own real images and those of all stand beside what the generator gets.
    assert north.numbers()[:6] == [150, 0.37, 0.37 - 0.0125, 0.37 + 0.0125, 0.031, 0.279]
    assert "0.339 0.0310 0.279" in north.text
    said = "Real images in the generator's place: Its own: training images of the site. A hospital is far from"
    assert said in unescape(page.source)
    assert page.row("sites-summary", "Mean of the KIDs").numbers() == [0.6123, 2]
    assert page.row("arms", "real+synthetic").numbers()[:3] == [1800, 900, 0.87]
    assert page.row("sensitivity", "mel").numbers()[::3] == [0.86 - 0.013, 0.613 - 0.013, 0.87 - 0.013]
    assert page.row("sensitivity", "df").text.endswith("– – –")
    assert page.row("confusion", "mel").numbers()[:3] == [0.3, 0.6, 0.1]
    assert page.row("membership", "Final discriminator").numbers() == [0.561, 0.531, 0.561 + 0.03, 900, 211]
    # What an earlier version did not ask is not laid out as missing.
    assert "smallest hospital" not in page.section("authenticity")
    assert "by thumbnails" not in page.section("authenticity")
    assert page.row("nearest", "Share unusually close").numbers() == [0.004, 1.0]  # a copier's
    assert "HAM10000 knows lesions, not patients" in page.section("authenticity")
    assert page.row("time-to-kid", "mean image").numbers() == [3.4019, 2, 640, 1920, 33.25]
    assert page.row("bytes", "north").numbers() == [123_456_789, 4_578_468]
    assert page.row("partition", "north").numbers() == [500, 100, 0, 600, 323]
    assert page.row("hospitals", "north").text.startswith("north 4 0 0")
    assert page.row("hospitals", "south").text.startswith("south & <b>west</b> 3 0 1")
    assert "generator.weight: is not finite" in page.root.by_id("failures").text
    assert [element.text for element in page.root.by_id("rounds-section").all("h3")][:4] == [
        "KID", "FID", "Precision, density, recall, coverage", "Losses",
    ]  # fmt: skip
    # p is drawn where it is adapted alone.
    assert "Probability of augmentation" not in page.source


def gain_of(mean: float, low: float, high: float) -> dict[str, Any]:
    entry = {"mean": mean, "sd": 0.01, "interval": [low, high], "whole_interval": [low, high], "over": "own+gaussian"}
    entry["over_own"] = {"mean": mean + 0.02, "whole_interval": [low + 0.02, high + 0.02]}
    return {"balanced_accuracy": entry, "macro_auroc": {**entry, "over": "own"}}


def made_up_gain() -> dict[str, Any]:
    """Three hospitals: one gains, of one it cannot be told, one is not judged."""

    def hospital(name: str, judged: object, *gain: float) -> dict[str, Any]:
        reached = {"balanced_accuracy": {"mean": 0.417}, "macro_auroc": {"mean": 0.733}}
        return {
            "name": name,
            "num_train_images": 321,
            "held": ["nv", "mel"],
            "judged": judged,
            "arms": {arm: {"common": reached} for arm in ("own", "own+synthetic", "own+permuted", "own+gaussian")},
            "gain": {view: gain_of(*gain) for view in ("common", "held", "others", "own")},
        }

    return {
        "classifier": "small-cnn-32",
        "steps": 300,
        "num_seeds": 3,
        "num_test_images": 211,
        "hospitals": [
            hospital(SITES[0], True, 0.0523, 0.0111, 0.0941),
            hospital(SITES[1], True, -0.0123, -0.0512, 0.0257),
            hospital("third", "its training images are of one class", 0.3, 0.1, 0.4),
        ],
        "references": {name: {"common": {"balanced_accuracy": {"mean": 0.583}}} for name in ("pooled", "federated")},
        "mean": {"num_hospitals": 2, **gain_of(0.0201, -0.0123, 0.0567)},
    }


def test_the_report_begins_with_what_each_hospital_gains(tmp_path: Path) -> None:
    summary = a_summary() | {"gain": made_up_gain()}
    path = fabricate(tmp_path / "run", "evaluation.gain=true", summary=summary)
    page = report_of(path)
    sections = re.findall(r'<section id="([a-z]+)-section"', page.source)
    assert sections[:2] == ["gain", "verdict"]
    assert page.row("gain", SITES[0]).numbers()[:3] == [321, 0.417, 0.417]
    text = page.source
    assert "+0.0523 [+0.0111, +0.0941]" in text
    assert "above Gaussians" in text
    assert "not judged: its training images are of one class" in text
    first = re.search(r'id="gain-title">.*?<p><strong>(.*?)</strong>', text, re.DOTALL)
    assert first is not None
    assert first[1].startswith(
        "By generated images beside their own, classifiers of the 2 hospitals gain nothing that can be told from "
        "chance: +0.0201 [−0.0123, +0.0567] in balanced accuracy"
    )
    assert f"{SITES[0]} gains. Of {SITES[1]} it cannot be told." in unescape(text)


def test_a_gain_that_was_not_asked_for_takes_no_room(page: Page, tmp_path: Path) -> None:
    assert "gain-section" not in page.source
    summary = a_summary() | {"gain": {"not_measured": "there is one hospital, and nothing to join"}}
    asked = report_of(fabricate(tmp_path / "run", "evaluation.gain=true", summary=summary))
    assert "There is one hospital, and nothing to join." in asked.source


def test_a_heat_cell_has_its_number(page: Page) -> None:
    heated = [cell for cell in page.root.all("td") if "heat" in cell.attributes.get("class", "").split()]
    assert len(heated) > 30
    assert all(cell.numbers() for cell in heated)
    assert log_heat([1.0, 10.0, 100.0, -3.0, None]) == [0.0, 0.5, 1.0, 0.0, None]
    assert log_heat([5.0]) == [0.0]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (figure(0.48763), "0.488"),
        (figure(1804.29), "1,804"),
        (figure(0.99961), "1.00"),
        (figure(-0.002134), "−0.00213"),
        (figure(0), "0"),
        (figure(4e-7), "4.00e−07"),
        (figure(None), "–"),
        (figure(math.nan), "–"),
        (share(0.00634), "0.006"),
        (percent(0.1234), "12.3\u00a0%"),
        (percent(1), "100\u00a0%"),
        (size_bytes(999), "999 bytes"),
        (size_bytes(4_578_468), "4.58 MB"),
        (duration(33.25), "33.2 s"),
        (duration(3725), "1 h 02 min"),
    ],
)
def test_numbers_as_people_read_them(written: str, expected: str) -> None:
    assert written == expected


# ---------------------------------------------------------------- privacy


PRIVATE = ("strategy.name=dp-fedavg-gan", "stylegan2.loss=logistic", "strategy.noise-multiplier=1")


def a_private_summary(**strategy: Any) -> dict[str, Any]:
    return a_summary() | {"strategy": {"name": "dp-fedavg-gan", "delta": 0.001, "unit": "hospital", **strategy}}


def test_epsilon_stands_beside_what_it_does_not_cover_and_no_loss_stands_there(tmp_path: Path) -> None:
    left_out = ["losses & logits", "numbers of images", "what the server sees"]
    summary = a_private_summary(epsilon=28.622878273, releases=24, covers="what is drawn", does_not_cover=left_out)
    page = report_of(fabricate(tmp_path / "run", *PRIVATE, summary=summary))
    assert (
        "Epsilon is 28.6229 at delta 0.001, for each hospital as a whole, after 24 releases. It covers what is drawn. "
        "It does not cover: " + " ".join(left_out)
    ) in page.section("verdict")
    assert "Losses of training are left out, here and below: no noise covers them." in page.section("rounds")
    for name in ("rounds", "hospitals"):
        assert not {1.61, 0.53, -0.7} & set(page.root.by_id(f"{name}-section").numbers())
    titles = [element.text for element in page.root.by_id("rounds-section").all("h3")]
    assert "KID" in titles
    assert not {"Losses", "Logits of the discriminator"} & set(titles)
    assert not [element for element in page.root.all("th") if element.text.startswith(("Loss", "Generator", "Discr"))]


def test_epsilon_that_is_not_known_or_infinite_is_said_to_be_so(tmp_path: Path) -> None:
    def said(name: str, summary: dict[str, Any]) -> str:
        return report_of(fabricate(tmp_path / name, *PRIVATE, summary=summary)).section("verdict")

    infinite = "Epsilon is infinite: no noise was added, and nothing is private."
    assert infinite in said("none", a_private_summary(epsilon=None, releases=2))
    assert "summary.json, which would hold epsilon, is missing" in said("killed", {})
    earlier = said("earlier", a_private_summary(epsilon=15.13))
    assert "as an earlier version of dermafed counted it: too small" in earlier
    assert "15.1" not in earlier


def test_a_run_that_adds_no_noise_says_nothing_of_privacy(page: Page) -> None:
    assert "psilon" not in page.section("verdict")
    assert "are left out" not in page.section("rounds")


# ---------------------------------------------------------------- the sentences


YARDSTICKS = {
    "real images": 0.007,
    "real images blurred by way of 16 pixels": 0.08,
    "a Gaussian on 64 components": 0.67,
    "the mean image": 3.4,
}


def kid_of(kid: float, half: float, real: float | None = 0.01) -> dict[str, Any]:
    return {"kid": kid, "kid_interval": [kid - half, kid + half], "real": {"kid": real}}


@pytest.mark.parametrize(
    ("test", "validation", "expected"),
    [
        (
            kid_of(0.3, 0.02),
            0.31,
            "By KID (0.300, 0.280 to 0.320) better than a Gaussian on 64 components (0.670); worse than "
            "real images blurred "
            "by way of 16 "
            "pixels (0.0800); about 30 times the distance of real images (0.0100).",
        ),
        # Beyond the yardstick on validation images: not claimed.
        (
            kid_of(0.6, 0.02),
            0.7,
            "By KID (0.600, 0.580 to 0.620) better than the mean image (3.40); not clearly told apart from "
            "a Gaussian on 64 components "
            "(0.670); worse than real images blurred by way of 16 pixels (0.0800); about 60 times the distance of real "
            "images (0.0100).",
        ),
        (
            kid_of(1800, 20),
            1790,
            "By KID (1,800, 1,780 to 1,820) worse than the mean image (3.40); about 180,000 times the distance of real "
            "images (0.0100).",
        ),
        (
            kid_of(0.02, 0.015),
            0.02,
            "By KID (0.0200, 0.00500 to 0.0350) better than real images blurred by way of 16 pixels "
            "(0.0800); not told apart "
            "from real images "
            "(0.0100).",
        ),
        # A distance that is not above zero is no unit.
        (
            kid_of(0.03, 0.01, real=-0.001),
            0.03,
            "By KID (0.0300, 0.0200 to 0.0400) better than real images blurred by way of 16 pixels "
            "(0.0800); farther than "
            "real images, whose "
            "distance is not told apart from zero (−0.00100).",
        ),
        # The interval holds the yardstick: not claimed either.
        (
            kid_of(0.66, 0.02),
            0.6,
            "By KID (0.660, 0.640 to 0.680) better than the mean image (3.40); not clearly told apart from a Gaussian "
            "on 64 components (0.670); worse than real images blurred by way of 16 pixels (0.0800); about 66 times the "
            "distance of real images (0.0100).",
        ),
        # Two draws far apart, as the Student interval takes them.
        (
            kid_of(11.4, 16.6),
            12.2,
            "KID 11.4, −5.20 to 28.0, where real images score 0.0100: draws spread too widely to place this generator.",
        ),
        (
            {"kid": 0.3, "kid_interval": None, "real": {"kid": 0.01}},
            0.3,
            "KID 0.300, where real images score 0.0100. One draw gives no interval, so nothing is claimed.",
        ),
        ({"kid": None}, None, "No KID was measured, so nothing can be said."),
    ],
)  # fmt: skip
def test_fidelity(test: dict[str, Any], validation: float | None, expected: str) -> None:
    assert fidelity_sentence(test, YARDSTICKS, validation) == expected


def test_diversity() -> None:
    test = {
        "recall": 0.1, "recall_interval": [0.08, 0.12],
        "coverage": 0.9, "coverage_interval": [0.85, 0.96],
        "vendi": 6.0, "vendi_interval": [5.9, 6.1],
        "spread": 0.62, "spread_interval": [0.6, 0.64],
        "real": {"recall": 0.7, "coverage": 0.95, "vendi": 5.8},
    }  # fmt: skip
    assert diversity_sentence(test, {"total_variation": {"mean": 0.23}}) == (
        "Less than real images: recall 0.100 against 0.700; not told apart from them: coverage 0.900 "
        "against 0.950; more "
        "than they: Vendi score 6.00 against 5.80. Images of one class differ less from each other than real ones do "
        "(0.620 of their spread). Classifiers see classes in shares that are 0.230 from those asked for "
        "(total variation)."
    )
    assert diversity_sentence({}) == "No figure of diversity was measured, so nothing can be said."
    assert diversity_sentence({"recall": 0.1, "real": {"recall": 0.7}}) == (
        "Without an interval, so without a claim: recall 0.100 against 0.700."
    )


def test_speed() -> None:
    reached = {"yardstick": "PCA Gaussian", "kid": 0.67, "round": 16, "images": 20480, "seconds": 128.7}
    harder = {"yardstick": "real images blurred by way of 16 pixels", "kid": 0.08, "not_reached": True}
    speed = {"images_per_second": 193.0, "seconds_per_1000_images": 5.18, "time_to_kid": [reached, harder]}
    assert speed_sentence(speed, device="A Processor (2 cores)") == (
        "193 training images a second on A Processor (2 cores) (5.18 s for 1,000). Validation KID fell "
        "below that of the "
        "PCA Gaussian (0.670) by round 16, after 2 min 09 s. It did not reach that of real images blurred by way of 16 "
        "pixels (0.0800)."
    )
    assert speed_sentence({"time_to_kid": [harder]}) == (
        "Validation KID fell below no yardstick, not even that of real images blurred by way of 16 pixels (0.0800)."
    )


def accuracy(mean: float, half: float | None) -> dict[str, Any]:
    interval = None if half is None else [mean - half, mean + half]
    return {"balanced_accuracy": {"mean": mean, "interval": interval}}


def test_predictive_ability() -> None:
    utility = {
        "classes": ["nv", "mel", "bcc", "df", "vasc"],
        "classes_without_test_images": ["vasc"],
        "arms": {
            "real": accuracy(0.8, 0.03),
            "synthetic": accuracy(0.4, 0.05),
            "real+synthetic": accuracy(0.82, 0.03),
            "rare": accuracy(0.9, 0.02),
        },
    }
    utility["arms"]["synthetic"]["melanoma_sensitivity_at_90_specificity"] = {"mean": 0.452}
    assert predictive_sentence(utility) == (
        "Trained on synthetic images alone, classifiers reach a balanced accuracy of 0.400 on real test "
        "images, 0.800 on "
        "real ones; a guess reaches 0.250. That is less than from real images, and more than a guess. Synthetic images "
        "beside all real ones make no difference that can be told from chance (0.820 against 0.800). Synthetic "
        "images of rare classes "
        "beside real ones help (0.900 against 0.800). At 90 % specificity, classifiers trained on "
        "synthetic images find "
        "45.2\u00a0% of real melanomas."
    )
    unlike = {
        "classes": ["nv", "mel"],
        "arms": {"real": accuracy(0.6, 0.3), "synthetic": accuracy(0.4, 0.05)},
    }
    assert predictive_sentence(unlike).endswith(
        "The two are not told apart. Synthetic images alone give less than a guess."
    )
    alone = {"classes": ["nv", "mel"], "arms": {"real": accuracy(0.8, None), "synthetic": accuracy(0.4, None)}}
    assert predictive_sentence(alone).endswith(" One seed gives no interval, so no difference is claimed.")


def test_authenticity() -> None:
    authenticity = a_summary()["authenticity"]
    assert authenticity_sentence(authenticity) == (
        "These tests found no sign of copying, which does not prove that there is none. The final discriminator tells "
        "training images from held-out ones (area 0.561, 0.531 to 0.591). Note: HAM10000 knows lesions, not patients."
    )
    copied = a_summary()["authenticity"]
    copied["nearest"] |= {"share_nearer_to_train": 0.71, "interval": [0.68, 0.74]}
    copied["membership"]["generator"] |= {"auc": 0.66, "interval": [0.62, 0.7]}
    copied["near_duplicates"]["to_train"] = 0.2
    copied["membership"]["networks"] = {"auc": 0.51, "interval": [0.48, 0.54]}
    assert authenticity_sentence(copied) == (
        "Signs of copying: 71.0\u00a0% of generated images lie nearer to training images than to as "
        "many held-out ones, "
        "generated images tell who was trained on (area 0.660, 0.620 to 0.700) and 20.0\u00a0% of generated images are "
        "near-duplicates of training images, 1.7\u00a0% of real test images are. The final discriminator "
        "was not found to tell training "
        "images from held-out ones (area 0.510, 0.480 to 0.540). Note: HAM10000 knows lesions, not patients."
    )
    # An area that the control reaches too is no sign.
    copied = a_summary()["authenticity"]
    copied["membership"]["null_control"]["auc"] = 0.53
    copied["membership"]["generator"] |= {"auc": 0.54, "interval": [0.52, 0.56]}
    assert authenticity_sentence(copied).startswith("These tests found no sign of copying")
    assert authenticity_sentence(authenticity | {"valid": False, "reason": "the split itself tells them apart"}) == (
        "Nothing can be said about copying: the split itself tells them apart. Note: HAM10000 knows "
        "lesions, not patients."
    )
    # The search for copies has controls of its own.
    test = {"num_looked_at": 112, "num_trained_on": 90, "expected": 89.4, "p": 0.5}
    copies = {"flagged": False, "nearer_to_held_out": False, "level": 0.01, "features": test}
    unlike = {"valid": False, "reason": "the split itself tells them apart", "copies": copies, "num_generated": 20_000}
    assert authenticity_sentence(authenticity | unlike).startswith(
        "Copies of training images: not flagged: of the 112 patients or lesions that 20,000 generated images come "
        "nearest to (by features), 90 were trained on, 89 by chance (p = 0.5). That does not prove that there are "
        "none. Nothing else can be said about copying: the split itself tells them apart. Note"
    )


def test_reasons_are_short_and_without_a_traceback() -> None:
    traceback = 'Traceback (most recent call last):\n  File "/home/jane/x.py", line 3\nMemoryError: no room\n'
    assert shorten(traceback) == "MemoryError: no room"
    assert shorten(f"hospital 'north' failed:\n{traceback}") == "hospital 'north' failed: MemoryError: no room"
    assert shorten("x" * 400) == "x" * 299 + "…"


# ---------------------------------------------------------------- what is missing is named


def test_an_interrupted_run(tmp_path: Path) -> None:
    summary = {"status": "interrupted", "rounds": 2, "reason": "KeyboardInterrupt", "extractor": "lesion-cnn-32@4ed5"}
    page = report_of(fabricate(tmp_path / "run", "rounds=9", summary=summary))
    assert "The run was interrupted after round 2 of 9: KeyboardInterrupt." in page.root.text
    why = "The run was interrupted after round 2, before its end."
    assert page.section("verdict").count(f"Not measured. {why}") == 5
    assert "The last KID on validation images is 0.488, at round 4 (lesion-cnn-32@4ed5)." in page.section("verdict")
    for name in ("utility", "authenticity", "speed"):
        assert why in page.section(name)
    # What the rounds left is there.
    assert page.row("rounds", "2").numbers()[:4] == [2, 640, 1920, 1.57]
    assert page.row("per-class", "nv").numbers() == [0.4876 * 1.1]
    assert "n too small" in page.row("per-class", "df").text
    assert page.root.by_id("sheet-image").attributes["href"].startswith("data:image/png;base64,")


def test_a_run_that_ended_early_and_a_hospital_that_was_late(tmp_path: Path) -> None:
    summary = a_summary() | {"stopped_early": "no better KID than 0.5 of round 2 in 2 evaluations"}
    run = fabricate(tmp_path / "run", "rounds=9", summary=summary)
    lines = (run / "hospitals.jsonl").read_text().replace('"refused"', '"late"')
    (run / "hospitals.jsonl").write_text(lines.replace("generator.weight: is not finite", "no answer within 15 s"))
    write_report(RunDirectory(run))
    page = (run / "report.html").read_text()
    assert "The run ended early, after round 4 of 9: no better KID than 0.5 of round 2 in 2 evaluations." in page
    assert page.count('<i class="late"></i>') == 1
    assert "no answer within 15 s" in page


def test_a_run_without_evaluation(tmp_path: Path) -> None:
    path = fabricate(tmp_path / "run", summary={"status": "failed", "rounds": 0, "reason": "no room"})
    for name in ("metrics.jsonl", "hospitals.jsonl", "partition.json", "environment.json"):
        (path / name).unlink()
    for sheet in (path / "samples").iterdir():
        sheet.unlink()
    page = report_of(path)
    assert "The run failed after round 0 of 4: no room." in page.root.text
    assert "The run never reached its first evaluation" in page.section("rounds")
    assert "No KID was measured" in page.section("verdict")
    assert "The run left no sample sheet" in page.section("samples")
    assert "partition.json is missing" in page.section("partition")
    assert "hospitals.jsonl is missing or empty" in page.section("hospitals")
    assert "environment.json is missing" in page.section("settings")


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    path = fabricate(tmp_path / "run")
    (path / "summary.json").unlink()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 6, "kid"')  # half a line
    page = report_of(path)
    assert "round 4 of 4 is the last that left a line" in page.root.text
    assert "summary.json is missing: the run is still going on, or its process was killed" in page.section("utility")


def test_parts_that_were_not_measured(tmp_path: Path) -> None:
    summary = a_summary()
    summary["utility"] = {"not_measured": "evaluation.utility is false"}
    summary["authenticity"] = {"not_measured": "too few images: 12 test images"}
    summary["test"]["per_class"] = {"not_measured": "the generated images bear no class"}
    path = fabricate(tmp_path / "run", "model.conditional=false", summary=summary)
    page = report_of(path)
    assert "Not measured. evaluation.utility is false." in page.section("verdict")
    assert "evaluation.utility is false." in page.row("verdict", "Class balance").text
    assert "evaluation.utility is false." in page.section("utility")
    assert "Too few images: 12 test images." in page.section("authenticity")
    assert "the generated images bear no class" in page.section("groups")
    # Rows of a sheet without classes are no classes.
    assert "The generator is not told the diagnosis, so that rows mean nothing." in page.section("samples")
    assert "select" not in {element.tag for element in page.root.walk()}


def test_nulls_and_numbers_that_are_not_finite(tmp_path: Path) -> None:
    def nulled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: nulled(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [nulled(entry) for entry in value]
        return None if isinstance(value, float) else value

    summary = nulled(a_summary())
    summary["test"]["fid"] = math.nan  # json as Python writes it by itself
    path = fabricate(tmp_path / "run", summary=summary)
    (path / "metrics.jsonl").write_text(
        json.dumps({"round": 0, "kid": math.nan, "fid": None, "extractor": "x@1"}) + "\n"
    )
    page = report_of(path)
    assert page.row("verdict", "KID").numbers() == page.row("verdict", "FID").numbers() == []
    assert "No KID was measured, so nothing can be said." in page.section("verdict")
    assert "nan" not in page.root.by_id("verdict").text.lower()


def test_a_summary_of_another_version(tmp_path: Path) -> None:
    summary = a_summary()
    summary["utility"] = {"synthetic": {"balanced_accuracy": 0.19}, "num_test_images": 586}
    del summary["authenticity"], summary["speed"]
    page = report_of(fabricate(tmp_path / "run", summary=summary))
    assert "The section utility of summary.json is that of another version" in page.section("utility")
    assert "summary.json has no section authenticity" in page.section("authenticity")


def test_values_of_the_wrong_type_are_no_numbers(tmp_path: Path) -> None:
    summary = a_summary()
    summary["test"] |= {"kid": "0.1", "real": [1, 2], "nearest_k": None, "per_class": ["nv"], "num_draws": True}
    summary["utility"] |= {"arms": {"real": 3}, "recognised": 7}
    summary["authenticity"] |= {"nearest": "near", "membership": [], "closest_pairs": {"a": 1}}
    summary["speed"] |= {"shares": None, "time_to_kid": 4, "bytes": "many"}
    page = report_of(fabricate(tmp_path / "run", summary=summary))
    assert page.row("verdict", "KID").numbers() == [0.4764 - 0.0125, 0.4764 + 0.0125]


def test_figures_of_two_extractors_do_not_meet(tmp_path: Path) -> None:
    summary = a_summary()
    summary["test"]["extractor"] = "inception-v3@6726"
    path = fabricate(tmp_path / "run", summary=summary)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    lines[0]["extractor"] = "lesion-cnn-32@0000"
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = report_of(path)
    # No yardstick of another extractor beside the test's KID, no round of another one in the table.
    assert "Gaussian" not in page.root.by_id("verdict-section").all("dl")[0].all("div")[0].text
    assert "mean image" not in page.root.by_id("ruler").text
    assert "1 evaluated rounds are of another extractor" in page.section("rounds")
    assert [row.all("th")[0].text for row in page.root.by_id("rounds").all("tr")[1:]] == ["2", "4"]


# ---------------------------------------------------------------- bad input


def test_bad_input_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    def problems(path: Path) -> tuple[str, ...]:
        with pytest.raises(RunDirectoryError) as caught:
            write_report(RunDirectory(path))
        return caught.value.problems

    absent, empty = tmp_path / "absent", tmp_path / "empty"
    empty.mkdir()
    assert problems(absent) == (f"run directory {absent}: does not exist; give the folder of a run",)
    assert not absent.exists()
    assert problems(empty) == (
        f"run directory {empty}: has no config.toml, so it holds no run; give the folder that --run-dir named",
    )
    run = fabricate(tmp_path / "run")
    assert problems(run / "config.toml")[0].endswith("is a file; give the folder of a run")
    (run / "report.html").write_text("an older report")
    (run / "summary.json").write_text((run / "summary.json").read_text()[:200])
    (run / "partition.json").write_text("[1]")
    (run / "environment.json").write_bytes(b"\xff\xfe")
    (run / "metrics.jsonl").write_text('{"round": 0}\n{"round": 1,\n{"round": 2}\n')
    (run / "hospitals.jsonl").write_text("3\n")
    before = sorted(path.name for path in run.iterdir())
    found = problems(run)
    assert [re.sub(r"^.*/", "", problem).split(";")[0] for problem in found] == [
        "environment.json: is not a text file",
        "partition.json: holds no json object",
        "metrics.jsonl: line 2 is not valid json (Expecting property name enclosed in double quotes)",
        "hospitals.jsonl: line 1 holds no json object",
        f"summary.json: is not valid json (line 1: {re.search(r'line 1: ([^)]*)', found[-1])[1]})",  # type: ignore[index]
    ]
    assert sorted(path.name for path in run.iterdir()) == before
    assert (run / "report.html").read_text() == "an older report"
    (run / "config.toml").write_text("rounds = ")
    assert any("config.toml: is not valid toml" in problem for problem in problems(run))


# ---------------------------------------------------------------- hostile names, and nothing from elsewhere


HOSTILE = ("</script><script>alert(1)</script>", '"><img src=x onerror=alert(2)>')


def test_names_are_text(tmp_path: Path) -> None:
    name = "<script>alert(3)</script>"
    summary = json.loads(json.dumps(a_summary()).replace('"mel"', json.dumps(name)))
    for site, entry in zip(HOSTILE, summary["test"]["per_site"], strict=True):
        entry["name"] = site
    summary["speed"]["bytes"] = [{"site": site, "up": 1, "down": 2} for site in HOSTILE]
    summary["authenticity"]["reason"] = "<style>*{display:none}</style>"
    classes = f"data.classes=nv,{name},df"
    page = report_of(fabricate(tmp_path / "run", classes, summary=summary, sites=HOSTILE))
    assert len(page.root.all("script")) == 2
    assert len(page.root.all("style")) == 1
    assert [image.attributes.get("src") for image in page.root.all("img")] == []
    assert not [name for element in page.root.walk() for name in element.attributes if name.startswith("on")]
    for table in ("partition", "hospitals", "bytes", "per-site"):
        for site in HOSTILE:
            assert page.row(table, site)
    assert page.row("confusion", name)
    assert any(text.text.startswith("<script>a") for text in page.root.by_id("sheet").all("text"))
    # Names in pictures are text too.
    assert HOSTILE[1] in page.root.by_id("kid-by-site").text


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for element in page.root.walk():
        for name, value in element.attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action", "background"):
                is_link = element.tag == "a" and value.startswith(("#", "https://arxiv.org/abs/"))
                assert is_link or value.startswith(("data:", "#")), (element.tag, name, value)
            assert "http:" not in value, (element.tag, name)
            assert not re.search(r"url\((?!#)", value), (element.tag, name, value)
    for element in page.root.all("style"):
        assert "url(" not in element.text
        assert "@import" not in element.text
    policy = next(meta for meta in page.root.all("meta") if "http-equiv" in meta.attributes)
    assert "default-src 'none'" in policy.attributes["content"]
    assert "connect-src" not in policy.attributes["content"]
    without_links = re.sub(r'<a href="https://arxiv\.org/abs/[\d.]+"', "", page.source)
    assert "https:" not in without_links
    assert "http:" not in without_links


def test_the_page_can_be_read_by_machines_that_read_aloud(page: Page) -> None:
    ids = Counter(element.attributes["id"] for element in page.root.walk() if element.attributes.get("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    for element in page.root.walk():
        for name in ("aria-labelledby", "aria-describedby"):
            assert all(target in ids for target in element.attributes.get(name, "").split())
        if element.tag == "a" and element.attributes["href"].startswith("#"):
            assert element.attributes["href"][1:] in ids
    drawings = [element for element in page.root.all("svg") if element.attributes.get("id") != "sheet"]
    assert len(drawings) == 10
    for drawing in drawings:
        assert drawing.attributes["role"] == "img"
        words = [page.root.by_id(name).text for name in drawing.attributes["aria-labelledby"].split()]
        assert all(words)
        assert "#0" not in " ".join(element.attributes.get("style", "") for element in drawing.walk())
    assert "KID: 906 at round 0, 0.488 at round 4" in page.root.by_id("kid-text").text
    for table in page.root.all("table"):
        assert table.all("caption")[0].text
        assert all(head.attributes.get("scope") in ("col", "row", "rowgroup") for head in table.all("th"))
    levels = [int(element.tag[1]) for element in page.root.walk() if re.fullmatch(r"h[1-6]", element.tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_same_run_gives_the_same_bytes(finished: Path, page: Page) -> None:
    assert report_of(finished).source == page.source


def test_a_negative_kid_stays_off_the_logarithmic_axis(tmp_path: Path) -> None:
    summary = a_summary() | {"kid_floor": -0.0012}
    page = report_of(fabricate(tmp_path / "run", summary=summary))
    caption = page.root.by_id("kid").text
    assert "Not above zero, and so below this axis: real images (−0.00120)." in caption
    # The class "mel" falls to −0.011 in the last round.
    assert "Triangles at the lower edge" in page.root.by_id("kid-by-class").text


# ---------------------------------------------------------------- samples


def embedded(href: str) -> np.ndarray:
    assert href.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(href.split(",", 1)[1]))) as image:
        return np.asarray(image)


def test_the_sheets_are_those_of_the_run(page: Page) -> None:
    sheets = json.loads(page.root.by_id("sheets").text)
    assert [sheet["round"] for sheet in sheets] == [0, 2, 4]
    assert sheets[1]["caption"] == "Round 2 · validation KID 1.57 · 640 training images shown"
    for sheet in sheets:
        pixels = embedded(sheet["href"])
        # Four rows of 32 + 1 pixels: each pixel once, without captions.
        assert pixels.shape == (132, 396, 3)
        for row in range(4):
            for column in range(12):
                tile = pixels[33 * row : 33 * row + 32, 33 * column : 33 * column + 32]
                assert (tile == sheet_colour(sheet["round"], row, column)).all()
    picture = page.root.by_id("sheet")
    assert [text.text for text in picture.all("text")] == ["nv", "mel", "df", "real"]
    # Without a script the last round is there.
    assert page.root.by_id("sheet-image").attributes["href"] == sheets[-1]["href"]
    assert [option.text for option in page.root.by_id("class").all("option")] == ["all", "nv", "mel", "df", "real"]


def test_rounds_are_chosen_evenly_with_the_first_and_the_last(tmp_path: Path) -> None:
    assert choose_rounds(range(0, 100, 4), 24)[:3] == [0, 4, 8]  # type: ignore[arg-type]
    chosen = choose_rounds(list(range(101)), 24)
    assert (len(chosen), chosen[0], chosen[-1]) == (24, 0, 100)
    assert {after - before for before, after in pairwise(chosen)} == {4, 5}
    assert choose_rounds([3], 24) == [3]

    path = fabricate(tmp_path / "run")
    for server_round in range(5, 40):
        (path / "samples" / f"round-{server_round:04d}.png").write_bytes(
            (path / "samples" / "round-0004.png").read_bytes()
        )
    (path / "samples" / "round-0039.png").write_bytes(b"no picture")
    page = report_of(path)
    assert "Could not be read: round-0039.png." in page.section("samples")
    assert "23 of 38 rounds, evenly chosen, with the first and the last of them." in page.section("samples")


def test_large_sheets_are_reduced(tmp_path: Path) -> None:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (8 * 130, 64 + 12 * 130, 3), dtype=np.uint8)
    paths = {}
    for server_round in range(8):
        paths[server_round] = tmp_path / f"round-{server_round:04d}.png"
        Image.fromarray(noise).save(paths[server_round])
    samples = read_samples(paths, [f"class {row}" for row in range(8)])
    assert samples.is_reduced
    sizes = [len(sheet.href) for sheet in samples.sheets]
    assert sum(sizes) < 7_000_000
    assert [samples.sheets[0].round, samples.sheets[-1].round] == [0, 7]
    assert (samples.sheets[-1].width, samples.sheets[-1].height, samples.sheets[-1].pitch) == (780, 520, 65)
    assert np.array_equal(embedded(samples.sheets[-1].href), np.asarray(Image.fromarray(noise[:, 64:]).reduce(2)))
    # Rows that do not divide the height are no rows.
    assert read_samples({0: paths[0]}, ["a", "b", "c"]).rows == ()


def test_no_real_image_unless_it_may_be_seen(tmp_path: Path) -> None:
    real = ["data.source=folder", "data.root=/images"]
    hidden = fabricate(tmp_path / "hidden", *real)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(hidden / "closest-pairs.png")
    picture = base64.b64encode((hidden / "closest-pairs.png").read_bytes()).decode()
    page = report_of(hidden)
    assert picture not in page.source
    assert "No picture: report.show-real-images = false hides training images." in page.section("authenticity")
    assert "ISIC_00" not in page.source
    assert page.row("pairs", "17").numbers() == [17, 0.41, 2.5]

    shown = fabricate(tmp_path / "shown", *real, "report.show-real-images=true")
    assert "closest-pairs.png is not in the run directory" in report_of(shown).section("authenticity")
    (shown / "closest-pairs.png").write_bytes((hidden / "closest-pairs.png").read_bytes())
    page = report_of(shown)
    assert [image.attributes["src"] for image in page.root.all("img")] == [f"data:image/png;base64,{picture}"]
    assert "ISIC_003" in page.root.by_id("pairs").text


# ---------------------------------------------------------------- settings


def test_the_commands_repeat_the_run(tmp_path: Path) -> None:
    assignments = [
        "data.source=folder",
        "data.root=/images of 'x' & y",
        "stylegan2.gamma=0.25",
        "report.show-real-images=true",
    ]
    path = fabricate(tmp_path / "run", *assignments)
    expected = resolve([parse_assignments([f"data.classes={','.join(CLASSES)}", "rounds=4", *assignments])])
    (_, checkout), (_, by_file), (_, whole) = commands(read_run(RunDirectory(path)))
    assert checkout == "git checkout 0123456789abcdef"
    assert by_file == "dermafed simulate --config config.toml --run-dir phantom-again"
    words = shlex.split(whole.replace("\\\n", " "))
    assert words[:4] == ["dermafed", "simulate", "--run-dir", "phantom-again"]
    assert words[4::2] == ["--set"] * len(words[5::2])
    assert resolve([parse_assignments(words[5::2])]) == expected


def test_every_setting_with_changes_marked(tmp_path: Path) -> None:
    path = fabricate(tmp_path / "run", "stylegan2.gamma=0.25")
    (path / "config.toml").write_text((path / "config.toml").read_text() + '\n[future]\nkey = "<i>"\n')
    page = report_of(path)
    keys = [row.all("th")[0].text.split()[0] for row in page.root.by_id("settings").all("tr")[1:]]
    # The tables of other families of models are noise.
    assert keys == [*(key for key in resolve([]).to_flat() if not key.startswith("vae.")), "future.key"]
    gamma = page.row("settings", "stylegan2.gamma").all("td")
    assert [cell.text for cell in gamma] == ["0.25", "2.0", "changed"]
    assert [cell.text for cell in page.row("settings", "seed").all("td")] == ["0", "0", ""]
    assert [cell.text for cell in page.row("settings", "future.key").all("td")] == [
        "<i>", "unknown to this version", "changed",
    ]  # fmt: skip
    changed = [row.all("th")[0].text.split()[0] for row in page.root.by_id("changed").all("tr")[1:]]
    assert changed == ["rounds", "data.classes", "stylegan2.gamma", "future.key"]
    assert "torch 2.11.0 flwr not installed" in page.section("settings")


def test_augmentation_is_drawn_where_it_is_adapted(tmp_path: Path) -> None:
    page = report_of(fabricate(tmp_path / "run", "stylegan2.augmentation.name=ada"))
    assert "p: 0.0250 at round 2, 0.0500 at round 4" in page.root.by_id("augmentation").text


# ---------------------------------------------------------------- families of models, other versions, real sites


def rewritten(path: Path, change: Any) -> None:
    """Put the dictionary that `change` makes of each line in its place."""
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def without(line: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not name.startswith(names)}


def test_a_run_of_a_vae_is_spoken_of_as_one(tmp_path: Path) -> None:
    summary = a_summary()
    summary["authenticity"]["membership"]["score"] = "evidence lower bound"
    path = fabricate(tmp_path / "run", "model.name=vae", "vae.beta=2.5", summary=summary)

    def of_a_vae(line: dict[str, Any]) -> dict[str, Any]:
        had = "loss_generator" in line
        line = without(line, "loss_", "logit_", "augmentation_")
        losses = {"loss_negative_elbo": -1.25, "loss_reconstruction": -1.5, "loss_divergence": 0.25}
        return line | losses if had else line

    for name in ("metrics.jsonl", "hospitals.jsonl"):
        rewritten(path / name, of_a_vae)
    page = report_of(path)
    assert [element.text for element in page.root.by_id("rounds-section").all("h3")][3:5] == ["Losses", "KID by class"]
    losses = page.root.by_id("losses").text
    for label, value in (("negative ELBO", "−1.25"), ("reconstruction", "−1.50"), ("divergence", "0.250")):
        assert f"{label}: {value} at round 2, {value} at round 4" in losses
    # Below zero like above it: no value is moved to an edge.
    assert "Triangles" not in losses
    heads = {name: [head.text for head in page.root.by_id(name).all("th")] for name in ("rounds", "hospitals")}
    for found, note in ((heads["rounds"], ""), (heads["hospitals"], " last")):
        assert [
            head for head in found if head in {f"{label}{note}" for label in ("−ELBO", "Recon.", "Divergence")}
        ] == [
            f"−ELBO{note}",
            f"Recon.{note}",
            f"Divergence{note}",
        ]
    assert page.row("hospitals", "north").numbers()[-3:] == [-1.25, -1.5, 0.25]
    assert page.row("membership", "Final networks").numbers() == [0.561, 0.531, 0.561 + 0.03, 900, 211]
    # What an earlier version did not ask is not laid out as missing.
    assert "smallest hospital" not in page.section("authenticity")
    assert "by thumbnails" not in page.section("authenticity")
    assert "their evidence lower bound" in page.row("membership", "Final networks").text
    assert page.row("verdict", "Membership guessed from the evidence lower bound").numbers()[0] == 0.561
    assert "The evidence lower bound of the final networks tells training images from held-out ones" in page.section(
        "verdict"
    )
    keys = [row.all("th")[0].text.split()[0] for row in page.root.by_id("settings").all("tr")[1:]]
    assert keys == [key for key in resolve([]).to_flat() if not key.startswith("stylegan2.")]
    # Nothing is left that speaks of a discriminator, but for a setting of strategies and a term of the literature.
    settings = page.root.by_id("settings-section").text.count("discriminator")
    assert page.root.text.count("discriminator") - settings == 1
    assert "from the evidence lower bound of trained networks, as from the logit of a discriminator" in page.section(
        "terms"
    )


def test_a_run_of_an_earlier_version_is_read_as_one_of_today(tmp_path: Path) -> None:
    assignments = ("stylegan2.gamma=0.25", "stylegan2.augmentation.name=ada")
    today, before = (fabricate(tmp_path / name, *assignments) for name in ("today", "before"))
    # What was not counted then is shown nowhere.
    summary = a_summary()
    del summary["speed"]["time_to_kid"][0]["evaluations"]
    for path in (today, before):
        rewritten(path / "metrics.jsonl", lambda line: without(line, "evaluations"))
    (today / "summary.json").write_text(json.dumps(summary))

    membership = summary["authenticity"]["membership"]
    del membership["score"]
    membership["discriminator"] = membership.pop("networks")
    (before / "summary.json").write_text(json.dumps(summary))
    # A setting that there was not yet.
    text = (today / "config.toml").read_text()
    (today / "config.toml").write_text(text.replace('heads = ""\n', ""))
    names = {new: old for old, new in RENAMED_KEYS.items()}
    settings: dict[str, Any] = {}
    for key, value in read_run(RunDirectory(today)).settings.items():
        *tables, leaf = names.get(key, key).split(".")
        table = settings
        for name in tables:
            table = table.setdefault(name, {})
        table[leaf] = "loss-discriminator" if key == "strategy.fairness-loss" else value
    (before / "config.toml").write_text(tomli_w.dumps(settings))
    assert not [table for table in settings if table.startswith(("stylegan2", "vae"))]

    page = report_of(before)
    assert "network evaluations" not in page.source.lower()
    assert page.row("time-to-kid", "mean image").numbers() == [3.4019, 2, 640, 33.25]
    # The code that did the run knows its settings by the names that config.toml has.
    (_, _), (_, _), (_, whole) = commands(read_run(RunDirectory(before)))
    assert shlex.split(whole.replace("\\\n", " "))[-4:] == [
        "--set", "training.gamma=0.25", "--set", "augmentation.name=ada",
    ]  # fmt: skip
    source = page.source.replace("--set training.gamma", "--set stylegan2.gamma")
    assert source.replace("--set augmentation", "--set stylegan2.augmentation") == report_of(today).source


def test_settings_that_this_version_would_refuse_are_reported(tmp_path: Path) -> None:
    path = fabricate(tmp_path / "run")
    text = (path / "config.toml").read_text()
    (path / "config.toml").write_text(text.replace("gamma = 0.1", 'gamma = "high"'))
    page = report_of(path)
    assert "Loss G" in page.root.by_id("hospitals").text
    (path / "config.toml").write_text(text.replace('name = "stylegan2"', 'name = "another"'))
    page = report_of(path)
    # Of a family that is not known here, what the lines hold.
    assert "generator: 1.61 at round 2" in page.root.by_id("losses").text


def test_a_real_site_need_not_tell_how_it_trained(tmp_path: Path) -> None:
    summary = a_summary()
    summary["speed"]["shares"] |= {"training": None, "transport": None}
    path = fabricate(tmp_path / "run", summary=summary)
    rewritten(
        path / "hospitals.jsonl",
        lambda line: without(line, "loss_", "seconds") if line["site"] == SITES[0] else line,
    )
    page = report_of(path)
    assert page.row("hospitals", "north").text.endswith("600 – – –")
    assert page.row("hospitals", "south").numbers() == [600, 1.61, 0.53]
    assert "training and transport 70.0 % not every hospital told how long it trained" in page.section("speed")


def test_many_hospitals_leave_a_page_that_can_be_read(tmp_path: Path) -> None:
    path = fabricate(tmp_path / "run")
    sites = [f"site-{place:04d}" for place in range(300)]
    manifest = json.loads((path / "partition.json").read_text())
    manifest["hospitals"] = {
        site: {"images": place + 1, "groups": 1, "classes": {"nv": place + 1, "mel": 0, "df": 0}}
        for place, site in enumerate(sites)
    }
    (path / "partition.json").write_text(json.dumps(manifest))
    replies = [
        {"round": 1, "site": site, "status": "failed" if site == "site-0007" else "ok", "seconds": 1.0}
        for site in sites
    ]
    (path / "hospitals.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
    page = report_of(path)
    assert len(page.root.by_id("partition").all("tr")) == 61
    assert "The 60 hospitals of 300 with most images." in page.section("partition")
    assert page.row("partition", "site-0299").numbers() == [300, 0, 0, 300, 1]
    assert "with most troubles" in page.section("hospitals")
    assert page.row("hospitals", "site-0007").text.startswith("site-0007 0 1 0")


def test_the_page_is_shipped_wherever_the_code_is() -> None:
    """Flower's bundle takes Python files, and no template, style sheet or script."""
    files = [path for path in (REPOSITORY / "server" / "report").rglob("*") if path.is_file()]
    assert {path.suffix for path in files if "__pycache__" not in path.parts} == {".py"}


def test_it_imports_nothing_that_trains(finished: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom federation.run_directory import RunDirectory\n"
        "from server.report import write_report\n"
        f"write_report(RunDirectory(Path({str(finished)!r})))\n"
        "names = ('flwr', 'ray', 'clients', 'strategies', 'matplotlib.pyplot', 'federation.models.training')\n"
        "built = ('networks', 'step')\n"  # of a family of models
        "print([name for name in sys.modules if name in names"
        " or name.startswith('federation.models.') and name.endswith(built)])"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (0, "[]\n", "")


def test_copies_are_flagged_first_and_a_copier_stands_beside_each_area_of(tmp_path: Path) -> None:
    def area_of(value: float) -> dict[str, Any]:
        return {"auc": value, "interval": [value - 0.03, value + 0.03], "num_members": 900, "num_non_members": 211}

    summary = a_summary()
    authenticity = summary["authenticity"]
    test = {"num_looked_at": 112, "num_trained_on": 112, "expected": 89.03, "p": 5.1e-12, "p_opposite": 1.0}
    authenticity["copies"] = {
        "flagged": True,
        "nearer_to_held_out": False,
        "level": 0.01,
        "features": {"not_measured": "features or the split itself tell the two apart"},
        "thumbnails": test | {"smallest_p": 5.1e-12, "control_p": 0.8},
    }
    authenticity |= {"num_generated": 20_000, "num_generated_chosen_by": "evaluation.searched-images = 20000"}
    attack = area_of(0.641) | {"tpr": 0.238, "tpr_interval": [0.22, 0.25], "copier": {"auc": 0.985, "tpr": 0.969}}
    by_class = {"nv": attack | {"tpr": None}, "df": {"not_measured": "too few to compare"}}
    membership = authenticity["membership"]
    membership["generator"] = attack | {"by_class": by_class}
    membership["thumbnails"] = area_of(0.6)
    del membership["upload"]
    membership["upload_smallest"] = {"not_measured": "too few images", "site": "village"}
    membership["upload_largest"] = area_of(0.55) | {"site": "city"}
    page = report_of(fabricate(tmp_path / "run", summary=summary))
    said = (
        "Copies of training images: FLAGGED: of the 112 patients or lesions that 20,000 generated images come nearest "
        "to (by thumbnails), 112 were trained on, 89 by chance (p = 5.1e-12)."
    )
    assert said in page.section("authenticity")
    assert said in page.section("verdict")
    assert "Searched: 20,000 (evaluation.searched-images = 20000)." in page.section("authenticity")
    assert page.row("membership", "Generated images").numbers()[:5] == [0.641, 0.641 - 0.03, 0.641 + 0.03, 0.985, 0.238]
    assert "village" in page.row("membership", "The smallest hospital's upload").text
    assert "too few images" in page.row("membership", "The smallest hospital's upload").text
    assert "city" in page.row("membership", "The largest hospital's upload").text
    assert "too few to compare" in page.row("membership-by-class", "df").text
    assert page.row("membership-by-class", "nv").numbers()[:4] == [0.641, 0.641 - 0.03, 0.641 + 0.03, 0.985]
    assert "What the largest hospital sends (city) tells training images" in page.section("verdict")
