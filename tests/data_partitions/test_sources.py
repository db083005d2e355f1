"""Every source in its published layout, in the layouts of real folders, and with everything wrong."""

from __future__ import annotations

import importlib.util
import shutil
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_partitions.dataset import load_images
from data_partitions.holdings import find_holdings
from data_partitions.image_index import ImageIndex
from data_partitions.sources import load_index
from data_partitions.sources.image_files import find_image_files, match_names
from federation.errors import DataError, PartitionError
from federation.settings.data import DataSettings, PartitionSettings

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
HAM10000 = SHARED / "ham10000-128"
ISIC2019 = SHARED / "fedisic2019-84"
METADATA = SHARED / "metadata"

needs_real_images = pytest.mark.skipif(
    not (HAM10000.is_dir() and ISIC2019.is_dir() and METADATA.is_dir()),
    reason="real images are not beside the checkout (../shared/data)",
)


def counts(index: ImageIndex) -> dict[str, dict[str, int]]:
    """Site to class to number of images."""
    names = np.array(index.classes)[index.labels]
    table = pd.crosstab(index.sites, names)
    return {site: {name: count for name, count in row.items() if count} for site, row in table.iterrows()}


def problems(**settings: Any) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        load_index(DataSettings(**settings), resolution=32)
    return caught.value.problems


def save(path: Path, shade: int = 0, size: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (shade, 10, 20)).save(path)


# The real folders, as they lie there.


@needs_real_images
def test_all_of_ham10000(cache_dir: str) -> None:
    data = DataSettings(source="ham10000", root=str(HAM10000), cache_dir=cache_dir)
    index = load_index(data, resolution=32)
    assert index.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert counts(index) == {
        "rosendahl": {"nv": 803, "mel": 342, "bkl": 490, "bcc": 296, "akiec": 295, "vasc": 3, "df": 30},
        "vidir_modern": {"nv": 1832, "mel": 680, "bkl": 475, "bcc": 211, "akiec": 32, "vasc": 82, "df": 51},
        "vidir_molemax": {"nv": 3720, "mel": 24, "bkl": 124, "bcc": 2, "vasc": 54, "df": 30},
        "vienna_dias": {"nv": 350, "mel": 67, "bkl": 10, "bcc": 5, "vasc": 3, "df": 4},
    }
    assert len(index) == 10_015
    assert len(set(index.groups)) == 7470
    assert index.table.groupby("group").site.nunique().gt(1).sum() == 9
    assert index.notes == (
        "2 sets of byte-identical images share a group (ISIC_0024366 = ISIC_0029861, ISIC_0024777 = ISIC_0029938)",
    )
    first = index.table.iloc[0]
    assert first.image_id == "ISIC_0024306"
    assert first.group == "HAM_0000550"
    assert first.age == 45
    assert first.sex == "male"
    assert first.localisation == "trunk"
    assert index.table.age.isna().sum() == 57
    assert not index.table.sex.isin(["unknown"]).any()
    assert (index.table.sex == "").sum() == 57

    images = load_images(index, 32, cache_dir)
    assert images.shape == (10_015, 32, 32, 3)
    for row in (0, 5000, 10_014):
        with Image.open(index.table.file[row]) as image:
            expected = image.resize((32, 32), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(images[row], np.asarray(expected))


@needs_real_images
def test_a_second_start_reads_no_image(cache_dir: str) -> None:
    data = DataSettings(source="ham10000", root=str(HAM10000), cache_dir=cache_dir)
    first = load_index(data, resolution=32)
    load_images(first, 32, cache_dir)

    def refuse(*state: object) -> None:
        raise AssertionError(state)

    start = time.process_time()
    second = load_index(data, resolution=32, progress=refuse)
    load_images(second, 32, cache_dir, refuse)
    assert time.process_time() - start < 2  # measured: 0.2 s
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.notes == second.notes


@needs_real_images
def test_all_of_fed_isic2019(cache_dir: str) -> None:
    index = load_index(DataSettings(source="isic2019", root=str(ISIC2019), cache_dir=cache_dir), resolution=32)
    assert index.classes == ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
    assert counts(index) == {
        "bcn20000_barcelona": {
            "NV": 4206, "MEL": 2857, "BCC": 2809, "BKL": 1138, "AK": 705, "SCC": 431, "DF": 124, "VASC": 111
        },
        "vidir_molemax": {"NV": 3720, "MEL": 24, "BCC": 2, "BKL": 124, "DF": 30, "VASC": 54},
        "vidir_modern": {"NV": 1832, "MEL": 680, "BCC": 211, "BKL": 475, "AK": 21, "SCC": 11, "DF": 51, "VASC": 82},
        "rosendahl_queensland": {
            "NV": 803, "MEL": 342, "BCC": 296, "BKL": 490, "AK": 109, "SCC": 186, "DF": 30, "VASC": 3
        },
        "msk4_new_york": {"NV": 415, "MEL": 215, "BKL": 189},
        "vienna_dias": {"NV": 350, "MEL": 67, "BCC": 5, "BKL": 10, "DF": 4, "VASC": 3},
    }  # fmt: skip
    assert len(index) == 23_215
    assert index.notes[0] == (
        "2,084 rows without a site were left out (ISIC_0000000, ISIC_0000001, ISIC_0000002 and 2,081 more)"
    )
    assert index.notes[1].startswith("49 sets of byte-identical images share a group (ISIC_0024366 = ISIC_0029861")
    assert index.notes[2:] == (
        "2 sets of byte-identical images bear different classes "
        "(ISIC_0067502 = ISIC_0067980, ISIC_0069013 = ISIC_0071017)",
    )
    assert index.table.groupby("digest").group.nunique().max() == 1


# The published layouts, with the published csv and a handful of the images.


def one_per_class(csv: Path, images: Path, class_column: str, number: int = 2) -> list[Path]:
    """Choose the first images of each class."""
    labels = pd.read_csv(csv, dtype=str, keep_default_na=False)
    return [images / name for name in labels.groupby(class_column).file.head(number).tolist()]


@needs_real_images
def test_ham10000_as_published(tmp_path: Path) -> None:
    root = tmp_path / "root"
    chosen = one_per_class(HAM10000 / "labels.csv", HAM10000 / "images", "dx")
    for number, path in enumerate(chosen):
        part = root / f"HAM10000_images_part_{1 + number % 2}"
        part.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, part)
    shutil.copy(METADATA / "HAM10000_metadata.csv", root)
    (root / "HAM10000_images_part_1" / f"{chosen[4].stem}.jpg").write_bytes(b"not a picture")
    save(root / "HAM10000_images_part_2" / "ISIC_9999999.jpg")
    save(root / "__MACOSX" / "._ISIC_0024306.jpg")

    index = load_index(DataSettings(source="ham10000", root=str(root), cache_dir=str(tmp_path)), resolution=32)
    assert sorted(index.table.image_id) == sorted(path.stem for path in chosen if path != chosen[4])
    labels = pd.read_csv(HAM10000 / "labels.csv").set_index("image_id").loc[index.table.image_id]
    assert index.sites.tolist() == labels.dataset.tolist()
    assert index.groups.tolist() == labels.lesion_id.tolist()
    assert [index.classes[label] for label in index.labels] == labels.dx.tolist()
    assert index.notes == (
        "10,001 rows of HAM10000_metadata.csv have no image file and were left out "
        "(ISIC_0027419, ISIC_0025030, ISIC_0026769 and 9,998 more)",
        "1 image file that HAM10000_metadata.csv does not name was left out (HAM10000_images_part_2/ISIC_9999999.jpg)",
        f"1 image that cannot be decoded was left out ({root}/HAM10000_images_part_1/{chosen[4].name}: "
        "not an image file)",
    )


