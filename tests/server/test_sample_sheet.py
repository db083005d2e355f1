"""Sample sheets: captions in full, and a report that knows how wide their column is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.evaluation.sample_sheet import write_sample_sheet
from server.report.samples import read_samples


@pytest.mark.parametrize("caption", ["mel", "Squamous cell carcinoma, NOS", "黑色素瘤", "شامة\nشامة", "Ünü" * 60])
def test_captions_are_whole_and_cover_no_image(caption: str, tmp_path: Path) -> None:
    images = np.full((3, 32, 32, 3), 200, dtype=np.uint8)
    write_sample_sheet(tmp_path / "sheet.png", [(caption, images), ("real", images)], scale=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        width, pixels = sheet.width - 3 * 66, np.asarray(sheet.convert("L"))
    dark = np.flatnonzero((pixels[:66] < 128).any(axis=0))  # of the caption
    assert dark[0] >= 4
    assert dark[-1] < width - 2
    assert width >= 64
    assert width == 64 or caption != "mel"
    # The report shows the images without the column, whatever its width.
    samples = read_samples({0: tmp_path / "sheet.png"}, [caption, "real"])
    assert samples.sheets[0].width in (3 * 66, 3 * 33)
