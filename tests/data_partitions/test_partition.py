"""Who holds what: every scheme over random indexes, on the real tables, and everything it refuses."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import NaturalIdPartitioner
from hypothesis import given, settings
from hypothesis import strategies as st

from data_partitions.heterogeneity import effective_classes, jensen_shannon_divergence, total_variation
from data_partitions.image_index import COLUMNS, ImageIndex
from data_partitions.partition import (
    Partition,
    keep_training_images,
    partition_for_site,
    partition_images,
    write_split_csv,
)
from data_partitions.split import split_parts
from federation.errors import PartitionError
from federation.settings.data import PartitionSettings

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
SCHEMES = ("natural", "dirichlet", "pathological", "quantity", "dominant", "iid")
HAM10000_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
ISIC2019_CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")


def make_index(rows: list[tuple[str, int, str, str]], classes: tuple[str, ...]) -> ImageIndex:
    """An index from (image id, label, group, site) in any order."""
    table = pd.DataFrame(sorted(rows), columns=["image_id", "label", "group", "site"]).astype({"label": np.int64})
    table = table.assign(file="", age=40.0, sex="", localisation="", digest=table.image_id)
    return ImageIndex(table[list(COLUMNS)], classes, (), lambda row: np.zeros((1, 1, 3), dtype=np.uint8))


def pure_index(images_per_class: dict[str, int], num_sites: int = 1) -> ImageIndex:
    """An index of one image per group, sorted by class as HAM10000's csv is; sites take turns."""
    names = [name for name, number in images_per_class.items() for _ in range(number)]
    classes = tuple(images_per_class)
    rows = [
        (f"image-{i:05d}", classes.index(name), f"group-{i:05d}", f"site-{i % num_sites}")
        for i, name in enumerate(names)
    ]
    return make_index(rows, classes)


def all_train(index: ImageIndex) -> np.ndarray:
    return np.full(len(index), "train")