@needs_real_images
def test_the_second_copy_of_a_published_folder_is_passed_over(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for path in one_per_class(HAM10000 / "labels.csv", HAM10000 / "images", "dx", 1):
        for folder in ("HAM10000_images_part_1", "ham10000_images_part_1"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / folder)
    shutil.copy(METADATA / "HAM10000_metadata.csv", root)
    index = load_index(DataSettings(source="ham10000", root=str(root), cache_dir=str(tmp_path)), resolution=32)
    assert len(index) == 7
    assert {Path(file).parent.name for file in index.table.file} == {"HAM10000_images_part_1"}
    assert index.notes[1].startswith("7 images lie in several folders; the first was taken (ISIC_")


@pytest.fixture
def isic2019_root(tmp_path: Path) -> Path:
    """The challenge's files, with two images of each class at each centre and two without a centre."""
    root = tmp_path / "root"
    (root / "ISIC_2019_Training_Input").mkdir(parents=True)
    labels = pd.read_csv(ISIC2019 / "labels.csv", dtype=str, keep_default_na=False)
    for name in labels.groupby(["center", "dx"]).file.head(2):
        shutil.copy(ISIC2019 / "images" / name, root / "ISIC_2019_Training_Input")
    for name in ("ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"):
        shutil.copy(METADATA / name, root)
    return root


def isic2019_truth(index: ImageIndex, column: str) -> list[str]:
    labels = pd.read_csv(ISIC2019 / "labels.csv", dtype=str, keep_default_na=False).set_index("image_id")
    return labels.loc[index.table.image_id, column].tolist()


@needs_real_images
def test_isic2019_as_published_with_the_centres_of_fed_isic2019(isic2019_root: Path, tmp_path: Path) -> None:
    shutil.copy(METADATA / "fed_isic2019_train_test_split.csv", isic2019_root)
    data = DataSettings(source="isic2019", root=str(isic2019_root), cache_dir=str(tmp_path))
    index = load_index(data, resolution=32)
    assert index.sites.tolist() == isic2019_truth(index, "center_name")
    assert [index.classes[label] for label in index.labels] == isic2019_truth(index, "dx")
    assert index.table.localisation.tolist() == isic2019_truth(index, "localization")
    assert index.groups.tolist() == isic2019_truth(index, "lesion_id")
    assert len(index) == 2 * (8 + 6 + 8 + 8 + 3 + 6)
    assert len(set(index.sites)) == 6
    assert index.notes[0] == "sites are the centres of fed_isic2019_train_test_split.csv"
    assert any(note.startswith("6 rows without a site were left out (ISIC_") for note in index.notes)


@needs_real_images
def test_isic2019_as_published_with_the_metadata_of_ham10000(isic2019_root: Path, tmp_path: Path) -> None:
    shutil.copy(METADATA / "HAM10000_metadata.csv", isic2019_root)
    data = DataSettings(source="isic2019", root=str(isic2019_root), cache_dir=str(tmp_path))
    index = load_index(data, resolution=32)
    assert index.sites.tolist() == isic2019_truth(index, "center_name")
    assert index.notes[0] == "sites come from the lesion ids and, for HAM10000, from HAM10000_metadata.csv"


@needs_real_images
def test_isic2019_as_published_alone(isic2019_root: Path, tmp_path: Path) -> None:
    data = DataSettings(source="isic2019", root=str(isic2019_root), cache_dir=str(tmp_path))
    index = load_index(data, resolution=32)
    expected = [
        name if name in ("bcn20000_barcelona", "msk4_new_york") else "ham10000"
        for name in isic2019_truth(index, "center_name")
    ]
    assert index.sites.tolist() == expected
    assert set(expected) == {"bcn20000_barcelona", "msk4_new_york", "ham10000"}
    assert index.notes[0] == (
        "sites come from the lesion ids, and HAM10000 counts as one site; "
        "to divide it into its four collections put HAM10000_metadata.csv into data.root"
    )


@needs_real_images
def test_isic2020_as_published(tmp_path: Path) -> None:
    # The csv is real; its images are not among the real folders, so a few are painted.
    root = tmp_path / "root"
    truth = pd.read_csv(METADATA / "ISIC_2020_Training_GroundTruth.csv")
    chosen = truth.groupby("target").head(3)
    for shade, name in enumerate(chosen.image_name):
        save(root / "train" / f"{name}.jpg", shade * 40)
    shutil.copy(METADATA / "ISIC_2020_Training_GroundTruth.csv", root)
    index = load_index(DataSettings(source="isic2020", root=str(root), cache_dir=str(tmp_path)), resolution=32)
    expected = chosen.sort_values("image_name")
    assert index.classes == ("benign", "malignant")
    assert index.table.image_id.tolist() == expected.image_name.tolist()
    assert index.labels.tolist() == expected.target.tolist()
    assert index.groups.tolist() == expected.patient_id.tolist()
    assert index.table.age.tolist() == expected.age_approx.tolist()
    assert set(index.sites) == {"isic2020"}
    assert index.notes[0].startswith("33,120 rows of ISIC_2020_Training_GroundTruth.csv have no image file")

    data = DataSettings(source="isic2020", root=str(root), site_column="sex", cache_dir=str(tmp_path))
    assert load_index(data, resolution=32).sites.tolist() == expected.sex.tolist()


# A folder of one's own.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, shade in {"a": 1, "b": 2, "deep/c": 3, "deep/er/d": 4}.items():
        save(tmp_path / "root" / f"{name}.png", shade)
    return tmp_path / "root"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_csv_names_images_by_path_or_name_with_or_without_suffix(folder: Path, tmp_path: Path) -> None:
    write(
        folder / "table.csv",
        "file , diagnosis, patient, hospital, age, sex, localisation",
        "a,nv,p1,north,51,male,back",
        "b.png,mel,p1,south,,F,unknown",
        "deep/c.png,nv,,south,n/a,,",
        "./deep/er/d, mel ,p2,north,7.5,unknown,ear",
    )
    data = DataSettings(
        source="folder",
        root=str(folder),
        image_column="file",
        label_column="diagnosis",
        group_column="patient",
        site_column="hospital",
        cache_dir=str(tmp_path / "cache"),
    )
    index = load_index(data, resolution=32)
    table = index.table
    assert table.image_id.tolist() == ["a", "b.png", "deep/c.png", "deep/er/d"]
    assert [Path(file).name for file in table.file] == ["a.png", "b.png", "c.png", "d.png"]
    assert index.classes == ("mel", "nv")
    assert index.labels.tolist() == [1, 0, 1, 0]
    assert index.groups.tolist() == ["p1", "p1", "deep/c.png", "p2"]
    assert index.sites.tolist() == ["north", "south", "south", "north"]
    np.testing.assert_array_equal(table.age, [51, np.nan, np.nan, 7.5])
    assert table.sex.tolist() == ["male", "F", "", ""]
    assert table.localisation.tolist() == ["back", "", "", "ear"]
    assert index.notes == ()
    assert [index.read_image(row)[0, 0, 0] for row in range(4)] == [1, 2, 3, 4]


def test_one_sub_folder_per_class(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for shade, name in enumerate(["nv/1.png", "nv/more/2.JPG", "mel/1.png", "loose.png"]):
        save(root / name, shade)
    (root / "nv" / "notes.txt").touch()
    index = load_index(DataSettings(source="folder", root=str(root), cache_dir=str(tmp_path)), resolution=32)
    assert index.table.image_id.tolist() == ["mel/1.png", "nv/1.png", "nv/more/2.JPG"]
    assert index.classes == ("mel", "nv")
    assert index.labels.tolist() == [0, 1, 1]
    assert index.groups.tolist() == index.table.image_id.tolist()
    assert set(index.sites) == {"all"}
    assert index.notes == ("1 image file outside the classes' sub-folders was left out (loose.png)",)


@pytest.mark.parametrize("parts", [("Test", "Train"), ("train_images", "validation-set"), ("Val", "training")])
def test_folders_of_parts_are_no_classes(parts: tuple[str, str], tmp_path: Path) -> None:
    root = tmp_path / "root"
    for shade, name in enumerate(f"{part}/{label}/1.png" for part in parts for label in ("mel", "nv")):
        save(root / name, shade)
    settings: dict[str, Any] = {"source": "folder", "root": str(root), "cache_dir": str(tmp_path)}
    training = next(name for name in parts if "rain" in name)
    refusal = (
        f"{root}: its sub-folders are called {', '.join(parts)}, which are parts of a set and no classes, each with "
        f"sub-folders of its own (mel, nv); set data.root={root}/{training}, or put all images of a class into one "
        "folder: the images are divided here anyway; if they are classes, name them in data.classes",
    )
    assert problems(**settings) == refusal
    assert problems(**settings, classes="mel,nv") == refusal
    inner = load_index(DataSettings(**settings | {"root": str(root / training)}), resolution=32)
    assert inner.classes == ("mel", "nv")
    assert inner.notes == ()
    meant = load_index(DataSettings(**settings, classes=",".join(parts)), resolution=32)
    assert meant.labels.tolist() == [0, 0, 1, 1]
    assert meant.notes == (
        f"classes are the sub-folders of data.root ({', '.join(parts)}), not those below them (mel, nv)",
    )


def test_folders_of_parts_without_folders_of_classes(tmp_path: Path) -> None:
    for shade, name in enumerate(["train/1.png", "test/1.png"]):
        save(tmp_path / "root" / name, shade)
    (problem,) = problems(source="folder", root=str(tmp_path / "root"))
    assert problem == (
        f"{tmp_path}/root: its sub-folders are called test, train, which are parts of a set and no classes; name each "
        "image's class in a csv, or put the images of each class into a sub-folder of its own: the images are divided "
        "here anyway; if they are classes, name them in data.classes"
    )


def test_one_folder_around_those_of_the_classes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for shade, name in enumerate(["my set/mel/1.png", "my set/nv/1.png"]):
        save(root / name, shade)
    settings: dict[str, Any] = {"source": "folder", "root": str(root), "cache_dir": str(tmp_path)}
    assert problems(**settings) == (
        f"{root}: all images lie in one sub-folder, my set, and there in others (mel, nv); if those are the classes, "
        f"set data.root={root}/my set; if my set is the class, set 'data.classes=my set'",
    )
    assert load_index(DataSettings(**settings, classes="my set"), resolution=32).classes == ("my set",)


def test_what_only_the_csv_or_only_the_folder_knows_is_reported(folder: Path, tmp_path: Path) -> None:
    write(folder / "t.csv", "image,label", "a,nv", "nowhere,nv", "c,mel", "a,nv", "gone,mel", "a,nv")
    index = load_index(DataSettings(source="folder", root=str(folder), cache_dir=str(tmp_path)), resolution=32)
    assert index.table.image_id.tolist() == ["a", "c"]
    assert index.notes == (
        "2 repeated rows of t.csv were left out (a, a)",
        "2 rows of t.csv have no image file and were left out (nowhere, gone)",
        "2 image files that t.csv does not name were left out (b.png, deep/er/d.png)",
    )


def test_a_changed_file_is_noticed(folder: Path, tmp_path: Path) -> None:
    write(folder / "t.csv", "image,label", "a,nv", "b,nv")
    data = DataSettings(source="folder", root=str(folder), cache_dir=str(tmp_path / "cache"))
    before = load_index(data, resolution=32)
    save(folder / "b.png", 99)
    after = load_index(data, resolution=32)
    assert before.table.digest[0] == after.table.digest[0]
    assert before.table.digest[1] != after.table.digest[1]
    assert load_images(after, 32, data.cache_dir)[1, 0, 0, 0] == 99
    shutil.copy(folder / "a.png", folder / "b.png")
    assert load_index(data, resolution=32).groups.tolist() == ["a", "a"]


def test_the_cache_follows_content_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    write(folder / "t.csv", "image,label", "a,nv", "b,nv")
    cache = tmp_path / "cache"
    load_index(DataSettings(source="folder", root=str(folder), cache_dir=str(cache)), resolution=32)
    folder.rename(tmp_path / "moved")
    seen: set[str] = set()
    index = load_index(
        DataSettings(source="folder", root=str(tmp_path / "moved"), cache_dir=str(cache)),
        resolution=32,
        progress=lambda description, done, total: seen.add(description),
    )
    load_images(index, 32, str(cache), lambda description, done, total: seen.add(description))
    assert seen == {"hashing images"}


def test_linked_folders_are_followed_once(folder: Path, tmp_path: Path) -> None:
    (folder / "deep" / "round").symlink_to(folder)
    (folder / "elsewhere").symlink_to(tmp_path / "elsewhere")
    (folder / "broken.png").symlink_to(tmp_path / "nowhere.png")
    save(tmp_path / "elsewhere" / "e.png")
    assert list(find_image_files(folder)) == ["a.png", "b.png", "deep/c.png", "deep/er/d.png", "elsewhere/e.png"]


def test_names_that_are_equal_to_a_person(tmp_path: Path) -> None:
    root = tmp_path / "root"
    decomposed = unicodedata.normalize("NFD", "Läsion")
    for shade, name in enumerate([decomposed, "ISIC_1", "isic_2", "ISIC_2", "deep/Über"]):
        save(root / "Images" / f"{name}.JPG", 40 * shade)
    csv = write(
        root / "t.csv", "image,label,clinic", "Läsion,nävus,ä", "isic_1,nv,ä", "images/isic_2.jpg,nv,ä",
        f"IMAGES/DEEP/{unicodedata.normalize('NFD', 'ÜBER')},{unicodedata.normalize('NFD', 'nävus,ä')}",
    )  # fmt: skip
    settings: dict[str, Any] = {
        "source": "folder", "root": str(root), "site_column": "clinic", "cache_dir": str(tmp_path)
    }  # fmt: skip
    # Two files that differ in nothing else are two.
    assert problems(**settings) == (
        f"{csv}: several files have the name of 1 image: images/isic_2.jpg; write the path of each image, relative to "
        f"{root}",
    )
    csv.write_text(csv.read_text().replace("images/isic_2.jpg", "Images/isic_2.JPG"))
    index = load_index(DataSettings(**settings), resolution=32)
    assert dict(zip(index.table.image_id, (Path(file).stem for file in index.table.file), strict=True)) == {
        "Läsion": decomposed, "isic_1": "ISIC_1", "Images/isic_2.JPG": "isic_2",
        f"IMAGES/DEEP/{unicodedata.normalize('NFD', 'ÜBER')}": "Über",
    }  # fmt: skip
    assert index.classes == ("nv", "nävus")
    assert set(index.sites) == {"ä"}
    assert index.notes == (
        "2 names of t.csv differ from the file taken for it in small and large letters (isic_1 = Images/ISIC_1.JPG, "
        f"IMAGES/DEEP/{unicodedata.normalize('NFD', 'ÜBER')} = Images/deep/Über.JPG)",
        "1 image file that t.csv does not name was left out (Images/ISIC_2.JPG)",
    )
    named = DataSettings(**settings, classes=unicodedata.normalize("NFD", "nävus,nv"))
    assert load_index(named, resolution=32).classes == ("nävus", "nv")


def test_the_archives_own_downloads_have_no_ending(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for shade, name in enumerate(["ISIC_1", "ISIC_2", "ISIC_2_downsampled", "ISIC_3_downsampled"]):
        save(root / "images" / f"{name}.png", shade)
    names = ["ISIC_1_downsampled", "ISIC_2_downsampled", "ISIC_3", "ISIC_4_downsampled"]
    write(
        root / "ISIC_2019_Training_GroundTruth.csv", "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC",
        *(f"{name},0,1,0,0,0,0,0,0" for name in names),
    )  # fmt: skip
    write(
        root / "ISIC_2019_Training_Metadata.csv", "image,age_approx,anatom_site_general,lesion_id,sex",
        *(f"{name},,,MSK4_{number}," for number, name in enumerate(names)),
    )  # fmt: skip
    data = DataSettings(source="isic2019", root=str(root), classes="NV", cache_dir=str(tmp_path))
    index = load_index(data, resolution=32)
    assert index.table.image_id.tolist() == names[:3]
    assert [Path(file).stem for file in index.table.file] == ["ISIC_1", "ISIC_2_downsampled", "ISIC_3_downsampled"]
    assert set(index.sites) == {"msk4_new_york"}
    assert index.notes[1:] == (
        "2 names of ISIC_2019_Training_GroundTruth.csv differ from the file taken for it in the ending _downsampled "
        "(ISIC_1_downsampled = images/ISIC_1.png, ISIC_3 = images/ISIC_3_downsampled.png)",
        "1 row of ISIC_2019_Training_GroundTruth.csv has no image file and was left out (ISIC_4_downsampled)",
        "1 image file that ISIC_2019_Training_GroundTruth.csv does not name was left out (images/ISIC_2.png)",
    )


def test_a_full_path_is_meant_before_a_name(folder: Path) -> None:
    save(folder / "deep" / "a.png")
    files = find_image_files(folder)
    matches = match_names(["a.png", "deep/a", "b"], files)
    assert matches.paths == ["a.png", "deep/a.png", "b.png"]
    assert matches.copies == []
    assert matches.unnamed == ["deep/c.png", "deep/er/d.png"]


# Everything wrong.


def test_a_missing_root() -> None:
    for source in ("ham10000", "isic2019", "isic2020", "folder", "huggingface"):
        assert problems(source=source, root="/no/such/folder") == (
            "data.root = '/no/such/folder': there is no such folder; set data.root to the folder of the images",
        )


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    archive = write(tmp_path / "images.zip", "")
    assert problems(source="folder", root=str(archive)) == (
        f"data.root = '{archive}' is a file; unpack it, and set data.root to the folder of the images",
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "ham10000",
            "has neither HAM10000_metadata.csv nor labels.csv; set data.root to the folder that holds "
            "one of them beside the images",
        ),
        (
            "isic2019",
            "has neither ISIC_2019_Training_GroundTruth.csv nor labels.csv; set data.root to the folder that holds "
            "one of them beside the images",
        ),
        (
            "isic2020",
            "has no ISIC_2020_Training_GroundTruth.csv; set data.root to the folder that holds it beside the images",
        ),
        (
            "folder",
            "has neither a csv nor a sub-folder with images; name each image's class in a csv, "
            "or put the images of each class into a sub-folder that bears the class's name",
        ),
    ],
)
def test_a_root_without_what_describes_the_images(source: str, message: str, tmp_path: Path) -> None:
    assert problems(source=source, root=str(tmp_path)) == (f"{tmp_path}: {message}",)


def test_all_missing_columns_are_named(folder: Path) -> None:
    csv = write(folder / "t.csv", "name;class", "a;nv")
    assert problems(source="folder", root=str(folder), site_column="hospital") == tuple(
        f"{csv}: has no column '{column}' ({key}); its columns are name;class; set {key} to one of them"
        for column, key in {
            "image": "data.image-column",
            "label": "data.label-column",
            "hospital": "data.site-column",
        }.items()
    )


def test_a_published_csv_without_its_columns(tmp_path: Path) -> None:
    csv = write(tmp_path / "HAM10000_metadata.csv", "image_id,dx,dataset", "ISIC_1,nv,rosendahl")
    assert problems(source="ham10000", root=str(tmp_path)) == (
        f"{csv}: has no column 'lesion_id'; its columns are image_id, dx, dataset; use the csv as it was published",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a csv (No columns to parse from file); correct that line, or name another file"),
        (b"image,label\na,nv\nb,nv,x,y\n", "is not a csv (Error tokenizing data. C error: Expected 2 fields in line 3, "
         "saw 4); correct that line, or name another file"),
        (b"image,label\na,nv,\nb,nv,\n", "its rows have more values than its header has columns; remove the values or "
         "separators that are too many, or name their columns"),
        (b"image,label\n\xff\xfe\x00,nv\n", "is not UTF-8 text; save it again as csv in UTF-8"),
        (b"image,label\n", "has no row below its header; name a csv with a row for each image"),
    ],
    ids=["empty", "ragged", "shifted", "latin", "no row"],
)  # fmt: skip
def test_a_csv_that_is_none(content: bytes, message: str, folder: Path) -> None:
    (folder / "t.csv").write_bytes(content)
    assert problems(source="folder", root=str(folder)) == (f"{folder}/t.csv: {message}",)


