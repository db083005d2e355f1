"""Images are hashed, checked and decoded once, and whoever asks at the same time gets the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_partitions.image_cache import ImageCache
from federation.cache import cache_folder
from federation.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
CONTENT = {"a": b"first", "b": b"second", "c": b"first"}


class Reader:
    """Counts what it reads."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = dict(content)
        self.read: list[str] = []

    def __call__(self, key: str) -> bytes:
        self.read.append(key)
        return self.content[key]


def test_only_new_and_changed_images_are_hashed(tmp_path: Path) -> None:
    cache, reader = ImageCache(str(tmp_path)), Reader(CONTENT)
    first = cache.digests("folder", list("abc"), ["1", "1", "1"], reader)
    assert sorted(reader.read) == ["a", "b", "c"]
    assert first[0] == first[2] != first[1]
    assert all(len(digest) == 32 for digest in first)

    reader.read.clear()
    assert cache.digests("folder", list("abc"), ["1", "1", "1"], reader) == first
    assert reader.read == []

    reader.content["b"] = b"first"
    assert cache.digests("folder", list("abc"), ["1", "2", "1"], reader) == [first[0]] * 3
    assert reader.read == ["b"]

    reader.read.clear()
    assert cache.digests("another folder", ["a"], ["1"], reader) == [first[0]]
    assert reader.read == ["a"]


def test_a_subset_does_not_forget_the_others(tmp_path: Path) -> None:
    cache, reader = ImageCache(str(tmp_path)), Reader(CONTENT)
    cache.digests("folder", list("abc"), ["1", "1", "1"], reader)
    cache.digests("folder", ["a"], ["2"], reader)
    reader.read.clear()
    cache.digests("folder", list("abc"), ["2", "1", "1"], reader)
    assert reader.read == []


def test_a_damaged_manifest_is_written_anew(tmp_path: Path) -> None:
    cache, reader = ImageCache(str(tmp_path)), Reader(CONTENT)
    first = cache.digests("folder", list("abc"), ["1", "1", "1"], reader)
    (manifest,) = (tmp_path / "digests").iterdir()
    manifest.write_text("{", encoding="utf-8")
    assert cache.digests("folder", list("abc"), ["1", "1", "1"], reader) == first
    assert len(json.loads(manifest.read_text(encoding="utf-8"))) == 3


def test_images_that_cannot_be_read_are_an_error_and_not_corrupt(tmp_path: Path) -> None:
    def read(key: str) -> bytes:
        if key == "b":
            return b"second"
        raise PermissionError(13, "Permission denied", key)

    with pytest.raises(DataError) as caught:
        ImageCache(str(tmp_path)).digests("/data", list("abc"), ["1"] * 3, read)
    assert str(caught.value) == (
        "/data: 2 images cannot be read: a (Permission denied); c (Permission denied); "
        "make them readable, or remove them"
    )
    assert list(tmp_path.iterdir()) == []


def read_all_but(*broken: int) -> Callable[[int], np.ndarray]:
    def read(row: int) -> np.ndarray:
        if row in broken:
            raise DataError(f"broken {row}")
        return IMAGES[row]

    return read


def never(row: int) -> np.ndarray:
    raise AssertionError(f"row {row} was decoded again")


def test_pixels_are_decoded_once(tmp_path: Path) -> None:
    cache = ImageCache(str(tmp_path))
    seen: list[tuple[str, int, int]] = []
    pixels = cache.pixels(list("abcde"), read_all_but(), 8, lambda *state: seen.append(state))
    np.testing.assert_array_equal(pixels, IMAGES)
    assert seen == [("decoding images", done, 5) for done in range(1, 6)]
    np.testing.assert_array_equal(cache.pixels(list("abcde"), never, 8), IMAGES)
    assert not pixels.flags.writeable
    assert [path.name.startswith(".") for path in (tmp_path / "pixels").iterdir()] == [False]


def test_order_content_and_resolution_are_the_key(tmp_path: Path) -> None:
    cache = ImageCache(str(tmp_path))
    cache.pixels(list("abcde"), read_all_but(), 8)
    np.testing.assert_array_equal(cache.pixels(list("edcba"), lambda row: IMAGES[4 - row], 8), IMAGES[::-1])
    assert cache.pixels(list("abcde"), read_all_but(), 4).shape == (5, 4, 4, 3)
    assert len(list((tmp_path / "pixels").iterdir())) == 3