@st.composite
def random_indexes(draw: st.DrawFn) -> ImageIndex:
    """150 groups of 1 to 4 images; one image in seven is of another class or at another site than its group's."""
    num_classes, num_sites = draw(st.integers(2, 5)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = []
    for group in range(150):
        for _ in range(rng.integers(1, 5)):
            label = group % num_classes if rng.random() < 6 / 7 else int(rng.integers(num_classes))
            site = group // num_classes % num_sites if rng.random() < 6 / 7 else int(rng.integers(num_sites))
            rows.append((label, f"group-{group}", f"site-{site}"))
    image_ids = rng.permutation(len(rows))
    return make_index(
        [(f"image-{image_id:04d}", *row) for image_id, row in zip(image_ids, rows, strict=True)],
        tuple("abcde"[:num_classes]),
    )


@st.composite
def indexes_with_settings(draw: st.DrawFn) -> tuple[ImageIndex, PartitionSettings]:
    """A random index with settings that it allows."""
    index = draw(random_indexes())
    scheme = draw(st.sampled_from(SCHEMES))
    num_sites, num_classes = len(set(index.sites)), len(index.classes)
    hospitals = draw(st.sampled_from([1, num_sites]) if scheme == "natural" else st.integers(1, 6))
    least = -(-num_classes // hospitals)
    return index, PartitionSettings(
        scheme=scheme,
        hospitals=hospitals,
        alpha=draw(st.floats(1, 1e6)),
        classes_per_hospital=draw(st.integers(least, num_classes)),
        dominance=draw(st.floats(1, 200)),
        seed=draw(st.integers(0, 2**40)),
        min_images=1,
    )


def rarest_class(index: ImageIndex, rows: np.ndarray) -> dict[str, int]:
    """Group to the class of its images that is the rarest among all `rows`."""
    totals = Counter(index.labels[rows].tolist())
    found: dict[str, int] = {}
    for row in rows:
        label = int(index.labels[row])
        best = found.setdefault(index.groups[row], label)
        found[index.groups[row]] = min(best, label, key=lambda name: (totals[name], name))
    return found


def largest_site(index: ImageIndex, rows: np.ndarray) -> dict[str, str]:
    """Group to the site with most of its images, the first by name at a tie."""
    shares: dict[str, Counter[str]] = {}
    for row in rows:
        shares.setdefault(index.groups[row], Counter())[index.sites[row]] += 1
    return {group: min(counts, key=lambda site: (-counts[site], site)) for group, counts in shares.items()}


def hospital_of_group(index: ImageIndex, partition: Partition) -> dict[str, str]:
    return {group: name for name, rows in partition.rows.items() for group in index.groups[rows]}


@settings(max_examples=120, deadline=None)
@given(indexes_with_settings(), st.integers(0, 9))
def test_every_partition(index_and_settings: tuple[ImageIndex, PartitionSettings], split_seed: int) -> None:
    index, partition_settings = index_and_settings
    parts = split_parts(index.groups, split_seed)
    train = np.flatnonzero(parts == "train")
    partition = partition_images(index, parts, partition_settings)

    # Complete and disjoint in images, and as many hospitals as asked for, each with images.
    assert sorted(np.concatenate([partition.rows[name] for name in partition.hospitals])) == train.tolist()
    assert len(partition.hospitals) == len(partition.rows) == partition_settings.hospitals
    assert partition.hospitals == tuple(sorted(partition.hospitals))
    assert all(len(rows) > 0 and (np.diff(rows) > 0).all() for rows in partition.rows.values())

    # No group at two hospitals or in two parts.
    holders = [set(index.groups[rows]) for rows in partition.rows.values()]
    assert sum(map(len, holders)) == len(set().union(*holders))
    assert not set().union(*holders) & set(index.groups[parts != "train"])

    # Counts are what the rows say.
    for name, counts, num_groups in zip(partition.hospitals, partition.counts, partition.num_groups, strict=True):
        rows = partition.rows_of(name)
        assert counts.tolist() == [int((index.labels[rows] == label).sum()) for label in range(len(index.classes))]
        assert num_groups == len(set(index.groups[rows]))

    # The same again.
    again = partition_images(index, parts, partition_settings)
    assert again.digest == partition.digest
    assert all((again.rows[name] == partition.rows[name]).all() for name in partition.hospitals)

    # What the scheme promises.
    if partition_settings.hospitals == 1:
        assert partition.hospitals == ("all",)
    elif partition_settings.scheme == "natural":
        assert hospital_of_group(index, partition) == largest_site(index, train)
    elif partition_settings.scheme == "pathological":
        label_of = rarest_class(index, train)
        for rows in partition.rows.values():
            assert len({label_of[group] for group in index.groups[rows]}) == partition_settings.classes_per_hospital
    elif partition_settings.scheme == "dominant":
        first, *others = partition.num_groups
        assert len(set(others)) == 1
        assert first >= others[0]
    elif partition_settings.scheme == "iid":
        assert max(partition.num_groups) - min(partition.num_groups) <= 1


@settings(max_examples=25, deadline=None)
@given(indexes_with_settings(), st.integers(0, 2**32))
def test_the_order_of_images_does_not_matter(
    index_and_settings: tuple[ImageIndex, PartitionSettings], shuffle_seed: int
) -> None:
    index, partition_settings = index_and_settings
    table = index.table
    renamed = np.random.default_rng(shuffle_seed).permutation(table.image_id.to_numpy(dtype=object))
    other = make_index(list(zip(renamed, table.label, table.group, table.site, strict=True)), index.classes)
    first = partition_images(index, all_train(index), partition_settings)
    second = partition_images(other, all_train(other), partition_settings)
    assert hospital_of_group(index, first) == hospital_of_group(other, second)
    assert first.counts.tolist() == second.counts.tolist()


@pytest.mark.parametrize("scheme", ["dirichlet", "pathological", "quantity", "dominant", "iid"])
def test_another_seed_gives_another_partition(scheme: Any) -> None:
    index = pure_index({"a": 100, "b": 100, "c": 100})
    digests = {
        partition_images(
            index, all_train(index), PartitionSettings(scheme=scheme, hospitals=3, seed=seed, min_images=1)
        ).digest
        for seed in range(5)
    }
    assert len(digests) == 5


def test_images_that_are_not_for_training_do_not_matter() -> None:
    index = pure_index({"a": 100, "b": 100}, num_sites=2)
    parts = all_train(index)
    parts[150:] = "test"
    partition_settings = PartitionSettings(scheme="dirichlet", hospitals=2, alpha=5.0)
    whole = partition_images(index, parts, partition_settings)
    smaller = ImageIndex(index.table[:150], index.classes, (), index.read_image)
    assert partition_images(smaller, all_train(smaller), partition_settings).digest == whole.digest


# Each scheme.


def test_natural_agrees_with_flwr_datasets() -> None:
    index = pure_index({"a": 40, "b": 60}, num_sites=5)
    ours = partition_images(index, all_train(index), PartitionSettings(hospitals=5))
    theirs = NaturalIdPartitioner(partition_by="site")
    theirs.dataset = Dataset.from_dict({"row": np.arange(100), "site": index.sites})
    assert theirs.num_partitions == 5
    assert theirs.partition_id_to_natural_id == dict(enumerate(ours.hospitals))
    for number, name in enumerate(ours.hospitals):
        assert theirs.load_partition(number)["row"][:] == ours.rows[name].tolist()


def test_natural_gives_a_group_under_two_sites_to_the_larger_share() -> None:
    index = make_index(
        [
            ("i1", 0, "twice at b", "a"), ("i2", 0, "twice at b", "b"), ("i3", 0, "twice at b", "b"),
            ("i4", 0, "a tie", "b"), ("i5", 0, "a tie", "a"),
            ("i6", 0, "only a", "a"), ("i7", 0, "only b", "b"),
        ],
        ("nv",),
    )  # fmt: skip
    partition = partition_images(index, all_train(index), PartitionSettings(hospitals=2, min_images=1))
    assert hospital_of_group(index, partition) == {"twice at b": "b", "a tie": "a", "only a": "a", "only b": "b"}
    assert partition.counts.tolist() == [[3], [4]]


@pytest.mark.parametrize("seed", range(3))
def test_dirichlet_from_uniform_to_concentrated(seed: int) -> None:
    index = pure_index({"a": 400, "b": 400, "c": 400, "d": 400})

    def divide(alpha: float) -> np.ndarray:
        partition_settings = PartitionSettings(scheme="dirichlet", hospitals=4, alpha=alpha, seed=seed, min_images=1)
        return partition_images(index, all_train(index), partition_settings).counts

    alike, apart = divide(1e5), divide(0.01)
    assert np.abs(alike - 100).max() <= 3
    assert jensen_shannon_divergence(alike).max() < 1e-3
    # Nearly every class goes to one hospital as a whole.
    assert (apart.max(axis=0) > 0.9 * 400).mean() >= 0.75
    assert effective_classes(apart).mean() < 1.7
    spread = [total_variation(divide(alpha)).mean() for alpha in (0.1, 1, 10, 100)]
    assert spread == sorted(spread, reverse=True)


def test_quantity_differs_in_size_alone() -> None:
    index = pure_index({"a": 3000, "b": 1000})

    def divide(alpha: float) -> np.ndarray:
        partition_settings = PartitionSettings(scheme="quantity", hospitals=4, alpha=alpha, min_images=100)
        return partition_images(index, all_train(index), partition_settings).counts

    unequal, equal = divide(0.5), divide(1e5)
    assert unequal.sum(axis=1).max() > 5 * unequal.sum(axis=1).min()
    assert np.abs(equal.sum(axis=1) - 1000).max() < 20
    for counts in (unequal, equal):
        # The share of "a" is 0.75 everywhere, within five standard deviations of a draw.
        sizes = counts.sum(axis=1)
        assert (np.abs(counts[:, 0] / sizes - 0.75) < 5 * np.sqrt(0.75 * 0.25 / sizes)).all()


@pytest.mark.parametrize(
    ("hospitals", "classes_per_hospital"), [(4, 2), (7, 1), (3, 3), (1, 2), (10, 2), (50, 7), (2, 7)]
)
def test_pathological_gives_each_hospital_exactly_so_many_classes(hospitals: int, classes_per_hospital: int) -> None:
    # Seven classes; 4 hospitals with 2 have just one place to spare, which chance would seldom fill.
    index = pure_index({name: 60 + 20 * number for number, name in enumerate("abcdefg")})
    for seed in range(4):
        partition_settings = PartitionSettings(
            scheme="pathological",
            hospitals=hospitals,
            classes_per_hospital=classes_per_hospital,
            seed=seed,
            min_images=1,
        )
        counts = partition_images(index, all_train(index), partition_settings).counts
        held = counts > 0
        if hospitals > 1:
            assert held.sum(axis=1).tolist() == [classes_per_hospital] * hospitals
        assert counts.sum(axis=0).tolist() == [60 + 20 * number for number in range(7)]
        assert np.ptp(held.sum(axis=0)) <= 1
        for label in range(7):
            assert np.ptp(counts[held[:, label], label]) <= 1


def test_pathological_starts_with_another_class_for_another_seed() -> None:
    index = pure_index(dict.fromkeys("abcdefg", 50))
    firsts = set()
    for seed in range(12):
        partition_settings = PartitionSettings(scheme="pathological", hospitals=4, seed=seed)
        counts = partition_images(index, all_train(index), partition_settings).counts
        firsts.add(tuple(np.flatnonzero(counts[0])))
    assert len(firsts) >= 6


@pytest.mark.parametrize(
    ("hospitals", "dominance", "sizes"),
    [
        (4, 1.0, [1000, 1000, 1000, 1000]),
        (4, 7.0, [2800, 400, 400, 400]),
        (2, 3.0, [3000, 1000]),
        # 4000 images in 50 + 4 equal parts of 74, and what is left over goes to the first.
        (5, 50.0, [3704, 74, 74, 74, 74]),
        (11, 390.0, [3900, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]),
        # So large that the others keep one group each.
        (3, 1e6, [3998, 1, 1]),
    ],
)
def test_dominant_makes_the_first_hospital_so_many_times_as_large(
    hospitals: int, dominance: float, sizes: list[int]
) -> None:
    index = pure_index({"a": 2000, "b": 2000})
    partition_settings = PartitionSettings(scheme="dominant", hospitals=hospitals, dominance=dominance, min_images=1)
    partition = partition_images(index, all_train(index), partition_settings)
    assert partition.counts.sum(axis=1).tolist() == sizes
    assert sorted(np.concatenate(list(partition.rows.values()))) == list(range(4000))
    assert partition_images(index, all_train(index), partition_settings).digest == partition.digest


def test_dominant_differs_in_size_alone() -> None:
    index = pure_index({"a": 3000, "b": 1000})
    partition_settings = PartitionSettings(scheme="dominant", hospitals=4, dominance=7.0)
    counts = partition_images(index, all_train(index), partition_settings).counts
    sizes = counts.sum(axis=1)
    assert sizes.tolist() == [2800, 400, 400, 400]
    # Classes alike, within five standard deviations of a draw: the csv's order does not show.
    assert (np.abs(counts[:, 0] / sizes - 0.75) < 5 * np.sqrt(0.75 * 0.25 / sizes)).all()


def test_dominant_refuses_hospitals_that_it_makes_too_small() -> None:
    index = pure_index({"a": 400, "b": 400})
    # 800 images in 50 + 3 parts: 15 at each of the others.
    with pytest.raises(PartitionError) as caught:
        partition_images(index, all_train(index), PartitionSettings(scheme="dominant", hospitals=4))
    assert str(caught.value) == (
        "partition.min-images = 16: too few training images at hospital-01 15, hospital-02 15, hospital-03 15; set "
        "partition.min-images=15, or set fewer hospitals"
    )


def test_iid_shuffles_what_is_sorted_by_class() -> None:
    index = pure_index({"a": 500, "b": 500})
    counts = partition_images(index, all_train(index), PartitionSettings(scheme="iid", hospitals=4)).counts
    assert counts.sum(axis=1).tolist() == [250] * 4
    assert np.abs(counts - 125).max() < 5 * np.sqrt(250 * 0.25)


def test_a_group_counts_as_its_rarest_class() -> None:
    # Each hospital holds one class; the lesion that is both "common" and "rare" goes with the rare ones.
    rows = [(f"c{i}", 0, f"common-{i}", "s") for i in range(20)] + [(f"r{i}", 1, f"rare-{i}", "s") for i in range(5)]
    index = make_index([*rows, ("m0", 0, "mixed", "s"), ("m1", 1, "mixed", "s")], ("common", "rare"))
    partition_settings = PartitionSettings(scheme="pathological", hospitals=2, classes_per_hospital=1, min_images=1)
    counts = partition_images(index, all_train(index), partition_settings).counts
    assert sorted(counts.tolist()) == [[1, 6], [20, 0]]


def test_hundreds_of_hospitals_keep_the_order_of_their_numbers() -> None:
    index = pure_index({"a": 150, "b": 150})
    partition_settings = PartitionSettings(scheme="iid", hospitals=120, min_images=1)
    partition = partition_images(index, all_train(index), partition_settings)
    assert partition.hospitals[:2] == ("hospital-000", "hospital-001")
    assert partition.hospitals == tuple(sorted(partition.hospitals))
    assert partition.name_of(119) == "hospital-119"


# The real tables.


def real_index(folder: str, site_column: str, classes: tuple[str, ...]) -> ImageIndex:
    path = SHARED / folder / "labels.csv"
    if not path.exists():
        pytest.skip("real images are not beside the checkout (../shared/data)")
    frame = pd.read_csv(path).dropna(subset=[site_column])
    labels = frame.dx.map(classes.index)
    groups = frame.lesion_id.fillna(frame.image_id)
    return make_index(list(zip(frame.image_id, labels, groups, frame[site_column], strict=True)), classes)


def test_natural_sites_of_ham10000() -> None:
    index = real_index("ham10000-128", "dataset", HAM10000_CLASSES)
    partition = partition_images(index, all_train(index), PartitionSettings(hospitals=4))
    assert partition.hospitals == ("rosendahl", "vidir_modern", "vidir_molemax", "vienna_dias")
    # The published table, but for nine melanomas at two sites: all their images are vidir_modern's.
    assert partition.counts.tolist() == [
        [295, 296, 490, 30, 342, 803, 3],
        [32, 211, 475, 51, 680 + 9, 1832, 82],
        [0, 2, 124, 30, 24 - 9, 3720, 54],
        [0, 5, 10, 4, 67, 350, 3],
    ]
    assert partition.num_groups == (1552, 1695, 3945, 278)
    assert partition.digest == "17f1c3a5f27f2e3ea4cfaabeb2766fff"

    training = partition_images(index, split_parts(index.groups, 0), PartitionSettings(hospitals=4))
    assert training.counts.tolist() == [
        [180, 189, 285, 24, 188, 485, 1],
        [23, 136, 264, 30, 412, 1057, 45],
        [0, 2, 66, 17, 7, 2222, 37],
        [0, 4, 4, 2, 35, 203, 3],
    ]


def test_natural_centres_of_fed_isic2019() -> None:
    index = real_index("fedisic2019-84", "center_name", ISIC2019_CLASSES)
    partition = partition_images(index, all_train(index), PartitionSettings(hospitals=6))
    assert dict(zip(partition.hospitals, partition.counts.tolist(), strict=True)) == {
        "bcn20000_barcelona": [2857, 4206, 2809, 705, 1138, 124, 111, 431],
        "msk4_new_york": [215, 415, 0, 0, 189, 0, 0, 0],
        "rosendahl_queensland": [342, 803, 296, 109, 490, 30, 3, 186],
        "vidir_modern": [680 + 9, 1832, 211, 21, 475, 51, 82, 11],
        "vidir_molemax": [24 - 9, 3720, 2, 0, 124, 30, 54, 0],
        "vienna_dias": [67, 350, 5, 0, 10, 4, 3, 0],
    }


@pytest.mark.parametrize("scheme", ["dirichlet", "pathological", "quantity", "iid"])
def test_every_scheme_divides_ham10000(scheme: Any) -> None:
    index = real_index("ham10000-128", "dataset", HAM10000_CLASSES)
    parts = split_parts(index.groups, 0)
    partition = partition_images(index, parts, PartitionSettings(scheme=scheme))
    assert partition.counts.sum(axis=0).tolist() == [203, 331, 619, 73, 642, 3967, 86]
    assert sum(partition.num_groups) == len(set(index.groups[parts == "train"])) == 4423
    assert partition.counts.sum(axis=1).min() >= 16


# One real site, look-up, and what is written.


def test_a_site_alone_holds_its_own_training_images() -> None:
    pooled = pure_index({"a": 100, "b": 100}, num_sites=2)
    of_site = pooled.table[pooled.table.site == "site-1"].reset_index(drop=True)
    alone = ImageIndex(of_site, pooled.classes, (), pooled.read_image)
    partition_settings = PartitionSettings(hospitals=2)
    site = partition_for_site(alone, split_parts(alone.groups, 3), "site-1", partition_settings)
    simulated = partition_images(pooled, split_parts(pooled.groups, 3), partition_settings)
    assert site.hospitals == ("site-1",)
    assert (
        alone.table.image_id[site.rows_of("site-1")].tolist()
        == pooled.table.image_id[simulated.rows_of("site-1")].tolist()
    )
    assert site.counts[0].tolist() == simulated.counts[1].tolist()


def test_manifest_holds_counts_and_no_ids() -> None:
    index = make_index(
        [("image-1", 0, "patient-1", "a"), ("image-2", 1, "patient-1", "a"), ("image-3", 1, "patient-2", "b")],
        ("mel", "nv"),
    )
    partition = partition_images(index, all_train(index), PartitionSettings(hospitals=2, min_images=1))
    assert partition.manifest() == {
        "settings": {
            "scheme": "natural",
            "hospitals": 2,
            "alpha": 0.5,
            "classes-per-hospital": 2,
            "dominance": 50.0,
            "prevalence-of": "",
            "prevalences": "0.72,0.10,0.11",
            "sizes": "872,1036,1520",
            "seed": 0,
            "min-images": 1,
        },
        "digest": partition.digest,
        "images": 3,
        "groups": 2,
        "hospitals": {
            "a": {"images": 2, "groups": 1, "classes": {"mel": 1, "nv": 1}},
            "b": {"images": 1, "groups": 1, "classes": {"mel": 0, "nv": 1}},
        },
    }
    text = json.dumps(partition.manifest())
    assert "image-" not in text
    assert "patient" not in text
    moved = make_index(
        [("image-1", 0, "patient-1", "a"), ("image-3", 1, "patient-1", "a"), ("image-2", 1, "patient-2", "b")],
        ("mel", "nv"),
    )
    other = partition_images(moved, all_train(moved), PartitionSettings(hospitals=2, min_images=1))
    assert other.counts.tolist() == partition.counts.tolist()
    assert other.digest != partition.digest


def test_split_csv(tmp_path: Path) -> None:
    index = make_index([("i1", 0, "g1", "a"), ("i2", 0, "g2", "b"), ("i3", 0, "g3, quoted", "a")], ("nv",))
    parts = np.array(["train", "train", "test"])
    partition = partition_images(index, parts, PartitionSettings(hospitals=2, min_images=1))
    path = tmp_path / "split.csv"
    path.write_text("an older one")
    write_split_csv(index, parts, partition, path)
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["image_id", "part", "hospital"],
            ["i1", "train", "a"],
            ["i2", "train", "b"],
            ["i3", "test", ""],
        ]
    assert list(tmp_path.iterdir()) == [path]


# Refusals, word for word.


def refusal(index: ImageIndex, **values: Any) -> tuple[str, ...]:
    with pytest.raises(PartitionError) as caught:
        partition_images(index, all_train(index), PartitionSettings(**values))
    return caught.value.problems


def test_natural_with_another_number_of_sites() -> None:
    assert refusal(pure_index({"a": 1001, "b": 1000}, num_sites=2)) == (
        "partition.hospitals = 4: the data has 2 sites (site-0 1,001, site-1 1,000 training images); "
        "set partition.hospitals=2, or 1 to pool them",
    )
    assert refusal(pure_index({"a": 50})) == (
        "partition.hospitals = 4: the data has 1 site (site-0 50 training images); "
        "set partition.hospitals=1, or another partition.scheme, e.g. dirichlet",
    )


def test_natural_with_a_column_that_is_no_site() -> None:
    (problem,) = refusal(pure_index({"a": 500}, num_sites=500))
    assert problem == (
        "partition.hospitals = 4: the data has 500 sites (site-0 1, site-1 1, site-10 1, site-100 1, site-101 1, "
        "site-102 1, site-103 1, site-104 1, site-105 1, site-106 1, site-107 1, site-108 1 and 488 more training "
        "images); set partition.hospitals=500, or 1 to pool them"
    )


def test_a_site_without_enough_images() -> None:
    rows = [(f"i{number:02d}", 0, f"g{number}", "large" if number >= 3 else "small") for number in range(40)]
    index = make_index(rows, ("nv",))
    assert refusal(index, hospitals=2) == (
        "partition.min-images = 16: too few training images at small 3; "
        "set partition.min-images=3, or pool the sites with partition.hospitals=1",
    )
    parts = all_train(index)
    parts[:3] = "test"
    with pytest.raises(PartitionError) as caught:
        partition_images(index, parts, PartitionSettings(hospitals=2))
    assert str(caught.value) == (
        "partition.min-images = 16: too few training images at small 0; pool the sites with partition.hospitals=1"
    )


def test_more_hospitals_than_groups_or_images() -> None:
    index = pure_index({"a": 3, "b": 3})
    assert refusal(index, scheme="iid", hospitals=7) == (
        "partition.hospitals = 7: the training part has 6 groups (patients or lesions), and none is divided; "
        "set partition.hospitals=6 or lower",
        "partition.hospitals = 7 with partition.min-images = 16: need 112 training images, and there are 6; "
        "lower one of the two",
    )


def test_sizes_are_checked_in_images_not_groups() -> None:
    # Sixteen groups, one of them with 100 images: the other hospital holds eight images.
    rows = [(f"big-{number:03d}", 0, "big", "s") for number in range(100)]
    rows += [(f"small-{number:02d}", 0, f"small-{number}", "s") for number in range(15)]
    assert refusal(make_index(rows, ("nv",)), scheme="iid", hospitals=2) in {
        (
            f"partition.min-images = 16: too few training images at hospital-{number:02d} 8; "
            "set partition.min-images=8, or set fewer hospitals",
        )
        for number in range(2)
    }


def test_a_pool_that_is_too_small() -> None:
    assert refusal(pure_index({"a": 5}), hospitals=1) == (
        "partition.min-images = 16: too few training images at all 5; set partition.min-images=5, or add images",
    )


def test_dirichlet_that_leaves_a_hospital_too_few() -> None:
    index = pure_index({"a": 200, "b": 200})
    assert refusal(index, scheme="quantity", hospitals=5, alpha=5e-324, min_images=1) == (
        "partition.scheme = quantity with partition.alpha = 4.94066e-324: in each of 20 draws a hospital held fewer "
        "training images than partition.min-images = 1 (at best 0); raise partition.alpha, or set fewer than 5 "
        "partition.hospitals",
    )
    (problem,) = refusal(index, scheme="dirichlet", hospitals=4, alpha=1.0, min_images=99)
    best = int(problem.split("at best ")[1].split(")")[0])
    assert 10 < best < 99
    assert problem == (
        "partition.scheme = dirichlet with partition.alpha = 1: in each of 20 draws a hospital held fewer training "
        f"images than partition.min-images = 99 (at best {best}); raise partition.alpha, set "
        f"partition.min-images={best} or lower, or set fewer than 4 partition.hospitals"
    )
    # The remedy works.
    remedied = PartitionSettings(scheme="dirichlet", hospitals=4, alpha=1.0, min_images=best)
    assert partition_images(index, all_train(index), remedied).counts.sum(axis=1).min() == best


def test_pathological_that_would_drop_a_class() -> None:
    index = pure_index(dict.fromkeys("abcdefg", 50))
    (problem,) = refusal(index, scheme="pathological", hospitals=3)
    dropped = problem.split("would drop ")[1][0]
    assert dropped in "abcdefg"
    assert problem == (
        "partition.hospitals = 3 with partition.classes-per-hospital = 2: have room for 6 of 7 classes and would drop "
        f"{dropped}; set partition.hospitals=4 or partition.classes-per-hospital=3"
    )


def test_pathological_with_more_classes_than_there_are() -> None:
    index = pure_index({"a": 50, "b": 50})
    assert refusal(index, scheme="pathological", hospitals=2, classes_per_hospital=3) == (
        "partition.classes-per-hospital = 3: the training images have 2 classes; "
        "set partition.classes-per-hospital=2 or lower",
    )


def test_pathological_with_a_class_too_small_to_be_shared() -> None:
    index = pure_index({"a": 100, "b": 3, "c": 2})
    shared = "hospitals would share class"
    assert set(refusal(index, scheme="pathological", hospitals=6, min_images=1)) == {
        f"partition.hospitals = 6 with partition.classes-per-hospital = 2: 4 {shared} 'b', which has 3 groups "
        "(patients or lesions) in the training part; lower one of the two",
        f"partition.hospitals = 6 with partition.classes-per-hospital = 2: 4 {shared} 'c', which has 2 groups "
        "(patients or lesions) in the training part; lower one of the two",
    }


def test_a_site_alone_with_too_few_images() -> None:
    index = pure_index({"a": 5})
    with pytest.raises(PartitionError) as caught:
        partition_for_site(index, all_train(index), "St. Anna", PartitionSettings())
    assert str(caught.value) == (
        "site 'St. Anna' holds 5 training images, fewer than partition.min-images = 16; "
        "add images, or lower partition.min-images for the whole federation"
    )


def test_unknown_hospitals() -> None:
    index = pure_index({"a": 100}, num_sites=2)
    partition = partition_images(index, all_train(index), PartitionSettings(hospitals=2))
    assert partition.name_of(1) == "site-1"
    with pytest.raises(PartitionError) as caught:
        partition.name_of(2)
    assert str(caught.value) == "partition-id = 2: the partition has 2 hospitals; allowed is 0 to 1"
    with pytest.raises(PartitionError) as caught:
        partition.rows_of("site-2")
    assert str(caught.value) == "site = 'site-2': allowed is one of site-0, site-1"


# Prevalence --------------------------------------------------------------------------------------------------------


def prevalence(**values: Any) -> PartitionSettings:
    return PartitionSettings(scheme="prevalence", hospitals=values.pop("hospitals", 3), **values)


def test_hospitals_have_the_prevalence_and_the_sizes_that_are_asked_for() -> None:
    index = pure_index({"nv": 3000, "mel": 900, "bkl": 600})
    partition = partition_images(index, all_train(index), prevalence())
    # 872 x .72 + 1036 x .10 + 1520 x .11 = 898.64 melanomas are asked for, and 900 are there: times 1.0015.
    assert partition.counts.sum(axis=1).tolist() == [874, 1037, 1522]
    assert partition.counts[:, 1].tolist() == [629, 104, 167]
    # The rest is drawn alike: a sixth of it is bkl.
    rest = partition.counts[:, [0, 2]]
    assert rest[:, 1] / rest.sum(axis=1) == pytest.approx(1 / 6, abs=0.06)
    held = np.concatenate(list(partition.rows.values()))
    assert len(held) == len(np.unique(held)) == 3433


def test_lesions_stay_whole_at_a_prevalence() -> None:
    rows = [(f"image-{i:04d}", int(i // 2 % 3 == 0), f"lesion-{i // 2:04d}", "a") for i in range(1200)]
    index = make_index(rows, ("nv", "mel"))
    partition = partition_images(index, all_train(index), prevalence(prevalences="0.5,0.1,0.1", sizes="1,1,1"))
    holders: dict[str, str] = {}
    for name, held in partition.rows.items():
        for group in set(index.groups[held]):
            assert holders.setdefault(group, name) == name
    # 800 of 1,200 images show nv, and 2.3 of three sizes shall: 347.8 is a size, to a lesion of two images or two.
    assert partition.counts.sum(axis=1) == pytest.approx([348, 348, 348], abs=4)
    assert partition.counts[:, 1] / partition.counts.sum(axis=1) == pytest.approx([0.5, 0.1, 0.1], abs=0.01)


def test_one_place_pools_what_the_hospitals_would_hold() -> None:
    index = pure_index({"nv": 3000, "mel": 300})
    apart = partition_images(index, all_train(index), prevalence())
    pooled = partition_images(index, all_train(index), prevalence(hospitals=1))
    assert pooled.rows["all"].tolist() == sorted(np.concatenate(list(apart.rows.values())).tolist())


def test_a_prevalence_of_no_class() -> None:
    index = pure_index({"nv": 300, "bkl": 300})
    with pytest.raises(PartitionError, match=r"partition.prevalence-of = '': no class is melanoma by its name"):
        partition_images(index, all_train(index), prevalence())
    with pytest.raises(PartitionError, match=r"prevalence-of = 'mel': there is no such class; name one of nv"):
        partition_images(index, all_train(index), prevalence(prevalence_of="mel"))
    partition = partition_images(index, all_train(index), prevalence(prevalence_of="bkl"))
    assert partition.counts[:, 1] / partition.counts.sum(axis=1) == pytest.approx([0.72, 0.10, 0.11], abs=0.01)


def test_a_prevalence_among_images_that_lack_a_class() -> None:
    """As ``data.only`` leaves them: no hospital could have it."""
    index = pure_index({"nv": 300, "mel": 300})
    for gone, what in ((1, "of class mel"), (0, "of another class than mel")):
        parts = np.where(index.labels == gone, "left-out", "train")
        with pytest.raises(PartitionError, match=rf"there is no training image {what}, .* or leave data.only empty"):
            partition_images(index, parts, prevalence())
    # Where none is wished for, none is missed.
    parts = np.where(index.labels == 1, "left-out", "train")
    assert partition_images(index, parts, prevalence(prevalences="0,0,0")).counts[:, 1].tolist() == [0, 0, 0]


def test_a_hospital_without_the_classes_that_are_trained_on() -> None:
    index = pure_index({"nv": 400, "mel": 400})
    partition = partition_images(
        index, all_train(index), PartitionSettings(scheme="pathological", hospitals=2, classes_per_hospital=1)
    )
    parts = np.where(index.labels == 0, "left-out", "train")
    with pytest.raises(PartitionError, match=r"of the classes in data.only too few training images at hospital-0\d 0;"):
        keep_training_images(partition, index, parts)