def test_sites_that_the_csv_does_not_name_are_asked_for_where_they_are_used(tmp_path: Path) -> None:
    for shade in range(40):
        save(tmp_path / "root" / f"ISIC_{shade}.png", shade)
    ids = [f"ISIC_{number}" for number in range(40)]
    csv = write(
        tmp_path / "root" / "HAM10000_metadata.csv", "lesion_id,image_id,dx", *(f"HAM_{name},{name},nv" for name in ids)
    )
    missing = (
        "HAM10000_metadata.csv has no column 'dataset', which names the four collections; the csv of Harvard Dataverse "
        "has it (HAM10000_metadata.csv, https://doi.org/10.7910/DVN/DBW86T)"
    )
    settings: dict[str, Any] = {"root": str(tmp_path / "root"), "cache_dir": str(tmp_path)}
    data = DataSettings(source="ham10000", classes="nv", **settings)
    pooled = PartitionSettings(hospitals=1, min_images=1)
    held = find_holdings(data, pooled, 32)
    assert set(held.index.sites) == {"ham10000"}
    assert held.index.notes == (f"all images have one site: {missing}",)
    assert held.partition.hospitals == ("all",)
    with pytest.raises(PartitionError, match=r"the data has 1 site .*; HAM10000_metadata.csv has no column 'dataset'"):
        find_holdings(data, PartitionSettings(hospitals=4), 32)

    # Beside ISIC 2019 it divides nothing.
    write(
        tmp_path / "root" / "ISIC_2019_Training_GroundTruth.csv", "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC",
        *(f"{name},0,1,0,0,0,0,0,0" for name in ids),
    )  # fmt: skip
    write(
        tmp_path / "root" / "ISIC_2019_Training_Metadata.csv",
        "image,lesion_id",
        *(f"{name},HAM_{name}" for name in ids),
    )
    data = DataSettings(source="isic2019", classes="NV", **settings)
    assert find_holdings(data, pooled, 32).index.notes == (
        f"sites come from the lesion ids, and HAM10000 counts as one site: {missing}",
    )
    with pytest.raises(PartitionError, match=r"the data has 1 site .*; sites come from the lesion ids, and HAM10000"):
        find_holdings(data, PartitionSettings(hospitals=4), 32)
    csv.unlink()
    (tmp_path / "root" / "ISIC_2019_Training_GroundTruth.csv").unlink()
    write(tmp_path / "root" / "labels.csv", "image_id,dx,lesion_id", *(f"{name},NV," for name in ids))
    assert load_index(data, resolution=32).notes == ("all images have one site: labels.csv has no column 'center'",)