def test_undecodable_images_are_found_once_and_the_others_kept(tmp_path: Path) -> None:
    cache = ImageCache(str(tmp_path))
    expected = {"b": "broken 1", "e": "broken 4"}
    assert cache.undecodable(list("abcde"), read_all_but(1, 4), 8) == expected
    assert cache.undecodable(list("abcde"), never, 8) == expected
    assert cache.undecodable(list("abcde"), never, 16) == expected
    np.testing.assert_array_equal(cache.pixels(list("acd"), never, 8), IMAGES[[0, 2, 3]])
    with pytest.raises(DataError, match=r"^2 images cannot be decoded \(row 1: broken 1; row 4: broken 4\)$"):
        cache.pixels(list("abcde"), read_all_but(1, 4), 8)


def test_more_images_than_are_read_ahead_stay_in_order(tmp_path: Path) -> None:
    def read(row: int) -> np.ndarray:
        return np.full((2, 2, 3), row % 251, dtype=np.uint8)

    pixels = ImageCache(str(tmp_path)).pixels([str(row) for row in range(1000)], read, 2)
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], np.arange(1000) % 251)


def test_a_cut_off_pixel_file_is_written_anew(tmp_path: Path) -> None:
    cache = ImageCache(str(tmp_path))
    cache.pixels(list("abcde"), read_all_but(), 8)
    (path,) = (tmp_path / "pixels").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(cache.pixels(list("abcde"), read_all_but(), 8), IMAGES)


def test_an_interrupted_decoding_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(description: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImageCache(str(tmp_path)).pixels(list("abcde"), read_all_but(), 8, interrupt)
    assert list((tmp_path / "pixels").iterdir()) == []


def test_a_file_that_vanishes_is_not_called_corrupt(tmp_path: Path) -> None:
    def read(row: int) -> np.ndarray:
        raise FileNotFoundError(2, "No such file or directory", "/data/a.jpg")

    with pytest.raises(DataError, match=r"^/data/a.jpg: cannot be read \(No such file or directory\); start again$"):
        ImageCache(str(tmp_path)).undecodable(["a"], read, 8)
    assert not (tmp_path / "undecodable").exists()


def test_a_cache_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as caught:
        ImageCache(str(tmp_path / "file")).pixels(list("abcde"), read_all_but(), 8)
    assert str(caught.value) == (
        f"{tmp_path}/file/pixels: decoded images cannot be kept there (Not a directory); "
        "set data.cache-dir to a folder that can be written and has space"
    )


def test_the_default_folder_follows_the_users_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ImageCache("").folder == cache_folder() == tmp_path / "dermafed"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "dermafed"


def test_a_user_without_a_home_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``docker run --user 12345``: no entry in /etc/passwd, and no HOME."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    assert cache_folder(str(tmp_path)) == tmp_path
    for setting, message in (
        ("", "data.cache-dir is empty, and this user has no home folder to keep decoded images in; set data.cache-dir"),
        ("~/cache", "data.cache-dir = '~/cache': there is no home folder that ~ stands for; give the whole path"),
    ):
        with pytest.raises(DataError, match=message):
            cache_folder(setting)


def test_a_cache_of_another_user_is_told_from_an_empty_one(user: Path) -> None:
    digests = list("abcde")
    ImageCache(str(user)).pixels(digests, read_all_but(), 8)
    ImageCache(str(user)).digests("folder", ["a.png"], ["1"], str.encode)
    for folder in ("pixels", "digests"):
        (user / folder).chmod(0)
    with pytest.raises(
        DataError, match=r"rgb: what is kept there cannot be read \(Permission denied\); set data.cache"
    ):
        ImageCache(str(user)).pixels(digests, read_all_but(), 8)
    with pytest.raises(
        DataError, match=r"json: what is kept there cannot be read \(Permission denied\); set data.cache"
    ):
        ImageCache(str(user)).digests("folder", ["a.png"], ["1"], str.encode)


SCRIPT = """
import sys
import numpy as np
from data_partitions.image_cache import ImageCache
cache = ImageCache(sys.argv[1])
read = lambda row: np.full((64, 64, 3), row % 251, dtype=np.uint8)
names = [str(row) for row in range(3000)]
print("ready", flush=True)
sys.stdin.readline()
cache.digests("folder", names, names, str.encode)
assert cache.undecodable(names, read, 32) == {}
assert (cache.pixels(names, read, 32)[:, 5, 5, 1] == np.arange(3000) % 251).all()
"""


def test_two_processes_at_the_same_time(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert all(len(list((tmp_path / folder).iterdir())) == 1 for folder in ("digests", "undecodable", "pixels"))
