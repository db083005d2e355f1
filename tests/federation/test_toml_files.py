"""Files that Windows' programs have written."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.policy import load_policy
from federation.config import load_toml
from federation.errors import ConfigurationError
from federation.toml_files import parse_toml, with_end
from server.benchmark.plan import load_plan

TEXT = 'name = "Läsionen"\r\nrounds = 2\r\n'
READ = {"name": "Läsionen", "rounds": 2}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_notepad_and_powershell_write_marks(encoding: str) -> None:
    assert parse_toml(TEXT.encode(encoding), "file") == READ
    assert parse_toml(TEXT.replace("\r\n", "\r").encode(encoding), "file") == READ


def test_a_mark_of_the_other_byte_order() -> None:
    assert parse_toml(b"\xfe\xff" + TEXT.encode("utf-16-be"), "file") == READ


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("cp1252"), r"^file: is not text in UTF-8 \(byte 0xe4 in line 1\); save it as UTF-8$"),
        (b"\xff\xfea", r"^file: is not text in UTF-8"),
        (b"rounds = ", r"^file: is not valid toml: "),
    ],
)
def test_what_is_no_toml_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_toml(content, "file")


def test_all_that_people_write_may_have_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text(TEXT, encoding="utf-8-sig")
    assert load_toml(path).values == READ
    path.write_text('counts = "images, classes"\n', encoding="utf-8-sig")
    path.chmod(0o600)
    tmp_path.chmod(0o700)
    assert load_policy(path).counts == "images, classes"
    plan = """
        name = "p"
        budget = "images"
        baseline = "fedgan"
        seeds = [0]
        hyperparameters = "untuned"
        [strategies]
        fedgan = {}
        fedadam = {}
        [partitions]
        iid = {"partition.scheme" = "iid"}
    """
    path.write_text(plan, encoding="utf-8-sig")
    assert load_plan(path).name == "p"


def test_what_is_cut_at_the_end_of_a_line_is_damaged_though_it_is_toml() -> None:
    whole = with_end("rounds = 2\n\n[data]\nroot = ''\n")
    assert parse_toml(whole.encode(), "file") == {"rounds": 2, "data": {"root": ""}}
    assert parse_toml(whole.replace("\n", "\r\n").encode() + b"\n\n", "file") == {"rounds": 2, "data": {"root": ""}}
    assert parse_toml(whole.encode() + b"[report]\n", "file")["report"] == {}  # what a person adds
    lines = whole.splitlines(keepends=True)
    for kept in range(1, len(lines)):
        with pytest.raises(ConfigurationError, match=r"^file: has been cut short, its last line is missing$"):
            parse_toml("".join(lines[:kept]).encode(), "file")
