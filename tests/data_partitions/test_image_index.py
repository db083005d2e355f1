"""What a source found becomes the index: checked, decoded, sorted, with identical images in one group."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_partitions.image_index import FoundImages, ImageIndex, build_index
from federation.errors import DataError
from federation.settings.data import DataSettings


def picture(shade: int, width: int = 32, height: int = 32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, shade, shade)).save(file, "png")
    return file.getvalue()


def build(
    cache: Path,
    *images: tuple[str, str, str, bytes],
    classes: str = "",
    published: tuple[str, ...] = (),
    sites: dict[str, str] | None = None,
    require_every_class: bool = True,
) -> ImageIndex:
    """Index images given as (image id, class, group, encoded bytes)."""
    content = {image_id: encoded for image_id, _, _, encoded in images}
    rows = pd.DataFrame([image[:3] for image in images], columns=["image_id", "class_name", "group"], dtype=str)
    rows = rows.assign(
        key=rows.image_id,
        file="",
        stamp=[str(hash(content[image_id])) for image_id in rows.image_id],
        site=[(sites or {}).get(image_id, "here") for image_id in rows.image_id],
        age=np.nan,
        sex="",
        localisation="",
    )
    return build_index(
        FoundImages(rows=rows, origin="/data", published_classes=published, read_bytes=content.__getitem__),
        data=DataSettings(source="folder", classes=classes, cache_dir=str(cache)),
        resolution=32,
        notes=[],
        require_every_class=require_every_class,
    )


def test_rows_are_sorted_and_labels_follow_the_names(tmp_path: Path) -> None:
    index = build(tmp_path, ("c", "nv", "2", picture(1)), ("a", "mel", "", picture(2)), ("b", "nv", "1", picture(3)))
    assert index.table.image_id.tolist() == ["a", "b", "c"]
    assert index.classes == ("mel", "nv")
    assert index.labels.tolist() == [0, 1, 1]
    assert index.labels.dtype == np.int64
    assert index.groups.tolist() == ["a", "1", "2"]  # an image without a group is its own
    assert index.sites.tolist() == ["here"] * 3
    assert index.notes == ()
    assert len(index) == 3
    assert [index.read_image(row)[0, 0, 0] for row in range(3)] == [2, 3, 1]


def test_given_classes_come_before_published_ones_before_those_found(tmp_path: Path) -> None:
    images = ("a", "mel", "", picture(1)), ("b", "nv", "", picture(2))
    assert build(tmp_path, *images, published=("nv", "mel")).labels.tolist() == [1, 0]
    assert build(tmp_path, *images, published=("nv", "mel"), classes="mel, nv").labels.tolist() == [0, 1]


def test_all_class_problems_come_at_once(tmp_path: Path) -> None:
    images = [(name, name, "", picture(1)) for name in ("mel", "nv", "bcc")]
    with pytest.raises(DataError) as caught:
        build(tmp_path, *images, classes="nv,df,vasc")
    assert caught.value.problems == (
        "/data: there are images of classes that data.classes = 'nv,df,vasc' does not name: bcc (1), mel (1); "
        "name every class, e.g. data.classes=nv,df,vasc,bcc,mel, or remove those rows",
        "/data: a class with no image: df, vasc; allowed are only classes that have images: set data.classes=nv",
    )


def test_classes_with_a_comma_are_named_as_settings_take_them(tmp_path: Path) -> None:
    images = ("a", "Melanoma, NOS", "", picture(1)), ("b", "Nevus", "", picture(2))
    with pytest.raises(DataError) as caught:
        build(tmp_path, *images, classes="Nevus")
    assert caught.value.problems == (
        "/data: there are images of classes that data.classes = 'Nevus' does not name: Melanoma, NOS (1); "
        "name every class, e.g. 'data.classes=Nevus,Melanoma\\, NOS', or remove those rows",
    )
    assert build(tmp_path, *images, classes="Nevus,Melanoma\\, NOS").labels.tolist() == [1, 0]


def test_a_hospital_need_not_hold_every_class(tmp_path: Path) -> None:
    index = build(tmp_path, ("a", "nv", "", picture(1)), classes="df,mel,nv", require_every_class=False)
    assert index.classes == ("df", "mel", "nv")
    assert index.labels.tolist() == [2]


def test_rows_without_a_site_are_left_out_and_named(tmp_path: Path) -> None:
    images = [(name, "nv", "", picture(1)) for name in "abcdef"]
    index = build(tmp_path, *images[:2], sites={"a": ""})
    assert index.table.image_id.tolist() == ["b"]
    assert index.notes == ("1 row without a site was left out (a)",)
    index = build(tmp_path, *images, sites=dict.fromkeys("abcde", ""))
    assert index.notes == ("5 rows without a site were left out (a, b, c and 2 more)",)
    with pytest.raises(DataError, match=r"^/data: no usable image is left; see data.root and data.source = folder$"):
        build(tmp_path, *images, sites=dict.fromkeys("abcdef", ""))


def test_undecodable_images_are_left_out_every_time(tmp_path: Path) -> None:
    images = [("a", "nv", "", b""), ("b", "nv", "", picture(1)), ("c", "nv", "", b"html"), ("d", "nv", "", b"html")]
    for _ in range(2):
        index = build(tmp_path, *images)
        assert index.table.image_id.tolist() == ["b"]
        assert index.notes == (
            "3 images that cannot be decoded were left out "
            "(a: the file is empty; c: not an image file; d: not an image file)",
        )
        assert index.read_image(0)[0, 0, 0] == 1


def test_images_that_are_enlarged_are_counted_every_time(tmp_path: Path) -> None:
    images = [("a", "nv", "", picture(1)), ("b", "nv", "", picture(2, 99, 31)), ("c", "nv", "", picture(3, 8, 99))]
    note = ("2 images are smaller than 32 px and are enlarged (b of 31 px, c of 8 px)",)
    for _ in range(2):
        assert build(tmp_path, *images).notes == note
    # A cache of an earlier version has not kept their sides.
    shutil.rmtree(tmp_path / "sides")
    assert build(tmp_path, *images).notes == note


def test_a_class_whose_images_are_all_broken_is_a_class_with_no_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a class with no image: mel; .* set data.classes=nv$"):
        build(tmp_path, ("a", "nv", "", picture(1)), ("b", "mel", "", b"html"))


def test_identical_images_join_their_whole_groups(tmp_path: Path) -> None:
    index = build(
        tmp_path,
        ("a", "nv", "lesion 3", picture(1)),
        ("b", "nv", "lesion 2", picture(1)),
        ("c", "nv", "lesion 2", picture(2)),
        ("d", "mel", "lesion 1", picture(2)),
        ("e", "nv", "lesion 1", picture(3)),
        ("f", "nv", "lesion 4", picture(4)),
    )
    assert index.groups.tolist() == ["lesion 1"] * 5 + ["lesion 4"]
    assert index.notes == (
        "2 sets of byte-identical images share a group (a = b, c = d)",
        "1 set of byte-identical images bears different classes (c = d)",
    )


@settings(deadline=None)  # each example writes files, and a disk may be busy
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=15),
)
def test_groups_are_the_connected_parts(
    tmp_path_factory: pytest.TempPathFactory, images: list[tuple[int, int]]
) -> None:
    """Two images share a group exactly if a chain of equal groups or equal bytes leads from one to the other."""
    rows = [(f"{row:02d}", "nv", f"g{group}", picture(shade)) for row, (group, shade) in enumerate(images)]
    groups = build(tmp_path_factory.getbasetemp() / "cache", *rows).groups
    linked = np.array([[a[0] == b[0] or a[1] == b[1] for b in images] for a in images])
    connected = np.linalg.matrix_power(linked.astype(object), len(images)).astype(bool)
    np.testing.assert_array_equal(groups[:, None] == groups[None, :], connected)
    for row, group in enumerate(groups):
        assert group == min(f"g{images[other][0]}" for other in np.flatnonzero(connected[row]))