def test_several_csv_files(folder: Path, tmp_path: Path) -> None:
    write(folder / "one.csv", "image,label", "a,nv")
    write(folder / "two.csv", "image,label", "b,mel")
    assert problems(source="folder", root=str(folder)) == (
        f"{folder}: has several csv files (one.csv, two.csv); set data.csv to the one that describes the images",
    )
    data = DataSettings(source="folder", root=str(folder), csv="two.csv", cache_dir=str(tmp_path))
    assert load_index(data, resolution=32).table.image_id.tolist() == ["b"]
    assert problems(source="folder", root=str(folder), csv="three.csv") == (
        f"data.csv = 'three.csv': {folder}/three.csv does not exist; give a path relative to data.root",
    )


def test_rows_that_contradict_each_other_and_rows_without_a_name(folder: Path) -> None:
    csv = write(folder / "t.csv", "image,label", "a,nv", "b,nv", "a,mel", ",mel", ",mel")
    assert problems(source="folder", root=str(folder)) == (
        f"{csv}: column 'image' is empty in 2 rows (line 5, line 6); fill it in, or remove those rows",
        f"{csv}: 1 image with rows that contradict each other in column 'image': a; keep one row for each image",
    )


def test_two_rows_that_mean_one_file(folder: Path) -> None:
    csv = write(folder / "t.csv", "image,label", "c,nv", "deep/c.png,mel")
    assert problems(source="folder", root=str(folder)) == (
        f"{csv}: more than one row means deep/c.png; keep one row for each image",
    )


