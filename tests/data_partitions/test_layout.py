"""Which source a folder is the layout of."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_partitions.sources.layout import recognise_layout
from federation.errors import DataError


def write(path: Path, header: str) -> Path:
    path.write_text(header + "\n" + ",".join("x" for _ in header.split(",")) + "\n")
    return path.parent


@pytest.mark.parametrize(
    ("name", "header", "source"),
    [
        ("HAM10000_metadata.csv", "lesion_id,image_id,dx", "ham10000"),
        ("HAM10000_metadata", "lesion_id,image_id,dx", "ham10000"),
        ("ISIC_2019_Training_GroundTruth.csv", "image,MEL,NV", "isic2019"),
        ("ISIC_2020_Training_GroundTruth.csv", "image_name,target", "isic2020"),
        ("labels.csv", "image_id,file,dx,lesion_id,dataset,fed_center", "ham10000"),
        ("ham10000_metadata.CSV", "lesion_id,image_id,dx", "ham10000"),
        ("Labels.csv", "image_id,file,dx,lesion_id,dataset", "ham10000"),
        ("labels.csv", "image_id,file,dx,lesion_id,center", "isic2019"),
        ("anything.csv", "a,b", "folder"),
    ],
)
def test_published_layouts(tmp_path: Path, name: str, header: str, source: str) -> None:
    root = write(tmp_path / name, header)
    assert recognise_layout(str(root)) == {"data.source": source, "data.root": str(root)}


def test_isic_2019_with_the_metadata_of_ham10000_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "HAM10000_metadata.csv", "lesion_id,image_id,dx,dataset")
    root = write(tmp_path / "ISIC_2019_Training_GroundTruth.csv", "image,MEL")
    assert recognise_layout(str(root))["data.source"] == "isic2019"


def test_columns_of_a_csv_of_ones_own(tmp_path: Path) -> None:
    root = write(tmp_path / "labels.csv", "filename,diagnosis,patient_id,hospital")
    assert recognise_layout(str(root)) == {
        "data.source": "folder",
        "data.root": str(root),
        "data.image-column": "filename",
        "data.label-column": "diagnosis",
        "data.group-column": "patient_id",
        "data.site-column": "hospital",
    }


def test_sub_folders_of_classes(tmp_path: Path) -> None:
    (tmp_path / "nv").mkdir()
    assert recognise_layout(str(tmp_path)) == {"data.source": "folder", "data.root": str(tmp_path)}


def test_a_csv_that_names_no_image_or_class_is_refused_with_both_remedies(tmp_path: Path) -> None:
    root = write(tmp_path / "labels.csv", "who,what")
    with pytest.raises(DataError) as caught:
        recognise_layout(str(root))
    assert len(caught.value.problems) == 2
    assert "--set data.image-column=COLUMN" in caught.value.problems[0]
    assert "what, who" in caught.value.problems[1]
    given = {"data.image-column": "who", "data.label-column": "what"}
    assert recognise_layout(str(root), given) == {"data.source": "folder", "data.root": str(root)}
    with pytest.raises(DataError, match="there is no such folder"):
        recognise_layout(str(tmp_path / "absent"))
