"""The four parts: literal hashes, fractions, independence from everything but the group and the seed."""

from __future__ import annotations

import io
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from data_partitions.holdings import find_holdings
from data_partitions.image_index import COLUMNS, ImageIndex
from data_partitions.split import (
    FRACTIONS,
    LEFT_OUT,
    PARTS,
    check_split,
    leave_out_classes,
    split_counts,
    split_parts,
    split_table,
)
from federation.errors import DataError
from federation.settings.data import DataSettings, PartitionSettings

GROUP_IDS = st.lists(st.text(max_size=12), min_size=1, max_size=60)


def make_index(labels: list[int], classes: tuple[str, ...], groups: list[str] | None = None) -> ImageIndex:
    """An image per label; by default each is its own group."""
    image_ids = [f"image-{number:03d}" for number in range(len(labels))]
    table = pd.DataFrame({"image_id": image_ids, "file": "", "label": np.array(labels, dtype=np.int64)})
    table["group"] = groups or image_ids
    table = table.assign(site="site", age=40.0, sex="", localisation="", digest=image_ids)
    return ImageIndex(table[list(COLUMNS)], classes, (), lambda row: np.zeros((1, 1, 3), dtype=np.uint8))


def test_literal_parts() -> None:
    # These must never change: they decide which patients a published model has seen.
    parts = split_parts(["HAM_0000000", "HAM_0000001", "ISIC_0000000", "lesion 7", "ä", "patient-2"], split_seed=0)
    assert parts.tolist() == ["extractor", "train", "train", "test", "extractor", "validation"]
    parts = split_parts(["HAM_0000000", "HAM_0000001", "ISIC_0000000", "lesion 7", "ä", "patient-2"], split_seed=1)
    assert parts.tolist() == ["train", "train", "train", "extractor", "extractor", "train"]


def test_fractions_are_met_within_five_standard_deviations() -> None:
    num_groups = 30_000
    started = time.perf_counter()
    parts = split_parts([f"group {number}" for number in range(num_groups)], split_seed=7)
    assert time.perf_counter() - started < 2  # 0.1 s where nothing else runs.
    for part, fraction in zip(PARTS, (0.60, 0.15, 0.10, 0.15), strict=True):
        deviation = np.sqrt(num_groups * fraction * (1 - fraction))
        assert abs((parts == part).sum() - num_groups * fraction) < 5 * deviation
    assert sum(FRACTIONS) == 1


def test_two_seeds_are_independent() -> None:
    groups = [f"group {number}" for number in range(10_000)]
    first, second = split_parts(groups, 0), split_parts(groups, 1)
    # Independent draws agree with probability 0.60² + 0.15² + 0.10² + 0.15² = 0.415.
    assert abs((first == second).mean() - 0.415) < 5 * np.sqrt(0.415 * 0.585 / 10_000)


@given(groups=GROUP_IDS, seed=st.integers(0, 2**40), data=st.data())
def test_the_split_of_a_subset_is_the_subset_of_the_split(groups: list[str], seed: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(groups) - 1), unique=True), label="rows, in any order")
    pooled = split_parts(groups, seed)
    alone = split_parts([groups[row] for row in rows], seed)
    assert alone.tolist() == pooled[rows].tolist()


@given(groups=GROUP_IDS, repeats=st.integers(2, 4), seed=st.integers(0, 9))
def test_a_group_is_in_one_part(groups: list[str], repeats: int, seed: int) -> None:
    parts = split_parts(groups * repeats, seed)
    assert set(parts) <= set(PARTS)
    for group in set(groups):
        of_group = [part for name, part in zip(groups * repeats, parts, strict=True) if name == group]
        assert len(set(of_group)) == 1