def test_a_name_that_several_files_bear(folder: Path) -> None:
    save(folder / "other" / "c.png")
    csv = write(folder / "t.csv", "image,label", "c,nv", "a,nv")
    assert problems(source="folder", root=str(folder)) == (
        f"{csv}: several files have the name of 1 image: c; write the path of each image, relative to {folder}",
    )


def test_an_empty_label(folder: Path) -> None:
    csv = write(folder / "t.csv", "image,label", "a,", "b,nv")
    assert problems(source="folder", root=str(folder)) == (
        f"{csv}: column 'label' (data.label-column) is empty for 1 image: a; fill it in, or remove those rows",
    )


@pytest.mark.parametrize("word", ["NA", "nan", "<NA>", "#N/A", "NULL", "None", "unknown", "?", "-"])
def test_words_for_unknown_are_no_group_no_site_and_no_class(word: str, folder: Path, tmp_path: Path) -> None:
    csv = write(
        folder / "t.csv",
        "image,label,patient,clinic,age",
        f"a,nv,{word},x,{word}", f"b,mel,{word},x,1", f"c,nv,7,{word},1", "d,nv,7,y,1",
    )  # fmt: skip
    data = DataSettings(
        source="folder", root=str(folder), group_column="patient", site_column="clinic", cache_dir=str(tmp_path)
    )
    for require_every_class in (True, False):  # a hospital of its own reads alike
        index = load_index(data, resolution=32, require_every_class=require_every_class)
        assert index.groups.tolist() == ["a", "b", "7"]
        assert index.sites.tolist() == ["x", "x", "y"]
        np.testing.assert_array_equal(index.table.age, [np.nan, 1, 1])
        assert index.notes == (
            "1 row without a site was left out (c)",
            f"2 images whose group is given as {word} are each of a group of their own (a, b)",
        )
    write(csv, "image,label", f"a,{word}", "b,nv", f"c,{word}")
    assert problems(source="folder", root=str(folder), cache_dir=str(tmp_path)) == (
        f"{csv}: column 'label' (data.label-column) is {word!r} for 2 images: a, c; fill it in, or remove those rows, "
        "or, if that is a class, name it in data.classes",
    )
    named = DataSettings(source="folder", root=str(folder), classes=f"nv,{word}", cache_dir=str(tmp_path))
    assert load_index(named, resolution=32).labels.tolist() == [1, 0, 1]


