"""Fonts are chosen by the letters that they have."""

from __future__ import annotations

from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from data_partitions.fonts import font_families, font_files, letters_of

OWN = font_manager.findfont("DejaVu Sans")


def make_font(path: Path, letters: str) -> str:
    """A font whose letters are all the same square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in [(0, 800), (800, 800), (800, 0)]:
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    names = {ord(letter): f"uni{ord(letter):04X}" for letter in letters}
    order = [".notdef", *names.values()]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf(dict.fromkeys(order, square))
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": f"Test {path.stem}", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


def test_own_font_first_and_as_few_others_as_it_takes(tmp_path: Path) -> None:
    few = make_font(tmp_path / "few.ttf", "黑")
    more = make_font(tmp_path / "more.ttf", "黑色")
    other = make_font(tmp_path / "other.ttf", "한")
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    installed = [few, more, other, str(broken)]
    assert letters_of(more) == {ord("黑"), ord("色")}
    assert font_files("mel Läsion شامة", installed) == [OWN]
    assert font_files("黑色 mel", installed) == [OWN, more]
    assert font_files("黑色한\U000f0000", installed) == [OWN, more, other]
    assert font_families("黑", installed) == ["DejaVu Sans", "Test few"]
