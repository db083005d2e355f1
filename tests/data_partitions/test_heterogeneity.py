"""Divergences against hand values and scipy; the table's cells; the picture's bars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from rich.console import Console
from scipy.spatial.distance import jensenshannon

from data_partitions.heterogeneity import (
    effective_classes,
    jensen_shannon_divergence,
    measure_heterogeneity,
    partition_table,
    plot_partition,
    total_variation,
)
from data_partitions.partition import Partition
from federation.settings.data import PartitionSettings

COUNTS = arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=st.integers(0, 10_000)).filter(
    lambda counts: bool((counts.sum(axis=1) > 0).all())
)


def make_partition(counts: list[list[int]], hospitals: tuple[str, ...], classes: tuple[str, ...]) -> Partition:
    """A partition of which only the counts matter."""
    return Partition(
        hospitals=hospitals,
        rows={name: np.arange(0) for name in hospitals},
        classes=classes,
        counts=np.array(counts, dtype=np.int64),
        num_groups=(1,) * len(hospitals),
        settings=PartitionSettings(),
        digest="",
    )


def test_hand_values() -> None:
    # Two hospitals that share no class; the whole is half and half, and so the middle is (3/4, 1/4).
    counts = np.array([[8, 0], [0, 8]])
    entropy_of_middle = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert jensen_shannon_divergence(counts) == pytest.approx([entropy_of_middle - 0.5] * 2)
    assert total_variation(counts) == pytest.approx([0.5, 0.5])
    assert effective_classes(counts) == pytest.approx([1, 1])
    assert effective_classes(np.array([[5, 5, 5, 0], [2, 1, 1, 0]])) == pytest.approx([3, 2**1.5])


def test_hospitals_like_the_whole() -> None:
    counts = np.array([[3, 6, 1], [30, 60, 10]])
    assert jensen_shannon_divergence(counts) == pytest.approx([0, 0], abs=1e-15)
    assert total_variation(counts) == pytest.approx([0, 0], abs=1e-15)


def test_a_small_hospital_with_a_class_of_its_own_comes_near_one() -> None:
    counts = np.array([[1, 0], [0, 1_000_000]])
    assert jensen_shannon_divergence(counts)[0] == pytest.approx(1, abs=1e-4)
    assert total_variation(counts)[0] == pytest.approx(1, abs=1e-4)


@given(COUNTS)
def test_bounds_and_scipy(counts: np.ndarray) -> None:
    divergence, variation, effective = (
        jensen_shannon_divergence(counts), total_variation(counts), effective_classes(counts)
    )  # fmt: skip
    assert ((divergence >= 0) & (divergence <= 1)).all()
    # Lin 1991, Theorem 3: to base 2 the divergence is at most the total variation.
    assert (divergence <= variation + 1e-12).all()
    assert ((variation >= 0) & (variation <= 1)).all()
    assert ((effective >= 1 - 1e-12) & (effective <= counts.shape[1] + 1e-9)).all()
    whole = counts.sum(axis=0)
    for row, value in zip(counts, divergence, strict=True):
        if value > 1e-9:  # Nearer to 0, scipy takes the root of rounding errors.
            assert jensenshannon(row, whole, base=2) ** 2 == pytest.approx(value, rel=1e-4)


@given(COUNTS, st.integers(2, 9))
def test_measures_do_not_depend_on_size_or_on_the_order_of_classes(counts: np.ndarray, factor: int) -> None:
    for measure in (jensen_shannon_divergence, total_variation, effective_classes):
        assert measure(counts * factor) == pytest.approx(measure(counts), abs=1e-12)
        assert measure(counts[:, ::-1]) == pytest.approx(measure(counts), abs=1e-12)


def test_measures_and_table() -> None:
    partition = make_partition([[30, 0], [20, 50]], ("anna", "bürgerspital"), ("mel", "nv"))
    measures = measure_heterogeneity(partition)
    assert measures.index.tolist() == ["anna", "bürgerspital"]
    assert measures.images.tolist() == [30, 70]
    assert measures.share.tolist() == [0.3, 0.7]
    # Of anna's images, half would have to be nv; of the other's, 2/7 nv less 1/2 mel.
    assert measures.total_variation.tolist() == pytest.approx([0.5, 3 / 14])

    console = Console(width=60, color_system=None)
    with console.capture() as capture:
        console.print(partition_table(partition))
    lines = [line.split() for line in capture.get().splitlines()]
    first, second = measures.jensen_shannon
    assert ["hospital", "mel", "nv", "images", "JSD", "eff."] in lines
    assert ["anna", "30", "·", "30", f"{first:.3f}", "1.00"] in lines
    assert ["bürgerspital", "20", "50", "70", f"{second:.3f}", "1.82"] in lines
    assert ["all", "hospitals", "50", "50", "100", f"{0.3 * first + 0.7 * second:.3f}", "2.00"] in lines


def test_no_digit_is_lost_in_80_columns() -> None:
    # Fed-ISIC2019, whose names and numbers are the longest of the published sets.
    classes = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
    counts = [[2857, 4206, 2809, 705, 1138, 124, 111, 431], [342, 10803, 296, 109, 490, 30, 3, 186]]
    partition = make_partition(counts, ("bcn20000_barcelona", "rosendahl_queensland"), classes)
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(partition_table(partition))
    lines = [line.split() for line in capture.get().splitlines()]
    for name, row in zip(partition.hospitals, counts, strict=True):
        assert [name, *map(str, row), str(sum(row))] in [line[:10] for line in lines]


@pytest.mark.parametrize("num_hospitals", [1, 4, 50, 300])
def test_picture_shows_the_mixture(num_hospitals: int, tmp_path: Path) -> None:
    # Half of the hospitals hold the first class alone, the others the second: blue and orange rows of equal area.
    counts = [[100, 0] if number % 2 else [0, 100] for number in range(num_hospitals)]
    names = tuple(f"hospital-{number:03d}" for number in range(num_hospitals))
    path = tmp_path / "partition.png"
    plot_partition(make_partition(counts, names, ("$a$", "_b")), path)
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert picture.width == 1200
    assert 200 < picture.height < 4000
    blue, orange = ((pixels == colour).all(axis=1).sum() for colour in [(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)])
    share = 0.0 if num_hospitals == 1 else 0.5
    assert blue / (blue + orange) == pytest.approx(share, abs=0.02)
    rewritten = path.read_bytes()
    plot_partition(make_partition(counts, names, ("$a$", "_b")), path)
    assert path.read_bytes() == rewritten


def test_names_of_the_world_neither_warn_nor_squeeze_the_bars(tmp_path: Path) -> None:
    """Warnings are errors here: of letters that no font has, and of a layout that has no room."""
    names = ("协和医院/皮肤科", "\U000f0000", "line\nbreak " + 20 * "Universitätsklinikum ")
    classes = tuple(f"Squamous cell carcinoma, Invasive, Keratoacanthoma-type {number}" for number in range(8))
    partition = make_partition([[10] * 8, [5] * 8, [1] * 8], names, classes)
    plot_partition(partition, tmp_path / "partition.png")
    with Image.open(tmp_path / "partition.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (pixels == (0x00, 0x72, 0xB2)).all(axis=1).sum() > 3000


def test_more_classes_than_colours_are_told_apart_by_hatches(tmp_path: Path) -> None:
    partition = make_partition([[10] * 20, [5] * 20], ("a", "b"), tuple(f"class {number}" for number in range(20)))
    plot_partition(partition, tmp_path / "many.png")
    with Image.open(tmp_path / "many.png") as picture:
        assert len(picture.convert("RGB").getcolors(1_000_000)) > 8