def test_counts_and_table() -> None:
    index = make_index([0, 0, *[1] * 8], ("mel", "nv"), groups=[*"aabbccddee"])
    parts = np.array(["train"] * 4 + ["extractor"] * 2 + ["validation"] * 2 + ["test"] * 2)
    assert split_counts(index, parts).tolist() == [[2, 0, 0, 0], [2, 2, 2, 2]]
    assert check_split(index, parts) == (
        "the extractor part has no image of mel",
        "the validation part has no image of mel",
        "the test part has no image of mel",
    )
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(split_table(index, parts))
    lines = [line.replace("│", " ").split() for line in capture.get().splitlines()]
    assert ["mel", "2", "0", "0", "0", "2"] in lines
    assert ["nv", "2", "2", "2", "2", "8"] in lines
    assert ["images", "4", "2", "2", "2", "10"] in lines
    assert ["groups", "2", "1", "1", "1", "5"] in lines


def test_all_problems_of_a_split_are_refused_at_once() -> None:
    index = make_index([0, 0, 1, 1, 1], ("mel", "nv", "df"))
    parts = np.array(["train", "train", "extractor", "test", "test"])
    with pytest.raises(DataError) as caught:
        check_split(index, parts)
    assert caught.value.problems == (
        "class 'nv' has no image in the train part (extractor 1, test 2); "
        "add images of it, leave it out of data.classes, or set another data.split-seed",
        "class 'df' has no image; add images of it, or leave it out of data.classes",
        "the extractor part has one image: 5 groups (patients or lesions) are too few for four parts; "
        "add images, or set another data.split-seed",
        "the validation part has no image: 5 groups (patients or lesions) are too few for four parts; "
        "add images, or set another data.split-seed",
    )


def test_classes_that_are_left_out_stay_in_the_extractor_part() -> None:
    index = make_index([number % 3 for number in range(300)], ("akiec", "mel", "nv"))
    parts = split_parts(index.groups, 0)
    only = leave_out_classes(index, parts, ["mel"])
    assert (only[index.labels == 1] == parts[index.labels == 1]).all()
    others = index.labels != 1
    assert (only[others] == np.where(parts[others] == "extractor", "extractor", LEFT_OUT)).all()
    assert leave_out_classes(index, parts, []) is parts
    # --dry-run shows where they are.
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(split_table(index, only))
    shown = console.export_text()
    assert "left-out" in shown
    assert f"│ {(only == LEFT_OUT).sum()} │ 300 │" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (["mel", "melanoma"], "no class is called melanoma; the classes are akiec, mel, nv"),
        (["nv", "mel", "akiec"], "names every class, and so leaves none out"),
        (["akiec"], "leaves fewer than two images in the validation and the test part"),
    ],
)
def test_classes_that_cannot_be_left_out(only: list[str], message: str) -> None:
    index = make_index([0] * 3 + [1, 2] * 100, ("akiec", "mel", "nv"))
    parts = split_parts(index.groups, 0)
    parts[:3] = "train"
    with pytest.raises(DataError, match=f"data.only: .*{message}"):
        leave_out_classes(index, parts, only)


def test_a_real_site_needs_its_classes_for_training_alone() -> None:
    """Nobody is judged with a site's images: three of a class, all in the train part, are enough."""
    index = make_index([0] * 3 + [1, 2] * 100, ("akiec", "mel", "nv"))
    parts = split_parts(index.groups, 0)
    parts[:3] = "train"
    held = leave_out_classes(index, parts, ["akiec"], judges=False)
    assert np.flatnonzero(held == "train").tolist() == [0, 1, 2]


def test_what_is_left_out_is_said_and_a_site_may_hold_little() -> None:
    data = DataSettings(phantom_images=400, only="bcc")
    with pytest.raises(DataError, match="data.only: leaves fewer than two images in the"):
        find_holdings(data.model_copy(update={"only": "df"}), PartitionSettings(scheme="iid", hospitals=1), 32)
    pooled = PartitionSettings(scheme="iid", hospitals=1, min_images=1)
    held = find_holdings(data, pooled, 32)
    left = int((held.parts == LEFT_OUT).sum())
    assert held.notes[-1] == f"{left} images of classes that data.only does not name: neither trained on nor judged"
    own = find_holdings(data.model_copy(update={"only": "df"}), pooled, 32, site="clinic")
    assert set(own.index.labels[own.partition.rows["clinic"]]) == {own.index.classes.index("df")}
