"""Stored features: found again, computed anew where anything that decides them differs or is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from federation import cache
from federation.errors import StorageError
from federation.metrics.feature_cache import cached_features, features_of_batches
from federation.seeding import numpy_stream


class ChannelMeans:
    """The simplest extractor: an image's mean red, green and blue. It counts the images that it sees."""

    name = "channel-means@00ff"
    digest = "00ff00ff"
    num_features = 3
    resolution: int | None = None
    preprocessing = "none"
    learned_from = ""
    device = torch.device("cpu")

    def __init__(self, dtype: Any = np.float32, **changes: Any) -> None:
        self.dtype = dtype
        self.seen: list[int] = []
        for name, value in changes.items():
            setattr(self, name, value)

    def features(self, images: np.ndarray) -> np.ndarray:
        self.seen.append(len(images))
        return images.mean((1, 2)).astype(self.dtype)


def draw(count: int = 12) -> np.ndarray:
    return numpy_stream(0, "images").integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_computed_once_and_found_with_the_same_bits(tmp_path: Path, dtype: Any) -> None:
    images, extractor = draw(), ChannelMeans(dtype)
    first = cached_features(extractor, images, cache_dir=str(tmp_path))
    again = cached_features(extractor, images.copy(), cache_dir=str(tmp_path))
    assert extractor.seen == [12]
    assert first.dtype == again.dtype == dtype
    assert np.array_equal(first, images.mean((1, 2)).astype(dtype))
    assert np.array_equal(first, again)
    (path,) = (tmp_path / "features").iterdir()
    assert path.suffix == ".npy"
    assert np.array_equal(np.load(path, allow_pickle=False), first)


def test_whatever_decides_the_features_decides_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def computed(extractor: ChannelMeans, images: np.ndarray) -> bool:
        cached_features(extractor, images, cache_dir=str(tmp_path))
        return bool(extractor.seen)

    images = draw()
    assert computed(ChannelMeans(), images)
    assert not computed(ChannelMeans(), images)
    assert computed(ChannelMeans(digest="00ff00fe"), images)
    assert computed(ChannelMeans(preprocessing="some"), images)
    assert computed(ChannelMeans(device=torch.device("meta")), images)
    other = images.copy()
    other[-1, -1, -1, -1] ^= 1
    assert computed(ChannelMeans(), other)
    assert computed(ChannelMeans(), images[::-1])
    assert computed(ChannelMeans(), images.reshape(12, 4, 16, 3))
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert computed(ChannelMeans(), images)
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert computed(ChannelMeans(), images)
    monkeypatch.undo()
    assert not computed(ChannelMeans(), images)


def test_a_memory_map_is_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, extractor = draw(), ChannelMeans()
    images.tofile(tmp_path / "images")
    mapped = np.memmap(tmp_path / "images", dtype=np.uint8, mode="r", shape=images.shape)
    cached_features(extractor, images, cache_dir=str(tmp_path))
    for block in (1, 5 * 8 * 8 * 3):  # an image, and five of twelve
        monkeypatch.setattr(cache, "_BLOCK_BYTES", block)
        cached_features(extractor, mapped, cache_dir=str(tmp_path))
    assert extractor.seen == [12]


def test_a_damaged_file_is_computed_anew(tmp_path: Path) -> None:
    images, extractor = draw(), ChannelMeans()
    expected = cached_features(extractor, images, cache_dir=str(tmp_path))
    (path,) = (tmp_path / "features").iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[140] ^= 1  # in the array, behind a header of 128 bytes
    for number, damaged in enumerate((b"", whole[:-1], whole[:50], bytes(flipped), b"x" * 200)):
        path.write_bytes(damaged)
        assert np.array_equal(cached_features(extractor, images, cache_dir=str(tmp_path)), expected)
        assert len(extractor.seen) == number + 2
        assert path.read_bytes() == whole
    assert list((tmp_path / "features").iterdir()) == [path]


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file, where a folder should be")
    with pytest.raises(
        StorageError, match=r"data\.cache-dir .*features: cannot be written \(.*\); set data\.cache-dir"
    ):
        cached_features(ChannelMeans(), draw(), cache_dir=str(tmp_path))


def test_batches_are_seen_one_by_one() -> None:
    images, extractor = draw(), ChannelMeans()
    drawn: list[int] = []

    def batches():
        for start in range(0, 12, 5):
            # What was drawn has been seen before the next is drawn.
            assert extractor.seen == drawn
            batch = images[start : start + 5]
            drawn.append(len(batch))
            yield batch

    rows = features_of_batches(extractor, batches())
    assert extractor.seen == [5, 5, 2]
    assert np.array_equal(rows, images.mean((1, 2)).astype(np.float32))
    with pytest.raises(ValueError, match="at least one array"):
        features_of_batches(extractor, [])
