"""Folders of images that are judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_partitions.image_folder import find_resolution, load_image_folder
from federation.errors import DataError
from federation.seeding import numpy_stream


def write_images(folder: Path, count: int, side: int = 32, first: int = 0) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = numpy_stream(first, "images").integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{first + number:04d}.png")
    return images


def test_images_as_they_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    images = write_images(tmp_path, 16)
    folder = load_image_folder(tmp_path, 32)
    np.testing.assert_array_equal(folder.images, images)
    assert folder.names[:2] == ("0000.png", "0001.png")
    assert folder.class_names is None
    assert folder.notes == ()
    assert find_resolution(tmp_path) == 32


def test_larger_images_are_reduced_with_a_note(tmp_path: Path) -> None:
    write_images(tmp_path, 16, side=48)
    folder = load_image_folder(tmp_path, 32)
    assert folder.images.shape == (16, 32, 32, 3)
    assert folder.notes == ("images of 48 px were reduced to 32 px (Lanczos), as real ones are",)


def test_classes_from_a_csv(tmp_path: Path) -> None:
    write_images(tmp_path, 16)
    rows = [f"{number:04d}.png,{'mel' if number % 2 else 'nv'}" for number in reversed(range(16))]
    (tmp_path / "labels.csv").write_text("image,label\n" + "\n".join(rows) + "\n")
    assert load_image_folder(tmp_path, 32).class_names == ("nv", "mel") * 8
    (tmp_path / "labels.csv").write_text("image,label\n" + "\n".join(rows[:-2]) + "\n")
    with pytest.raises(DataError, match=r"has no row for 2 images of the folder \(0000.png, 0001.png\)"):
        load_image_folder(tmp_path, 32)
    (tmp_path / "labels.csv").write_text("image,label\n" + "\n".join(row.replace("png", "PNG") for row in rows) + "\n")
    folder = load_image_folder(tmp_path, 32)
    assert folder.class_names == ("nv", "mel") * 8
    assert folder.notes[0].startswith("16 names of labels.csv differ from the file taken for it in small and large ")
    (tmp_path / "labels.csv").write_text("picture,kind\na,b\n")
    with pytest.raises(DataError, match="its columns are picture, kind"):
        load_image_folder(tmp_path, 32)


def test_images_without_classes_have_none(tmp_path: Path) -> None:
    write_images(tmp_path, 16)
    rows = "\n".join(f"{number:04d}.png,unlabelled" for number in range(16))
    (tmp_path / "labels.csv").write_text(f"image,label\n{rows}\n")
    assert load_image_folder(tmp_path, 32).class_names is None


def test_classes_from_sub_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "nv", 8)
    write_images(tmp_path / "mel", 8, first=8)
    assert load_image_folder(tmp_path, 32).class_names == ("mel",) * 8 + ("nv",) * 8
    write_images(tmp_path, 1, first=99)
    mixed = load_image_folder(tmp_path, 32)
    assert mixed.class_names is None
    assert mixed.notes == ("1 image outside sub-folders beside 16 images in them: the folder tells no classes",)


def test_what_is_no_set_of_images_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no image"):
        load_image_folder(empty, 32)
    (empty / "a.heic").touch()
    with pytest.raises(DataError, match=r"holds no image .*; 1 .heic file is not read; allowed are .jpg, "):
        load_image_folder(empty, 32)
    few = tmp_path / "few"
    write_images(few, 15)
    with pytest.raises(DataError, match="has 15 images; at least 16 are needed"):
        load_image_folder(few, 32)
    mixed = tmp_path / "mixed"
    write_images(mixed, 16)
    write_images(mixed, 1, side=64, first=16)
    with pytest.raises(DataError, match=r"images of different sizes, 32x32 \(0000.png\) and 64x64 \(0016.png\)"):
        load_image_folder(mixed, 32)
    small = tmp_path / "small"
    write_images(small, 16)
    with pytest.raises(DataError, match="judge at --resolution 32 or less"):
        load_image_folder(small, 64)
    oblong = tmp_path / "oblong"
    oblong.mkdir()
    for number in range(16):
        Image.new("RGB", (64, 32)).save(oblong / f"{number}.png")
    for read in (lambda: load_image_folder(oblong, 32), lambda: find_resolution(oblong)):
        with pytest.raises(DataError, match="64x32 pixels; allowed are square images"):
            read()
    broken = tmp_path / "broken"
    write_images(broken, 16)
    shutil.copy(broken / "0004.png", broken / "\udce9.png")
    with pytest.raises(DataError, match=r"1 image file whose path is not UTF-8 text: \\xe9.png; rename what is not$"):
        load_image_folder(broken, 32)
    (broken / "\udce9.png").unlink()
    (broken / "0003.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match=r"0003.png: cannot be read as an image \(not an image file\)"):
        load_image_folder(broken, 32)