def test_words_for_unknown_in_published_layouts(tmp_path: Path) -> None:
    for shade, name in enumerate(["a", "b", "c", "NULL/d"]):
        save(tmp_path / "root" / f"{name}.png", shade)
    settings: dict[str, Any] = {"root": str(tmp_path / "root"), "cache_dir": str(tmp_path)}
    csv = write(
        tmp_path / "root" / "labels.csv", "image_id,dx,lesion_id,dataset", "a,nv,NA,x", "b,nv,NA,x", "c,nv,1,NA"
    )
    lax = DataSettings(source="ham10000", classes="nv", **settings)
    assert load_index(lax, resolution=32).groups.tolist() == ["a", "b"]
    write(csv, "image_id,dx,lesion_id,center", "a,NV,NULL,0", "b,NV,NULL,0", "c,NV,1,NULL")
    lax = DataSettings(source="isic2019", classes="NV", **settings)
    assert load_index(lax, resolution=32).groups.tolist() == ["a", "b"]
    write(csv, "image_id,dx,lesion_id,center,dataset", "a,nan,,,")
    for source in ("ham10000", "isic2019"):
        assert problems(source=source, **settings) == (
            f"{csv}: column 'dx' is 'nan' for 1 image: a; fill it in, or remove those rows, or, if that is a class, "
            "name it in data.classes",
        )
    csv.unlink()
    assert problems(source="folder", **settings) == (
        f"{tmp_path}/root: the class, which the sub-folder names, is 'NULL' for 1 image: NULL/d.png; rename the "
        "sub-folder, or remove it, or, if that is a class, name it in data.classes",
    )


def test_no_image_that_the_csv_names(folder: Path) -> None:
    write(folder / "t.csv", "image,label", "x,nv", "y,nv")
    assert problems(source="folder", root=str(folder)) == (
        f"{folder}: none of the 2 images that t.csv names is in this folder or below it, e.g. x; "
        "unpack the images there, or correct data.root",
    )


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".dcm", ".dcm files"), (".HEIC", ".heic files"), (".jfif", ".jfif files"), ("", "files")]
)
def test_images_of_a_kind_that_is_not_read_are_counted(suffix: str, kind: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for shade, name in enumerate(["mel/a", "mel/b", "nv/c"]):
        save(root / f"{name}.png", shade)
        (root / f"{name}.png").rename(root / f"{name}{suffix}")
    (root / "nv" / "notes.txt").touch()
    settings: dict[str, Any] = {"source": "folder", "root": str(root), "cache_dir": str(tmp_path)}
    counted = f"3 {kind}{'' if suffix else ' without a suffix'} are not read"
    allowed = "allowed are .jpg, .jpeg, .png, .tif, .tiff, .bmp, .webp; convert them"
    (problem,) = problems(**settings)
    assert problem.startswith(f"{root}: has neither a csv nor a sub-folder with images; ")
    assert problem.endswith(f"; {counted}; {allowed}")
    csv = write(root / "t.csv", "image,label", "a,mel", "b,mel", "c,nv")
    (problem,) = problems(**settings)
    assert problem == (
        f"{root}: none of the 3 images that t.csv names is in this folder or below it, e.g. a; unpack the images "
        f"there, or correct data.root; {counted}; {allowed}"
    )
    if suffix:  # beside images that are read, what has no suffix is a licence
        save(root / "nv" / "c.png")
        told = f"3 {kind} are not read; {allowed}"
        assert told in load_index(DataSettings(**settings), resolution=32).notes
        csv.unlink()
        assert load_index(DataSettings(**settings), resolution=32).notes == (told,)


@pytest.mark.parametrize("path", ["nv/n\udce9vus.png", "n\udce9vus/a.png"])
def test_a_file_whose_name_is_not_utf_8_is_named(path: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    save(root / "mel" / "a.png")
    save(root / "nv" / "b.png", 1)
    (root / path).parent.mkdir(exist_ok=True)
    shutil.copy(root / "mel" / "a.png", root / path)
    shown = path.replace("\udce9", "\\xe9")
    refusal = (f"{root}: 1 image file whose path is not UTF-8 text: {shown}; rename what is not",)
    sources = ["folder"]
    if importlib.util.find_spec("datasets"):
        sources.append("huggingface")
    for source in sources:
        assert problems(source=source, root=str(root), cache_dir=str(tmp_path)) == refusal
    # A csv can neither mean it nor need it.
    csv = write(root / "t.csv", "image,label", "a,mel", "b,nv")
    data = DataSettings(source="folder", root=str(root), cache_dir=str(tmp_path))
    assert load_index(data, resolution=32).notes == (
        f"1 image file whose path is not UTF-8 text was left out ({shown})",
    )
    csv.rename(root / "n\udce9.csv")
    assert problems(source="folder", root=str(root)) == (
        f"{root}: the name of n\\xe9.csv is not UTF-8 text; rename it",
    )


def test_isic2019_rows_that_are_not_one_hot(tmp_path: Path) -> None:
    names = "MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    csv = write(
        tmp_path / "ISIC_2019_Training_GroundTruth.csv",
        f"image,{names}",
        "a,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "b,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "c,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "d,0.0,x,0.0,0.0,0.0,0.0,0.0,0.0,1.0",
    )
    assert problems(source="isic2019", root=str(tmp_path)) == (
        f"{csv}: 3 rows without exactly one 1 among {names.replace(',', ', ')} and 0 elsewhere: b, c, d; "
        "correct those rows, or remove them",
    )


def test_isic2019_without_its_metadata(tmp_path: Path) -> None:
    truth = tmp_path / "ISIC_2019_Training_GroundTruth.csv"
    write(truth, "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC", "a,1,0,0,0,0,0,0,0", "b,0,1,0,0,0,0,0,0")
    assert problems(source="isic2019", root=str(tmp_path)) == (
        f"{tmp_path}: has no ISIC_2019_Training_Metadata.csv, which holds the lesions; put it beside {truth.name}",
    )
    csv = tmp_path / "ISIC_2019_Training_Metadata.csv"
    write(csv, "image,age_approx,anatom_site_general,lesion_id,sex", "a,50,,BCN_1,male")
    assert problems(source="isic2019", root=str(tmp_path)) == (
        f"{csv}: has no row for 1 image of {truth.name}: b; use both files as they were published",
    )


def test_an_unknown_centre(tmp_path: Path) -> None:
    csv = write(tmp_path / "labels.csv", "image_id,dx,lesion_id,center", "a,NV,,7", "b,NV,,1.0")
    (message,) = problems(source="isic2019", root=str(tmp_path))
    assert message.startswith(
        f"{csv}: column 'center' holds 7; allowed are the numbers of Fed-ISIC2019, 0 (bcn20000_barcelona), 1 (vidir_"
    )


def test_an_unknown_target(tmp_path: Path) -> None:
    csv = write(tmp_path / "ISIC_2020_Training_GroundTruth.csv", "image_name,patient_id,target", "a,p,0", "b,p,2")
    assert problems(source="isic2020", root=str(tmp_path)) == (
        f"{csv}: column 'target' holds 2; allowed are 0 (benign) and 1 (malignant)",
    )


def test_a_class_that_no_image_has(folder: Path, tmp_path: Path) -> None:
    write(folder / "t.csv", "image,label", "a,nv", "b,mel")
    settings: dict[str, Any] = {
        "source": "folder",
        "root": str(folder),
        "classes": "mel,nv,df",
        "cache_dir": str(tmp_path),
    }
    assert problems(**settings) == (
        f"{folder}: a class with no image: df; allowed are only classes that have images: set data.classes=mel,nv",
    )
    index = load_index(DataSettings(**settings), resolution=32, require_every_class=False)
    assert index.classes == ("mel", "nv", "df")
    assert index.labels.tolist() == [1, 0]


# Hugging Face.


def test_a_local_imagefolder(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = tmp_path / "root"
    for shade, name in enumerate(["nv/b.png", "nv/a.png", "mel/c.png"]):
        save(root / name, shade)
    (root / "mel" / "broken.png").write_bytes(b"html")
    data = DataSettings(source="huggingface", root=str(root), cache_dir=str(tmp_path / "cache"))
    for _ in range(2):
        index = load_index(data, resolution=32)
        assert index.table.image_id.tolist() == ["mel/c.png", "nv/a.png", "nv/b.png"]
        assert index.classes == ("mel", "nv")
        assert index.labels.tolist() == [0, 1, 1]
        assert set(index.sites) == {"all"}
        assert load_images(index, 32, data.cache_dir)[:, 0, 0, 0].tolist() == [2, 1, 0]
        assert index.notes == (
            f"1 image that cannot be decoded was left out ({root}/mel/broken.png: not an image file)",
        )


def test_an_imagefolder_of_a_kind_that_is_not_read(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "root" / "nv").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "root" / "nv" / f"{name}.dcm").write_bytes(b"DICM")
    settings: dict[str, Any] = {"source": "huggingface", "root": str(tmp_path / "root"), "cache_dir": str(tmp_path)}
    told = "2 .dcm files are not read; allowed are .jpg, .jpeg, .png, .tif, .tiff, .bmp, .webp; convert them"
    (problem,) = problems(**settings)
    assert problem.endswith(f"or a metadata.csv with the column file_name; {told}")
    save(tmp_path / "root" / "nv" / "c.png")
    save(tmp_path / "root" / "mel" / "d.png", 1)
    assert load_index(DataSettings(**settings), resolution=32).notes == (told,)


def test_what_an_imagefolder_leaves_out_is_counted_and_words_in_names_leave_nothing_out(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = tmp_path / "root"
    names = ["mel/a.png", "mel/mel-train-b.png", "mel-test/c.png", "nv/d_val.png"]
    for shade, name in enumerate(names):
        save(root / name, shade)
    data = DataSettings(source="huggingface", root=str(root), cache_dir=str(tmp_path / "cache"))
    index = load_index(data, resolution=32)
    assert index.table.image_id.tolist() == sorted(names)
    assert index.classes == ("mel", "mel-test", "nv")
    assert index.notes == ()

    # Folders of parts are parts; what lies in others is told.
    for number, name in enumerate(["train/nv/a.png", "train/mel/b.png", "test/nv/c.png"]):
        save(tmp_path / "parts" / name, number)
    data = data.model_copy(update={"root": str(tmp_path / "parts")})
    index = load_index(data, resolution=32)
    assert index.table.image_id.tolist() == ["train/mel/b.png", "train/nv/a.png"]
    left_out = (
        "data.dataset-split = 'train': 1 image file of the folder is not in it and was left out (test/nv/c.png)",
    )
    assert index.notes == left_out
    # Alike where a folder is given as a dataset.
    index = load_index(data.model_copy(update={"dataset": data.root, "root": ""}), resolution=32)
    assert index.notes == left_out


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # datasets leaves metadata.csv to the collector
def test_an_imagefolder_with_patients_and_hospitals(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = tmp_path / "root"
    for shade, name in enumerate("abc"):
        save(root / f"{name}.png", shade)
    write(
        root / "metadata.csv", "file_name,dx,patient,clinic,age", "a.png,nv,7,x,50", "b.png,mel,7,y,", "c.png,nv,8,y,3"
    )
    settings: dict[str, Any] = {"source": "huggingface", "root": str(root), "cache_dir": str(tmp_path / "cache")}
    data = DataSettings(**settings, label_column="dx", group_column="patient", site_column="clinic")
    index = load_index(data, resolution=32)
    assert index.groups.tolist() == ["7", "7", "8"]
    assert index.sites.tolist() == ["x", "y", "y"]
    np.testing.assert_array_equal(index.table.age, [50, np.nan, 3])
    assert problems(**settings) == (
        f"{root}: has no feature 'label' (data.label-column); its features are image, dx, patient, clinic, age; "
        "set data.label-column to one of them",
    )


def test_a_dataset_that_holds_its_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for shade, name in enumerate("abc"):
        save(tmp_path / f"{name}.png", shade)
    encoded = [{"bytes": (tmp_path / f"{name}.png").read_bytes(), "path": None} for name in "abc"]
    features = datasets.Features({"image": datasets.Image(), "dx": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": encoded, "dx": ["nv", "mel", "nv"]}, features=features)
    (tmp_path / "repository").mkdir()
    table.to_parquet(tmp_path / "repository" / "train.parquet")
    data = DataSettings(
        source="huggingface", dataset=str(tmp_path / "repository"), label_column="dx", cache_dir=str(tmp_path / "cache")
    )
    index = load_index(data, resolution=32)
    assert index.table.image_id.tolist() == ["0000000", "0000001", "0000002"]
    assert set(index.table.file) == {""}
    assert index.labels.tolist() == [1, 0, 1]
    assert load_images(index, 32, data.cache_dir)[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_a_dataset_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (message,) = problems(source="huggingface", dataset="nobody/no-such-lesions", cache_dir=str(tmp_path))
    assert message.startswith("data.dataset = 'nobody/no-such-lesions', data.dataset-split = 'train': cannot be had (")
    assert message.endswith(
        "check both names and the connection, or download the dataset first on a machine that has one "
        "and set data.root to it, with data.dataset empty"
    )


def test_an_unknown_split_of_an_imagefolder(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    save(tmp_path / "root" / "nv" / "a.png")
    root = str(tmp_path / "root")
    (message,) = problems(source="huggingface", root=root, dataset_split="test", cache_dir=str(tmp_path / "cache"))
    assert message == (
        f"data.root = '{root}': cannot be read as an imagefolder with data.dataset-split = 'test' "
        "(Unknown split \"test\". Should be one of ['train'].); "
        "it needs a sub-folder per class, or a metadata.csv with the column file_name"
    )
